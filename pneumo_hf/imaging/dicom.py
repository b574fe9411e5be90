"""DICOM films: stored values become display values, as PS3.3 C.11 orders it: modality LUT, VOI LUT, then inversion."""

import io

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

PREAMBLE = 128  # bytes before the magic word "DICM"


def is_dicom(content: bytes) -> bool:
    return content[PREAMBLE : PREAMBLE + 4] == b"DICM"


def read_dicom(content: bytes) -> np.ndarray:
    """The display values `[H, W]` of an uncompressed grey DICOM film, lungs dark and bones bright.

    8-bit films without a LUT keep their pixels (uint8); everything else is float64 in display order.

    Raises:
        ValueError: no pixels, several frames, colour, or a compressed transfer syntax; the message says which.
    """
    try:
        film = pydicom.dcmread(io.BytesIO(content))
    except (InvalidDicomError, EOFError, OSError) as error:
        raise ValueError(f"damaged DICOM: {error}") from error
    if "PixelData" not in film:
        raise ValueError("DICOM without pixels")
    if film.file_meta.TransferSyntaxUID.is_compressed:
        raise ValueError(f"compressed DICOM ({film.file_meta.TransferSyntaxUID.name}) is not read yet")
    if film.SamplesPerPixel != 1 or int(film.get("NumberOfFrames", 1)) != 1:
        raise ValueError("DICOM of several frames or colours, not a film")
    try:
        stored = film.pixel_array
    except (AttributeError, ValueError) as error:
        raise ValueError(f"damaged DICOM: {error}") from error
    shown = apply_voi_lut(apply_modality_lut(stored, film), film)
    inverted = film.PhotometricInterpretation == "MONOCHROME1"
    if stored.dtype == np.uint8 and shown is stored:
        return 255 - stored if inverted else stored
    shown = shown.astype(np.float64)
    return shown.max() + shown.min() - shown if inverted else shown

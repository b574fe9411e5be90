"""DICOM films: stored values become display values, as PS3.3 C.11 orders it: modality LUT, VOI LUT, then inversion.

What names a person never leaves this module but as `patient`, which the caller hashes; messages quote no such value.
"""

import io
import logging
import re
import struct
import warnings
import zlib

import numpy as np
import pydicom
from PIL import Image
from pydicom._uid_dict import UID_dictionary
from pydicom.encaps import get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import apply_modality_lut, apply_windowing, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pneumo_hf.imaging.decoders import PLUGIN_OF
from pneumo_hf.imaging.quality import INVERTED, chest_correlation, thumbnail

logger = logging.getLogger(__name__)

PREAMBLE = 128  # bytes before the magic word "DICM"
MODALITIES = {"CR", "DX", "DR", "RG", "SC", "OT", ""}  # projection radiographs, captures of them, or not said
CHEST = re.compile("CHEST|THORAX|T[OÓ]RAX|LUNG|PULM|RIB")
NOT_SAID = {"", "UNKNOWN", "OTHER", "UNSPECIFIED", "NONE", "NA", "N/A"}
QUOTED = re.compile(  # what a message may quote of a header: anything else could be a name
    "CT|MR|US|MG|NM|PT|XA|RF|PX|IO|SEG|SR|ECG|RTDOSE|RTPLAN|RTSTRUCT|RTIMAGE|EXTREMITY|ABDOMEN|PELVIS|SKULL|HEAD|NECK"
    "|[CTL]?SPINE|SHOULDER|ELBOW|WRIST|HAND|HIP|KNEE|ANKLE|FOOT|BREAST|BRAIN|ARM|LEG|HEART"
)
DAMAGE = (  # what pydicom and its decoders raise on damaged files
    *(AttributeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, RuntimeError),
    *(OSError, EOFError, OverflowError, MemoryError, struct.error, zlib.error),
    *(pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException),
)
FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}  # JPEG's SOF markers: baseline, extended, progressive, lossless, LS
MOST_PIXELS = 50_000_000  # films have up to 25 million
MOST_INFLATED = 4 * MOST_PIXELS  # bytes of a deflated data set
ROWS_AT_ONCE = 256
GREY_TOLERANCE = 8  # levels between the channels of a grey film stored in colour

# pydicom's warnings and logs quote values, a person's name among them.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def is_dicom(content: bytes) -> bool:
    """Recognise DICOM by the magic word after the preamble, whatever the file is called."""
    return content[PREAMBLE : PREAMBLE + 4] == b"DICM"


def read_dicom(content: bytes) -> np.ndarray:
    """Read a film `[H, W]` uint8 as a viewer shows it, lungs dark and bones bright; 8-bit without LUT untouched.

    A window or LUT maps to its whole output range, other films by the depth they are stored in; padding is black.
    MONOCHROME1 is inverted, unless the result resembles a chest film's negative: then the tag is wrong.

    Raises:
        ValueError: no chest film (modality, body part, colour, several frames), a transfer syntax that nothing here
            decodes, or damaged; the message says which.
    """
    film = _read(content)
    try:
        reason = _refusal(film)
    except DAMAGE:
        reason = "damaged DICOM: its header does not describe a picture"
    if reason:
        raise ValueError(reason)
    try:
        stored = pixel_array(film, decoding_plugin=PLUGIN_OF.get(film.file_meta.TransferSyntaxUID, ""))
        if stored.ndim == 3 and int(np.ptp(stored.astype(np.int32), axis=2).max()) <= GREY_TOLERANCE:
            return stored[..., 1].astype(np.uint8)  # a grey film stored in colour, which pydicom has made RGB
        padding = _padding(film, stored)
        shown = _display(film, stored, padding) if stored.ndim == 2 else None
    except DAMAGE as error:
        raise ValueError(f"damaged DICOM: its pixels cannot be decoded ({_syntax(film)})") from error
    if shown is None:
        raise ValueError("a colour picture, not a film")
    if film.PhotometricInterpretation == "MONOCHROME1":
        inverted = 255 - shown
        if chest_correlation(thumbnail(Image.fromarray(inverted))[None])[0] >= INVERTED:
            shown = inverted
        else:
            logger.info("a film tagged MONOCHROME1 has dark lungs already: not inverted")
    return shown if padding is None else np.where(padding, np.uint8(0), shown)


def dicom_facts(content: bytes) -> dict:
    """Read what a DICOM header says of a film, None where it is silent.

    `patient` (to be hashed, never kept), `view` (PA, AP, LATERAL, ...), `age` in years, `sex` (F or M), `body_part`,
    `modality`, `bits` (stored).

    Raises:
        ValueError: the header is damaged.
    """
    film = _read(content, pixels=False)
    try:
        sex = _text(film, "PatientSex")
        return {
            "patient": _text(film, "PatientID") or _text(film, "StudyInstanceUID"),
            "view": _text(film, "ViewPosition"),
            "age": years(_text(film, "PatientAge")),
            "sex": sex if sex in ("F", "M") else None,
            "body_part": _text(film, "BodyPartExamined"),
            "modality": _text(film, "Modality"),
            "bits": film.get("BitsStored"),
        }
    except DAMAGE as error:
        raise ValueError("damaged DICOM: its header cannot be read") from error


def years(text: str | None) -> float | None:
    """Parse an age as `45`, `45.5` or DICOM's `045Y`, `018M`, `006W`, `010D`, in years; None for anything else.

    Above 120 years it stands for one that is not known, as DICOM's 999Y does.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)([YMWD]?)", (text or "").strip().upper())
    age = match and round(float(match[1]) / {"Y": 1, "": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]], 2)
    return age if age is not None and age <= 120 else None


def _read(content: bytes, pixels: bool = True) -> pydicom.FileDataset:
    try:
        if _inflates_too_far(content):
            raise ValueError
        return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels)
    except DAMAGE as error:
        raise ValueError("damaged DICOM: its header cannot be read") from error


def _inflates_too_far(content: bytes) -> bool:
    """Whether a deflated data set is larger than any film's: pydicom inflates without a bound."""
    file = DicomBytesIO(content)
    read_preamble(file, force=False)
    meta = _read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return False
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    inflating.decompress(file.read(), MOST_INFLATED)
    return bool(inflating.unconsumed_tail)


def _refusal(film: pydicom.Dataset) -> str | None:
    """Why a file is no chest film, or None."""
    modality, body_part = _text(film, "Modality") or "", _text(film, "BodyPartExamined") or ""
    if modality not in MODALITIES:
        return f"not an X-ray film: {'modality ' + modality if QUOTED.fullmatch(modality) else 'another modality'}"
    if body_part not in NOT_SAID and not CHEST.search(body_part):
        return f"not a chest film: {'body part ' + body_part if QUOTED.fullmatch(body_part) else 'another body part'}"
    if "PixelData" not in film:
        return "DICOM without pixels"
    if int(film.get("NumberOfFrames") or 1) != 1:
        return "DICOM of several frames, not a film"
    if int(film.Rows) * int(film.Columns) > MOST_PIXELS:
        return "too many pixels for a film"
    syntax = film.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax not in PLUGIN_OF:
        return f"no decoder for this DICOM's transfer syntax ({_syntax(film)}): save the film uncompressed"
    if syntax.is_encapsulated and _claims_another_size(film):
        return "damaged DICOM: its pixels are of another size than its header says"
    return "a colour picture, not a film" if film.PhotometricInterpretation == "PALETTE COLOR" else None


def _syntax(film: pydicom.FileDataset) -> str:
    return UID_dictionary.get(str(film.file_meta.get("TransferSyntaxUID")), ("no known transfer syntax",))[0]


def _claims_another_size(film: pydicom.Dataset) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 inside is of another size: a decoder would make room for that one."""
    try:
        frame = get_frame(film.PixelData, 0, number_of_frames=1)
        return _jpeg_size(frame) != (film.Columns, film.Rows)
    except Image.DecompressionBombError:
        return True
    except Exception:  # a kind that has no size of its own, or one that is damaged: the decoder judges
        return False


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """Width and height by a frame's own header, which is all that is read of it."""
    if not frame.startswith(b"\xff\xd8"):
        with Image.open(io.BytesIO(frame), formats=["JPEG2000"]) as image:
            return image.size
    place = 2
    while frame[place + 1] not in FRAME_HEADERS:
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    height, width = struct.unpack_from(">HH", frame, place + 5)
    return width, height


def _display(film: pydicom.Dataset, stored: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    window = _number(film, "WindowWidth") or 0
    plain = not any(name in film for name in ("VOILUTSequence", "ModalityLUTSequence", "RescaleSlope"))
    if plain and window <= 0 and film.BitsStored <= 8 and not film.PixelRepresentation and stored.max() < 256:
        return stored.astype(np.uint8)
    inside = stored if padding is None or padding.all() else stored[~padding]
    # Signed values say nothing of their range; unsigned ones fill the depth that they are stored in.
    ends = [inside.min(), inside.max()] if film.PixelRepresentation else [0, 2 ** _depth(film, inside) - 1]
    shown = np.empty(stored.shape, np.uint8)
    for row in range(0, len(stored), ROWS_AT_ONCE):  # in double precision, but not the whole film at once
        values, low, high = _values(film, stored[row : row + ROWS_AT_ONCE], np.array(ends, stored.dtype))
        part = np.zeros(1) if low == high else ((values - low) / (high - low)).clip(0, 1) * 255
        shown[row : row + ROWS_AT_ONCE] = np.round(part)
    return shown


def _values(film: pydicom.Dataset, stored: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Stored values through modality and VOI LUT, and the ends of their range, as `ends` are of the stored values'."""
    if "ModalityLUTSequence" in film:
        table = _table(film.ModalityLUTSequence[0])
        values, low, high = _look_up(table, stored), table[1].min(), table[1].max()
    else:
        values = np.asarray(apply_modality_lut(stored, film), dtype=np.float64)
        low, high = sorted(np.asarray(apply_modality_lut(ends, film), dtype=np.float64))
    if "VOILUTSequence" in film:
        table = _table(film.VOILUTSequence[0])
        values, low, high = _look_up(table, values), table[1].min(), table[1].max()
    elif (_number(film, "WindowWidth") or 0) > 0 and _number(film, "WindowCenter") is not None:
        with np.errstate(over="ignore"):
            low, high = apply_windowing(np.array([-1e9, 1e9]), film)  # the ends of its output range
            values = apply_windowing(values, film)
    return values, low, high


def _table(item: pydicom.Dataset) -> tuple[int, np.ndarray]:
    """The first value mapped, and what the values from there on become.

    (pydicom 3.0's own functions wrap 8-bit tables of many entries, and refuse modality tables of 10 or 12 bits.)
    """
    entries, first, _ = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == (entries or 2**16) else "<u2")
    return first, np.asarray(data, dtype=np.float64)


def _look_up(table: tuple[int, np.ndarray], values: np.ndarray) -> np.ndarray:
    first, entries = table
    return entries[(values.astype(np.float64) - first).clip(0, len(entries) - 1).astype(np.int64)]


def _depth(film: pydicom.Dataset, inside: np.ndarray) -> int:
    """Bits stored; where a file claims all that it allocates, those that the film but its brightest specks uses."""
    if film.BitsStored < film.BitsAllocated:
        return film.BitsStored
    most = np.percentile(inside, 99.9)
    return next(bits for bits in (8, 10, 12, 14, 16, 32) if most < 2**bits)


def _padding(film: pydicom.Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Where the film is padding and no picture (PS3.3 C.7.5.1.1.2), `[H, W]` bool."""
    first = _number(film, "PixelPaddingValue")
    if first is None:
        return None
    last = _number(film, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    return (stored >= low) & (stored <= high)


def _text(film: pydicom.Dataset, name: str) -> str | None:
    return str(film.get(name) or "").strip().upper() or None


def _number(film: pydicom.Dataset, name: str) -> float | None:
    value = film.get(name)
    value = value[0] if isinstance(value, pydicom.multival.MultiValue) and value else value
    return None if value in (None, "") or isinstance(value, pydicom.multival.MultiValue) else float(value)

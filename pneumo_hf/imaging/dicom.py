"""DICOM files: which of them are chest films, what their headers say, and the picture that a viewer shows.

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
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pydicom.valuerep import VR

from pneumo_hf.imaging.age import age_of
from pneumo_hf.imaging.bounds import excess
from pneumo_hf.imaging.decoders import PLUGIN_OF, frame_size, syntax_of
from pneumo_hf.imaging.display import DAMAGE, Range, display, is_raised, lowered, number, padding_of
from pneumo_hf.imaging.quality import INVERTED, LATERAL, NOTES, SHOWN_RANGE, chest_correlation, thumbnail

logger = logging.getLogger(__name__)

PREAMBLE = 128  # bytes before the magic word "DICM"
HEAD = 1024  # bytes of a file that are enough to recognise DICOM, in gzip too
GZIP, GZIP_BITS = b"\x1f\x8b", 16 + zlib.MAX_WBITS  # its first bytes, and what zlib calls it
VRS = frozenset(VR)
MODALITIES = {"CR", "DX", "DR", "RG", "SC", "OT", ""}  # projection radiographs, captures of them, or not said
CHEST = re.compile("CHEST|T.{1,3}RAX|THX|CXR|TORACE|PECHO|BRUSTKORB|POITRINE|POUMON|LUNG|PULM|RIB")
# What a message may quote of a header: anything else could be a name.
OTHER_MODALITY = re.compile("CT|MR|US|MG|NM|PT|XA|RF|PX|IO|SEG|SR|ECG|RTDOSE|RTPLAN|RTSTRUCT|RTIMAGE")
OTHER_PART = re.compile(  # body parts of PS3.16 annex L that a film of the chest is never said to be of
    "(?<![A-Z])(EXTREMITY|ABDOMEN(PELVIS)?|PELVIS|SKULL|HEAD(NECK)?|NECK|BRAIN|FACE|JAW|MANDIBLE|MAXILLA|ORBIT|NOSE"
    "|SINUS(ES)?|([CTL]|TL|LS|S)?[ -]?SPINE|SACRUM|COCCYX|CLAVICLE|SCAPULA|STERNUM|SHOULDER|ARM|HUMERUS|ELBOW|FOREARM"
    "|WRIST|HAND|FINGER|THUMB|HIP|FEMUR|THIGH|KNEE|PATELLA|LEG|TIBIA|ANKLE|CALCANEUS|FOOT|FEET|TOE|BREAST|KUB)S?(?![A-Z])"
)
# The chest from the side. (On a lateral decubitus film the patient lies on the side: the view is frontal.)
LATERAL_VIEW = re.compile("(?<![A-Z])(LL|RL|[LR]?LAT|LATERALE?|PERFIL|PROFIL)(?![A-Z])(?!.*DECUB)")
MOST_PIXELS = 50_000_000  # films have up to 25 million
MOST_INFLATED = 4 * MOST_PIXELS  # bytes of a deflated data set
GREY_TOLERANCE = 8  # levels between the channels of a grey film stored in colour

# pydicom's warnings and logs quote values, a person's name among them.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def is_dicom(content: bytes) -> bool:
    """Recognise DICOM by the magic word after the preamble, whatever the file is called; the first `HEAD` bytes do.

    Where preamble and magic word are missing, by a first element that data sets begin with. Gzip is seen through.
    """
    try:
        head = zlib.decompressobj(GZIP_BITS).decompress(content[:HEAD]) if content.startswith(GZIP) else content
    except zlib.error:
        return False
    return head[PREAMBLE : PREAMBLE + 4] == b"DICM" or _begins_data_set(head)


def read_dicom(content: bytes) -> Image.Image:
    """Read a film as a viewer shows it, lungs dark and bones bright; 8-bit without LUT untouched.

    A window or LUT maps to its whole output range, other films by the depth they are stored in; padding is black.
    MONOCHROME1 and the shape INVERSE are inverted, unless the result resembles a chest film's negative: then the tag
    is wrong. `info` says in `LATERAL` whether the view is one, in `NOTES` what of the header was not followed, and in
    `SHOWN_RANGE` which values are shown black and white, of a window or of the whole depth.

    Raises:
        ValueError: no chest film (modality, body part, colour, several frames), a transfer syntax that nothing here
            decodes, or damaged; the message says which.
    """
    film = parse_dicom(content)
    try:
        reason = _refusal(film)
        lateral = is_lateral(_view(film))
    except DAMAGE:
        reason = "damaged DICOM: its header does not describe a picture"
    if reason:
        raise ValueError(reason)
    pixels, notes, shown_range = _shown(film)
    picture = Image.fromarray(pixels)
    picture.info |= {LATERAL: lateral, NOTES: notes, SHOWN_RANGE: shown_range}
    for note in notes:
        logger.info("a film: %s", note)
    return picture


def dicom_facts(content: bytes) -> dict:
    """Read what a DICOM header says of a film, None where it is silent.

    `patient` (to be hashed, never kept), `view` (PA, AP, LATERAL, ...), `age` in years (where it is not said, from the
    dates of birth and study), `sex` (F or M), `body_part`,
    `modality`, `manufacturer`, `device_model`, `patient_position` (HFS, ERECT, RECUMBENT, ...), `window_center` and
    `window_width` (the first of each), `bits` (stored).

    Raises:
        ValueError: the header is damaged.
    """
    film = parse_dicom(content, pixels=False)
    try:
        sex = _text(film, "PatientSex")
        return {
            "patient": _text(film, "PatientID") or _text(film, "StudyInstanceUID"),
            "view": _text(film, "ViewPosition"),
            "age": age_of(*(_text(film, name) for name in ("PatientAge", "PatientBirthDate", "StudyDate"))),
            "sex": sex if sex in ("F", "M") else None,
            "body_part": _text(film, "BodyPartExamined"),
            "modality": _text(film, "Modality"),
            "manufacturer": _text(film, "Manufacturer"),
            "device_model": _text(film, "ManufacturerModelName"),
            "patient_position": _text(film, "PatientPosition") or _meaning(film, "PatientOrientationCodeSequence"),
            "window_center": number(film, "WindowCenter"),
            "window_width": number(film, "WindowWidth"),
            "bits": film.get("BitsStored"),
        }
    except DAMAGE as error:
        raise ValueError("damaged DICOM: its header cannot be read") from error


def parse_dicom(content: bytes, pixels: bool = True) -> pydicom.FileDataset:
    """Parse a DICOM file, perhaps in gzip or without its preamble; what is deflated stays within a film's size.

    Raises:
        ValueError: the header is damaged.
    """
    try:
        if content.startswith(GZIP):
            content = _unpack(content)
        if _inflates_too_far(content):
            raise ValueError
        film = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels, force=True)
        if "TransferSyntaxUID" not in film.file_meta and "PixelData" in film:
            film.file_meta.TransferSyntaxUID = _guessed_syntax(film)
        return film
    except DAMAGE as error:
        raise ValueError("damaged DICOM: its header cannot be read") from error


def is_lateral(view: str | None) -> bool:
    """Return whether a view, as headers and tables name it, shows the chest from the side.

    >>> [is_lateral(view) for view in ("LL", "Left Lateral", "PA", "LATERAL DECUBITUS", None)]
    [True, True, False, False, False]
    """
    return bool(LATERAL_VIEW.search((view or "").upper()))


def _begins_data_set(head: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 2 or 8, and with a plausible VR or length."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, vr, rest = struct.unpack(order + "HH2sH", head[:8])
        short = order == "<" and group == 8 and vr[0] and vr[1] == rest == 0  # an implicit VR: these are a length
        if group in (2, 8) and element < 0x80 and (short or vr.decode("latin-1") in VRS):
            return True
    return False


def _guessed_syntax(film: pydicom.FileDataset) -> UID:
    """The transfer syntax of a file that does not say it, by how it can be read and what its frame begins with."""
    if film["PixelData"].is_undefined_length:
        return syntax_of(get_frame(film.PixelData, 0, number_of_frames=1))
    is_implicit, is_little_endian = film.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _unpack(content: bytes) -> bytes:
    """What gzip holds; ValueError where it is more than a film, or cut short."""
    inflating = zlib.decompressobj(GZIP_BITS)
    unpacked = inflating.decompress(content, MOST_INFLATED)
    if not inflating.eof:
        raise ValueError
    return unpacked


def _inflates_too_far(content: bytes) -> bool:
    """Whether a deflated data set is larger than any film's: pydicom inflates without a bound."""
    file = DicomBytesIO(content)
    read_preamble(file, force=True)
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
        known = OTHER_MODALITY.fullmatch(modality)
        return f"not an X-ray film: {'modality ' + modality if known else 'another modality'}"
    if (other := OTHER_PART.search(body_part)) and not CHEST.search(body_part):
        return f"not a chest film: body part {other[0]}"
    if "PixelData" not in film:
        return "DICOM without pixels"
    if int(film.get("NumberOfFrames") or 1) != 1:
        return "DICOM of several frames, not a film"
    if int(film.Rows) * int(film.Columns) > MOST_PIXELS:
        return "too many pixels for a film"
    syntax = film.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax not in PLUGIN_OF:
        return f"no decoder for this DICOM's transfer syntax ({_syntax(film)}): save the film uncompressed"
    if syntax.is_encapsulated and (reason := _refusal_of_frame(film)):
        return reason
    return "a colour picture, not a film" if film.PhotometricInterpretation == "PALETTE COLOR" else None


def _view(film: pydicom.Dataset) -> str | None:
    return _text(film, "ViewPosition") or _meaning(film, "ViewCodeSequence")


def _meaning(film: pydicom.Dataset, name: str) -> str | None:
    codes = film.get(name)
    return _text(codes[0], "CodeMeaning") if codes else None


def _shown(film: pydicom.FileDataset) -> tuple[np.ndarray, list[str], Range | None]:
    """The pixels `[H, W]` uint8 as a viewer shows them, notes on what of the header was not followed, and the values
    that are shown black and white."""
    syntax = film.file_meta.TransferSyntaxUID
    try:
        in_cells = syntax == RLELossless or not syntax.is_encapsulated  # the other codecs hold values
        raised = in_cells and film.SamplesPerPixel == 1 and is_raised(film)
        options = {"correct_unused_bits": False} if raised else {}
        stored = pixel_array(film, decoding_plugin=PLUGIN_OF.get(syntax, ""), **options)
        if stored.ndim == 3 and int(np.ptp(stored.astype(np.int32), axis=2).max()) <= GREY_TOLERANCE:
            return (
                stored[..., 1].astype(np.uint8),
                [],
                (0, 255),
            )  # a grey film stored in colour, which pydicom has made RGB
        stored = lowered(film, stored) if raised else stored
        padding = padding_of(film, stored)
        shown, notes, ends = display(film, stored, padding) if stored.ndim == 2 else (None, [], None)
    except DAMAGE as error:
        raise ValueError(f"damaged DICOM: its pixels cannot be decoded ({_syntax(film)})") from error
    if shown is None:
        raise ValueError("a colour picture, not a film")
    if film.PhotometricInterpretation == "MONOCHROME1" or _text(film, "PresentationLUTShape") == "INVERSE":
        inverted = 255 - shown
        if chest_correlation(thumbnail(Image.fromarray(inverted))[None])[0] >= INVERTED:
            shown, ends = inverted, ends and ends[::-1]
        else:
            notes.append("it is tagged as a negative, but its lungs are dark already: not inverted")
    return shown if padding is None else np.where(padding, np.uint8(0), shown), notes, ends


def _syntax(film: pydicom.FileDataset) -> str:
    return UID_dictionary.get(str(film.file_meta.get("TransferSyntaxUID")), ("no known transfer syntax",))[0]


def _refusal_of_frame(film: pydicom.Dataset) -> str | None:
    """Why a JPEG, JPEG-LS or JPEG 2000 inside is not decoded; for another size, a decoder would make room."""
    try:
        frame = get_frame(film.PixelData, 0, number_of_frames=1)
        if reason := excess(frame):
            return f"damaged DICOM: its pixels are {reason}"
        fits = frame_size(frame) == (film.Columns, film.Rows)
    except Image.DecompressionBombError:
        fits = False
    except Exception:  # a kind that has no size of its own, or one that is damaged: the decoder judges
        fits = True
    return None if fits else "damaged DICOM: its pixels are of another size than its header says"


def _text(film: pydicom.Dataset, name: str) -> str | None:
    return str(film.get(name) or "").strip().upper() or None

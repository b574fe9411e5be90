"""A file, bytes, a PIL picture or an array becomes a film: one 8-bit grey PIL image of the whole film."""

import base64
import io
import warnings
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from pneumo_hf.errors import InputError
from pneumo_hf.imaging.bounds import excess, excess_of_tiff
from pneumo_hf.imaging.dicom import MOST_PIXELS, dicom_facts, is_dicom, read_dicom
from pneumo_hf.imaging.display import ROWS_AT_ONCE
from pneumo_hf.imaging.quality import COLOURED

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".webp"}
FILM_SUFFIXES = PICTURE_SUFFIXES | {".dcm", ".dicom", ".ima", ".dcm.gz"}
# Of PIL's, those that films come in; others, EPS among them, start programs or hold no picture.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
SMALLEST_TILED = 16  # of a film that CLAHE's 8 x 8 tiles fit in; a smaller one passes as it is
COLOUR_SPREAD = 10.0  # deviation of Cb or Cr over a picture, in grey levels: a uniform tint is none
DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L"}  # the PIL modes of more than 8 bits
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # the tag PhotometricInterpretation of a TIFF, and its value of a negative
KIND_OF_PAGE, REDUCED = 254, 1  # the tag NewSubfileType, and its bit for a smaller copy of another page
MOST_REDUCED = 16  # pages that are looked at
LOADING = Lock()  # a PIL picture reads its file when it is first used, which two threads must not do at once

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # there is a bound of our own
# PIL opens few deep TIFFs in which white is zero, and inverts none of them: `_to_grey` does.
TiffImagePlugin.OPEN_INFO |= {
    (order, WHITE_IS_ZERO, format, fill, bits, extra): modes
    for (order, photometric, format, fill, bits, extra), modes in TiffImagePlugin.OPEN_INFO.items()
    if photometric == 1 and modes[0] in DEEP_MODES
}

XraySource = str | Path | bytes | Image.Image | np.ndarray


class UnreadableFilmError(ValueError):
    """A film that cannot be read; the message is the reason in a few words, without the file's name."""


def load_xray(source: XraySource, clahe: bool = False) -> Image.Image:
    """Read a chest film as an 8-bit grey image (PIL mode "L"), whatever it came in.

    PNG, JPEG, TIFF, WebP and DICOM. 8-bit pixels pass untouched; deeper ones are rescaled to 0..255 by
    `to_uint8`; transparency is composited on black, the colour of a film's border; the EXIF orientation is applied.
    Arrays are `[H, W]`, `[1, H, W]` or `[H, W, 3 | 4]`. `clahe` equalises the contrast locally (`equalize`), as
    the stock pipeline needs it for a checkpoint that was trained so; Predictor does it by itself.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFilmError: empty, truncated, no picture, or a DICOM that is no chest film; the message says which.
    """
    if clahe:
        return equalize(load_xray(source))
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with LOADING:
            source.load()
        return _to_grey(source)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not content:
        raise UnreadableFilmError("empty file")
    if is_dicom(content):
        try:
            return read_dicom(content)
        except ValueError as error:
            raise UnreadableFilmError(str(error)) from error
        except Exception as error:  # what pydicom and its decoders raise on damaged files
            raise UnreadableFilmError(f"damaged DICOM ({type(error).__name__})") from error
    return _decode(content)


def from_base64(text: str) -> bytes:
    """Decode a file that is sent in base64, perhaps in lines, or as a data URL.

    Raises:
        InputError: it is not in base64.
    """
    try:
        return base64.b64decode("".join(text[text.find(",") + 1 :].split()), validate=True)
    except ValueError as error:
        raise InputError("the film is not in base64") from error


def equalize(film: Image.Image) -> Image.Image:
    """Apply CLAHE, contrast-limited adaptive histogram equalisation (Zuiderveld 1994): 8 x 8 tiles, clip limit 2."""
    from kornia.enhance import equalize_clahe  # with torch, which reading a film does without
    from torch import from_numpy

    if min(film.size) < SMALLEST_TILED:
        return film
    grey = from_numpy(np.asarray(film, dtype=np.float32) / 255)[None, None]
    return Image.fromarray((equalize_clahe(grey, 2.0, (8, 8))[0, 0] * 255).round().byte().numpy())


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Rescale pixels of any depth to uint8 0..255; uint8 passes untouched.

    Whole numbers from 0 up are divided by the largest value of the bit depth that they use (8, 10, 12, 14 or 16), so
    that a 12-bit film in a 16-bit file is not dark, and a 16-bit copy of an 8-bit film gives the same film back.
    Signed and floating-point pixels, whose range says nothing, are stretched from their minimum to their maximum.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    low, high = float(pixels.min()), float(pixels.max())  # NaN if any pixel is
    if not np.isfinite(high - low):
        raise UnreadableFilmError("pixels that are not numbers (NaN or infinite)")
    if np.issubdtype(pixels.dtype, np.integer) and low >= 0 and high < 2**16:
        low, high = 0.0, float(next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits))
    if high == low:
        return np.zeros(pixels.shape, np.uint8)
    rescaled = np.empty(pixels.shape, np.uint8)
    for row in range(0, len(pixels), ROWS_AT_ONCE):  # in double precision, but not the whole film at once
        values = pixels[row : row + ROWS_AT_ONCE].astype(np.float64)
        rescaled[row : row + ROWS_AT_ONCE] = np.round((values - low) * (255.0 / (high - low)))
    return rescaled


def describe(content: bytes) -> dict:
    """Detect from its first bytes what a file is: `kind` (JPEG, PNG, TIFF, WEBP, DICOM, HTML, empty, unknown), and of
    pictures `mode` as PIL's, and `bits` a pixel and channel. The file's name plays no part."""
    if is_dicom(content):
        try:
            return {"kind": "DICOM", "mode": "DICOM", "bits": dicom_facts(content)["bits"]}
        except ValueError:
            return {"kind": "DICOM", "mode": None, "bits": None}
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            bits = {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
            return {"kind": image.format, "mode": image.mode, "bits": bits}
    except Exception:  # PIL's readers raise anything on damaged files
        start = content[:512].lstrip().lower()
        kind = "HTML" if start.startswith((b"<!doctype", b"<html", b"<?xml")) else "unknown" if content else "empty"
        return {"kind": kind, "mode": None, "bits": None}


def _decode(content: bytes) -> Image.Image:
    if reason := excess(content):
        raise UnreadableFilmError(reason)
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise UnreadableFilmError("too many pixels for a film")
        if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False):
            raise UnreadableFilmError("a moving picture, not a film")
        if isinstance(image, TiffImagePlugin.TiffImageFile) and _has_pages(image):
            raise UnreadableFilmError("a picture of several pages, not a film")
        if reason := excess_of_tiff(image):
            raise UnreadableFilmError(reason)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_grey(image)
    except UnreadableFilmError:
        raise
    except UnidentifiedImageError as error:
        what = (
            "an HTML page, not a picture" if describe(content)["kind"] == "HTML" else "not a picture that can be read"
        )
        raise UnreadableFilmError(f"{what} (PNG, JPEG, TIFF, WebP or DICOM)") from error
    except Image.DecompressionBombError as error:
        raise UnreadableFilmError("too many pixels for a film") from error
    except Exception as error:  # PIL's readers raise anything on damaged files
        what = "truncated file" if "truncated" in str(error).lower() else "damaged file"
        raise UnreadableFilmError(f"{what}: {error}") from error


def _has_pages(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a TIFF has pages beside the first that are no smaller copies of it."""
    for page in range(1, MOST_REDUCED + 1):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return False
        if not image.tag_v2.get(KIND_OF_PAGE, 0) & REDUCED:
            return True
    return True


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        deep = to_uint8(np.asarray(image))
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            deep = 255 - deep
        return Image.fromarray(deep)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    grey = image.convert("L")  # exact for grey films stored as RGB: PIL's weights sum to one
    if image.mode not in ("1", "L", "LA"):
        grey.info[COLOURED] = _is_coloured(image)
    return grey


def _is_coloured(image: Image.Image) -> bool:
    """Whether the hue changes over the picture, as it does on photographs and not on a film scanned in colour."""
    small = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX).convert("YCbCr"))
    return bool(small[..., 1:].std(axis=(0, 1)).max() > COLOUR_SPREAD)


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 2 and pixels.size:
        return Image.fromarray(to_uint8(pixels))
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        return _to_grey(Image.fromarray(to_uint8(pixels)))
    raise UnreadableFilmError(f"an array of shape {pixels.shape} is no film: [H, W], [1, H, W] or [H, W, 3 | 4]")

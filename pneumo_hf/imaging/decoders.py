"""Which decoder reads which compressed DICOM, whatever others are installed: all are permissive and survive damage.

pydicom alone takes the first that is installed. That could be python-gdcm, whose C++ exceptions end the whole process
on a damaged frame, or pylibjpeg-libjpeg, which is GPL-3.0 and rounds JPEG baseline otherwise than PIL does.
"""

import io
import struct

from imagecodecs import jpeg2k_decode, jpeg8_decode, jpegls_decode
from PIL import Image
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner

CODECS = {
    uid.JPEGExtended12Bit: jpeg8_decode,  # libjpeg-turbo, 8 and 12 bits
    uid.JPEGLossless: jpeg8_decode,
    uid.JPEGLosslessSV1: jpeg8_decode,
    uid.JPEGLSLossless: jpegls_decode,  # CharLS
    uid.JPEGLSNearLossless: jpegls_decode,
    uid.JPEG2000Lossless: jpeg2k_decode,  # OpenJPEG
    uid.JPEG2000: jpeg2k_decode,
    uid.HTJ2KLossless: jpeg2k_decode,
    uid.HTJ2KLosslessRPCL: jpeg2k_decode,
    uid.HTJ2K: jpeg2k_decode,
}
PLUGIN_OF = {  # of pydicom's decoders, by transfer syntax; uncompressed films need none
    uid.JPEGBaseline8Bit: "pillow",
    uid.RLELossless: "pydicom",
    **dict.fromkeys(CODECS, "imagecodecs"),
}
CONVERTED = {  # the colours that libjpeg-turbo and OpenJPEG make RGB
    *(PhotometricInterpretation.YBR_ICT, PhotometricInterpretation.YBR_RCT),
    *(PhotometricInterpretation.YBR_FULL, PhotometricInterpretation.YBR_FULL_422),
}
SYNTAX_OF = {  # of JPEGs, by their SOF marker: baseline, extended, progressive, lossless, LS
    0xC0: uid.JPEGBaseline8Bit,
    0xC1: uid.JPEGExtended12Bit,
    0xC2: uid.JPEGExtended12Bit,
    0xC3: uid.JPEGLossless,
    0xF7: uid.JPEGLSLossless,
}


def is_available(syntax: str) -> bool:
    """Say whether a syntax is decoded here, which pydicom asks of a plugin."""
    return syntax in CODECS


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame, as pydicom wants it: bytes in rows, with their layout set on `runner`.

    Raises:
        ValueError: a JPEG without its end. libjpeg-turbo would fill the rest with grey, CharLS search it for seconds.
    """
    if frame.startswith(b"\xff\xd8") and not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # padded
        raise ValueError("truncated")
    syntax = runner.transfer_syntax
    pixels = CODECS[syntax](frame)  # [H, W] or [H, W, 3], uint8 or uint16
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
        lossless = syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1, *uid.JPEGLSTransferSyntaxes)
        if runner.photometric_interpretation in CONVERTED and not lossless:
            runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    return pixels.tobytes()


def syntax_of(frame: bytes) -> uid.UID:
    """Recognise the transfer syntax that reads a compressed frame, by its first bytes.

    Raises:
        IndexError: a JPEG that ends before its picture begins.
    """
    if frame.startswith(b"\xff\xd8"):
        return SYNTAX_OF[frame[_start_of_frame(frame) + 1]]
    return uid.JPEG2000 if frame.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")) else uid.RLELossless


def frame_size(frame: bytes) -> tuple[int, int]:
    """Read width and height from the header of a JPEG, JPEG-LS or JPEG 2000, which is all that is read of it.

    Raises:
        IndexError, struct.error, UnidentifiedImageError: it is none of these, or damaged.
        DecompressionBombError: it claims to be huge.
    """
    if not frame.startswith(b"\xff\xd8"):
        with Image.open(io.BytesIO(frame), formats=["JPEG2000"]) as image:
            return image.size
    height, width = struct.unpack_from(">HH", frame, _start_of_frame(frame) + 5)
    return width, height


def _start_of_frame(frame: bytes) -> int:
    """Where the SOF marker of a JPEG is."""
    place = 2
    while frame[place + 1] not in SYNTAX_OF:
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return place


for _syntax in CODECS:
    get_decoder(_syntax).add_plugin("imagecodecs", (__name__, "decode_frame"))

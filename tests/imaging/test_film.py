import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter

from pneumo_hf.imaging.film import UnreadableFilmError, load_xray, to_uint8
from tests.conftest import make_film

FILM = make_film(3, pneumonia=True)


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def pixels(source) -> np.ndarray:
    film = load_xray(source)
    assert film.mode == "L"
    return np.asarray(film)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_8_bit_pixels_pass_untouched(format: str, tmp_path: Path) -> None:
    content = encode(Image.fromarray(FILM), format, **({"lossless": True} if format == "WEBP" else {}))
    path = tmp_path / "film"
    path.write_bytes(content)
    for source in (content, path, str(path), FILM, FILM[None], np.stack([FILM] * 3, axis=-1), Image.fromarray(FILM)):
        np.testing.assert_array_equal(pixels(source), FILM)


def test_jpeg_gives_what_pil_gives() -> None:
    grey, rgb = encode(Image.fromarray(FILM), "JPEG"), encode(Image.fromarray(FILM).convert("RGB"), "JPEG")
    np.testing.assert_array_equal(pixels(grey), np.asarray(Image.open(io.BytesIO(grey))))
    np.testing.assert_array_equal(pixels(rgb), np.asarray(Image.open(io.BytesIO(rgb)))[..., 0])


def test_16_bit_is_rescaled_by_the_depth_it_uses() -> None:
    for depth, deep in ((16, FILM.astype(np.uint16) * 257), (12, np.round(FILM * (4095 / 255)).astype(np.uint16))):
        for source in (deep, encode(Image.fromarray(deep), "PNG"), encode(Image.fromarray(deep), "TIFF")):
            assert np.abs(pixels(source).astype(int) - FILM).max() == 0, depth


def test_signed_and_float_are_stretched_and_nan_is_refused() -> None:
    expected = np.round((FILM - FILM.min()) * (255.0 / (int(FILM.max()) - FILM.min()))).astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(FILM.astype(np.int16) - 300), expected)
    np.testing.assert_array_equal(to_uint8(FILM / 7.0), expected)
    assert to_uint8(np.full((4, 4), 1.5)).max() == 0
    with pytest.raises(UnreadableFilmError, match="NaN"):
        to_uint8(np.array([[np.nan, 1.0]]))


def test_alpha_is_composited_on_black_and_exif_is_turned() -> None:
    half = np.dstack([FILM, FILM, FILM, np.full_like(FILM, 128)])
    assert np.abs(pixels(encode(Image.fromarray(half), "PNG")) - FILM * (128 / 255)).max() <= 1
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it upright
    turned = encode(Image.fromarray(FILM), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels(turned), np.rot90(FILM, -1))


def tiff(pixels: np.ndarray, photometric: int, order: str = "<", orientation: int = 1) -> bytes:
    """A TIFF `[H, W]` of one strip, with a photometric interpretation that PIL does not write: 0, white is zero."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    height, width = pixels.shape
    format = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = [(256, width), (257, height), (258, 8 * pixels.itemsize), (259, 1), (262, photometric), (273, 8)]
    tags += [(274, orientation), (277, 1), (278, height), (279, len(data)), (339, format)]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data)) + data + directory


@pytest.mark.parametrize("order", ["<", ">"], ids=["II", "MM"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_tiff_in_which_white_is_zero_is_inverted_at_any_depth(dtype, order: str) -> None:
    film = FILM.copy()
    film[0, :2] = 0, 255  # the whole range
    deep = film.astype(dtype) * (257 if dtype == np.uint16 else 1)
    most = dtype(65535) if dtype == np.uint16 else dtype(255)
    np.testing.assert_array_equal(pixels(tiff(deep, 1, order)), film)
    np.testing.assert_array_equal(pixels(tiff(most - deep, 0, order)), film)
    np.testing.assert_array_equal(pixels(tiff(most - deep, 0, order, orientation=6)), np.rot90(film, -1))


def test_pictures_of_several_pages_are_refused_in_one_line() -> None:
    pages = [Image.fromarray(np.roll(FILM, shift)) for shift in range(3)]
    with pytest.raises(UnreadableFilmError, match="^a picture of several pages, not a film$"):
        load_xray(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    deep = [Image.fromarray(FILM.astype(np.uint16) * 257)] * 2
    with pytest.raises(UnreadableFilmError, match="several pages"):
        load_xray(encode(deep[0], "TIFF", save_all=True, append_images=deep[1:], compression="tiff_lzw"))
    buffer = io.BytesIO()  # but small copies of a film beside it are no pages
    with AppendingTiffWriter(buffer) as writer:
        for number in range(3):
            size = (FILM.shape[1] >> number, FILM.shape[0] >> number)
            Image.fromarray(FILM).resize(size).save(writer, "TIFF", tiffinfo={254: 1 if number else 0})
            writer.newFrame()
    np.testing.assert_array_equal(pixels(buffer.getvalue()), FILM)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not a picture"),
        (encode(Image.fromarray(FILM), "JPEG")[:700], "truncated"),
        (encode(Image.fromarray(FILM), "PNG")[:700], "truncated file"),
        (b"\0" * 128 + b"DICM" + b"\0" * 40, "DICOM"),
    ],
)
def test_damaged_files_say_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFilmError, match=reason):
        load_xray(content)

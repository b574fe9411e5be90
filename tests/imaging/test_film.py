import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not a picture"),
        (encode(Image.fromarray(FILM), "JPEG")[:700], "truncated"),
        (encode(Image.fromarray(FILM), "PNG")[:700], "damaged file"),
        (b"\0" * 128 + b"DICM" + b"\0" * 40, "DICOM"),
    ],
)
def test_damaged_files_say_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFilmError, match=reason):
        load_xray(content)


def dicom(stored: np.ndarray, photometric: str, syntax=ExplicitVRLittleEndian, **tags) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    film.Rows, film.Columns = stored.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, photometric
    film.BitsAllocated = 8 * stored.itemsize
    film.BitsStored, film.HighBit = film.BitsAllocated, film.BitsAllocated - 1
    film.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    for name, value in tags.items():
        setattr(film, name, value)
    film.PixelData = encapsulate([stored.tobytes()]) if syntax.is_compressed else stored.tobytes()
    film["PixelData"].VR = "OW" if stored.itemsize > 1 else "OB"
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_dicom_8_bit_passes_and_monochrome1_is_inverted() -> None:
    np.testing.assert_array_equal(pixels(dicom(FILM, "MONOCHROME2")), FILM)
    np.testing.assert_array_equal(pixels(dicom(255 - FILM, "MONOCHROME1")), FILM)


def test_dicom_slope_and_window_are_applied() -> None:
    stored = FILM.astype(np.uint16) * 10
    window = {"RescaleSlope": "1", "RescaleIntercept": "-100", "WindowCenter": "1000", "WindowWidth": "800"}
    shown = pixels(dicom(stored, "MONOCHROME2", **window)).astype(float)
    # PS3.3 C.11.2.1.2: linear between center - .5 -+ (width - 1) / 2
    expected = np.clip(((stored - 100.0 - 999.5) / 799 + 0.5), 0, 1) * 255
    assert np.abs(shown - expected).max() <= 1
    np.testing.assert_array_equal(shown, 255 - pixels(dicom(stored, "MONOCHROME1", **window)))


def test_compressed_and_pixelless_dicom_say_so() -> None:
    with pytest.raises(UnreadableFilmError, match="pixels cannot be decoded .JPEG Baseline"):
        load_xray(dicom(FILM, "MONOCHROME2", syntax=JPEGBaseline8Bit))
    film = pydicom.dcmread(io.BytesIO(dicom(FILM, "MONOCHROME2")))
    del film.PixelData
    buffer = io.BytesIO()
    film.save_as(buffer)
    with pytest.raises(UnreadableFilmError, match="without pixels"):
        load_xray(buffer.getvalue())

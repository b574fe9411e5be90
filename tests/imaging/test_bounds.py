"""A picture that costs little to send and much to decode is refused before it is decoded."""

import io
import time

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from pneumo_hf.imaging.bounds import MOST_MARKERS, MOST_SCANS, MOST_STRIPS
from pneumo_hf.imaging.film import UnreadableFilmError, load_xray
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom


def jpeg_of_scans(count: int, size: tuple[int, int] = (7000, 7000)) -> bytes:
    """A progressive JPEG whose last scan is repeated; of 7000 x 7000 pixels each takes a twentieth of a second."""
    file = io.BytesIO()
    Image.new("L", size, 90).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (count - content.count(b"\xff\xda")) + content[-2:]


def in_dicom(frame: bytes, size: tuple[int, int]) -> bytes:
    """A DICOM around a JPEG."""
    film = pydicom.dcmread(io.BytesIO(dicom(np.zeros((8, 8), np.uint8))))
    film.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    film.PixelData = encapsulate([frame])
    film["PixelData"].VR = "OB"
    film.Columns, film.Rows = size
    file = io.BytesIO()
    film.save_as(file)
    return file.getvalue()


def many_markers() -> bytes:
    content = jpeg_of_scans(6, (64, 64))
    return content[:2] + b"\xff\xfe\x00\x02" * (MOST_MARKERS + 1) + content[2:]


def many_strips() -> bytes:
    file = io.BytesIO()
    film = Image.new("L", (4, MOST_STRIPS + 1))
    film.save(file, "TIFF", compression="raw", tiffinfo={278: 1})
    return file.getvalue()


def many_tiles() -> bytes:
    file = io.BytesIO()
    Image.new("L", (800, 800)).save(file, "JPEG2000", tile_size=(16, 16))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (jpeg_of_scans(800), "100 scans"),
        (in_dicom(jpeg_of_scans(800), (7000, 7000)), "100 scans"),
        (many_markers(), "markers"),
        (many_strips(), "strips"),
        (many_tiles(), "tiles"),
    ],
    ids=["scans", "scans in a DICOM", "markers", "strips", "tiles"],
)
def test_too_much_work_is_refused_at_once(content: bytes, why: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UnreadableFilmError, match=why):
        load_xray(content)
    assert time.perf_counter() - start < 5


def test_what_films_have_is_read() -> None:
    film = Image.fromarray(make_film(0, pneumonia=True, size=(400, 320)))
    for format, options in (
        ("JPEG", {"progressive": True}),
        ("TIFF", {"compression": "raw", "tiffinfo": {278: 1}}),
        ("JPEG2000", {"tile_size": (128, 128)}),
    ):
        file = io.BytesIO()
        film.save(file, format, **options)
        assert load_xray(file.getvalue()).size == film.size
    assert load_xray(jpeg_of_scans(MOST_SCANS, (64, 64))).size == (64, 64)

"""What is wrong with a picture, whatever its score, and what its pixels show of its file."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumo_hf import load_xray
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.quality import blockiness, quality_issue
from tests.conftest import ROOT, make_film, make_photograph


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (make_film(1, True), ""),
        (np.full((90, 90), 70, np.uint8), "blank"),
        (make_photograph(3, coloured=True), "a colour picture"),
        (make_film(1, True, (40, 90)), "smaller than 64 pixels"),
        (np.stack([make_film(1, True)] * 3, axis=-1) // np.array([1, 1, 2], np.uint8), ""),  # a tint is no colour
    ],
)
def test_quality_issues(picture: np.ndarray, reason: str) -> None:
    assert quality_issue(load_xray(picture)) == reason


@pytest.mark.shared
def test_a_negative_is_recognised(shared: Path) -> None:
    film = load_xray(read_film(next(iter(list_films(shared / "data" / "chest_xray_fullres_sample.zip")))["image"]))
    assert quality_issue(film) == ""
    assert quality_issue(Image.fromarray(255 - np.asarray(film))).startswith("a negative")


def test_cropped_films_are_recognised_and_whole_ones_are_not() -> None:
    shards = ROOT / "data" / "chest_xray_sample"
    films = [load_xray(read_film(row["image"])) for row in list_films(*sorted(shards.glob("train-*")))][::10]
    assert len(films) > 30
    parts = [film.crop((0, 0, film.width // 2, film.height)) for film in films]
    cropped = [quality_issue(part).startswith("not laid out like a chest") for part in parts]
    assert np.mean(cropped) > 0.4 and np.mean([quality_issue(film) != "" for film in films]) < 0.03


def test_the_blocks_of_jpeg_are_measured_where_they_are() -> None:
    film = Image.fromarray(make_film(1, True, (300, 410)))
    copies = []
    for quality in (90, 50, 20):
        file = io.BytesIO()
        film.save(file, "JPEG", quality=quality)
        copies.append(Image.open(file))
    assert blockiness(film) == pytest.approx(1, abs=0.03)
    found = [blockiness(copy) for copy in copies]
    assert found == sorted(found) and found[0] < 1.1 and found[-1] > 2
    assert blockiness(copies[-1].crop((16, 24, 300, 400))) > 2 and blockiness(copies[-1].crop((3, 5, 300, 400))) < 1


def test_steps_at_the_edges_of_blocks_are_set_beside_those_inside() -> None:
    """Edges three times as steep; of a large film the middle counts alone."""
    place = np.arange(600)
    line = np.cumsum(np.where(place % 8 == 7, 3, 1) * np.where(place // 8 % 2 == 0, 1, -1))
    film = np.random.default_rng(0).integers(0, 256, (600, 600), np.uint8)
    film[168:424, 168:424] = (100 + line + line[:, None])[167:423, 167:423]  # a step leads to the pixel after it
    assert blockiness(Image.fromarray(film)) == pytest.approx(3, rel=0.01)
    assert blockiness(Image.new("L", (90, 90), 7)) == 1
    flat = np.repeat(np.repeat(np.arange(0, 120, 10, np.uint8).reshape(3, 4), 8, axis=0), 8, axis=1)
    assert blockiness(Image.fromarray(flat)) > 1000  # nothing is left but the mean of each block
    assert np.isnan(blockiness(Image.new("L", (8, 8)))) and blockiness(Image.new("L", (9, 1))) == 1

"""What is wrong with a picture, whatever its score."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumo_hf import load_xray
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.quality import quality_issue
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

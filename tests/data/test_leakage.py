"""Whose films they are and who held them out is decided by what they show, not by what their files are called."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumo_hf.__main__ import main
from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.digests import HELD_OUT, are_kermany, known_again, read_held_out
from pneumo_hf.data.duplicates import film_digests
from pneumo_hf.data.files import read_film
from pneumo_hf.data.leakage import assert_held_out
from pneumo_hf.data.listing import list_films
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.hub.card import shows_public_films
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.quality import thumbnail
from tests.conftest import make_film, public_films
from tests.training.common import decoded

SHIPPED = Path(__file__).parents[2] / "models" / "pneumo-efficientnet"


def digests(films: list) -> np.ndarray:
    return film_digests(np.stack([thumbnail(film) for film in films]))


def recoded(film: Image.Image, factor: float, quality: int) -> Image.Image:
    """The film as a JPEG of another size."""
    file = io.BytesIO()
    size = [round(side * factor) for side in film.size]
    film.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return load_xray(file.getvalue())


def renamed(run: Path, folder: Path) -> Path:
    """A copy of a run whose predictions call the films otherwise."""
    shutil.copytree(run, folder)
    for split in ("validation", "test"):
        path = folder / "report" / f"predictions_{split}.csv"
        rows = list(csv.DictReader(path.open(newline="")))
        for number, row in enumerate(rows):
            row["path"] = f"{split}/{number}.png"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe, seed=parse_args(tiny_recipe).training.seed)


def test_films_of_the_public_set_are_known_again_resized_and_recompressed_and_no_others() -> None:
    public = [load_xray(data) for data in public_films(40)]
    assert are_kermany(digests(public)).all()
    assert are_kermany(digests([recoded(film, 3, 95) for film in public])).all()
    assert are_kermany(digests([recoded(film, 1, 60) for film in public])).all()
    private = [load_xray(make_film(seed, seed % 2 == 0)) for seed in range(40)]
    assert not are_kermany(digests(private)).any()
    assert not are_kermany(digests([Image.new("L", (100, 100), 7)])).any()


def test_copies_are_known_again_and_other_films_of_the_set_are_not() -> None:
    public = [load_xray(data) for data in public_films(40)]
    assert known_again(digests([recoded(film, 0.7, 80) for film in public]), digests(public)).all()
    assert not known_again(digests(public[:20]), digests(public[20:])).any()
    assert not known_again(digests(public[:3]), np.empty((0, 32), np.uint8)).any()


@pytest.mark.shared
def test_full_size_originals_are_of_the_public_set_and_other_hospitals_films_are_not(shared: Path) -> None:
    originals, elsewhere = (
        digests([load_xray(read_film(film["image"])) for film in list_films(shared / "data" / f"{name}.zip")])
        for name in ("chest_xray_fullres_sample", "external_ieee8023")
    )
    assert len(originals) == 102 and are_kermany(originals).all()
    assert len(elsewhere) == 240 and not are_kermany(elsewhere).any()


def test_a_run_says_what_it_held_out_by_content(tiny_run: Path, films: dict[str, FilmDataset]) -> None:
    held_out = read_held_out(tiny_run)
    assert len(held_out) == len(films["validation"]) + len(films["test"])
    for split, expected in (("validation", True), ("test", True), ("train", False)):
        known = known_again(film_digests(films[split].thumbnails), held_out)
        assert known.all() if expected else not known.any()


def test_films_called_as_the_public_sets_are_not_taken_for_them(tiny_run: Path) -> None:
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["training_data"]["kermany"] is False  # IM-0001-0001.jpeg, and made by the tests
    assert not shows_public_films(tiny_run) and shows_public_films(SHIPPED)


def test_renamed_copies_of_films_trained_on_are_seen(tiny_run: Path, films, tmp_path: Path) -> None:
    teacher = renamed(tiny_run, tmp_path / "teacher")
    assert_held_out([str(teacher)], films)  # the same films held out, under any names
    swapped = {**films, "validation": films["train"], "train": films["validation"]}
    with pytest.raises(InputError, match=f"trained on {len(films['train'])} films that this run holds out"):
        assert_held_out([str(teacher)], swapped)


def test_other_films_of_the_same_names_are_not_refused(tiny_run: Path, films, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_run, teacher)
    others = digests([load_xray(make_film(seed, False)) for seed in range(9000, 9060)])
    np.save(teacher / HELD_OUT, others)
    swapped = {**films, "validation": films["train"], "train": films["validation"]}
    assert_held_out([str(teacher)], swapped)


def test_a_checkpoint_of_before_is_compared_by_names(tiny_run: Path, films, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_run, teacher)
    (teacher / HELD_OUT).unlink()
    assert_held_out([str(teacher)], films)
    swapped = {**films, "validation": films["train"], "train": films["validation"]}
    with pytest.raises(InputError, match="rename yours if other films only have the same names"):
        assert_held_out([str(teacher)], swapped)


@pytest.mark.parametrize("content", [b"", b"digests", b"\x93NUMPY\x01\x00"])
def test_a_damaged_list_of_held_out_films_is_named(content: bytes, tiny_run: Path, films, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_run, teacher)
    (teacher / HELD_OUT).write_bytes(content)
    with pytest.raises(InputError, match=r"report/held_out.npy of .*teacher is damaged"):
        assert_held_out([str(teacher)], films)


@pytest.mark.parametrize("split", ["train", "test"])
def test_of_the_public_train_films_it_is_said_whatever_their_names(split: str, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    for number, data in enumerate(public_films(4, "train")):
        path = tmp_path / "films" / split / ("NORMAL", "PNEUMONIA")[number % 2] / f"ward{number}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    options = ["--split", split, "--output_dir", str(tmp_path / "report"), "--cache_dir", str(tmp_path / "cache")]
    main(["evaluate", "--model", str(SHIPPED), "--data", str(tmp_path / "films"), "--device", "cpu", *options])
    assert "may have been trained on 3 of these films (" in caplog.text  # one is of its validation
    assert "may have been trained on 3 of" in (tmp_path / "report" / "index.html").read_text()

"""Films are decoded once, into a cache."""

import time
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import ViTImageProcessorPil

from pneumo_hf.config.arguments import DataArguments
from pneumo_hf.data.files import read_film
from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.splits import decode_splits
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.processor import resize_film
from tests.conftest import make_film, write_films

PROCESSOR = ViTImageProcessorPil(size={"height": 48, "width": 48})


def test_pixels_are_the_processors_and_batches_are_gathered(films_folder: Path, cache_dir: Path) -> None:
    table = load_data(films_folder)["test"]
    films, rejected = decode_films(table, PROCESSOR, cache_dir)
    assert rejected == []
    batch = films.__getitems__([7, 2, 30])
    assert (batch["pixel_values"].shape, batch["labels"].tolist()) == ((3, 1, 48, 48), [0, 0, 1])
    expected = resize_film(load_xray(read_film(table[2]["image"])), PROCESSOR)
    np.testing.assert_array_equal(batch["pixel_values"][1], expected)
    chosen = films.select(np.array([2, 30]))
    np.testing.assert_array_equal(chosen[0]["pixel_values"], expected)


def test_the_cache_is_reused_until_a_film_or_the_size_changes(tmp_path: Path) -> None:
    folder = write_films(tmp_path / "films", {"train": (6, 6)})
    caches = tmp_path / "cache" / "pixels"

    def decode(processor: ViTImageProcessorPil = PROCESSOR) -> int:
        decode_films(load_data(folder)["train"], processor, tmp_path / "cache")
        return len(list(caches.glob("*.npy")))

    assert [decode(), decode()] == [1, 1]
    assert decode(ViTImageProcessorPil(size={"height": 32, "width": 32})) == 2
    time.sleep(0.01)
    Image.fromarray(make_film(99, pneumonia=True)).save(next((folder / "train" / "NORMAL").iterdir()))
    assert decode() == 3
    assert not list(caches.glob("*.partial"))


def test_unreadable_films_are_listed_with_reasons(tmp_path: Path) -> None:
    folder = write_films(tmp_path / "films", {"train": (12, 12), "test": (4, 4)})
    add_bad_films(folder / "train" / "NORMAL")
    films, rejected = decode_splits(
        load_data(folder), PROCESSOR, DataArguments(dataset=[str(folder)], cache_dir=str(tmp_path / "cache")), seed=0
    )
    assert {row["path"].split("/")[-1]: row["reason"].split(":")[0] for row in rejected} == {
        "cut.jpeg": "truncated file",
        "empty.png": "empty file",
        "text.png": "not a picture that can be read (PNG, JPEG, TIFF, WebP or DICOM)",
    }
    assert len(films["train"]) + len(films["validation"]) == 25  # with the 16-bit film


def add_bad_films(folder: Path) -> None:
    """A truncated JPEG, an empty file, a text file named .png, and a good film of 16 bits."""
    good = next(folder.glob("*.jpeg")).read_bytes()
    (folder / "cut.jpeg").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    Image.fromarray(make_film(77, pneumonia=False).astype(np.uint16) * 257).save(folder / "deep.png")

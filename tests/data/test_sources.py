import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.data.files import read_film
from pneumo_hf.data.sources import list_films, load_data
from pneumo_hf.imaging.film import load_xray

ROOT = Path(__file__).parents[2]


def test_folder_and_its_zip_give_the_same_table(films_folder: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "films"), "zip", films_folder))
    folder, zipped = load_data(films_folder), load_data(archive)
    assert {split: len(films) for split, films in folder.items()} == {"train": 112, "test": 40}
    for split in folder:
        for column in ("label", "patient_id", "subtype", "file_name"):
            assert folder[split][column] == zipped[split][column]
        assert read_film(folder[split][0]["image"]) == read_film(zipped[split][0]["image"])


def test_kaggles_nested_copy_and_finders_leftovers_do_not_count(films_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(films_folder, tmp_path / "chest_xray")
    shutil.copytree(films_folder, tmp_path / "chest_xray" / "chest_xray")
    archive = shutil.make_archive(str(tmp_path / "films"), "zip", tmp_path, "chest_xray")
    leftovers = tmp_path / "chest_xray" / "train" / "NORMAL"
    (leftovers / ".DS_Store").write_bytes(b"x")
    (leftovers / "._IM-0001.jpeg").write_bytes(b"x")
    for source in (tmp_path / "chest_xray", archive):
        assert {split: len(films) for split, films in load_data(source).items()} == {"train": 112, "test": 40}


def test_bad_sources_name_what_is_missing(tmp_path: Path, films_folder: Path) -> None:
    with pytest.raises(InputError, match=r"no such data: .*nowhere"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected split/LABEL/file"):
        load_data(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="neither a folder, a zip"):
        load_data(tmp_path / "notes.txt")
    shutil.copytree(films_folder / "train" / "NORMAL", tmp_path / "one" / "train" / "NORMAL")
    with pytest.raises(InputError, match="no PNEUMONIA films"):
        load_data(tmp_path / "one")


def test_the_embedded_sample() -> None:
    data = load_data(ROOT / "data" / "chest_xray_sample")
    labels = {split: np.bincount(films["label"]).tolist() for split, films in data.items()}
    assert labels == {"train": [308, 891], "test": [234, 390]}
    assert not set(data["train"]["patient_id"]) & set(data["test"]["patient_id"])
    assert set(data["test"]["subtype"]) == {"normal", "bacteria", "virus"}
    assert load_xray(read_film(data["test"][0]["image"])).size == (224, 224)
    assert sum(path.stat().st_size for path in (ROOT / "data" / "chest_xray_sample").iterdir()) < 12e6


def test_the_embedded_sample_loads_with_datasets_alone(tmp_path: Path) -> None:
    films = load_dataset(str(ROOT / "data" / "chest_xray_sample"), split="test", cache_dir=str(tmp_path))
    assert films.features["label"].names == list(LABELS)
    assert films[0]["image"].size == (224, 224)


@pytest.mark.shared
def test_the_sample_holds_the_archives_own_bytes(shared: Path) -> None:
    original = {film["file_name"]: film for film in load_data(shared / "data" / "chest_xray_224.zip")["test"]}
    for film in load_data(ROOT / "data" / "chest_xray_sample")["test"].select(range(0, 624, 50)):
        assert read_film(film["image"]) == read_film(original[film["file_name"]]["image"])


def test_films_to_score_need_no_label(films_folder: Path, tmp_path: Path) -> None:
    film = next((films_folder / "test" / "NORMAL").iterdir())
    shutil.copy(film, tmp_path / "film.jpeg")
    assert [row["label"] for row in list_films(tmp_path)] == [None]
    assert [row["label"] for row in list_films(film)] == [0]
    assert len(list_films(ROOT / "data" / "chest_xray_sample" / "test-00000-of-00001.parquet")) == 624
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no films in"):
        list_films(tmp_path / "empty")


def test_parquet_of_images_and_labels_alone_gets_its_columns_and_labels_go_by_name(tmp_path: Path) -> None:
    films = load_dataset("parquet", data_files=str(ROOT / "data/chest_xray_sample/test*.parquet"), split="train")
    films.select_columns(["image", "label"]).to_parquet(tmp_path / "a" / "test-0.parquet")
    table, whole = load_data(tmp_path / "a")["test"], load_data(ROOT / "data" / "chest_xray_sample")["test"]
    assert table.column_names == whole.column_names
    assert table["patient_id"] == whole["patient_id"]
    swapped = films.cast_column("label", ClassLabel(names=["Pneumonia", "normal"]))
    swapped.to_parquet(tmp_path / "b" / "test-0.parquet")
    assert load_data(tmp_path / "b")["test"]["label"] == [1 - label for label in whole["label"]]
    films.cast_column("label", ClassLabel(names=["0", "1"])).to_parquet(tmp_path / "d" / "test-0.parquet")
    with pytest.raises(InputError, match="its labels are the numbers 0, 1"):
        load_data(tmp_path / "d")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "test-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        load_data(tmp_path / "c")

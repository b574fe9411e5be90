import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from httpx2 import ConnectError
from PIL import Image as Pictures

from pneumo_hf.data import stores
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import load_xray
from tests.conftest import make_film

ROWS, GROUP = 250, 100
FEATURES = Features(
    {"image": Image(), "label": ClassLabel(names=["PNEUMONIA", "NORMAL"]), "file_name": Value("string")}  # not ours
)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Pictures.fromarray(make_film(seed, bool(seed % 2))).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, first: int, rows: int = ROWS) -> None:
    """Films `first` and on, eight pictures over and over; each third has no label."""
    films = [png(seed) for seed in range(8)]
    columns = {
        "image": [{"bytes": films[number % 8], "path": None} for number in range(first, first + rows)],
        "label": [[1, 0, -1][number % 3] for number in range(first, first + rows)],
        "file_name": [f"person{number // 2}_virus_{number}.png" for number in range(first, first + rows)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=FEATURES).to_parquet(path, batch_size=GROUP)


def test_shards_are_streamed_from_any_film_on(tmp_path: Path) -> None:
    write_shard(tmp_path / "set" / "test-00000.parquet", 0)
    write_shard(tmp_path / "set" / "train-00000.parquet", ROWS)
    assert pq.ParquetFile(tmp_path / "set" / "test-00000.parquet").num_row_groups == 3
    films = list_films(tmp_path / "set")
    every = list(films)
    assert len(films) == len(every) == 2 * ROWS
    assert [row["label"] for row in every[:3]] == ["NORMAL", "PNEUMONIA", ""]  # by name, not by number
    assert [row["file_name"] for row in every] == [f"person{n // 2}_virus_{n}.png" for n in range(2 * ROWS)]
    assert every[11]["patient_id"] == "person5_virus"
    assert read_film(every[9]["image"]) == png(1)
    for start, stop in ((0, 1), (40, 41), (99, 101), (199, 260), (249, 250), (250, 500), (333, 333)):
        assert list(films.rows(start, stop)) == every[start:stop]


def test_a_part_of_a_list_is_those_films(films_folder: Path, tmp_path: Path) -> None:
    """What is sent to another process; the cuts are where row groups begin."""
    write_shard(tmp_path / "a.parquet", 0)  # row groups of 100, 100 and 50
    write_shard(tmp_path / "b.parquet", ROWS)
    films = list_films(tmp_path / "a.parquet", films_folder / "test", tmp_path / "b.parquet")
    every = list(films)
    assert films.cuts(100) == [0, 100, 200, 390, 490]  # 50 and 40 films are too few
    for start, stop in ((0, 540), (95, 105), (240, 260), (255, 300), (289, 540), (539, 540)):
        part = films.part(start, stop)
        assert list(part) == every[start:stop]
        assert list(part.rows(1, 4)) == every[start + 1 : min(start + 4, stop)]
        assert len(part) == stop - start


def test_films_of_all_kinds_of_sources_in_the_order_given(films_folder: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "films.parquet", 0, 5)
    archive = shutil.make_archive(str(tmp_path / "films"), "zip", films_folder / "test")
    one = next((films_folder / "test" / "NORMAL").iterdir())
    films = list_films(one, tmp_path / "films.parquet", archive, films_folder / "test")
    every = list(films)
    assert len(films) == len(every) == 1 + 5 + 40 + 40
    assert (every[0]["file_name"], every[0]["label"]) == (str(one), "NORMAL")
    assert every[6]["file_name"].startswith(f"{archive}/NORMAL/IM-")
    assert list(films.rows(4, 50)) == every[4:50]
    np.testing.assert_array_equal(*(load_xray(read_film(every[row]["image"])) for row in (6, 46)))


def test_what_is_given_twice_counts_once(films_folder: Path) -> None:
    one = next((films_folder / "test" / "NORMAL").iterdir())
    assert len(list_films(one, films_folder / "test", str(one), f"{films_folder}/test/")) == 1 + 40


def test_pictures_beside_shards_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_shard(tmp_path / "set" / "films.parquet", 0, 5)
    assert len(list_films(tmp_path / "set")) == 5 and not caplog.text
    (tmp_path / "set" / "film.png").write_bytes(png(0))
    assert len(list_films(tmp_path / "set")) == 5
    assert "its Parquet shards are read, not the pictures beside them (1)" in caplog.text


def test_films_that_the_network_does_not_bring_are_not_given_up(tmp_path: Path, monkeypatch) -> None:
    def unreachable(*_, **__):
        raise ConnectError("no route to the host")

    write_shard(tmp_path / "films.parquet", 0, 5)
    films = list_films(tmp_path / "films.parquet")
    monkeypatch.setattr(stores, "WAITS", ())
    monkeypatch.setattr("pneumo_hf.data.shards.pq.ParquetFile", unreachable)
    with pytest.raises(InputError, match="cannot be reached .no route to the host.: the same command resumes"):
        list_films(tmp_path / "films.parquet")
    monkeypatch.undo()
    monkeypatch.setattr(stores, "WAITS", ())
    monkeypatch.setattr("pneumo_hf.data.shards.pq.ParquetFile.iter_batches", unreachable)
    with pytest.raises(InputError, match="the same command resumes"):
        list(films)


def test_films_without_labels_or_names_in_parquet(tmp_path: Path) -> None:
    raw = pa.table({"image": [png(0), png(1), None]})  # bytes alone, written by anything
    pq.write_table(raw, tmp_path / "raw.parquet")
    rows = list(list_films(tmp_path / "raw.parquet"))
    assert [row["file_name"] for row in rows] == [f"raw.parquet-row_{number}" for number in range(3)]
    assert [(row["label"], row["patient_id"]) for row in rows] == [("", "")] * 3
    assert load_xray(read_film(rows[1]["image"])).size == (96, 80)
    numbers = pa.table({"image": [png(0)], "label": [1]})  # of what?
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    assert [row["label"] for row in list_films(tmp_path / "numbers.parquet")] == [""]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(InputError, match="no column of images among text"):
        list_films(tmp_path / "text.parquet")


def test_what_is_damaged_in_a_shard_is_listed_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "films.parquet"
    write_shard(path, 0)
    second = pq.ParquetFile(path).metadata.row_group(1)
    begin = min(second.column(c).dictionary_page_offset or second.column(c).data_page_offset for c in range(2))
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * 1000)
    rows = list(list_films(path))
    assert len(rows) == ROWS
    assert [row["image"] is None for row in rows] == [GROUP <= number < 2 * GROUP for number in range(ROWS)]
    assert rows[GROUP]["file_name"] == f"films.parquet-row_{GROUP}"
    assert list(list_films(path).rows(150, 210)) == rows[150:210]
    path.write_bytes(path.read_bytes()[:-100])
    assert [row["file_name"] for row in list_films(path)] == [str(path)]  # one film, of which `error` will tell


def test_the_digest_distinguishes_lists(films_folder: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "films.parquet", 0, 5)
    of_shard, of_folder = list_films(tmp_path / "films.parquet").digest, list_films(films_folder).digest
    assert list_films(films_folder).digest == of_folder != list_films(films_folder / "test").digest
    write_shard(tmp_path / "films.parquet", 1, 5)
    assert list_films(tmp_path / "films.parquet").digest != of_shard

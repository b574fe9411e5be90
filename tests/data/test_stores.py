"""Films and scores in an object store, for real: moto's S3 on loopback, and a proxy that breaks its connections."""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from pneumo_hf.__main__ import main
from pneumo_hf.data import stores
from pneumo_hf.data.listing import list_films
from pneumo_hf.errors import InputError
from pneumo_hf.inference import scoring
from pneumo_hf.inference.parts import Parts
from tests.data.test_listing import write_shard
from tests.object_store import Proxy, object_store


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with object_store(monkeypatch) as proxy:
        yield proxy


def put(folder: Path, address: str) -> None:
    fsspec.filesystem("s3").put(str(folder), address, recursive=True)


def read(address: str) -> bytes:
    return fsspec.filesystem("s3").cat_file(address)


def values(table: bytes) -> list[dict]:
    return [row | {"path": row["path"].rpartition("/")[2]} for row in csv.DictReader(io.StringIO(table.decode()))]


def test_films_in_scores_out_over_connections_that_break(
    store: Proxy, tiny_run: Path, films_folder: Path, tmp_path: Path, command: Callable
) -> None:
    (films_folder / "test" / "broken.png").write_bytes(b"no picture")
    try:
        put(films_folder / "test", "s3://films/test/")
        main(["predict", "--model", str(tiny_run), str(films_folder / "test"), "--output", str(tmp_path / "p.csv")])
    finally:
        (films_folder / "test" / "broken.png").unlink()
    store.cuts = 12
    predict = ("predict", "--model", tiny_run, "s3://films/test", "--output")
    code, log = command(*predict, "s3://films/out/preds.csv")
    assert code == 0, log
    assert store.cut == 12
    rows, alone = values(read("s3://films/out/preds.csv")), values((tmp_path / "p.csv").read_bytes())
    assert rows == alone
    assert [row["path"] for row in rows if row["error"]] == ["broken.png"]
    assert fsspec.filesystem("s3").find("films/out") == ["films/out/preds.csv"]  # the parts are gone
    code, log = command(*predict, tmp_path / "preds.parquet")
    assert code == 0, log


def test_shards_over_connections_that_break(store: Proxy, tmp_path: Path) -> None:
    write_shard(tmp_path / "shards" / "films.parquet", 0, 250)
    put(tmp_path / "shards", "s3://films/shards/")
    store.cuts = 3
    films = list_films("s3://films/shards")  # the footer alone
    rows = films.rows(0, 250)
    first = next(rows)
    store.cuts = 3
    assert [first, *rows] == list(list_films(tmp_path / "shards"))
    assert store.cut >= 3


def test_a_store_that_is_gone_for_long(
    store: Proxy, tiny_run: Path, films_folder: Path, tmp_path: Path, command: Callable, monkeypatch
) -> None:
    """What has not come is not given up as unreadable: the command ends, and resumes when the store is back."""
    monkeypatch.setattr(stores, "WAITS", (0.1, 0.1))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(scoring, "FILMS_A_PART", 16)
    put(films_folder / "train", "s3://films/train/")
    predict, add = ("predict", "--model", tiny_run, "s3://films/train", "--output", tmp_path / "preds.csv"), Parts.add

    def add_and_go(parts: Parts, first: int, rows: list) -> None:
        add(parts, first, rows)
        store.down = first == 32

    monkeypatch.setattr(Parts, "add", add_and_go)
    code, log = command(*predict)
    assert code == 2
    assert "jpeg cannot be reached" in log and "the same command resumes" in log
    assert store.refused
    store.down = False
    code, log = command(*predict)
    assert code == 0, log
    assert "48 films have been scored already" in log
    rows = values((tmp_path / "preds.csv").read_bytes())
    assert len(rows) == 112 and all(row["probability"] for row in rows)


def test_addresses_that_lead_nowhere(store: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file or folder: s3://films/nothing"):
        list_films("s3://films/nothing")
    with pytest.raises(InputError, match="s3://other/films"):
        list_films("s3://other/films")
    with pytest.raises(InputError, match="nosuch://films: Protocol not known"):
        list_films("nosuch://films")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match="gs://films: .*gcs"):
        list_films("gs://films")

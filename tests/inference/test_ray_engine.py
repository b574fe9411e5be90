"""Ray for real, on the cores of this machine: workers and the driver are killed, and no film is lost."""

import csv
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest

from pneumo_hf.__main__ import main
from pneumo_hf.inference.parts import Parts
from pneumo_hf.inference.ray_engine import _Decoded, _Network, _packed, pieces
from tests.data.test_listing import write_shard
from tests.object_store import object_store

ROOT = Path(__file__).parents[2]
FILMS = 2801

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray's own support there is in beta")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(4):
        write_shard(folder / f"films-{number}.parquet", 700 * number, 700)
    (folder / "films-9.parquet").write_bytes(b"PAR1 but damaged")
    return folder


def predict(model: Path, films: object, output: object, *more: object) -> list[str]:
    return list(map(str, ("predict", "--model", model, "--device", "cpu", films, "--output", output, *more)))


def ray(*more: object) -> tuple[object, ...]:
    return ("--engine", "ray", *more)


def children(process: psutil.Process) -> dict[int, str]:
    """The processes below one, by name: those of Ray, and what it runs."""
    found = {}
    for child in process.children(recursive=True):
        try:
            found[child.pid] = " ".join(child.cmdline())
        except psutil.Error:
            continue
    return found


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def same_rows(first: Path, second: Path) -> None:
    one, two = (list(csv.DictReader(path.open(newline=""))) for path in (first, second))
    assert len(one) == len(two) == FILMS
    for alone, shared in zip(one, two, strict=True):
        scores = [float(row.pop("probability") or "nan") for row in (alone, shared)]
        assert scores[1] == pytest.approx(scores[0], abs=1e-6, nan_ok=True)
        assert shared == alone


def test_what_is_packed_for_gpus_is_what_was_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    part = _Decoded(7, [({"name": "a.png", "error": ""}, (1, 2)), ({"name": "b.png", "error": "empty"}, None)], 3)
    (columns,) = _packed(lambda work: iter([part]), {})
    assert columns["number"].tolist() == [7, 8]
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}  # as Ray gives them
    monkeypatch.setattr(_Network, "score", lambda self, part: part)
    assert list(object.__new__(_Network)(arrays)) == [part]


@pytest.mark.cluster
def test_driver_and_worker_killed_then_another_number_of_workers(
    tiny_run: Path, films: Path, tmp_path: Path, command: Callable
) -> None:
    output, alone = tmp_path / "preds.csv", tmp_path / "alone.csv"
    main(predict(tiny_run, films, alone))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = predict(tiny_run, films, output, *ray("--workers", 2))
    driver = subprocess.Popen(
        [sys.executable, "-m", "pneumo_hf", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: Parts(str(output)).done() or driver.poll() is not None)
    assert driver.poll() is None, driver.stderr.read()
    left_behind = children(psutil.Process(driver.pid))
    assert sum("ray::" in name for name in left_behind.values()) >= 2
    driver.kill()
    log = driver.communicate()[1].replace("\r", "\n").splitlines()
    assert all(line.startswith(("Scoring films", str(films / "films-9.parquet"))) for line in log if line.strip()), log
    wait_for(lambda: not any(map(psutil.pid_exists, left_behind)))
    done = sum(map(len, Parts(str(output)).done()))
    assert 0 < done < FILMS and not output.exists()

    killed = []

    def kill_the_worker() -> None:
        wait_for(lambda: sum(map(len, Parts(str(output)).done())) > done)
        killed.extend(pid for pid, name in children(psutil.Process()).items() if "ray::MapWorker" in name)
        psutil.Process(killed[0]).kill()

    killer = threading.Thread(target=kill_the_worker)
    killer.start()
    code, log = command(*predict(tiny_run, films, output, *ray("--workers", 1)))
    killer.join()
    assert code == 0, log
    assert f"{done} films have been scored already" in log
    assert killed and not psutil.pid_exists(killed[0])
    assert not any("ray" in name for name in children(psutil.Process()).values())
    same_rows(alone, output)
    assert not (tmp_path / "preds.csv.parts").exists()


@pytest.mark.cluster
def test_films_and_scores_in_an_object_store_whose_connections_break(
    tiny_run: Path, films_folder: Path, tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(films_folder / "test", tmp_path / "films")
    (tmp_path / "films" / "NORMAL" / "broken.png").write_bytes(b"no picture")
    with object_store(monkeypatch) as store:
        fsspec.filesystem("s3").put(str(tmp_path / "films"), "s3://films/in/", recursive=True)
        store.cuts = 20
        code, log = command(*predict(tiny_run, "s3://films/in", "s3://films/preds.csv", *ray("--details")))
        assert code == 0, log
        assert store.cut == 20
        table = fsspec.filesystem("s3").cat_file("s3://films/preds.csv").decode()
        assert not fsspec.filesystem("s3").exists("films/preds.csv.parts")
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["path"] for row in rows if row["error"]] == ["s3://films/in/films/NORMAL/broken.png"]
    main(predict(tiny_run, tmp_path / "films", tmp_path / "alone.csv", "--details"))
    alone = list(csv.DictReader((tmp_path / "alone.csv").open(newline="")))
    assert len(rows) == len(alone) == 41
    for row, other in zip(rows, alone, strict=True):
        assert Path(row.pop("path")).name == Path(other.pop("path")).name
        for scores in (row, other):
            scores["probability"] = pytest.approx(float(scores["probability"] or "nan"), abs=1e-6, nan_ok=True)
            scores["distance"] = None  # rounded
        assert {**row, "probability": 0} == {**other, "probability": 0}


def test_without_ray_and_with_nowhere_to_go(
    tiny_run: Path, films_folder: Path, tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = next((films_folder / "test" / "NORMAL").iterdir())
    code, log = command(*predict(tiny_run, film, tmp_path / "p.csv", "--workers", 2))
    assert code == 2 and "--workers is of --engine ray" in log
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    code, log = command(*predict(tiny_run, film, tmp_path / "p.csv", *ray()))
    assert code == 2 and "--engine ray needs Ray: pip install 'pneumo-hf[ray]'" in log


def test_work_is_cut_where_row_groups_begin() -> None:
    assert pieces([range(0, 10)], [0, 4, 8]) == [range(0, 4), range(4, 8), range(8, 10)]
    assert pieces([range(2, 4), range(5, 9), range(9, 10)], [0, 4, 8]) == [
        *(range(2, 4), range(5, 8), range(8, 9), range(9, 10))
    ]
    assert pieces([], [0, 4]) == []

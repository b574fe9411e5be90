"""`predict --engine ray` on two cores: `python benchmarks/scoring_ray.py [PART ...]`.

  kills     a small network: a worker and the driver killed at random moments, resumed with one worker, killed, and
            with two: every film once, the scores of the plain path, memory of all processes in the last run
  rate      the small network, which leaves most to the engine: films a second of two workers against two plain
            processes of half the films each, in turns, from the first tenth of the films to the last
  million   simulated: what is kept of a million films that are files, cut into tasks, added as parts, resumed and
            joined to a table, without reading or scoring one
Writes benchmarks/results/ray.json, a part each.
"""

import argparse
import csv
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from common import MODEL, ROOT, median_ratio, own_peak_mib, parser, take_turns, write_part
from scaling import MIB, write_shards

from pneumo_hf.data.listing import FilmList, _Files
from pneumo_hf.data.predictions import PREDICTION_COLUMNS
from pneumo_hf.inference.parts import Parts
from pneumo_hf.inference.ray_engine import pieces
from pneumo_hf.inference.scoring import FILMS_A_PART, _alone
from pneumo_hf.inference.table import write_table

CPU = ("--device", "cpu")


def start(films: list[Path], output: Path, *more: object, model: Path = MODEL) -> subprocess.Popen:
    """Start `predict`; a plain one computes in one thread, as a worker of Ray does."""
    command = [sys.executable, "-m", "pneumo_hf", "predict", "--model", model, *films, "--output", output, *CPU, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def ray(workers: int) -> tuple[object, ...]:
    return ("--engine", "ray", "--workers", workers)


def done(output: Path) -> int:
    return sum(map(len, Parts(str(output)).done()))


def tree(process: subprocess.Popen) -> list[psutil.Process]:
    found = psutil.Process(process.pid)
    return [found, *found.children(recursive=True)]


def mib(processes: list[psutil.Process]) -> float:
    """Memory of processes; what they share, Ray's store and libraries, counts as much as the one that has most."""
    own, shared = [0], [0]
    for process in processes:
        with suppress(psutil.Error):
            memory = process.memory_info()
            own.append(memory.rss - memory.shared)
            shared.append(memory.shared)
    return (sum(own) + max(shared)) / MIB


def watch(process: subprocess.Popen, output: Path, stop: Callable[[int], bool], kill: Callable[[int], bool]) -> list:
    """Sample until the end, or until `stop` of the films that are done, when all processes get SIGKILL.

    Args:
        kill: once it holds, one worker is killed.
    """
    rows, begin, killed = [], time.perf_counter(), False
    while process.poll() is None:
        count, processes = done(output), tree(process)
        rows.append({"seconds": time.perf_counter() - begin, "films": count, "mib": mib(processes)})
        if not killed and kill(count):
            workers = [one for one in processes if one.name().startswith("ray::MapWorker")]
            if killed := bool(workers):
                random.choice(workers).kill()
        if stop(count):
            process.kill()
            process.wait()
            return rows
        time.sleep(0.5)
    assert process.returncode == 0
    return rows


def growth(rows: list[dict[str, float]], films: int) -> float:
    """Mean memory in the last quarter of a run over that in the third, while it adds films to those it found."""
    working = np.array([row["mib"] for row in rows if rows[0]["films"] < row["films"] < films])
    quarters = np.array_split(working, 4)
    return float(quarters[3].mean() / quarters[2].mean())


def read(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {row["path"]: float(row["probability"]) for row in rows}
    assert len(scores) == len(rows), "a film is there twice"
    return scores


def kills(given: argparse.Namespace, folder: Path) -> None:
    random.seed(given.seed)
    names, output = write_shards(folder / "shards", given.films), folder / "preds.csv"
    shards = sorted((folder / "shards").iterdir())
    halves = shards[: len(shards) // 2], shards[len(shards) // 2 :]
    model = write_network(folder / "model", 64)
    plain = [start(half, folder / f"plain-{number}.csv", model=model) for number, half in enumerate(halves)]
    assert not any(process.wait() for process in plain)
    first, second, third = sorted(random.uniform(0.05, 0.6) * given.films for _ in range(3))

    def never(_: int) -> bool:
        return False

    runs = {"two workers, one of them killed, then the driver": [2, lambda n: n > second, lambda n: n > first]}
    runs |= {"one worker, the driver killed": [1, lambda n: n > third, never], "two workers": [2, never, never]}
    rows, found = {}, []
    for name, (workers, stop, kill) in runs.items():
        rows[name] = watch(start(shards, output, *ray(workers), model=model), output, stop, kill)
        found.append(done(output))
    scores, alone = read(output), read(folder / "plain-0.csv") | read(folder / "plain-1.csv")
    assert list(scores) == names == list(alone), "a film is missing or out of its place"
    largest = max(abs(scores[name] - alone[name]) for name in names)
    assert largest <= 1e-6, largest
    facts = {"films_there_after_each_run": found[:-1], "every_film_once_and_in_order": True}
    facts |= {"largest_difference": largest, "peak_mib": max(row["mib"] for one in rows.values() for row in one)}
    ratios = {"ray_memory_last_half": growth(rows["two workers"], given.films)}
    thinned = {name: one[:: max(1, len(one) // 30)] for name, one in rows.items()}
    write_part("ray", "kills", ratios, thinned, films=given.films, **facts)


def rate(given: argparse.Namespace, folder: Path) -> None:
    write_shards(folder / "shards", given.rate_films)
    model = write_network(folder / "model", 64)
    shards = sorted((folder / "shards").iterdir())
    halves = shards[: len(shards) // 2], shards[len(shards) // 2 :]

    def seconds(ways: list[tuple[list[Path], tuple[object, ...]]]) -> float:
        """From the first tenth of the films to the last, for all of them."""
        outputs = [folder / f"{time.monotonic_ns()}-{number}.csv" for number in range(len(ways))]
        begun = zip(ways, outputs, strict=True)
        processes = [start(films, output, *more, model=model) for (films, more), output in begun]
        times: list[tuple[float, int]] = []
        while any(process.poll() is None for process in processes):
            ended = [process.poll() is not None for process in processes]
            count = sum(
                given.rate_films // len(ways) if there else done(output)
                for there, output in zip(ended, outputs, strict=True)
            )
            times.append((time.perf_counter(), count))
            time.sleep(0.1)
        assert not any(process.returncode for process in processes)
        (begin, few), (end, many) = (
            next(row for row in times if row[1] >= share * given.rate_films) for share in (0.1, 0.9)
        )
        return given.rate_films * (end - begin) / (many - few)

    ways: dict[str, Callable[[], float]] = {
        "two plain processes": lambda: seconds([(half, ()) for half in halves]),
        "ray, two workers": lambda: seconds([(shards, ray(2))]),
    }
    rows = take_turns(ways, given.repeats)
    ratios = {"ray_vs_two_processes": median_ratio(rows["two plain processes"], rows["ray, two workers"])}
    write_part("ray", "rate", ratios, rows, films=given.rate_films, unit="s")


def write_network(folder: Path, side: int) -> Path:
    """Write a checkpoint of a network that takes next to no time."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    labels = {0: "NORMAL", 1: "PNEUMONIA"}
    small = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**small, id2label=labels)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def million(given: argparse.Namespace, folder: Path) -> None:
    """Each number in a process of its own, for its peak of memory."""
    rows = []
    for count in (given.simulated // 10, given.simulated):
        command = [sys.executable, __file__, "--books_of", str(count), "--folder", str(folder / str(count))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"films": count, **json.loads(done.stdout.splitlines()[-1])})
    few, many = (row["peak_mib"] for row in rows)
    write_part("ray", "million", {"books_memory_of_ten_times_the_films": many / few}, rows, films=given.simulated)


def books(count: int, folder: Path) -> None:
    """Print the seconds of all that is done for so many films but reading and scoring them."""
    seconds, now = {}, time.perf_counter()

    def took(step: str) -> None:
        nonlocal now
        seconds[step], now = time.perf_counter() - now, time.perf_counter()

    films = FilmList([_Files([f"s3://films/{n // 1000:06d}/film-{n:09d}.jpeg" for n in range(count)])])
    digest, cuts, now = films.digest, films.cuts(FILMS_A_PART), time.perf_counter()
    work = [pickle.dumps(films.part(piece.start, piece.stop)) for piece in pieces([range(count)], cuts)]
    took("tasks")
    folder.mkdir()
    parts = Parts(str(folder / "preds.csv"))
    with _alone(parts):
        parts.start_or_resume({"list": digest})
        for first in range(0, count, FILMS_A_PART):
            numbers = range(first, min(first + FILMS_A_PART, count))
            parts.add(first, [[f"film-{n:09d}.jpeg", "", "", n / count, "NORMAL", "", ""] for n in numbers])
        took("parts")
        assert not parts.left(count)
        took("what_is_left")
        write_table(parts.rows(), PREDICTION_COLUMNS, parts.output, f"{parts.folder}/joined")
        took("table")
        parts.remove()
        took("clearing")
    print(json.dumps({"seconds": seconds, "tasks_mib": sum(map(len, work)) / MIB, "peak_mib": own_peak_mib()}))


PARTS = {"kills": kills, "rate": rate, "million": million}

if __name__ == "__main__":
    options = parser(__doc__, PARTS, repeats=3)
    options.add_argument("--films", type=int, default=20_000, help="of kills (default: 20000)")
    options.add_argument("--rate_films", type=int, default=20_000, help="of rate (default: 20000)")
    options.add_argument("--simulated", type=int, default=1_000_000, help="of million (default: 1000000)")
    options.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default: 0)")
    options.add_argument("--books_of", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.books_of:
        books(given.books_of, given.folder)
        sys.exit()
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as root:
            PARTS[part](given, Path(root))

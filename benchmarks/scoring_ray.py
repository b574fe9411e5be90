"""`predict --engine ray` on two cores: `python benchmarks/scoring_ray.py [PART ...]`.

  kills     a small network: a worker and the driver killed at random moments, resumed with one worker, killed, and
            with two: every film once, the scores of the plain path, memory of all processes in the last run
  rate      films a second of two workers against two plain processes of half the films each, in turns; without the
            start, from the first tenth of the films to the last
  million   tiny films (one picture of 32 x 32 pixels) by a tiny network: what the engine itself costs
Writes benchmarks/results/ray.json, a part each.
"""

import argparse
import csv
import os
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
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import MODEL, ROOT, median_ratio, parser, take_turns, write_part
from scaling import MIB, write_shards

from pneumo_hf.inference.parts import Parts

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
    shards = sorted((folder / "shards").iterdir())
    halves = shards[: len(shards) // 2], shards[len(shards) // 2 :]

    def seconds(ways: list[tuple[list[Path], tuple[object, ...]]]) -> float:
        """From the first tenth of the films to the last, for all of them."""
        outputs = [folder / f"{time.monotonic_ns()}-{number}.csv" for number in range(len(ways))]
        begun = zip(ways, outputs, strict=True)
        processes = [start(films, output, *more) for (films, more), output in begun]
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
    """A checkpoint of a network that takes next to no time."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    labels = {0: "NORMAL", 1: "PNEUMONIA"}
    small = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**small, id2label=labels)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def million(given: argparse.Namespace, folder: Path) -> None:
    """Shards of 10,000 rows; a network of 32 x 32 pixels, so that the engine's own work shows."""
    film = subprocess.run([sys.executable, "-c", TINY], stdout=subprocess.PIPE, check=True).stdout  # the same for all
    (folder / "shards").mkdir()
    for first in range(0, given.tiny, 10_000):
        table = pa.table({"image": [film] * 10_000, "file_name": [f"{first + n:08d}.png" for n in range(10_000)]})
        pq.write_table(table, folder / "shards" / f"{first:08d}.parquet", row_group_size=1000)
    output = folder / "preds.csv"
    process = start([folder / "shards"], output, *ray(2), model=write_network(folder / "model", 32))
    rows = watch(process, output, lambda _: False, lambda _: False)
    assert list(read(output)) == [f"{n:08d}.png" for n in range(given.tiny)]
    working = [row for row in rows if row["films"]]
    ratios = {"ray_memory_tiny_films": growth(rows, given.tiny)}
    facts = {
        "seconds": rows[-1]["seconds"],
        "to_first_part": working[0]["seconds"],
        "peak_mib": max(r["mib"] for r in rows),
    }
    write_part("ray", "million", ratios, rows[:: max(1, len(rows) // 40)], films=given.tiny, **facts)


TINY = """
import io, sys
from PIL import Image
import numpy as np
y, x = np.mgrid[:32, :32]
buffer = io.BytesIO()
Image.fromarray((80 + 60 * np.cos(x / 5) + 40 * np.sin(y / 7)).astype(np.uint8)).save(buffer, "PNG")
sys.stdout.buffer.write(buffer.getvalue())
"""

PARTS = {"kills": kills, "rate": rate, "million": million}

if __name__ == "__main__":
    options = parser(__doc__, PARTS, repeats=3)
    options.add_argument("--films", type=int, default=20_000, help="of kills (default: 20000)")
    options.add_argument("--rate_films", type=int, default=8_000, help="of rate (default: 8000)")
    options.add_argument("--tiny", type=int, default=1_000_000, help="of million (default: 1000000)")
    options.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default: 0)")
    given = options.parse_args()
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as root:
            PARTS[part](given, Path(root))

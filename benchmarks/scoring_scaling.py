"""One process of `predict` on one core against two on two: `python benchmarks/scoring_scaling.py`.

Where it may, a process decodes on a second core beside the network; here one has one, and both cores have their turn
with it, since one may be slower than the other. Both ways score films of the embedded sample, as many batches as can
be shared evenly; two are launched by torchrun. The start (imports, the model, the first batches, for which memory is
mapped and kernels are made) is measured on two batches for each of two processes and taken off, since it does not grow
with the films; it is in the rows.
Writes benchmarks/results/scoring_scaling.json.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import ROOT, SAMPLE, parser, take_turns, write_result
from datasets import load_dataset

MODEL = ROOT / "models" / "pneumo-efficientnet"
FEW, ALL = 4 * 16, 112 * 16  # films, in Predictor's batches on a CPU


def seconds(cores: list[int], films: Path, expected: int, folder: Path) -> float:
    """From the launch of a process for every core to the end; every film must have been scored once."""
    output = folder / f"{time.monotonic_ns()}.csv"
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(len(cores))] if len(cores) > 1 else []
    predict = ["predict", "--model", str(MODEL), str(films), "--output", str(output), "--device", "cpu"]
    command = [sys.executable, *launch, "-m", "pneumo_hf", *predict]
    start = time.perf_counter()
    subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    taken = time.perf_counter() - start
    with output.open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == len(set(paths)) == expected, f"{len(paths)} rows of {len(set(paths))} films, not {expected}"
    return taken


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        shards = [str(SAMPLE / "test-*.parquet"), str(SAMPLE / "train-*.parquet")]
        films = load_dataset("parquet", data_files=shards, split="train", cache_dir=root)
        sizes = {"few": (folder / "few", FEW), "all": (folder / "all", ALL)}
        for shard, count in sizes.values():
            shard.mkdir()
            films.select(range(count)).to_parquet(shard / "films.parquet")
        first, second = sorted(os.sched_getaffinity(0))[:2]
        places = {"on one core": [first], "on the other": [second], "on both": [first, second]}
        ways: dict[str, Callable[[], float]] = {
            f"{size} {place}": partial(seconds, cores, films, count, folder)
            for size, (films, count) in sizes.items()
            for place, cores in places.items()
        }
        rows = take_turns(ways, repeats)
    medians = {way: statistics.median(taken) for way, taken in rows.items()}
    *alone, both = ((ALL - FEW) / (medians[f"all {place}"] - medians[f"few {place}"]) for place in places)
    rates = {1: statistics.mean(alone), 2: both}
    write_result(
        "scoring_scaling",
        {"scoring_scaling_2proc": rates[2] / rates[1]},
        rows,
        films_a_second={str(count): rate for count, rate in rates.items()},
        films=ALL,
        unit="s",
    )


if __name__ == "__main__":
    main(parser(__doc__).parse_args().repeats)

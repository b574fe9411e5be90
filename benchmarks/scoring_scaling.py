"""One process of `predict` on one core against two on two: `python benchmarks/scoring_scaling.py`.

Where it may, a process decodes on a second core beside the network; here one has one. Both ways score the embedded
sample; two are launched by torchrun, each takes its share. The start (imports, the model) is measured on
a handful of the films and taken off, since it does not grow with the films; it is in the rows.
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
FEW = 8  # films


def seconds(processes: int, films: Path, expected: int, folder: Path) -> float:
    """From the launch to the end; every film must have been scored once."""
    output = folder / f"{time.monotonic_ns()}.csv"
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    predict = ["predict", "--model", str(MODEL), str(films), "--output", str(output), "--device", "cpu"]
    command = [sys.executable, *launch, "-m", "pneumo_hf", *predict]
    cores = sorted(os.sched_getaffinity(0))[:processes]
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
        shards = {"test": str(SAMPLE / "test-*.parquet"), "train": str(SAMPLE / "train-*.parquet")}
        data = load_dataset("parquet", data_files=shards)
        (folder / "few").mkdir()
        data["test"].select(range(FEW)).to_parquet(folder / "few" / "test-00000-of-00001.parquet")
        sizes = {"few": (folder / "few", FEW), "all": (SAMPLE, sum(data.num_rows.values()))}
        ways: dict[str, Callable[[], float]] = {
            f"{processes} {size}": partial(seconds, processes, films, count, folder)
            for size, (films, count) in sizes.items()
            for processes in (1, 2)
        }
        rows = take_turns(ways, repeats)
    scored = sizes["all"][1] - FEW
    rates = {
        processes: [
            scored / (whole - start)
            for whole, start in zip(rows[f"{processes} all"], rows[f"{processes} few"], strict=True)
        ]
        for processes in (1, 2)
    }
    medians = {processes: statistics.median(found) for processes, found in rates.items()}
    write_result(
        "scoring_scaling",
        {"scoring_scaling_2proc": medians[2] / medians[1]},
        rows,
        films_a_second={str(processes): rate for processes, rate in medians.items()},
        films=scored + FEW,
        unit="s",
    )


if __name__ == "__main__":
    main(parser(__doc__).parse_args().repeats)

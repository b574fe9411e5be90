"""Scoring on cores that another program uses too: `python benchmarks/shared_cores.py`.

PyTorch's threads wait for each other by spinning. Where one of them has lost its core to another program, the rest
spin on for as long as it is away; our commands tell them to sleep soon instead (GOMP_SPINCOUNT). Both ways score
batches of noise, alone and beside another program: a process for every core that does nothing but count.
Writes benchmarks/results/shared_cores.json.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from common import ROOT, parser, take_turns, write_result

SECONDS = 8  # of scoring
SCORE = f"""
import sys, time
import torch
from pneumo_hf.inference.predictor import Predictor

predictor = Predictor({str(ROOT / "models" / "pneumo-efficientnet")!r}, device="cpu")
films = torch.randint(0, 256, (predictor.batch_size, 1, 224, 224), dtype=torch.uint8)
for _ in range(3):
    predictor.logits(films)
scored, start = 0, time.perf_counter()
while time.perf_counter() < start + {SECONDS}:
    predictor.logits(films)
    scored += len(films)
print(1000 * (time.perf_counter() - start) / scored)
"""


def milliseconds(ours: bool, others: int) -> float:
    """For a film, as our commands start or as Python does, beside so many other programs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    code = ("import pneumo_hf.__main__" if ours else "") + SCORE
    with ExitStack() as stack:
        for _ in range(others):
            stack.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def main(repeats: int) -> None:
    cores = len(os.sched_getaffinity(0))
    ways: dict[str, Callable[[], float]] = {
        f"{how}, {where}": partial(milliseconds, how == "ours", others)
        for where, others in {"alone": 0, "beside others": cores}.items()
        for how in ("ours", "plain")
    }
    rows = take_turns(ways, repeats)
    medians = {way: statistics.median(taken) for way, taken in rows.items()}
    ratios = {
        "shared_cores_speedup": medians["plain, beside others"] / medians["ours, beside others"],
        "own_cores_speedup": medians["plain, alone"] / medians["ours, alone"],
    }
    write_result("shared_cores", ratios, rows, others=cores, unit="ms a film")


if __name__ == "__main__":
    main(parser(__doc__).parse_args().repeats)

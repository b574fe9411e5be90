"""Scoring on cores that another program uses too: `python benchmarks/shared_cores.py`.

PyTorch's threads wait for each other by spinning, for milliseconds. Where one of them has lost its core to another
program, the rest do so at every layer; our commands tell them to sleep sooner (GOMP_SPINCOUNT). Films of noise are
scored in batches and one by one, alone and beside other programs: for every core one that does nothing but count.
Ratios are of means, not of medians: where it is plain, it is luck whether a process of ours shares its core.
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

SECONDS = 4  # of scoring
BATCHES = {"batches": 16, "one by one": 1}
SCORE = f"""
import sys, time
import torch
from pneumo_hf.inference.predictor import Predictor

predictor = Predictor({str(ROOT / "models" / "pneumo-efficientnet")!r}, device="cpu")
films = torch.randint(0, 256, (int(sys.argv[1]), 1, 224, 224), dtype=torch.uint8)
for _ in range(3):
    predictor.logits(films)
scored, start = 0, time.perf_counter()
while time.perf_counter() < start + {SECONDS}:
    predictor.logits(films)
    scored += len(films)
print(1000 * (time.perf_counter() - start) / scored)
"""


def milliseconds(ours: bool, others: int, batch_size: int) -> float:
    """For a film, as our commands start or as Python does, beside so many other programs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    code = ("import pneumo_hf.__main__" if ours else "") + SCORE
    command = [sys.executable, "-c", code, str(batch_size)]
    with ExitStack() as stack:
        for _ in range(others):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def main(repeats: int) -> None:
    others = {"alone": 0, "beside others": len(os.sched_getaffinity(0))}
    ways: dict[str, Callable[[], float]] = {
        f"{how}, {where}, {films}": partial(milliseconds, how == "ours", others[where], batch_size)
        for where in others
        for films, batch_size in BATCHES.items()
        for how in ("ours", "plain")
    }
    rows = take_turns(ways, repeats)

    def speedup(where: str, films: str) -> float:
        plain, ours = (statistics.mean(rows[f"{how}, {where}, {films}"]) for how in ("plain", "ours"))
        return plain / ours

    ratios = {
        "shared_cores_speedup": speedup("beside others", "batches"),
        "shared_cores_speedup_single": speedup("beside others", "one by one"),
        "own_cores_speedup": speedup("alone", "batches"),
        "own_cores_speedup_single": speedup("alone", "one by one"),
    }
    write_result("shared_cores", ratios, rows, others=others["beside others"], unit="ms a film")


if __name__ == "__main__":
    main(parser(__doc__).parse_args().repeats)

"""A whole training, from the films to the finished report, split by phase: `python benchmarks/whole_job.py`.

Runs train_hf.py's main once from an empty cache, on the quickstart or on the recipe and overrides given (`--config
configs/flagship.yaml --dataset chest_xray.zip`), and takes the time of each phase. What is left over is the start
(imports), the report, the card and clearing up. Writes benchmarks/results/whole_job.json.
"""

import argparse
import importlib
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil
from common import ROOT, write_result

from pneumo_hf.config.parse import parse_args

sys.path.insert(0, str(ROOT))

PHASES = {
    "list the films": ("train_hf", "load_sources"),
    "load the model": ("train_hf", "load_model"),
    "decode": ("train_hf", "decode_splits"),
    "stage one": ("pneumo_hf.training.stages", "train_probe"),
    "stage two": ("pneumo_hf.training.stages", "fine_tune"),
    "calibrate and save": ("train_hf", "save_calibrated"),
    "score validation and test": ("train_hf", "evaluate_films"),
    "explain": ("train_hf", "explain_films"),
}


def take_time(phase: str, function: Callable, seconds: dict[str, float]) -> Callable:
    def timed(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[phase] += time.perf_counter() - start

    return timed


def main(argv: list[str]) -> None:
    import train_hf

    arguments, seconds = parse_args(argv), defaultdict(float)
    for phase, (module, name) in PHASES.items():
        module = importlib.import_module(module)
        setattr(module, name, take_time(phase, getattr(module, name), seconds))
    train_hf.main(arguments)
    total = time.time() - psutil.Process().create_time()
    rows = {phase: seconds[phase] for phase in PHASES}
    rows["start, report and card"] = total - sum(rows.values())
    training = rows["stage one"] + rows["stage two"]
    recipe = Path(arguments[2].output_dir).name
    write_result("whole_job", {"training_share": training / total}, rows, total=total, recipe=recipe, unit="s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml", help="the recipe")
    known, given = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        where = ["--cache_dir", folder, "--output_dir", str(Path(folder) / known.config.stem)]
        main(["--config", str(known.config), *where, *given])

"""Stage two in one process and in two, a thread each: `python benchmarks/training_scaling.py`.

Milliseconds a film of steps in mid-epoch with the same global batch, EfficientNet-Lite0's recipe with all layers
trained; torchrun launches them, and two exchange gradients over gloo. Writes benchmarks/results/training_scaling.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from common import SAMPLE, median_ratio, parser, take_turns, write_result
from pneumo_hf.runtime import keep_freed_memory
from training_step import BATCH, Clock, arguments_of, ms_a_film, stage_two

from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.training.models import load_model
from pneumo_hf.training.run_folder import end_processes


def launch(processes: int, folder: Path) -> float:
    """Milliseconds a film of the global batch."""
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command = [sys.executable, *torchrun, __file__, "--process_of", str(processes), "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def train(processes: int, folder: Path) -> None:
    """One of the processes; the first prints what `launch` returns."""
    keep_freed_memory()
    share = ("--per_device_train_batch_size", str(BATCH // processes), "--use_cpu", "true")
    arguments = arguments_of("lite0", "efficientnet-lite0", folder, *share)
    with arguments[2].main_process_first():
        _, image_processor = load_model(arguments[0], folder)
        films, _ = decode_films(load_data(str(SAMPLE))["train"], image_processor, folder)
    trainer, clock = stage_two(arguments, films), Clock()
    trainer.add_callback(clock)
    sys.stdout = sys.stderr  # Trainer prints its log
    trainer.train()
    if arguments[2].process_index == 0:
        print(ms_a_film(clock.own), file=sys.__stdout__)
    end_processes()


def main(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ways = {str(processes): partial(launch, processes, Path(folder)) for processes in (1, 2)}
        rows = take_turns(ways, repeats)
    ratios = {"training_scaling_2proc": median_ratio(rows["1"], rows["2"])}
    write_result("training_scaling", ratios, rows, batch_size=BATCH, unit="ms a film")


if __name__ == "__main__":
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--process_of", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.process_of:
        train(given.process_of, given.folder)
    else:
        main(given.repeats)

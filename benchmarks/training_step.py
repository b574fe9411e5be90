"""Stage two's training step against the ceiling and the usual way: `python benchmarks/training_step.py`.

Milliseconds a film, of steps in mid-epoch, all layers trained, batches of 16, for three backbones:
  ours     the trainer of stage two as train_hf.py runs it with the backbone's recipe: pixel cache, augmentation,
           channels_last, bf16 where the CPU has it, layer-wise rates, averaged weights where the recipe has them;
  ceiling  a bare PyTorch loop on one batch of random floats that never leaves memory: forward, backward, AdamW;
           the same model, batch, layout and precision, freed memory kept as in ours, and no augmentation;
  usual    imagefolder, set_transform with the image processor, Trainer with two workers, float32, no augmentation,
           on the same full-size JPEGs; in a process of its own, which gives freed memory back.
Writes benchmarks/results/training_step_NAME.json.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from common import BF16, FILMS, ROOT, full_resolution_jpegs, median_ratio, parser, write_films, write_result
from datasets import load_dataset
from pneumo_hf.runtime import keep_freed_memory
from pneumo_hf.training.stages import fine_tuner
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config import Arguments, parse_args
from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.training.models import load_model

BATCH, WARM_UP, STEPS = 16, 3, 8
RECIPES = {"lite0": "flagship_efficientnet", "resnet50": "flagship", "mobilenet": "mobilenet_v2_clahe"}


class Clock(TrainerCallback):
    """Seconds of each step, from the end of the last one, data and log included; `beside` has a turn after each."""

    def __init__(self, beside: Callable[[], None] | None = None):
        self.beside, self.own, self.others = beside, [], []

    def on_step_end(self, args, state, control, **_) -> None:
        _wait()
        if self.own or state.global_step > WARM_UP:
            self.own.append(time.perf_counter() - self.start)
        if self.beside:
            before = time.perf_counter()
            self.beside()
            _wait()
            if self.own:
                self.others.append(time.perf_counter() - before)
        control.should_training_stop = len(self.own) == STEPS
        self.start = time.perf_counter()


def ms_a_film(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds) / BATCH


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def arguments_of(name: str, checkpoint: str, folder: Path, *more: str) -> Arguments:
    recipe = ["--config", str(ROOT / "configs" / f"{RECIPES[name]}.yaml")]
    same = ["--trainable_layers", "-1", "--per_device_train_batch_size", str(BATCH), "--bf16", str(BF16)]
    same += ["--early_stopping_patience", "0", "--num_train_epochs", "1"]  # of which a few steps are run
    where = ["--model_name_or_path", checkpoint, "--cache_dir", str(folder), "--output_dir", str(folder / "run")]
    return parse_args([*recipe, *same, *where, *more])


def ours_and_ceiling(arguments: Arguments, films: FilmDataset) -> tuple[float, float]:
    """Milliseconds a film of both, which take turns step by step."""
    trainer = stage_two(arguments, films)
    clock = Clock(bare_step(arguments, stage_two(arguments, films).model))
    trainer.add_callback(clock)
    trainer.train()
    return ms_a_film(clock.own), ms_a_film(clock.others)


def stage_two(arguments: Arguments, films: FilmDataset) -> Trainer:
    model_args, data_args, training_args = arguments
    set_seed(training_args.seed)
    model, image_processor = load_model(model_args, data_args.cache_dir)
    model.to(memory_format=torch.channels_last)
    parts = {"train": films, "validation": films}
    steps_alone = replace(training_args, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    return fine_tuner(model, image_processor, parts, steps_alone, resumed=None)


def bare_step(arguments: Arguments, model: nn.Module) -> Callable[[], None]:
    """What the hardware does at best: a step on films that are floats on the device already."""
    model_args, _, training_args = arguments
    device, size = training_args.device, model_args.image_size
    pixel_values = torch.randn(BATCH, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH, device=device) % 2
    optimizer = torch.optim.AdamW(model.to(device).train().parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=training_args.bf16):
            logits = model(pixel_values=pixel_values).logits
        cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def usual_trainer(
    model: PreTrainedModel, image_processor: BaseImageProcessor, folder: Path, **arguments: object
) -> Trainer:
    """What everybody does: every film is read and processed each time that it is asked for."""
    films = load_dataset("imagefolder", data_dir=str(folder / "films"), split="train", cache_dir=str(folder / "cache"))

    def transform(rows: dict) -> dict:
        pictures = [picture.convert("RGB") for picture in rows["image"]]
        return {**image_processor(pictures, return_tensors="pt"), "labels": rows["label"]}

    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "usual"),
            per_device_train_batch_size=BATCH,
            dataloader_num_workers=2,
            remove_unused_columns=False,
            save_strategy="no",
            **arguments,
        ),
        train_dataset=films.with_transform(transform),
    )


def usual(name: str, checkpoint: str, folder: Path) -> float:
    """Milliseconds a film; call it in a process of its own."""
    arguments = arguments_of(name, checkpoint, folder)
    model, image_processor = load_model(arguments[0], arguments[1].cache_dir)
    clock = Clock()
    trainer = usual_trainer(model, image_processor, folder, use_cpu=arguments[2].use_cpu)
    trainer.add_callback(clock)
    trainer.train()
    return ms_a_film(clock.own)


def measure(name: str, checkpoint: str, repeats: int, folder: Path) -> None:
    arguments = arguments_of(name, checkpoint, folder)
    _, image_processor = load_model(arguments[0], folder)
    films, _ = decode_films(load_data(str(folder / "films"))["train"], image_processor, folder)
    rows = {"ours": [], "ceiling": [], "usual": []}
    for repeat in range(repeats):
        mine, bare = ours_and_ceiling(arguments, films)
        rows["ours"].append(mine)
        rows["ceiling"].append(bare)
        command = [sys.executable, __file__, "--usual_in", str(folder), "--only", name, f"--{name}", checkpoint]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows["usual"].append(float(done.stdout.splitlines()[-1]))
        print(repeat, name, {way: round(times[-1], 1) for way, times in rows.items()}, file=sys.stderr)
    ratios = {
        f"step_vs_ceiling_{name}": median_ratio(rows["ceiling"], rows["ours"]),
        f"step_vs_usual_{name}": median_ratio(rows["usual"], rows["ours"]),
    }
    facts = {"recipe": RECIPES[name], "batch_size": BATCH, "steps": STEPS, "films": FILMS, "unit": "ms a film"}
    write_result(f"training_step_{name}", ratios, rows, **facts)


def main(checkpoints: dict[str, str], only: list[str], repeats: int) -> None:
    keep_freed_memory()  # as train_hf.py does
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        write_films(folder / "films", full_resolution_jpegs(BATCH * (WARM_UP + STEPS + 5)))
        for name in only:
            measure(name, checkpoints[name], repeats, folder)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--resnet50", default="microsoft/resnet-50", help="checkpoint folder or Hub id")
    options.add_argument("--mobilenet", default="google/mobilenet_v2_1.0_224", help="checkpoint folder or Hub id")
    options.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), help="backbones to measure")
    options.add_argument("--lite0", default="efficientnet-lite0", help=argparse.SUPPRESS)
    options.add_argument("--usual_in", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.usual_in:
        print(usual(given.only[0], getattr(given, given.only[0]), given.usual_in))
    else:
        main({name: getattr(given, name) for name in RECIPES}, given.only, given.repeats)

"""What a training costs, against the bare loop and against the usual way: `python benchmarks/training.py [PART ...]`.

  step   stage two's step in mid-epoch, all layers, batches of 16, three backbones, milliseconds a film:
           ours     the trainer as train_hf.py runs it: pixel cache, augmentation, channels_last, bf16 where there is;
           ceiling  a bare PyTorch loop on one batch of floats that never leaves memory, without augmentation;
           usual    imagefolder, set_transform with the image processor, Trainer with two workers, float32
  auc    whether the quick step trains as well as the usual one: ROC AUC on the sample's official test films
  data   gathering a film from the pixel cache against decoding it, and what building the cache takes
  probe  a classifier on a frozen backbone: features computed once against the backbone in every epoch
  whole  a whole quickstart, from an empty cache to the finished report, split by phase
Writes benchmarks/results/training.json, a part each.
"""

import argparse
import importlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from common import (
    BF16,
    FILMS,
    ROOT,
    SAMPLE,
    full_resolution_jpegs,
    median_ratio,
    own_peak_mib,
    parser,
    take_turns,
    write_films,
    write_part,
)
from datasets import load_dataset
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from pneumo_hf.config.parse import parse_args
from pneumo_hf.config.training_arguments import Arguments
from pneumo_hf.data.files import read_film
from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.splits import decode_splits
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.imaging.processor import Normalize, make_image_processor, resize_film
from pneumo_hf.runtime import keep_freed_memory
from pneumo_hf.training.finetune import fine_tuner
from pneumo_hf.training.losses import class_weights
from pneumo_hf.training.models import load_model
from pneumo_hf.training.probe import train_probe
from pneumo_hf.training.trainer import XrayTrainer

BATCH, WARM_UP, STEPS = 16, 3, 8
RECIPES = {"lite0": "flagship_efficientnet", "resnet50": "flagship", "mobilenet": "mobilenet_v2_clahe"}
LITE0 = "efficientnet-lite0"


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
    same = ["--trainable_layers", "all", "--per_device_train_batch_size", str(BATCH), "--bf16", str(BF16)]
    same += ["--early_stopping_patience", "0", "--num_train_epochs", "1"]  # of which a few steps are run
    where = ["--model_name_or_path", checkpoint, "--cache_dir", str(folder), "--output_dir", str(folder / "run")]
    return parse_args([*recipe, *same, *where, *more])


def stage_two(arguments: Arguments, films: FilmDataset, clock: Clock | None = None) -> Trainer:
    set_seed(arguments.training.seed)
    model, image_processor = load_model(arguments.model, arguments.data.cache_dir)
    model.to(memory_format=torch.channels_last)
    steps_alone = replace(arguments.training, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    trainer = fine_tuner(model, image_processor, {"train": films, "validation": films}, steps_alone, resumed=None)
    if clock:
        trainer.add_callback(clock)
        trainer.train()
    return trainer


def bare_step(arguments: Arguments, model: torch.nn.Module) -> Callable[[], None]:
    """What the hardware does at best: a step on films that are floats on the device already."""
    device, size = arguments.training.device, arguments.model.image_size
    pixel_values = torch.randn(BATCH, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH, device=device) % 2
    optimizer = torch.optim.AdamW(model.to(device).train().parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.training.bf16):
            logits = model(pixel_values=pixel_values).logits
        cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def usual_trainer(arguments: Arguments, folder: Path, **options: object) -> Trainer:
    """What everybody does: every film is read and processed each time that it is asked for."""
    set_seed(arguments.training.seed)
    model, image_processor = load_model(arguments.model, arguments.data.cache_dir)
    films = load_dataset("imagefolder", data_dir=str(folder / "films"), split="train", cache_dir=str(folder / "cache"))

    def transform(rows: dict) -> dict:
        pictures = [picture.convert("RGB") for picture in rows["image"]]
        return {**image_processor(pictures, return_tensors="pt"), "labels": rows["label"]}

    options |= {"per_device_train_batch_size": BATCH, "dataloader_num_workers": 2, "remove_unused_columns": False}
    options |= {"save_strategy": "no", "use_cpu": arguments.training.use_cpu, "disable_tqdm": True}
    training = TrainingArguments(output_dir=str(folder / "usual"), **options)
    return Trainer(model=model, args=training, train_dataset=films.with_transform(transform))


def step(given: argparse.Namespace, folder: Path) -> None:
    write_films(folder / "films", full_resolution_jpegs(BATCH * (WARM_UP + STEPS + 5)))
    for name in given.only:
        checkpoint = getattr(given, name)
        arguments = arguments_of(name, checkpoint, folder)
        image_processor = load_model(arguments.model, folder)[1]
        films, _ = decode_films(load_data(folder / "films")["train"], image_processor, folder)
        rows = defaultdict(list)
        for _ in range(given.repeats):
            clock = Clock(bare_step(arguments, stage_two(arguments, films).model))
            stage_two(arguments, films, clock)
            rows["ours"].append(ms_a_film(clock.own))
            rows["ceiling"].append(ms_a_film(clock.others))
            command = [sys.executable, __file__, "--usual_in", str(folder), "--only", name, f"--{name}", checkpoint]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # gives freed memory back
            rows["usual"].append(float(done.stdout.splitlines()[-1]))
        ratios = {
            f"step_vs_ceiling_{name}": median_ratio(rows["ceiling"], rows["ours"]),
            f"step_vs_usual_{name}": median_ratio(rows["usual"], rows["ours"]),
        }
        facts = {"recipe": RECIPES[name], "batch_size": BATCH, "steps": STEPS, "films": FILMS, "unit": "ms a film"}
        write_part("training", f"step_{name}", ratios, rows, **facts)


def usual_step(given: argparse.Namespace) -> float:
    """Milliseconds a film of the usual way; in a process of its own."""
    name, clock = given.only[0], Clock()
    trainer = usual_trainer(arguments_of(name, getattr(given, name), given.usual_in), given.usual_in)
    trainer.add_callback(clock)
    trainer.train()
    return ms_a_film(clock.own)


def auc(given: argparse.Namespace, folder: Path) -> None:
    count, epochs, rows, sample = 320, 3, defaultdict(list), load_data(SAMPLE)
    chosen = sample["train"].shuffle(seed=0).select(range(count))
    write_films(folder / "films", [(read_film(film["image"]), film["label"]) for film in chosen])
    same = ["--layer_lr_decay", "1", "--ema_decay", "0", "--class_weights", "false", "--freeze_batch_norm", "false"]
    same += ["--dropout", "0", "--augmentation", "none"]  # whose draws the usual way's workers would shift
    for seed in range(1, min(given.repeats, 3) + 1):
        arguments = arguments_of("lite0", LITE0, folder, *same, "--seed", str(seed))
        arguments = arguments._replace(training=replace(arguments.training, num_train_epochs=epochs))
        image_processor = load_model(arguments.model, folder)[1]
        films, _ = decode_films(load_data(folder / "films")["train"], image_processor, folder)
        test, _ = decode_films(sample["test"], image_processor, folder)
        names = ("seed", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay")
        usual = usual_trainer(arguments, folder, **{name: getattr(arguments.training, name) for name in names})
        for way, trainer in {"ours": stage_two(arguments, films), "usual": usual}.items():
            trainer.train()
            rows[way].append(test_auc(trainer.model, test, Normalize(image_processor).to(arguments.training.device)))
    means = {way: statistics.mean(found) for way, found in rows.items()}
    ratios = {"training_auc_vs_usual": means["ours"] / means["usual"]}
    write_part("training", "auc", ratios, rows, mean=means, films=count, epochs=epochs, bf16=BF16, unit="ROC AUC")
    assert means["ours"] >= means["usual"] - 0.005, means  # a seed's area moves by a hundredth with any rounding


@torch.inference_mode()
def test_auc(model: PreTrainedModel, films: FilmDataset, normalize: Normalize) -> float:
    model.eval()
    batches = (films.__getitems__(range(start, min(start + 32, len(films)))) for start in range(0, len(films), 32))
    logits = [model(normalize(batch["pixel_values"].to(model.device))).logits.float().cpu() for batch in batches]
    return float(roc_auc_score(films.labels, np.diff(torch.cat(logits).numpy())[:, 0]))


def data(given: argparse.Namespace, folder: Path) -> None:
    count, side, epochs = 192, 224, 50  # films, pixels, and epochs of gathering at once, so that the clock can measure
    write_films(folder / "films", full_resolution_jpegs(count))
    image_processor, table = make_image_processor(None, side), load_data(folder / "films")["train"]
    films, _ = decode_films(table, image_processor, folder)

    def gather() -> float:
        start = time.perf_counter()
        for _ in range(epochs):
            for batch in torch.randperm(len(films)).split(BATCH):
                films.__getitems__(batch.tolist())
        return 1e3 * (time.perf_counter() - start) / (epochs * len(films))

    def decode() -> float:
        start = time.perf_counter()
        for image in table["image"]:
            resize_film(load_xray(read_film(image)), image_processor)
        return 1e3 * (time.perf_counter() - start) / len(table)

    def train() -> float:
        clock = Clock()
        stage_two(arguments_of("lite0", LITE0, folder), films, clock)
        return ms_a_film(clock.own)

    rows, built = take_turns({"gather": gather, "decode": decode, "train": train}, given.repeats), []
    for _ in range(given.repeats):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            built.append(process.submit(build_cache, folder, side).result())
    seconds, before, after = (statistics.median(values) for values in zip(*built, strict=True))
    facts = {
        "data_share_of_later_epochs": statistics.median(rows["gather"]) / statistics.median(rows["train"]),
        "cache_films_a_second_and_core": count / seconds / (os.cpu_count() or 1),
        "cache_peak_mib": after,
        "peak_mib_before": before,
        "cache_mib": count * side**2 / 2**20,
    }
    ratios = {"gather_vs_decode": median_ratio(rows["decode"], rows["gather"])}
    write_part("training", "data", ratios, rows, **facts, films=FILMS, unit="ms a film")


def build_cache(folder: Path, side: int) -> tuple[float, float, float]:
    """Seconds of building the cache, and this process's peak MiB before and after: call it in one of its own."""
    keep_freed_memory()
    table = load_data(folder / "films")["train"]
    with tempfile.TemporaryDirectory() as cache:
        before, start = own_peak_mib(), time.perf_counter()
        decode_films(table, make_image_processor(None, side), cache)
        return time.perf_counter() - start, before, own_peak_mib()


def probe(given: argparse.Namespace, folder: Path) -> None:
    epochs, counts = 10, {"train": 320, "validation": 80}
    where = ["--output_dir", str(folder / "run"), "--cache_dir", str(folder), "--probe_epochs", str(epochs)]
    arguments = parse_args(["--config", str(ROOT / "configs" / "quickstart.yaml"), "--dataset", str(SAMPLE), *where])
    training, processor = arguments.training, load_model(arguments.model, folder)[1]
    films, _ = decode_splits(load_data(SAMPLE), processor, arguments.data, seed=42)
    random, test, models = np.random.default_rng(0), films.pop("test"), {}
    films = {split: films[split].select(random.permutation(len(films[split]))[:n]) for split, n in counts.items()}

    def timed(way: str, run: Callable[[PreTrainedModel], None]) -> float:
        set_seed(training.seed)
        models[way] = load_model(arguments.model, folder)[0].to(memory_format=torch.channels_last)
        start = time.perf_counter()
        run(models[way])
        return time.perf_counter() - start

    def usual(model: PreTrainedModel) -> None:
        model.base_model.requires_grad_(False).eval()
        model.base_model.train = lambda mode=True: model.base_model  # Trainer sets it to train at every step
        once = {"save_strategy": "no", "load_best_model_at_end": False, "num_train_epochs": epochs}
        args = replace(training, learning_rate=training.probe_learning_rate, **once)
        weights, prepare = class_weights(films["train"].labels), Normalize(processor)
        parts = {"train_dataset": films["train"], "eval_dataset": films["validation"]}
        XrayTrainer(model=model, args=args, **parts, prepare=prepare, augment=None, class_weights=weights).train()

    ways = {"ours": lambda model: train_probe(model, processor, films, training), "usual": usual}
    rows = take_turns({way: lambda way=way: timed(way, ways[way]) for way in ways}, given.repeats)
    areas = {way: test_auc(model, test, Normalize(processor).to(training.device)) for way, model in models.items()}
    facts = {"epochs": epochs, "train_films": counts["train"], "validation_films": counts["validation"], "unit": "s"}
    ratios = {"frozen_stage_speedup": median_ratio(rows["usual"], rows["ours"])}
    write_part("training", "probe", ratios, rows, test_roc_auc=areas, **facts)
    assert abs(areas["ours"] - areas["usual"]) <= 0.002, areas


PHASES = {
    "list the films": "load_sources",
    "load the model": "load_model",
    "decode": "decode_splits",
    "stage one": "train_probe",
    "stage two": "fine_tune",
    "calibrate and save": "save_calibrated",
    "score and measure": "evaluate_films",
    "report": "finish",
}


def whole(given: argparse.Namespace, folder: Path) -> None:
    module, seconds = importlib.import_module("pneumo_hf.training.train"), defaultdict(float)

    def timed(phase: str, function: Callable) -> Callable:
        def run(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[phase] += time.perf_counter() - start

        return run

    for phase, name in PHASES.items():
        setattr(module, name, timed(phase, getattr(module, name)))
    recipe, started = given.config.stem, time.time()
    module.train(given.config, cache_dir=folder, output_dir=folder / recipe)
    total = time.time() - (psutil.Process().create_time() if given.parts == ["whole"] else started)
    rows = {phase: seconds[phase] for phase in PHASES}
    rows["start and end"] = total - sum(rows.values())
    ratios = {"training_share": (rows["stage one"] + rows["stage two"]) / total}
    write_part("training", "whole", ratios, rows, total=total, recipe=recipe, unit="s")


PARTS = {"step": step, "auc": auc, "data": data, "probe": probe, "whole": whole}

if __name__ == "__main__":
    options = parser(__doc__, PARTS)
    options.add_argument("--resnet50", default="microsoft/resnet-50", help="checkpoint folder or Hub id")
    options.add_argument("--mobilenet", default="google/mobilenet_v2_1.0_224", help="checkpoint folder or Hub id")
    options.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), help="backbones of step")
    options.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml", help="recipe of whole")
    options.add_argument("--lite0", default=LITE0, help=argparse.SUPPRESS)
    options.add_argument("--usual_in", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.usual_in:
        print(usual_step(given))
    else:
        keep_freed_memory()  # as train_hf.py does
        for part in given.parts or PARTS:
            with tempfile.TemporaryDirectory() as root:
                PARTS[part](given, Path(root))

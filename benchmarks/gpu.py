"""What a GPU makes of it: `python benchmarks/gpu.py [PART ...]`, or `make bench-gpu`. Under eight minutes on one GPU.

  step     stage two's step in mid-epoch for each backbone, films a second:
             ours      the trainer as train_hf.py runs it: pixel cache, strong augmentation, channels_last, bf16;
             plain     the same without augmentation;
             compiled  ours with --torch_compile;
             ceiling   a bare PyTorch loop on one batch of floats that never leaves the GPU, bf16 and channels_last
  scoring  the Predictor from full-size JPEG files and from decoded films, and the share of decoding; ONNX Runtime's
           CUDA provider where it is there; the largest difference from the CPU's probabilities
  rerun    one training twice with the same seed: the largest difference of a weight, and whether every loss is finite
  whole    --data, and a recipe, to the finished report
Without a GPU everything is run in small, to show that it runs; nothing is written then.
Writes benchmarks/results/gpu.json, a part each.
"""

import argparse
import contextlib
import importlib
import json
import logging
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from common import FILMS, MODEL, ROOT, SAMPLE, full_resolution_jpegs, median_ratio, parser, write_films, write_part
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification as Classifier
from transformers import (
    ConvNextV2Config,
    EfficientNetConfig,
    PreTrainedConfig,
    ResNetConfig,
    TrainerCallback,
    ViTConfig,
    set_seed,
)

from pneumo_hf.config.parse import parse_args
from pneumo_hf.config.training_arguments import Arguments
from pneumo_hf.data.listing import list_films
from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.reading import in_threads, try_film
from pneumo_hf.data.sources import load_data
from pneumo_hf.hub.export import write_onnx
from pneumo_hf.imaging.processor import make_image_processor
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.training.finetune import fine_tuner
from pneumo_hf.training.models import load_model
from pneumo_hf.training.train import train

HAS_GPU = torch.cuda.is_available()
BACKBONES: dict[str, PreTrainedConfig] = {  # random weights: they take as long
    "resnet50": ResNetConfig(),
    "efficientnet_b0": EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=224, dropout_rate=0.2
    ),
    "convnextv2_tiny": ConvNextV2Config(),
    "vit_base": ViTConfig(),
}
BATCH, WARM_UP, STEPS = (128, 10, 30) if HAS_GPU else (4, 1, 2)
JPEGS = 512 if HAS_GPU else 8


def main() -> None:
    options = parser(__doc__, PARTS, repeats=3 if HAS_GPU else 1)
    options.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="backbones of step")
    options.add_argument("--data", default=str(SAMPLE), help="films of whole (default: the embedded sample)")
    options.add_argument("--recipe", default="flagship_efficientnet", help="of whole (default: %(default)s)")
    options.add_argument("--checkpoint", default="efficientnet-lite0", help="of rerun and whole: folder or Hub id")
    options.add_argument("--jpegs", type=Path, help="folder of full-size films for scoring (default: made here)")
    given = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](given, Path(folder))


def step(given: argparse.Namespace, folder: Path) -> None:
    films = write_films(folder / "films", full_resolution_jpegs(2 * BATCH))
    films, _ = decode_films(load_data(films)["train"], make_image_processor(None, 224), folder)
    steps = WARM_UP + STEPS + 1
    films = films.select(np.resize(np.arange(len(films)), steps * BATCH))
    for name in given.only:
        checkpoint = folder / name
        Classifier.from_config(BACKBONES[name]).save_pretrained(checkpoint)
        make_image_processor(None, 224).save_pretrained(checkpoint)
        augmented, plain = (
            arguments_of(checkpoint, folder, "--augmentation", policy) for policy in ("strong", "none")
        )
        compiled = arguments_of(checkpoint, folder, "--augmentation", "strong", "--torch_compile", "true")
        rows = defaultdict(list)
        for _ in range(given.repeats):
            rows["ours"].append(trained_a_second(augmented, films))
            rows["plain"].append(trained_a_second(plain, films))
            rows["ceiling"].append(bare_films_a_second(plain))
        if HAS_GPU:  # once: it compiles for longer than it runs
            rows["compiled"].append(trained_a_second(compiled, films))
        ways = [way for way in rows if way != "ceiling"]
        ratios = {f"gpu_{way}_vs_ceiling_{name}": median_ratio(rows[way], rows["ceiling"]) for way in ways}
        write(f"step_{name}", ratios, rows, batch_size=BATCH, steps=STEPS, unit="films a second")


def arguments_of(checkpoint: Path | str, folder: Path, *more: str) -> Arguments:
    same = ["--per_device_train_batch_size", str(BATCH), "--bf16", str(HAS_GPU), "--num_train_epochs", "1"]
    same += ["--early_stopping_patience", "0", "--trainable_layers", "all", "--layer_lr_decay", "0.97"]
    same += ["--freeze_batch_norm", "true", "--ema_decay", "0.99", "--dataset", str(SAMPLE)]
    where = ["--model_name_or_path", str(checkpoint), "--cache_dir", str(folder), "--output_dir", str(folder / "run")]
    return parse_args([*same, *where, *more])


class FilmsASecond(TrainerCallback):
    """Films trained on a second after the warm-up, the GPU waited for at both ends alone."""

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step == WARM_UP:
            self.start = seconds()
        elif state.global_step == WARM_UP + STEPS:
            self.found = BATCH * STEPS / (seconds() - self.start)
            control.should_training_stop = True


def trained_a_second(arguments: Arguments, films: FilmDataset) -> float:
    set_seed(0)
    model, image_processor = load_model(arguments.model, arguments.data.cache_dir)
    model.to(memory_format=torch.channels_last)
    steps_alone = replace(arguments.training, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    trainer = fine_tuner(model, image_processor, {"train": films, "validation": films}, steps_alone, resumed=None)
    clock = FilmsASecond()
    trainer.add_callback(clock)
    trainer.train()
    torch._dynamo.reset()
    assert all(math.isfinite(row["loss"]) for row in trainer.state.log_history if "loss" in row)
    return clock.found


def bare_films_a_second(arguments: Arguments) -> float:
    """What the hardware does at best: steps on films that are floats on the GPU already."""
    device = arguments.training.device
    model = load_model(arguments.model, arguments.data.cache_dir)[0].to(device, memory_format=torch.channels_last)
    pixel_values = torch.randn(BATCH, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH, device=device) % 2
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            start = seconds()
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.training.bf16):
            logits = model(pixel_values=pixel_values).logits
        cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return BATCH * STEPS / (seconds() - start)


def seconds() -> float:
    """The clock, once the GPU has done what it was given."""
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def scoring(given: argparse.Namespace, folder: Path) -> None:
    jpegs = given.jpegs or write_films(folder / "films", full_resolution_jpegs(JPEGS))
    films = list_films(jpegs)
    expected = np.array([row["probability"] for row in Predictor(MODEL, device="cpu").score_rows(films)])
    rows, differences = defaultdict(list), {}
    for batch_size in (32, 256) if HAS_GPU else (4,):
        predictor = Predictor(MODEL, batch_size=batch_size)
        for _ in range(given.repeats):
            start = seconds()
            found = [row["probability"] for row in predictor.score_rows(films)]
            rows[f"files_{batch_size}"].append(len(films) / (seconds() - start))
            pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (batch_size, 1, 224, 224), np.uint8))
            for way, run in {"decoded": predictor.logits, "decoded_outliers": predictor.predict_with_outliers}.items():
                run(pixels)
                start = seconds()
                for _ in range(20):
                    run(pixels)
                rows[f"{way}_{batch_size}"].append(20 * batch_size / (seconds() - start))
        differences[batch_size] = float(np.abs(np.array(found) - expected).max())
    start = seconds()
    for _ in in_threads(lambda row: try_film(row["image"]), films):
        pass
    reading = len(films) / (seconds() - start)
    largest = max(differences)
    ratios = {
        "gpu_decoding_share_of_scoring_files": float(np.median(rows[f"files_{largest}"])) / reading,
        "gpu_decoded_vs_files": median_ratio(rows[f"decoded_outliers_{largest}"], rows[f"files_{largest}"]),
    }
    facts = {"largest_difference_from_cpu": differences, "decoding_alone": reading}
    facts["onnxruntime_cuda"] = onnx_cuda(folder)
    write("scoring", ratios, rows, **facts, films=FILMS, jpegs=len(films), unit="films a second")
    assert max(differences.values()) < 1e-4, differences


def onnx_cuda(folder: Path) -> str | float:
    """Films a second of ONNX Runtime's CUDA provider, or why there is none."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"not in this build: {', '.join(onnxruntime.get_available_providers())}"
    write_onnx(Predictor(MODEL, device="cpu"), folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CUDAExecutionProvider"])
    name = session.get_inputs()[0].name
    pixels = np.random.default_rng(0).normal(size=(256, 3, 224, 224)).astype(np.float32)
    for number in range(13):
        if number == 3:
            start = time.perf_counter()
        session.run(None, {name: pixels})
    return 2560 / (time.perf_counter() - start)


def rerun(given: argparse.Namespace, folder: Path) -> None:
    kept = []
    for number in range(2):
        run = train(
            ROOT / "configs" / "quickstart.yaml",
            dataset=[str(SAMPLE)],
            model_name_or_path=given.checkpoint,
            num_train_epochs=1,
            probe_epochs=2,
            bf16=HAS_GPU,
            cache_dir=folder,
            output_dir=folder / str(number),
        )
        kept.append(load_file(run / "model.safetensors"))
        losses = (run / "report" / "history.csv").read_text()
        assert "nan" not in losses.lower() and "inf" not in losses.lower(), losses
    differences = [float((kept[0][name] - kept[1][name]).abs().max()) for name in kept[0]]
    ratios = {"gpu_rerun_largest_difference_of_a_weight": max(differences)}
    write("rerun", ratios, {"tensors_that_differ": [sum(map(bool, differences))]}, losses_finite=True)


def whole(given: argparse.Namespace, folder: Path) -> None:
    started, phases = time.perf_counter(), defaultdict(float)
    with contextlib.ExitStack() as timers:
        for name in ("load_sources", "load_model", "decode_splits", "train_probe", "fine_tune", "save_calibrated"):
            timers.enter_context(timed(phases, name))
        run = train(
            ROOT / "configs" / f"{given.recipe}.yaml",
            dataset=[given.data],
            model_name_or_path=given.checkpoint,
            bf16=HAS_GPU,
            cache_dir=folder,
            output_dir=folder / given.recipe,
            **({} if HAS_GPU else {"num_train_epochs": 0.05, "probe_epochs": 1}),
        )
    total = time.perf_counter() - started
    phases["evaluate and report"] = total - sum(phases.values())
    test = json.loads((run / "report" / "metrics.json").read_text())
    area = test["metrics"]["roc_auc"]
    ratios = {"gpu_training_share_of_whole": (phases["train_probe"] + phases["fine_tune"]) / total}
    write("whole", ratios, phases, total=total, recipe=given.recipe, data=Path(given.data).name, test=area, unit="s")


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Add up what a phase of `train` takes."""
    module = importlib.import_module("pneumo_hf.training.train")
    function = getattr(module, name)

    def run(*args, **kwargs):
        start = seconds()
        result = function(*args, **kwargs)
        phases[name] += seconds() - start
        return result

    with mock.patch.object(module, name, run):
        yield


def write(part: str, ratios: dict[str, float], rows: dict | list, **facts: object) -> None:
    """Write a part; of a run without a GPU, print it alone."""
    if not HAS_GPU:
        print(json.dumps({"part": part, "ratios": ratios, "rows": rows, **facts}))
        return
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    write_part("gpu", part, ratios, dict(rows), **facts, **gpu, peak_gib=torch.cuda.max_memory_allocated() / 2**30)
    torch.cuda.reset_peak_memory_stats()


PARTS = {"step": step, "scoring": scoring, "rerun": rerun, "whole": whole}

if __name__ == "__main__":
    main()

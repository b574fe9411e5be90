"""A YAML recipe, and the command line that overrides it, become the three dataclasses of a training."""

import argparse
import difflib
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

import yaml

from pneumo_hf.config.aliases import REMOVED, new_name, translate
from pneumo_hf.config.arguments import GROUPS, target_of
from pneumo_hf.errors import InputError

if TYPE_CHECKING:
    from pneumo_hf.config.training_arguments import Arguments

USAGE = """\
usage: train_hf.py --config configs/quickstart.yaml [--option value ...]

Fine-tune an image classifier to detect pneumonia on chest X-rays, evaluate it on the test films, and write a
checkpoint that the stock pipeline serves. What is given here overrides the recipe.
"""
SHARED = """\
Of transformers, often used:
  --bf16 true                  for a GPU, and for a CPU with avx512_bf16 or amx_bf16 among its flags
  --resume_from_checkpoint     resume the killed run in --output_dir from its last whole epoch
  --report_to tensorboard      also trackio, wandb, ...; report/history.csv is always written
  --gradient_accumulation_steps, --activation_checkpointing, --torch_compile, --use_cpu, --max_steps, ...
Every other field of transformers.TrainingArguments is accepted too."""


def parse_args(argv: Sequence[str]) -> "Arguments":
    """Parse `--config recipe.yaml --option value ...`: later values override earlier ones.

    Raises:
        InputError: an unknown key, a value of the wrong kind or range, or a recipe that is missing or no YAML.
    """
    if "-h" in argv or "--help" in argv:  # before anything heavy is imported
        print(help_text())
        sys.exit(0)
    from pneumo_hf.config.training_arguments import Arguments, DataArguments, ModelArguments, XrayTrainingArguments

    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config")
    known, overrides = before.parse_known_args(argv)
    classes = (ModelArguments, DataArguments, XrayTrainingArguments)
    parser = _make_parser(classes)
    recipe = read_recipe(known.config) if known.config else []
    namespace, unknown = parser.parse_known_args([*recipe, *overrides])
    if unknown:
        raise InputError(unknown_key(unknown[0].removeprefix("--"), [action.dest for action in parser._actions]))
    values = vars(namespace)
    check(values)
    try:
        made: list[Any] = [cls(**{f.name: values[f.name] for f in fields(cls) if f.init}) for cls in classes]
    except ValueError as error:  # what TrainingArguments finds contradictory
        raise InputError(str(error)) from error
    return Arguments(*made)


def read_recipe(path: str) -> list[str]:
    """Read a flat YAML file as command line arguments, so that argparse alone converts and checks every value."""
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"no such recipe: {path} (the shipped ones are in configs/)") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"not a YAML recipe: {path} ({str(error).splitlines()[0]})") from error
    if not isinstance(recipe, dict):
        raise InputError(f"not a YAML recipe: {path} holds no `key: value` lines")
    argv = []
    for key, value in translate(recipe, path).items():
        if value is not None:
            argv += [f"--{key}", *as_arguments(value)]
    return argv


def help_text() -> str:
    """Format the options by group, each once, with its default, choices and range."""
    lines = [USAGE]
    for group in GROUPS:
        lines.append(f"{group.__doc__}:")
        for f in fields(group):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            shown = " ".join(map(str, default)) if isinstance(default, list) else default
            choices = f"{{{','.join(get_args(f.type))}}}" if get_origin(f.type) is Literal else ""
            low, high = f.metadata["help"].range or (None, None)
            limits = f" From {low:g} to {high:g}." if high and high < 10_000 else ""
            lines.append(f"  --{f.name} {choices}".rstrip() + f"  (default: {'none' if shown is None else shown})")
            lines += textwrap.wrap(
                f"{f.metadata['help']}{limits}", 110, initial_indent=" " * 8, subsequent_indent=" " * 8
            )
        lines.append("")
    return "\n".join([*lines, SHARED])


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say in one line which option was meant."""
    if now := new_name(key):
        return f"unknown key: {key}; since version 0.2 it is {now} (train_hf.py --help lists the keys)"
    if key in REMOVED:
        return f"unknown key: {key} was removed in version 0.2: {REMOVED[key]}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"unknown key: {key}; did you mean {near[0]}? (train_hf.py --help lists the keys)"


def check(values: dict) -> None:
    """Refuse values out of range and settings that contradict each other, before any film is read."""
    for group in GROUPS:
        for f in fields(group):
            if f.metadata["help"].range:
                low, high = f.metadata["help"].range
                if not low <= values[f.name] <= high:
                    raise InputError(f"{f.name} is {values[f.name]}, but goes from {low} to {high}")
    folds, layers, stage_two = (
        round(1 / values["validation_fraction"]),
        values["trainable_layers"],
        values["num_train_epochs"],
    )
    checkpointing = [key for key in ("activation_checkpointing", "gradient_checkpointing") if values[key]]
    point = values["operating_point"]
    for wrong, message in (
        (
            values["fold"] >= folds and values["validation_split"] != "given",
            f"fold is {values['fold']}, but validation_fraction makes only {folds}, from 0",
        ),
        (
            layers not in ("all", "head") and not (layers.isdecimal() and int(layers) > 0),
            f"trainable_layers is {layers}: all, head, or a number above 0 (num_train_epochs 0 skips stage two)",
        ),
        (
            values["lora_rank"] and (layers != "all" or stage_two <= 0),
            "lora_rank trains adapters in the place of the layers: trainable_layers all, and num_train_epochs above 0",
        ),
        (
            values["ema_decay"] and {values["eval_strategy"], values["save_strategy"]} != {"epoch"},
            "ema_decay needs eval_strategy and save_strategy epoch",
        ),
        (
            point not in ("youden", "f1") and target_of(point) is None,
            f"operating_point is {point}: youden, f1, sensitivity@0.95, specificity@0.95 or cost@5",
        ),
        (
            checkpointing and not values["freeze_batch_norm"],
            f"{''.join(checkpointing[:1])} runs each block twice: it needs freeze_batch_norm true",
        ),
        (
            values["teachers"] and (stage_two <= 0 or values["label_smoothing_factor"]),
            "teachers give the targets of stage two: num_train_epochs above 0, no label_smoothing_factor",
        ),
        (
            values["wise_ft_alpha"] < 1 and stage_two <= 0,
            "wise_ft_alpha interpolates the weights of stage two: it needs num_train_epochs above 0",
        ),
        (
            values["optim"] not in ("adamw_torch", "adamw_torch_fused"),
            f"optim is {values['optim']}: both stages use AdamW, stage two with a learning rate for each layer",
        ),
        (
            values["early_stopping_patience"] and not values["load_best_model_at_end"],
            "early stopping looks for the best epoch: load_best_model_at_end true, or patience 0",
        ),
    ):
        if wrong:
            raise InputError(message)


def _make_parser(classes: Sequence[type]) -> argparse.ArgumentParser:
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise InputError(message)

    parser = Parser(classes, allow_abbrev=False, add_help=False)
    resume = next(action for action in parser._actions if action.dest == "resume_from_checkpoint")
    resume.nargs, resume.const = "?", "true"
    return parser


def as_arguments(value: object) -> list[str]:
    """Write a value as argparse reads it."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]

"""What was run: the recipe that is written into the run folder, and what a resumed run must share with it."""

import os
import platform
from dataclasses import asdict, fields
from pathlib import Path

import torch
import yaml

from pneumo_hf import __version__
from pneumo_hf.config.arguments import AugmentationArguments, DecisionArguments, StageArguments
from pneumo_hf.config.training_arguments import Arguments, XrayTrainingArguments

LEFT_OPEN = {  # to a resumed run: where it lies and runs, and what is made of its scores
    "cache_dir",
    "output_dir",
    "per_device_eval_batch_size",
    "channels_last",
    "operating_point",
    "calibration_data",
    "save_dtype",
}


def training_facts(arguments: XrayTrainingArguments, seconds: float) -> dict:
    """Collect what a table of runs says beside the figures: the seed, the time this process took, and the machine."""
    if arguments.device.type == "cuda":
        machine = f"{arguments.world_size} x {torch.cuda.get_device_name()}"
    else:
        machine = f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "pneumo_hf": __version__,
        "seed": arguments.seed,
        "seconds": round(seconds),
        "machine": machine,
        "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32",
        "resumed": bool(arguments.resume_from_checkpoint),  # then the time is that of the last part
    }


def write_recipe(arguments: Arguments, path: Path) -> None:
    """Write what was run, complete: `train_hf.py --config recipe.yaml --dataset DATA` runs it again."""
    path.write_text(yaml.safe_dump(recipe_values(arguments), sort_keys=False))


def recipe_values(arguments: Arguments) -> dict:
    """Collect every value that makes a run what it is; of absolute paths the name alone, which shows no machine."""
    model, data, training = arguments
    values, defaults = training.to_dict(), type(training)(output_dir=training.output_dir).to_dict()
    own = _own()
    recipe = {**asdict(model), **asdict(data)}
    recipe |= {key: value for key, value in values.items() if key in own or value != defaults[key]}
    for key in ("cache_dir", "output_dir", "resume_from_checkpoint", "greater_is_better"):
        recipe.pop(key, None)
    for key in ("model_name_or_path", "hold_out"):
        recipe[key] = recipe[key] and _name_of(recipe[key])
    for key in ("dataset", "teachers"):
        if recipe.get(key):
            recipe[key] = [_name_of(path) for path in recipe[key]]
    return recipe


def job_values(arguments: Arguments) -> dict:
    """Select what a resumed run must share with the killed one: network, films and steps, of `recipe_values`."""
    recipe = recipe_values(arguments)
    names = {f.name for part in arguments[:2] for f in fields(part)} | _own()
    names |= {"gradient_accumulation_steps", "max_steps", "max_grad_norm", "lr_scheduler_kwargs", "data_seed"}
    job = {key: recipe.get(key) for key in sorted(names - LEFT_OPEN)}
    return job | {"dataset": [Path(name).name for name in recipe["dataset"]], "processes": arguments[2].world_size}


def _own() -> set[str]:
    """The training arguments that this project defines or gives another default."""
    return {f.name for group in (StageArguments, AugmentationArguments, DecisionArguments) for f in fields(group)}


def _name_of(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path

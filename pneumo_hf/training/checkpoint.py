"""The trained model becomes a calibrated checkpoint folder that carries its operating points."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config import Arguments, XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.evaluation.calibration import fit_temperature, prevalence_of_scores
from pneumo_hf.evaluation.robustness import score_spoilt
from pneumo_hf.evaluation.thresholds import NAMED, choose_thresholds, operating_points
from pneumo_hf.imaging.processor import uses_clahe
from pneumo_hf.inference.abstention import conformal_limits, fit_detector, no_chests
from pneumo_hf.inference.predictor import Predictor, probability_of
from pneumo_hf.training.models import fold_temperature

LEFT_OPEN = {  # to a resumed run: where it lies and runs, and what is made of its scores
    *("cache_dir", "output_dir", "per_device_eval_batch_size", "channels_last"),
    *("operating_point", "calibration", "half_precision_weights"),
}
DETECTOR_FILMS = 600  # of train, and of validation: more change the detector's limit by a hair


def save_calibrated(
    model: PreTrainedModel, image_processor: BaseImageProcessor, films: dict[str, FilmDataset], arguments: Arguments
) -> Predictor:
    """Fit temperature and thresholds on validation, fold and write them, and load the folder as others will.

    The checkpoint is saved twice: validation is scored by what is on disk, before and after the temperature, so that
    the thresholds are those of the very scores that the stock pipeline gives.
    """
    _, data, training = arguments
    validation, folder, device = films["validation"], Path(training.output_dir), training.device
    model.to("cpu", memory_format=torch.contiguous_format)
    image_processor.save_pretrained(folder)
    _save(model, folder, training.half_precision_weights)
    for stale in (*folder.glob("report/external*.json"), *folder.glob("onnx/*.onnx")):  # of the weights replaced here
        stale.unlink()
    logits, labels = _score(folder, device, validation), validation.labels
    if training.calibration == "spoilt":
        # Perturbed validation films keep the scores calibrated when the domain drifts (Tomani et al. 2021).
        spoilt = score_spoilt(Predictor(folder, device=str(device)), validation)
        logits, labels = np.concatenate([logits, spoilt]), np.tile(labels, 2)
    temperature = fit_temperature(logits, labels)
    fold_temperature(model, temperature)
    _save(model, folder, training.half_precision_weights)
    probs = probability_of(_score(folder, device, validation))
    thresholds = choose_thresholds(validation.labels, probs, dict.fromkeys((*NAMED, training.operating_point)))
    model.config.calibration_temperature = temperature  # already folded into the classifier; for the record
    model.config.decision_threshold = thresholds[training.operating_point]
    model.config.decision_method = training.operating_point
    model.config.operating_points = operating_points(validation.labels, probs, thresholds)
    model.config.abstention = conformal_limits(validation.labels, probs)
    model.config.preprocessing = {
        "film": "pneumo_hf.load_xray: one 8-bit grey image, the whole film",
        "size": [image_processor.size["height"], image_processor.size["width"]],
        "clahe": uses_clahe(image_processor),
    }
    model.config.training_data = {
        "dataset": data.name,
        "kermany": all(films["train"].table["subtype"]),  # whose file names alone say bacteria, virus or normal
        "films": {split: len(part) for split, part in films.items() if split != "test"},
        "patients": {split: len(set(part.patient_ids)) for split, part in films.items() if split != "test"},
        "prevalence": float(validation.labels.mean()),
        "prevalence_of_scores": prevalence_of_scores(validation.labels, probs),
    }
    model.config.save_pretrained(folder)
    save_detector(folder, films, device)
    return Predictor(folder, device=str(device))


def save_detector(folder: Path, films: dict[str, FilmDataset], device: torch.device) -> None:
    """Fit what tells a chest film from another picture on some train and validation films, and put it there."""
    predictor = Predictor(folder, device=str(device))

    def features(part: FilmDataset, spoil: Callable = lambda pixels: pixels) -> np.ndarray:
        rows = np.random.default_rng(0).permutation(len(part))[:DETECTOR_FILMS]
        batches = np.array_split(rows, range(predictor.batch_size, len(rows), predictor.batch_size))
        return np.concatenate([predictor.features(spoil(part.__getitems__(b)["pixel_values"])) for b in batches])

    validation = films["validation"]
    fit_detector(features(films["train"]), features(validation), features(validation, no_chests)).save(folder)


def training_facts(arguments: XrayTrainingArguments, seconds: float) -> dict:
    """What a table of runs says beside the figures: the seed, the time this process took, and the machine."""
    if arguments.device.type == "cuda":
        machine = f"{arguments.world_size} x {torch.cuda.get_device_name()}"
    else:
        machine = f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "seed": arguments.seed,
        "seconds": round(seconds),
        "machine": machine,
        "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32",
        "resumed": bool(arguments.resume_from_checkpoint),  # then the time is that of the last part
    }


def write_recipe(arguments: Arguments, path: Path) -> None:
    """What was run, complete: `train_hf.py --config recipe.yaml --dataset DATA --output_dir DIR` runs it again."""
    path.write_text(yaml.safe_dump(recipe_values(arguments), sort_keys=False))


def recipe_values(arguments: Arguments) -> dict:
    """Every value that makes a run what it is; of absolute paths the name alone, which tells nothing of a machine."""
    model, data, training = arguments
    values, defaults = training.to_dict(), type(training)(output_dir=training.output_dir).to_dict()
    explained = _explained(training)
    recipe = {**asdict(model), **asdict(data)}
    recipe |= {key: value for key, value in values.items() if key in explained or value != defaults[key]}
    for key in ("cache_dir", "output_dir", "resume_from_checkpoint", "greater_is_better"):
        recipe.pop(key, None)
    recipe["model_name_or_path"] = _name_of(recipe["model_name_or_path"])
    for key in ("dataset", "teachers"):
        if recipe.get(key):
            recipe[key] = [_name_of(path) for path in recipe[key]]
    return recipe


def job_values(arguments: Arguments) -> dict:
    """What decides which network learns what, from which films and in which steps: of `recipe_values`."""
    recipe = recipe_values(arguments)
    names = {f.name for part in arguments[:2] for f in fields(part)} | _explained(arguments[2])
    names |= {"gradient_accumulation_steps", "max_steps", "max_grad_norm", "lr_scheduler_kwargs", "data_seed"}
    job = {key: recipe.get(key) for key in sorted(names - LEFT_OPEN)}
    return job | {"dataset": [Path(name).name for name in recipe["dataset"]], "processes": arguments[2].world_size}


def _explained(training: XrayTrainingArguments) -> set[str]:
    """The training arguments that this project defines or sets."""
    return {f.name for f in fields(training) if f.name in type(training).__annotations__ and "help" in f.metadata}


def _name_of(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _save(model: PreTrainedModel, folder: Path, half: bool) -> None:
    """The stock checkpoint; on request its convolutions rounded to float16, which loads as the config's float32."""
    model.save_pretrained(folder)
    if half:
        path = folder / "model.safetensors"
        weights = {name: values.half() if values.ndim == 4 else values for name, values in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})


def _score(folder: Path, device: torch.device, films: FilmDataset):
    return Predictor(folder, device=str(device)).score_films(films)

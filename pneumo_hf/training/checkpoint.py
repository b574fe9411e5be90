"""The trained model becomes a calibrated checkpoint folder that carries its operating points."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config.training_arguments import Arguments
from pneumo_hf.data.digests import are_kermany, write_held_out
from pneumo_hf.data.duplicates import film_digests
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.evaluation.calibration import fit_temperature
from pneumo_hf.evaluation.operating_points import fit_settings
from pneumo_hf.evaluation.robustness import score_randomly_corrupted
from pneumo_hf.imaging.processor import uses_clahe
from pneumo_hf.inference.clinical import CLINICAL
from pneumo_hf.inference.outliers import fit_detector, synthetic_outliers
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import probability_of
from pneumo_hf.labels import Task
from pneumo_hf.training.head import fold_temperature

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
    half = training.save_dtype == "float16"
    model.to("cpu", memory_format=torch.contiguous_format)
    image_processor.save_pretrained(folder)
    _save(model, folder, half)
    for stale in (
        *folder.glob("report/external*.json"),
        *folder.glob("onnx/*.onnx"),
        *folder.glob(CLINICAL),
    ):  # of the weights replaced here
        stale.unlink()
    logits, labels = _score(folder, device, validation), validation.labels
    if training.calibration_data == "corrupted":
        # Perturbed validation films keep the scores calibrated when the domain drifts (Tomani et al. 2021).
        corrupted = score_randomly_corrupted(Predictor(folder, device=str(device)), validation)
        logits, labels = np.concatenate([logits, corrupted]), np.tile(labels, 2)
    temperature = fit_temperature(logits, labels)
    fold_temperature(model, temperature)
    _save(model, folder, half)
    probs = probability_of(_score(folder, device, validation))
    seen = {split: part for split, part in films.items() if split != "test"}
    training_data = {
        "dataset": data.name,
        "kermany": bool(are_kermany(film_digests(films["train"].thumbnails)).all()),
        "films": {split: len(part) for split, part in seen.items()},
        "patients": {split: len(set(part.patient_ids)) for split, part in seen.items()},
        "prevalence": float(validation.endpoint.mean()),
    }
    settings = fit_settings(validation.endpoint, probs, training.operating_point, temperature, training_data)
    settings.task = Task.of(validation.label_names)
    settings.preprocessing = {
        "film": "pneumo_hf.load_xray: one 8-bit grey image, the whole film",
        "size": [image_processor.size["height"], image_processor.size["width"]],
        "clahe": uses_clahe(image_processor),
    }
    for key, value in settings.to_config().items():
        setattr(model.config, key, value)
    model.config.save_pretrained(folder)
    write_held_out(folder, films)
    save_detector(folder, films, device)
    return Predictor(folder, device=str(device))


def save_detector(folder: Path, films: dict[str, FilmDataset], device: torch.device) -> None:
    """Fit the detector of other pictures on some train and validation films, and save it beside the weights."""
    predictor = Predictor(folder, device=str(device))

    def features(part: FilmDataset, change: Callable = lambda pixels: pixels) -> np.ndarray:
        rows = np.random.default_rng(0).permutation(len(part))[:DETECTOR_FILMS]
        batches = np.array_split(rows, range(predictor.batch_size, len(rows), predictor.batch_size))
        return np.concatenate([predictor.features(change(part.__getitems__(b)["pixel_values"])) for b in batches])

    validation = films["validation"]
    fit_detector(features(films["train"]), features(validation), features(validation, synthetic_outliers)).save(folder)


def _save(model: PreTrainedModel, folder: Path, half: bool) -> None:
    """The stock checkpoint; on request its convolutions rounded to float16, which loads as the config's float32."""
    model.save_pretrained(folder)
    if half:
        path = folder / "model.safetensors"
        weights = {name: values.half() if values.ndim == 4 else values for name, values in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})


def _score(folder: Path, device: torch.device, films: FilmDataset) -> np.ndarray:
    return Predictor(folder, device=str(device)).predict_dataset(films, outliers=False)[0]

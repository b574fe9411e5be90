"""One checkpoint or several become a predictor; of several, temperature and thresholds are fitted on validation."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pneumo_hf.data.predictions import read_predictions
from pneumo_hf.errors import InputError
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import Scorer, probability_of
from pneumo_hf.inference.settings import CheckpointSettings
from pneumo_hf.labels import NEGATIVE

logger = logging.getLogger(__name__)


def load_predictor(
    checkpoints: Sequence[str | Path],
    device: str | None = None,
    flip: bool = False,
    backend: Literal["torch", "onnx"] = "torch",
    label_map: Mapping[str, str] | None = None,
) -> Scorer:
    """Load the predictor of one checkpoint, or the ensemble of several.

    The temperature and the operating points of several come from the validation predictions beside the checkpoints,
    if those are of the same films (runs of one `split_seed`); else nothing is chosen, the threshold is .5, and a
    warning says so.
    """
    options: dict[str, Any] = {"device": device, "flip": flip, "backend": backend, "label_map": label_map}
    members = [Predictor(checkpoint, **options) for checkpoint in checkpoints]
    if len(members) == 1:
        return members[0]
    from pneumo_hf.inference.ensemble import Ensemble, mean_logits

    task = members[0].task
    for member in members[1:]:
        member.use_labels(task.labels)
    tables = [read_predictions(checkpoint, "validation", task.labels) for checkpoint in checkpoints]
    first = tables[0]
    if first is None or any(table is None or table.keys() != first.keys() for table in tables):
        logger.warning(
            "the checkpoints carry no predictions of common validation films (train them with one split_seed): the "
            "ensemble's scores are not calibrated, and its threshold is .5"
        )
        return Ensemble(members, CheckpointSettings(task=task))
    from pneumo_hf.evaluation.calibration import fit_temperature  # scipy and scikit-learn: for fitting alone
    from pneumo_hf.evaluation.operating_points import DEFAULT, fit_settings

    # of two labels the second may be called otherwise in the report
    number = (lambda label: int(label != NEGATIVE)) if task.is_binary else task.labels.index
    labels = np.array([number(label) for label, _ in first.values()])
    logits = mean_logits(np.array([[table[film][1] for film in first] for table in tables if table]))  # [M, N, C]
    temperature = fit_temperature(logits, labels)
    methods = {member.settings.method for member in members if member.settings.is_calibrated}
    method = methods.pop() if len(methods) == 1 else DEFAULT
    settings = fit_settings(np.minimum(labels, 1), probability_of(logits / temperature), method, temperature)
    return Ensemble(members, replace(settings, task=task))


def validation_scores(predictor: Scorer) -> tuple[np.ndarray, np.ndarray]:
    """Read labels and P(PNEUMONIA) `[N]` of the validation films from the report beside a checkpoint.

    Raises:
        InputError: an ensemble, or a checkpoint without its report.
    """
    table = read_predictions(predictor.name, "validation") if len(predictor.members) == 1 else None
    if table is None:
        raise InputError(f"{predictor.name} has no report/predictions_validation.csv beside it")
    labels, logits = zip(*table.values(), strict=True)
    return np.array([label != NEGATIVE for label in labels]).astype(int), probability_of(np.array(logits))

"""One checkpoint or several become a predictor; of several, temperature and thresholds are fitted on validation."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import expit, logit
from transformers.utils import cached_file

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.evaluation.calibration import fit_temperature, prevalence_of_scores
from pneumo_hf.evaluation.thresholds import DEFAULT, NAMED, choose_thresholds, operating_points
from pneumo_hf.inference.abstention import conformal_limits
from pneumo_hf.inference.ensemble import Ensemble, mean_logits
from pneumo_hf.inference.predictor import Predictor, probability_of

logger = logging.getLogger(__name__)

EPSILON = 1e-12


def load_predictor(
    checkpoints: Sequence[str | Path],
    device: str | None = None,
    flip: bool = False,
    backend: Literal["torch", "onnx"] = "torch",
) -> Predictor:
    """The predictor of one checkpoint, or of the mean logits of several.

    The temperature and the operating points of several come from the validation predictions beside the checkpoints,
    if those are of the same films (runs of one `split_seed`); else nothing is chosen, the threshold is .5, and a
    warning says so.
    """
    members = [Predictor(checkpoint, device, flip=flip, backend=backend) for checkpoint in checkpoints]
    if len(members) == 1:
        return members[0]
    tables = [read_predictions(checkpoint, "validation") for checkpoint in checkpoints]
    if None in tables or any(table.keys() != tables[0].keys() for table in tables):
        logger.warning(
            "the checkpoints carry no predictions of common validation films (train them with one split_seed): the "
            "ensemble's scores are not calibrated, and its threshold is .5"
        )
        return Ensemble(members, 1.0, 0.5, "default", None)
    labels = np.array([label for label, _ in tables[0].values()])
    odds = np.array([[table[film][1] for film in tables[0]] for table in tables])  # [M, N]
    logits = mean_logits(np.stack([np.zeros_like(odds), odds], axis=-1))
    temperature = fit_temperature(logits, labels)
    probs = probability_of(logits / temperature)
    methods = {member.method for member in members if member.calibrated}
    method = methods.pop() if len(methods) == 1 else DEFAULT
    thresholds = choose_thresholds(labels, probs, dict.fromkeys((*NAMED, method)))
    points = operating_points(labels, probs, thresholds)
    return Ensemble(
        *(members, temperature, thresholds[method], method, points),
        limits=conformal_limits(labels, probs),
        learnt_prevalence=prevalence_of_scores(labels, probs),
    )


def validation_scores(predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """Labels and P(PNEUMONIA) `[N]` of the validation films, as the report beside a checkpoint has them.

    Raises:
        InputError: an ensemble, or a checkpoint without its report.
    """
    table = read_predictions(predictor.name, "validation") if len(predictor.members) == 1 else None
    if table is None:
        raise InputError(f"{predictor.name} has no report/predictions_validation.csv beside it")
    labels, odds = map(np.array, zip(*table.values(), strict=True))
    return labels, expit(odds)


def read_predictions(checkpoint: str | Path, split: str) -> dict[str, tuple[int, float]] | None:
    """`{film: (label, log odds)}` of a split as the checkpoint's report has it.

    None where the checkpoint has no report, or where two films of merged sources share a name.
    """
    file = f"report/predictions_{split}.csv"
    try:
        path = cached_file(str(checkpoint), file, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None
    if path is None:
        return None
    with open(path, newline="") as lines:
        rows = list(csv.DictReader(lines))
    try:
        table = {row["path"]: (LABELS.index(row["label"]), _log_odds(float(row["probability"]))) for row in rows}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no predictions file of a labelled split") from error
    return table if len(table) == len(rows) else None


def _log_odds(probability: float) -> float:
    return float(logit(np.clip(probability, EPSILON, 1 - EPSILON)))  # 1.0 in the file is not certainty

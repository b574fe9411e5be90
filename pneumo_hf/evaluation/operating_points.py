"""Operating points: thresholds chosen on validation, by name, and what they give on any split."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pneumo_hf.config.arguments import target_of
from pneumo_hf.evaluation.metrics import weighted_metrics
from pneumo_hf.inference.conformal import conformal_limits
from pneumo_hf.inference.settings import CheckpointSettings

DEFAULT = "youden"
CURVE_STEPS = 1000
CURVE_COLUMNS = ("threshold", "sensitivity", "specificity")
NAMED = (DEFAULT, "sensitivity@0.95", "specificity@0.95", "f1", "cost@5")  # what every checkpoint carries


def fit_settings(
    labels: np.ndarray, probs: np.ndarray, method: str, temperature: float | None, training_data: dict | None = None
) -> CheckpointSettings:
    """Choose everything that a checkpoint decides by, on validation films.

    Args:
        labels: `[N]`, 1 for pneumonia.
        probs: `[N]`, calibrated P(PNEUMONIA).
        method: of the decision threshold.
        temperature: that the scores were calibrated by.
        training_data: where they come from.
    """
    from pneumo_hf.evaluation.calibration import prevalence_of_scores  # scipy and scikit-learn: for fitting alone

    thresholds = choose_thresholds(labels, probs, list(dict.fromkeys((*NAMED, method))))
    return CheckpointSettings(
        threshold=thresholds[method],
        method=method,
        operating_points=operating_points(labels, probs, thresholds),
        conformal_limits=conformal_limits(labels, probs),
        temperature=temperature,
        training_data={**(training_data or {}), "prevalence_of_scores": prevalence_of_scores(labels, probs)},
    )


def choose_thresholds(labels: np.ndarray, probs: np.ndarray, names: Sequence[str] = NAMED) -> dict[str, float]:
    """Choose thresholds on validation scores: `{name: threshold}`, each midway between two neighbouring scores.

    `youden` has the largest sensitivity + specificity - 1 (Youden 1950), the middle of the tied ones;
    `sensitivity@X` is the highest threshold with at least that sensitivity; `specificity@X` the lowest with at least
    that specificity. `f1` has the largest F1; `cost@X` the least cost where a missed pneumonia costs as much as X
    false alarms, at the share of pneumonia that these films have. Of tied ones, the middle.
    """
    from sklearn.metrics import roc_curve

    fpr, tpr, cuts = roc_curve(labels, probs, drop_intermediate=False)
    cases, controls = labels.sum(), (1 - labels).sum()
    tp, fp = tpr * cases, fpr * controls
    chosen = {}
    for name in names:
        if name == DEFAULT:
            index = _middle_of_best(tpr - fpr)
        elif name == "f1":
            index = _middle_of_best(2 * tp / (cases + tp + fp))
        elif name.startswith("cost@"):
            index = _middle_of_best(-(target_of(name) or 1.0) * (cases - tp) - fp)
        elif name.startswith("sensitivity@"):
            index = int(np.argmax(tpr >= target_of(name)))
        else:
            index = int(np.flatnonzero(1 - fpr >= target_of(name))[-1])
        chosen[name] = _between(probs, cuts[index])
    return chosen


def _middle_of_best(values: np.ndarray) -> int:
    best = np.flatnonzero(np.isclose(values, values.max()))
    return int(best[len(best) // 2])


def operating_points(labels: np.ndarray, probs: np.ndarray, thresholds: dict[str, float]) -> list[dict]:
    """Measure what each threshold gives on these films: a row of the contract's `operating_points` for each."""
    points = []
    for name, threshold in thresholds.items():
        values = weighted_metrics(labels, probs, threshold, np.ones((1, len(labels))))
        points.append(
            {
                "name": name,
                "threshold": threshold,
                "sensitivity": float(values["sensitivity"][0]),
                "specificity": float(values["specificity"][0]),
                "ppv": float(values["precision"][0]),
                "npv": float(values["npv"][0]),
            }
        )
    return points


def threshold_curve(labels: np.ndarray, probs: np.ndarray) -> list[dict[str, float]]:
    """Measure sensitivity and specificity at the thresholds 0, .001, ... 1, for a slider without films' scores."""
    cuts = np.linspace(0, 1, CURVE_STEPS + 1).round(6)
    cases, controls = np.sort(probs[labels == 1]), np.sort(probs[labels == 0])
    sensitivity = 1 - np.searchsorted(cases, cuts) / len(cases)
    specificity = np.searchsorted(controls, cuts) / len(controls)
    columns: list[Any] = [values.round(6).tolist() for values in (cuts, sensitivity, specificity)]
    return [dict(zip(CURVE_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def predictive_values(sensitivity: float, specificity: float, prevalence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute PPV and NPV `[K]` of a threshold where a share `prevalence` `[K]` of the films has pneumonia.

    By Bayes' theorem, if the films are otherwise like those that sensitivity and specificity were measured on.
    """
    tp, fn = prevalence * sensitivity, prevalence * (1 - sensitivity)
    tn, fp = (1 - prevalence) * specificity, (1 - prevalence) * (1 - specificity)
    with np.errstate(divide="ignore", invalid="ignore"):
        return tp / (tp + fp), tn / (tn + fn)


def _between(probs: np.ndarray, cut: float) -> float:
    """The middle between a score and the next one below, so that no score stands on the threshold."""
    below = probs[probs < min(cut, 1.0)]
    lower = below.max() if len(below) else 0.0
    return float((min(cut, 1.0) + lower) / 2)

"""Operating points: thresholds chosen on validation, by name, and what they give on any split."""

import numpy as np
from sklearn.metrics import roc_curve

from pneumo_hf.evaluation.metrics import weighted_metrics

DEFAULT = "youden"
TARGET = 0.95  # of the two points named after it


def choose_thresholds(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Thresholds on validation scores: `{name: threshold}`, each midway between two neighbouring scores.

    `youden` has the largest sensitivity + specificity - 1 (Youden 1950), the middle of the tied ones;
    `sensitivity@0.95` the highest threshold with at least that sensitivity; `specificity@0.95` the lowest with at
    least that specificity.
    """
    fpr, tpr, cuts = roc_curve(labels, probs, drop_intermediate=False)
    best = np.flatnonzero(np.isclose(tpr - fpr, np.max(tpr - fpr)))
    return {
        "youden": _between(probs, cuts[best[len(best) // 2]]),
        f"sensitivity@{TARGET}": _between(probs, cuts[np.argmax(tpr >= TARGET)]),
        f"specificity@{TARGET}": _between(probs, cuts[np.flatnonzero(1 - fpr >= TARGET)[-1]]),
    }


def operating_points(labels: np.ndarray, probs: np.ndarray, thresholds: dict[str, float]) -> list[dict]:
    """What each threshold gives on these films: a row of the contract's `operating_points` for each."""
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


def _between(probs: np.ndarray, cut: float) -> float:
    """The middle between a score and the next one below, so that no score stands on the threshold."""
    below = probs[probs < min(cut, 1.0)]
    lower = below.max() if len(below) else 0.0
    return float((min(cut, 1.0) + lower) / 2)

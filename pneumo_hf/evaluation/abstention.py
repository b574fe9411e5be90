"""What it is worth not to answer: how right the answered films are, and risk against coverage."""

import numpy as np

from pneumo_hf.inference.settings import is_positive
from pneumo_hf.labels import NEGATIVE


def abstention_summary(labels: np.ndarray, rows: list[dict], limits: dict[str, float] | None) -> dict:
    """Count flags, and measure accuracy, sensitivity and specificity of the films that get an answer.

    Args:
        labels: `[N]`, 1 for pneumonia.
        rows: of the predictions CSV, in the same order.
        limits: of `conformal_limits`; with them, how often each label was possible where it is true.
    """
    flags = np.array([row["flag"] for row in rows])
    called = np.array([row["prediction"] != NEGATIVE for row in rows])
    answered = ~np.isin(flags, ("abstain", "not_chest_xray"))
    right = called == (labels == 1)
    summary = {
        "answered": float(answered.mean()),
        "abstained": int(np.sum(flags == "abstain")),
        "not_chest_xray": int(np.sum(flags == "not_chest_xray")),
        "of_the_answered": {
            "accuracy": _share(right[answered]),
            "sensitivity": _share(right[answered & (labels == 1)]),
            "specificity": _share(right[answered & (labels == 0)]),
        },
    }
    if limits:
        probs = np.array([row["probability"] for row in rows])
        summary["limits"] = limits
        summary["label_possible"] = {
            "NORMAL": _share(probs[labels == 0] <= limits["normal_up_to"]),
            "PNEUMONIA": _share(probs[labels == 1] >= limits["pneumonia_from"]),
        }
    return summary


def risk_coverage(labels: np.ndarray, probs: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the share of films answered `[N]`, the most certain first, and of errors among them `[N]`.

    After El-Yaniv and Wiener 2010.
    """
    wrong = (is_positive(probs, threshold) != (labels == 1))[np.argsort(-sureness(probs, threshold), kind="stable")]
    answered = np.arange(1, len(labels) + 1)
    return answered / len(labels), np.cumsum(wrong) / answered


def sureness(probs: np.ndarray, threshold: float) -> np.ndarray:
    """Measure how far scores `[N]` lie from the threshold, as a share of the way to 0 or to 1."""
    above = (probs - threshold) / max(1 - threshold, 1e-12)
    return np.where(is_positive(probs, threshold), above, (threshold - probs) / max(threshold, 1e-12))


def is_mistake(row: dict) -> bool:
    """Return whether a row of predictions decides otherwise than its label says."""
    return (row["label"] == NEGATIVE) != (row["prediction"] == NEGATIVE)


def surest(rows: list[dict], threshold: float) -> list[dict]:
    """Sort rows of predictions, those farthest from the decision threshold first."""
    order = np.argsort(-sureness(np.array([row["probability"] for row in rows]), threshold), kind="stable")
    return [rows[index] for index in order]


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")

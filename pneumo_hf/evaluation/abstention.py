"""What it is worth not to answer: how right the answered films are, and risk against coverage."""

import numpy as np

from pneumo_hf.inference.settings import is_positive
from pneumo_hf.labels import NEGATIVE

OF_THE_ANSWERED = ("accuracy", "sensitivity", "specificity")


def abstention_summary(labels: np.ndarray, rows: list[dict], limits: dict[str, float] | None) -> dict:
    """Count flags, and measure accuracy, sensitivity and specificity of the films that get an answer.

    Args:
        labels: `[N]`, 1 for pneumonia.
        rows: of the predictions CSV, in the same order.
        limits: of `conformal_limits`; with them, how often each label was possible where it is true.
    """
    shares = answer_shares(labels, rows)
    summary = {
        "answered": _share(*shares["answered"]),
        "abstained": int(shares["abstained"][0].sum()),
        "not_chest_xray": int(shares["not_chest_xray"][0].sum()),
        "of_the_answered": {name: _share(*shares[f"{name}_of_the_answered"]) for name in OF_THE_ANSWERED},
    }
    if limits:
        probs = np.array([row["probability"] for row in rows])
        summary["limits"] = limits
        summary["label_possible"] = {
            "NORMAL": _share(probs <= limits["normal_up_to"], labels == 0),
            "PNEUMONIA": _share(probs >= limits["pneumonia_from"], labels == 1),
        }
    return summary


def answer_shares(labels: np.ndarray, rows: list[dict]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, of each share that a summary gives, the films that count and the films that they are a part of, `[N]`.

    Args:
        labels: `[N]`, 1 for pneumonia.
        rows: of the predictions CSV, in the same order.
    """
    flags = np.array([row["flag"] for row in rows])
    called = np.array([row["prediction"] != NEGATIVE for row in rows])
    answered, right, every = (
        ~np.isin(flags, ("abstain", "not_chest_xray")),
        called == (labels == 1),
        np.ones(len(rows), bool),
    )
    whose = dict(zip(OF_THE_ANSWERED, (every, labels == 1, labels == 0), strict=True))
    return {
        "answered": (answered, every),
        "abstained": (flags == "abstain", every),
        "not_chest_xray": (flags == "not_chest_xray", every),
        **{f"{name}_of_the_answered": (right, answered & films) for name, films in whose.items()},
    }


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


def _share(counted: np.ndarray, films: np.ndarray) -> float:
    return float(counted[films].mean()) if films.any() else float("nan")

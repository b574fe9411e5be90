"""The field's figures for scores against labels, with 95 % intervals by a bootstrap over patients.

Every metric is written for weights `[B, N]`, a row a resample: the figure itself has weights of one, and a bootstrap
resample counts how often each film's patient was drawn. scikit-learn is the reference in the tests.

scipy and scikit-learn are imported where they are called: the app, which measures nothing at first, starts without.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pneumo_hf.evaluation.sample_size import design_effect
from pneumo_hf.inference.settings import is_positive

CALIBRATION_BINS = 15
RESAMPLES = 2000
FEW_PATIENTS = 30  # fewer make the intervals too narrow
BLOCK = 2_000_000  # weights at a time
EPSILON = 1e-7


def epoch_metrics(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Compute what epochs are compared by, and sensitivity and specificity at a threshold of .5."""
    from sklearn.metrics import roc_auc_score

    truth, counts = (
        np.clip(np.where(labels == 1, probs, 1 - probs), EPSILON, 1),
        confusion(labels, is_positive(probs, 0.5)),
    )
    return {
        "roc_auc": float(roc_auc_score(labels, probs)),
        "log_loss": float(-np.log(truth).mean()),
        "sensitivity": counts["tp"] / max(1, counts["tp"] + counts["fn"]),
        "specificity": counts["tn"] / max(1, counts["tn"] + counts["fp"]),
    }


def metrics_with_intervals(
    labels: np.ndarray, probs: np.ndarray, threshold: float | np.ndarray, patient_ids: np.ndarray, seed: int = 0
) -> dict[str, dict[str, float | list[float]]]:
    """Measure `{name: {"value", "ci95": [low, high]}}` for every metric of the contract.

    Proportions have `ci95_wilson` beside it (Wilson 1927) and the ROC area `ci95_delong` (DeLong et al. 1988). Both
    take films as independent: they are what other papers give, and too narrow where patients have several films.
    Sensitivity and specificity have their `design_effect`, of which the number of films that they need depends.

    Args:
        labels: `[N]`, 1 for pneumonia; probs: `[N]`, P(PNEUMONIA); patient_ids: `[N]`, the unit of resampling.
        threshold: films with a probability of at least this are called pneumonia; one, or `[N]` for each its own.

    The intervals are percentiles of 2,000 bootstrap resamples of patients (Efron and Tibshirani 1993); resamples
    without both labels do not count for the metrics that need both. They are too narrow with few patients, and where
    every film is right they have no width. A metric that is undefined is NaN.
    """
    from scipy.stats import binomtest, norm

    values = weighted_metrics(labels, probs, threshold, np.ones((1, len(labels))))
    blocks = [
        weighted_metrics(labels, probs, threshold, weights)
        for weights in bootstrap_weights(patient_ids, RESAMPLES, seed)
    ]
    resampled = {name: np.concatenate([block[name] for block in blocks]) for name in values}
    result: dict[str, Any] = {}
    for name, value in values.items():
        defined = resampled[name][np.isfinite(resampled[name])]
        low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
        result[name] = {"value": float(value[0]), "ci95": [float(low), float(high)]}
    for name, (successes, films) in _proportions(confusion(labels, is_positive(probs, threshold))).items():
        if films:
            interval = binomtest(successes, films).proportion_ci(method="wilson")
            result[name]["ci95_wilson"] = [float(interval.low), float(interval.high)]
    for name, label in (("sensitivity", 1), ("specificity", 0)):
        films, called = labels == label, is_positive(probs, threshold)
        if films.any():
            result[name]["design_effect"] = design_effect((called == label)[films], patient_ids[films])
    if min(labels.sum(), len(labels) - labels.sum()) > 1:
        (area,), covariance = delong_areas(labels, probs)
        margin = norm.ppf(0.975) * np.sqrt(covariance[0, 0])
        result["roc_auc"]["ci95_delong"] = [float(max(area - margin, 0)), float(min(area + margin, 1))]
    return result


def delong_areas(labels: np.ndarray, *scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute ROC areas `[M]` of M scores `[N]` of the same films, and their covariance `[M, M]`.

    DeLong, DeLong and Clarke-Pearson 1988, by midranks as in Sun and Xu 2014. Needs two films of each label.
    """
    from scipy.stats import rankdata

    cases, controls = labels == 1, labels == 0
    of_cases, of_controls = [], []
    for values in scores:
        ranks = rankdata(values)
        of_cases.append((ranks[cases] - rankdata(values[cases])) / controls.sum())
        of_controls.append(1 - (ranks[controls] - rankdata(values[controls])) / cases.sum())
    covariance = np.cov(of_cases) / cases.sum() + np.cov(of_controls) / controls.sum()
    return np.mean(of_cases, axis=1), np.atleast_2d(covariance)


def bootstrap_weights(patient_ids: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw how often each film's patient is drawn when as many patients as there are are drawn with return.

    Returns:
        Blocks `[B, N]` of `resamples` rows in all, so that memory does not grow with their number.
    """
    patients, inverse = np.unique(patient_ids, return_inverse=True)
    chances, random = np.full(len(patients), 1 / len(patients)), np.random.default_rng(seed)
    rows = max(1, BLOCK // len(inverse))
    for start in range(0, resamples, rows):
        drawn = random.multinomial(len(patients), chances, min(rows, resamples - start))
        yield drawn[:, inverse].astype(np.float64)


def weighted_metrics(
    labels: np.ndarray, probs: np.ndarray, threshold: float | np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute every metric `[B]` of films `[N]` under weights `[B, N]`; NaN where a denominator is zero."""
    preds = is_positive(probs, threshold)
    tp = weights @ (preds & (labels == 1))
    fp = weights @ (preds & (labels == 0))
    fn = weights @ (~preds & (labels == 1))
    tn = weights @ (~preds & (labels == 0))
    roc_auc, pr_auc = areas(labels, probs, weights)
    truth = np.clip(np.where(labels == 1, probs, 1 - probs), EPSILON, 1)
    total = weights.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        return {
            "roc_auc": roc_auc,
            "pr_auc": pr_auc,
            "accuracy": (tp + tn) / total,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
            "brier": weights @ (probs - labels) ** 2 / total,
            "ece": calibration_error(labels, probs, weights),
            "log_loss": weights @ -np.log(truth) / total,
        }


def confusion(labels: np.ndarray, preds: np.ndarray) -> dict[str, int]:
    """Count true and false negatives and positives."""
    return {
        "tn": int(np.sum(~preds & (labels == 0))),
        "fp": int(np.sum(preds & (labels == 0))),
        "fn": int(np.sum(~preds & (labels == 1))),
        "tp": int(np.sum(preds & (labels == 1))),
    }


def _proportions(counts: dict[str, int]) -> dict[str, tuple[int, int]]:
    """`{metric: (successes, films)}` of those metrics that are shares of films."""
    tn, fp, fn, tp = (counts[name] for name in ("tn", "fp", "fn", "tp"))
    return {
        "accuracy": (tp + tn, tp + tn + fp + fn),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "precision": (tp, tp + fp),
        "npv": (tn, tn + fn),
    }


def reliability(labels: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute `(mean probability, share of pneumonia, films)` of each occupied bin, for the reliability diagram."""
    bins = bin_numbers(probs)
    used = np.unique(bins)
    return (
        np.array([probs[bins == b].mean() for b in used]),
        np.array([labels[bins == b].mean() for b in used]),
        np.array([np.sum(bins == b) for b in used]),
    )


def areas(labels: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute areas `[B]` under the ROC curve (trapezoids, so ties count half) and of average precision.

    Args:
        labels: `[N]`, 0 or 1.
        probs: `[N]`.
        weights: `[B, N]`.
    """
    order = np.argsort(-probs, kind="stable")
    last_of_ties = np.append(np.diff(probs[order]) != 0, True)
    ordered = weights[:, order]
    tp = np.cumsum(ordered * (labels[order] == 1), axis=1)[:, last_of_ties]
    fp = np.cumsum(ordered * (labels[order] == 0), axis=1)[:, last_of_ties]
    gained = np.diff(tp, axis=1, prepend=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        under = np.sum(np.diff(fp, axis=1, prepend=0) * (tp - gained / 2), axis=1)
        roc_auc = under / (tp[:, -1] * fp[:, -1])
        precision = np.nan_to_num(tp / (tp + fp))  # no weight yet: nothing gained there either
        pr_auc = np.sum(precision * gained, axis=1) / tp[:, -1]
    return roc_auc, pr_auc


def top_label_error(labels: np.ndarray, probs: np.ndarray) -> float:
    """Compute the expected calibration error as Guo et al. 2017 have it: of the likelier label, and how sure it is.

    `ece` is of P(PNEUMONIA), and the stricter: there scores of p and of 1 - p do not share a bin, to make up for each
    other.
    """
    right = (probs >= 0.5) == labels
    return float(calibration_error(right, np.maximum(probs, 1 - probs), np.ones((1, len(probs))))[0])


def calibration_error(labels: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute expected calibration errors `[B]`: |mean probability - share of pneumonia| over equal bins, weighted.

    Args:
        labels: `[N]`, or `[B, N]` where they differ; probs: `[N]`; weights: `[B, N]`.
    """
    in_bin = np.eye(CALIBRATION_BINS)[bin_numbers(probs)]  # [N, bins]
    gap = (weights * (probs - labels)) @ in_bin  # [B, bins]
    return np.abs(gap).sum(axis=1) / weights.sum(axis=1)


def bin_numbers(probs: np.ndarray) -> np.ndarray:
    """Return which of the equal bins of the calibration error each score `[N]` is in."""
    return np.minimum((probs * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)

"""Decision curves: is a model worth more than treating every film as pneumonia, or none (Vickers and Elkin 2006)?

Who treats from a probability of t up holds one missed pneumonia for as bad as (1 - t) / t false alarms. At that
exchange rate the net benefit of a way to decide is its true positives less its false ones, per film:
TP / n - FP / n * t / (1 - t). Treating none has 0. The scores are read as probabilities, so they must be calibrated.
"""

from typing import Any

import numpy as np

from pneumo_hf.evaluation.metrics import RESAMPLES, bootstrap_weights

THRESHOLDS = np.arange(1, 100) / 100
DIGITS = 6  # that are kept: a report holds a thousand of these numbers


def decision_curve(labels: np.ndarray, probs: np.ndarray, patient_ids: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Measure the net benefit of scores at threshold probabilities of .01 to .99, beside treating all.

    Args:
        labels: `[N]`, 1 for pneumonia; probs: `[N]`, P(PNEUMONIA); patient_ids: `[N]`, the unit of resampling.

    Returns:
        `{"thresholds", "model", "ci95", "treat_all", "gain", "gain_ci95", "useful"}`, lists of 99 but for the last:
        net benefit of the model with its 95 % interval, that of treating all, what the model adds to the better of
        treating all and none, and `useful`, the longest range `[from, to]` of thresholds where that gain is above 0
        by a 95 % band for all thresholds together (`surely_above_0`), or None.
        The intervals are percentiles of 2,000 bootstrap resamples of patients, threshold by threshold.
    """
    everyone, once = np.ones(len(labels)), np.ones((1, len(labels)))
    treat_all = net_benefit(labels, everyone, once)[0]
    model = net_benefit(labels, probs, once)[0]
    gain = model - np.maximum(treat_all, 0)
    models, gains = [], []
    for weights in bootstrap_weights(patient_ids, RESAMPLES, seed):
        models.append(net_benefit(labels, probs, weights))
        # against what these films call the better of the two, so that the gain is a plain difference
        gains.append(models[-1] - np.where(treat_all > 0, net_benefit(labels, everyone, weights), 0))
    low, high = np.percentile(np.concatenate(models), [2.5, 97.5], axis=0)
    resampled = np.concatenate(gains)
    gain_low, gain_high = np.percentile(resampled, [2.5, 97.5], axis=0)
    values = {
        "thresholds": THRESHOLDS,
        "model": model,
        "ci95": np.stack([low, high], axis=1),
        "treat_all": treat_all,
        "gain": gain,
        "gain_ci95": np.stack([gain_low, gain_high], axis=1),
    }
    rounded = {name: found.round(DIGITS).tolist() for name, found in values.items()}
    worst = np.where(treat_all > 0, 1, THRESHOLDS / (1 - THRESHOLDS))  # what a film can cost: missed, or a false alarm
    above = surely_above_0(gain, resampled, worst / len(np.unique(patient_ids)))
    return {**rounded, "useful": _longest_range(above)}


def surely_above_0(gain: np.ndarray, resampled: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """Return at which of K thresholds a gain is above 0, by a simultaneous 95 % band: `[K]` bool.

    The limit in standard errors is that of the largest deviation over all thresholds in 95 % of the resamples. The
    errors are the bootstrap's with one patient more, at the worst: few films that are all decided well leave resamples
    nothing to doubt.

    Args:
        gain: `[K]`, of the films as they are; resampled: `[B, K]`; worst: `[K]`, what one more patient could take off.
    """
    errors = np.hypot(resampled.std(axis=0), worst)
    largest = np.abs((resampled - gain) / errors).max(axis=1)
    return gain > np.quantile(largest, 0.95) * errors


def net_benefit(
    labels: np.ndarray, probs: np.ndarray, weights: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """Compute net benefit `[B, K]` of films `[N]` under weights `[B, N]` at threshold probabilities `[K]`.

    Scores of 1 for every film give that of treating all.
    """
    order = np.argsort(-probs, kind="stable")
    treated = np.searchsorted(-probs[order], -thresholds, side="right")  # films with a score of at least each
    counted = (np.cumsum(weights[:, order] * (labels[order] == label), axis=1) for label in (1, 0))
    true, false = (np.pad(count, ((0, 0), (1, 0)))[:, treated] for count in counted)
    return (true - false * thresholds / (1 - thresholds)) / weights.sum(axis=1, keepdims=True)


def _longest_range(is_useful: np.ndarray) -> list[float] | None:
    """`[from, to]` of the longest run of thresholds that are useful."""
    edges = np.diff(np.pad(is_useful.astype(int), 1))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    if not len(starts):
        return None
    longest = np.argmax(ends - starts)
    return [float(THRESHOLDS[starts[longest]]), float(THRESHOLDS[ends[longest]])]

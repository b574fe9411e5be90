"""Figures of more than two labels: which is taken for which, and how well each is distinguished from the rest."""

from collections.abc import Sequence

import numpy as np

from pneumo_hf.evaluation.metrics import RESAMPLES, areas, bootstrap_weights

MACRO = ("accuracy", "macro_sensitivity", "macro_f1", "macro_roc_auc")


def label_metrics(names: Sequence[str], labels: np.ndarray, probs: np.ndarray, patient_ids: np.ndarray) -> dict:
    """Measure how well C labels are distinguished, a film being called by its likeliest.

    Macro figures are means over the labels, however rare each is. Intervals are 95 %, by a bootstrap over patients;
    resamples in which a label is missing do not count for the figures that need it.

    Args:
        names: of the labels.
        labels: `[N]`, their numbers.
        probs: `[N, C]`.
        patient_ids: `[N]`.

    Returns:
        `{"labels", "confusion_matrix", "metrics"}`: the names, counts `[C][C]` by label and by what it was called, and
        `{name: {"value", "ci95"}}` of MACRO and, one label against the rest, of `roc_auc_NAME` and `sensitivity_NAME`.
    """
    called = probs.argmax(axis=1)
    values = _weighted(names, labels, called, probs, np.ones((1, len(labels))))
    blocks = [
        _weighted(names, labels, called, probs, weights) for weights in bootstrap_weights(patient_ids, RESAMPLES, 0)
    ]
    metrics = {}
    for name, (value,) in values.items():
        resampled = np.concatenate([block[name] for block in blocks])
        defined = resampled[np.isfinite(resampled)]
        low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
        metrics[name] = {"value": float(value), "ci95": [float(low), float(high)]}
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, called), 1)
    return {"labels": list(names), "confusion_matrix": counts.tolist(), "metrics": metrics}


def _weighted(
    names: Sequence[str], labels: np.ndarray, called: np.ndarray, probs: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Every figure `[B]` of films `[N]` under weights `[B, N]`; NaN where a denominator is zero."""
    sensitivities, scores, roc_areas = [], [], []
    with np.errstate(divide="ignore", invalid="ignore"):
        for number in range(len(names)):
            right = weights @ ((labels == number) & (called == number))
            of_label, of_calls = weights @ (labels == number), weights @ (called == number)
            sensitivities.append(right / of_label)
            scores.append(2 * right / (of_label + of_calls))
            roc_areas.append(areas((labels == number).astype(int), probs[:, number], weights)[0])
    figures = dict(
        zip(
            MACRO,
            (
                weights @ (labels == called) / weights.sum(axis=1),
                np.mean(sensitivities, axis=0),
                np.mean(scores, axis=0),
                np.mean(roc_areas, axis=0),
            ),
            strict=True,
        )
    )
    figures |= {f"roc_auc_{name}": values for name, values in zip(names, roc_areas, strict=True)}
    return figures | {f"sensitivity_{name}": values for name, values in zip(names, sensitivities, strict=True)}

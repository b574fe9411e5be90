"""Gaps between groups: the largest difference of a figure, with 95 % intervals that hold for all gaps together.

A figure of a group is a mean over its films, and patients, not films, were drawn: its error is cluster-robust (CR2,
Bell and McCaffrey 2002). Few patients, of whom hardly one is called wrong, would show hardly any error: so each group
is measured with two patients more, one at either end (after Agresti and Caffo 2000, who add films). The intervals are
by Student's t, at a level that the pairs of all gaps share (Bonferroni; Dunn 1961).
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.stats import t

from pneumo_hf.evaluation.metrics import calibration_error
from pneumo_hf.inference.settings import is_positive

SMALLEST = 20  # patients that a group needs, of pneumonia for sensitivity, normal ones for specificity
ERROR, POWER = 0.05, 0.8
CALIBRATION = "calibration_in_the_large"
NO_INTERVAL = {"ci95": [None, None], "detectable": None}


def group_gaps(
    labels: np.ndarray, probs: np.ndarray, threshold: float, patient_ids: np.ndarray, groups: Mapping[str, np.ndarray]
) -> dict[str, dict[str, dict]]:
    """Measure `{column: {metric: gap}}` for sensitivity, specificity, calibration in the large and ECE (see `gap_of`).

    Calibration in the large is the mean score less the share of pneumonia, 0 of scores that mean what they say. The
    expected calibration error has no interval: it is above 0 of any sample, and more so of a small one, and intervals
    that allow for it missed too often.

    Args:
        labels: `[N]`, 1 for pneumonia; probs: `[N]`; threshold: of the decision; patient_ids: `[N]`.
        groups: `{column: [N]}`, the group of each film by name, "" where it is not known.

    A group needs 20 patients (`effective_patients`) with pneumonia for its sensitivity, 20 normal ones for its
    specificity and both for its calibration. A metric with fewer than two such groups has no gap, a column without any
    is left out.
    """
    right = (is_positive(probs, threshold) == (labels == 1)).astype(float)
    plans = []
    for column, values in groups.items():
        names = np.array(sorted(set(values) - {""}), dtype=str)
        inside = values.astype(str)[:, None] == names  # [N, G]
        cases, normals = (inside & (labels == label)[:, None] for label in (1, 0))
        cases_enough, normals_enough = (
            effective_patients(films, patient_ids) >= SMALLEST for films in (cases, normals)
        )
        for metric, of_films, films, kept, ends in (
            ("sensitivity", right, cases, cases_enough, (0.0, 1.0)),
            ("specificity", right, normals, normals_enough, (0.0, 1.0)),
            (CALIBRATION, probs - labels, inside, cases_enough & normals_enough, (-0.5, 0.5)),  # a score of one half
        ):
            if kept.sum() > 1:
                plans.append((column, metric, names[kept], (of_films, films[:, kept], patient_ids, ends)))
    pairs = sum(len(names) * (len(names) - 1) // 2 for _, _, names, _ in plans)
    found: dict[str, dict[str, dict]] = {}
    for column, metric, names, films in plans:
        measured = {metric: gap_of(*films, error=ERROR / pairs)}
        if metric == CALIBRATION:
            measured["ece"] = widest(calibration_error(labels, probs, films[1].T)) | NO_INTERVAL
        for name, gap in measured.items():
            named = {which: str(names[gap[which]]) for which in ("largest", "least")}
            found.setdefault(column, {})[name] = gap | named | {"groups": len(names)}
    return found


def gap_of(
    values: np.ndarray, films: np.ndarray, patient_ids: np.ndarray, ends: tuple[float, float], error: float = ERROR
) -> dict:
    """Measure the largest difference between the means of groups, with an interval and what could have been shown.

    If the intervals of all pairs hold, the largest difference lies between the highest of their lower limits and the
    highest of their upper ones: so the choice of the largest costs no coverage.

    Args:
        values: `[N]`, what a film counts. films: `[N, G]` of 0 and 1, those of each group. patient_ids: `[N]`.
        ends: what the films of the two added patients count.
        error: how often the interval of a pair may miss; by default that of two groups and one gap.

    Returns:
        `{"value", "ci95", "detectable", "largest", "least"}`: the plain difference, its interval, the gap between any
        two groups that an interval above 0 would have shown in 80 % of such samples, and the indices of the groups.
    """
    plain = values @ films / films.sum(axis=0)
    means, covariance, freedom = cluster_robust_means(values, films, patient_ids, ends)
    one, other = np.array(list(combinations(range(len(means)), 2))).T
    spread = np.sqrt(covariance[one, one] + covariance[other, other] - 2 * covariance[one, other])
    fewer = np.minimum(freedom[one], freedom[other])
    difference, margin = np.abs(means[one] - means[other]), t.ppf(1 - error / 2, fewer) * spread
    return {
        **widest(plain),
        "ci95": [float(max(0.0, (difference - margin).max())), float((difference + margin).max())],
        "detectable": float((margin + t.ppf(POWER, fewer) * spread).max()),
    }


def widest(figures: np.ndarray) -> dict:
    """Return the largest difference of the figures `[G]` of groups, and between which it lies."""
    return {"value": float(np.ptp(figures)), "largest": int(figures.argmax()), "least": int(figures.argmin())}


def cluster_robust_means(
    values: np.ndarray, films: np.ndarray, patient_ids: np.ndarray, ends: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the means of groups `[G]`, their covariance `[G, G]` and degrees of freedom `[G]`.

    The arguments are those of `gap_of`. The two added patients of a group have as many films as the patient of its
    average film.
    """
    of_patients, sums = by_patient(films, patient_ids), by_patient(films * values[:, None], patient_ids)  # [P, G]
    patients = effective_patients(films, patient_ids)
    added = np.diag(films.sum(axis=0) / patients)
    of_patients = np.concatenate([of_patients, added, added])
    sums = np.concatenate([sums, *(end * added for end in ends)])
    total = of_patients.sum(axis=0)
    means = sums.sum(axis=0) / total
    residuals = (sums - means * of_patients) / total / np.sqrt(1 - of_patients / total)
    return means, residuals.T @ residuals, patients - 1


def effective_patients(films: np.ndarray, patient_ids: np.ndarray) -> np.ndarray:
    """Count the patients of the films `[N, G]` of 0 and 1: `[G]`, as if they had equally many films (Kish 1965).

    Where one has most of the films, the others add little.

    >>> effective_patients(np.ones((6, 1)), np.array([1, 1, 1, 1, 2, 3])).tolist()
    [2.0]
    """
    of_patients = by_patient(films, patient_ids)
    return of_patients.sum(axis=0) ** 2 / np.maximum((of_patients**2).sum(axis=0), 1)


def by_patient(values: np.ndarray, patient_ids: np.ndarray) -> np.ndarray:
    """Add up the films `[N, G]` of each patient: `[P, G]`."""
    patients, inverse = np.unique(patient_ids, return_inverse=True)
    sums = np.zeros((len(patients), values.shape[1]))
    np.add.at(sums, inverse, values)
    return sums

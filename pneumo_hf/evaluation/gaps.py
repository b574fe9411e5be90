"""Gaps between groups: the largest difference of a figure, with an interval that the choice of the largest allows for.

The largest of several differences is too large on average, and the percentiles of its bootstrap do not cover: equal
groups would always seem to differ. Here the bootstrap gives the errors of the groups' figures, and the interval has
those gaps that could have given the observed one (test inversion). What the groups look like for a smaller gap is
taken from the films: their figures drawn together, those within two standard errors of an end put on that end.
"""

from collections.abc import Callable, Mapping
from itertools import permutations

import numpy as np
from scipy.special import expit, ndtr
from scipy.stats import norm

from pneumo_hf.data.predictions import log_odds
from pneumo_hf.evaluation.metrics import CALIBRATION_BINS, EPSILON, RESAMPLES, bin_numbers, bootstrap_weights
from pneumo_hf.inference.settings import is_positive

SMALLEST = 20  # patients that a group needs, of pneumonia for sensitivity, normal ones for specificity
ERROR, POWER = 0.05, 0.8
GRID = 41  # gaps that are tried, from 0 to the observed one
ALIKE = 2.0  # standard errors
WEAK, NEWTON_STEPS = 100.0, 15  # of the recalibration: a weak prior, for scores that separate the labels
WIDER = 1.15  # the errors of calibration errors, which resampling gives somewhat too small (by simulation)


def group_gaps(
    labels: np.ndarray,
    probs: np.ndarray,
    threshold: float,
    patient_ids: np.ndarray,
    groups: Mapping[str, np.ndarray],
    seed: int = 0,
) -> dict[str, dict[str, dict]]:
    """Measure `{column: {metric: gap}}` for sensitivity, specificity and expected calibration error (see `gap_of`).

    Args:
        labels: `[N]`, 1 for pneumonia; probs: `[N]`; threshold: of the decision; patient_ids: `[N]`.
        groups: `{column: [N]}`, the group of each film by name, "" where it is not known.

    A group of fewer than 20 patients (`effective_patients`) whose films count for a metric is left out of it; a metric
    with fewer than two groups has no gap, a column without any is left out.
    """
    plans = []
    for column, values in groups.items():
        names = np.array(sorted(set(values) - {""}), dtype=str)
        one_hot = values.astype(str)[:, None] == names  # [N, G]
        for metric, counted in films_that_count(labels, one_hot).items():
            kept, films = effective_patients(counted, patient_ids) >= SMALLEST, counted.sum(axis=0)
            if kept.sum() > 1:
                measure = measure_of(metric, labels, probs, threshold, one_hot[:, kept])
                plans.append((column, metric, names[kept], films[kept], measure, []))
    for weights in bootstrap_weights(patient_ids, RESAMPLES, seed) if plans else ():
        for *_, measure, resampled in plans:
            resampled.append(measure(weights))
    found: dict[str, dict[str, dict]] = {}
    for column, metric, names, films, measure, resampled in plans:
        once = measure(np.ones((1, len(labels))))[:, 0]
        gap = gap_between(once, np.concatenate(resampled, axis=1), films)
        ends = {end: str(names[gap.pop(end)]) for end in ("largest", "least")}
        found.setdefault(column, {})[metric] = gap | ends | {"groups": len(names)}
    return found


def measure_of(
    metric: str, labels: np.ndarray, probs: np.ndarray, threshold: float, one_hot: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes of weights `[B, N]` the figures of groups `[N, G]`: `[1, B, G]`, of a calibration error three.

    These are the error, the error less what chance adds, and that of the recalibration (see `CalibrationError`).
    """
    if metric == "ece":
        parts = [(chosen, CalibrationError(labels[chosen], probs[chosen])) for chosen in one_hot.T > 0]
        return lambda weights: np.stack([np.stack(error(weights[:, chosen])) for chosen, error in parts], axis=2)
    right = is_positive(probs, threshold) == (labels == 1)
    counted = one_hot * (labels == (metric == "sensitivity"))[:, None]
    return lambda weights: shares(right, counted, weights)[None]


def gap_between(once: np.ndarray, resampled: np.ndarray, films: np.ndarray) -> dict:
    """Measure the gap (`gap_of`) from what `measure_of` gives once, `[K, G]`, and resampled, `[K, B, G]`."""
    if len(once) == 1:
        return gap_of(once[0], resampled[0], films)
    raised = np.nanmean(resampled[2], axis=0) - once[2]  # what resampling adds to that of the recalibration
    return gap_of(once[0], resampled[1], corrected=once[1] - raised, wider=WIDER)


def films_that_count(labels: np.ndarray, one_hot: np.ndarray) -> dict[str, np.ndarray]:
    """Return which films of the groups `[N, G]` count for each metric, `[N, G]` of 0 and 1."""
    cases = one_hot * (labels == 1)[:, None]
    return {"sensitivity": cases, "specificity": one_hot * (labels == 0)[:, None], "ece": one_hot * 1}


def effective_patients(counted: np.ndarray, patient_ids: np.ndarray) -> np.ndarray:
    """Count the patients of the films `[N, G]` of 0 and 1: `[G]`, as if they had equally many films (Kish 1965).

    Where one has most of the films, the others add little.

    >>> effective_patients(np.ones((6, 1)), np.array([1, 1, 1, 1, 2, 3])).tolist()
    [2.0]
    """
    patients, inverse = np.unique(patient_ids, return_inverse=True)
    films = np.zeros((len(patients), counted.shape[1]))
    np.add.at(films, inverse, counted)
    return films.sum(axis=0) ** 2 / np.maximum((films**2).sum(axis=0), 1)


def shares(right: np.ndarray, one_hot: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute what share `[B, G]` of the films of each group `[N, G]` is `right` `[N]`, under weights `[B, N]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ (one_hot * right[:, None])) / (weights @ one_hot)


class CalibrationError:
    """The expected calibration error of some films, and what is left of it without what chance adds.

    Even of scores that mean what they say the error is above 0 in any sample, and more so in a small one, so that two
    groups of different sizes seem to differ. Logistic recalibration of the films says what share of pneumonia each
    bin should have; chance adds the mean of a folded normal around the difference, less the difference.

    Args:
        labels: `[N]`, 1 for pneumonia; probs: `[N]`.
    """

    def __init__(self, labels: np.ndarray, probs: np.ndarray):
        odds = log_odds(probs, EPSILON)
        terms, as_it_is = np.stack([np.ones(len(odds)), odds], axis=1), np.array([0.0, 1.0])
        line = as_it_is.copy()  # intercept and slope of the log odds
        for _ in range(NEWTON_STEPS):
            expected = expit(terms @ line)
            variance = np.maximum(expected * (1 - expected), EPSILON)
            information = (terms * variance[:, None]).T @ terms + np.eye(2) / WEAK
            score = terms.T @ (labels - expected) - (line - as_it_is) / WEAK
            line += np.linalg.solve(information, score).clip(-1, 1)
        self.influence = terms * (labels - expected)[:, None] @ np.linalg.inv(information)  # [N, 2], of each film
        in_bin = np.eye(CALIBRATION_BINS)[bin_numbers(probs)]  # [N, bins]
        parts = (probs - labels, probs - expected, variance, variance * odds)
        self.parts = [part[:, None] * in_bin for part in parts]

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute under weights `[B, N]` the error, the error less what chance adds, and that of the recalibration.

        The recalibration of a resample is one Newton step from that of the films as they are. NaN without films.
        """
        observed, expected, variance, by_slope = (weights @ part for part in self.parts)  # [B, bins]
        shift, slope = ((weights - 1) @ self.influence).T[:, :, None]
        expected = np.abs(expected - shift * variance - slope * by_slope)
        spread = np.sqrt(np.maximum(variance, EPSILON))
        ratio = expected / spread  # a folded normal's mean, less what it is folded around:
        by_chance = spread * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) - 2 * expected * ndtr(-ratio)
        with np.errstate(divide="ignore", invalid="ignore"):
            error, chance, fitted = (
                part.sum(axis=1) / weights.sum(axis=1) for part in (np.abs(observed), by_chance, expected)
            )
        return error, error - chance, fitted


def gap_of(
    values: np.ndarray,
    resampled: np.ndarray,
    films: np.ndarray | None = None,
    corrected: np.ndarray | None = None,
    wider: float = 1.0,
) -> dict:
    """Measure the largest difference of a figure between groups, with a 95 % interval and what could have been shown.

    Args:
        values: `[G]`, of the films as they are.
        resampled: `[B, G]`, of bootstrap resamples of patients.
        films: `[G]`, of which a figure is a share: its error is then at least that of independent films with one
            more of either kind (Agresti and Caffo 2000), so that a group without a mistake has an error, too.
        corrected: `[G]`, the figures without what chance adds to them, for the interval.
        wider: times the bootstrap's errors.

    Returns:
        `{"value", "ci95", "detectable", "largest", "least"}`: the plain difference, its interval, the gap between any
        two groups that an interval above 0 would have shown in 80 % of such samples, and the indices of the groups.
    """
    defined = resampled[np.isfinite(resampled).all(axis=1)]
    means, spread = defined.mean(axis=0), defined.std(axis=0)
    errors = wider * spread
    if films is not None:
        share = (values * films + 1) / (films + 2)
        errors = np.maximum(spread, np.sqrt(share * (1 - share) / (films + 2)))
    noise = (defined - means) / np.where(spread > 0, spread, 1)
    if (spread == 0).any():
        noise[:, spread == 0] = np.random.default_rng(0).standard_normal((len(noise), int((spread == 0).sum())))
    noise = noise * errors
    pairs = np.array(list(permutations(range(len(values)), 2)))
    of_pairs = np.hypot(*errors[pairs.T])
    low, high = _interval(values if corrected is None else corrected, errors, noise, pairs, of_pairs)
    by_chance = np.quantile(np.ptp(noise, axis=1), 1 - ERROR)  # the largest difference of equal groups
    return {
        "value": float(np.ptp(values)),
        "ci95": [low, high],
        "detectable": float(by_chance + norm.ppf(POWER) * of_pairs.max()),
        "largest": int(values.argmax()),
        "least": int(values.argmin()),
    }


def _interval(
    values: np.ndarray, errors: np.ndarray, noise: np.ndarray, pairs: np.ndarray, of_pairs: np.ndarray
) -> tuple[float, float]:
    """The gaps that could have given the observed one: 95 % for one gap, whether groups are equal or far apart."""
    observed, margin = float(np.ptp(values)), norm.ppf(1 - ERROR / 2) * of_pairs

    def upper(figures: np.ndarray) -> np.ndarray:
        """The largest of all pairs' upper limits: for any one pair it is missed in 2.5 %, where groups tie in none."""
        return np.max(
            [figures[..., i] - figures[..., j] + more for (i, j), more in zip(pairs, margin, strict=True)], axis=0
        )

    tried = np.linspace(0, observed, GRID)
    shape = _drawn_to_the_ends(values, errors) / max(observed, 1e-12)
    sampled = tried[:, None, None] * shape + noise  # [GRID, B, G]
    missed_above = np.mean(upper(sampled) < tried[:, None], axis=1)
    as_large = np.mean(np.ptp(sampled, axis=2) >= observed, axis=1)
    possible = as_large >= ERROR - missed_above  # what the upper limit does not use of the 5 %, the lower may
    low = tried[np.argmax(possible)] if possible.any() else observed
    return float(low), float(upper(values))


def _drawn_to_the_ends(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Put the groups that do not differ from the largest or the least figure for certain on it, the nearer one."""
    top, bottom = values.argmax(), values.argmin()
    below = (values[top] - values) / np.hypot(errors, errors[top]).clip(1e-12)
    above = (values - values[bottom]) / np.hypot(errors, errors[bottom]).clip(1e-12)
    drawn = np.where(np.minimum(below, above) >= ALIKE, values, values[bottom])
    return np.where((below <= above) & (below < ALIKE), values[top], drawn)

"""How many films it takes: to know a sensitivity, and to be sure of that of a threshold chosen on these films."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from scipy.stats import beta, norm

SIZES = (50, 100, 200, 300, 500, 1000)  # films
MARGIN = 0.05  # of an interval, to either side
MOST_FILMS = 20_000  # that are thought of


def coverage_interval(passed: float, films: float, design_effect: float = 1.0) -> list[float]:
    """Compute the 95 % interval of the true share of films beyond a threshold that was chosen on these very films.

    Of n scores, whatever their distribution, the true share above the k-th largest is Beta(k, n + 1 - k) distributed
    (Wilks 1941). A threshold that stands between the k-th and the next is between that and Beta(k + 1, n - k): here
    Beta(k + 1/2, n + 1/2 - k). With the films of one patient alike, k and n are divided by the design effect (Korn and
    Graubard 1998).

    Args:
        passed: k, the films of a label on the right side of the threshold. films: n, all of that label.
        design_effect: of `design_effect`.
    """
    low, high = _limits(np.array([passed / design_effect]), np.array([films / design_effect]))
    return [float(low[0]), float(high[0])]


def design_effect(passed: np.ndarray, patient_ids: np.ndarray) -> float:
    """Compute how many times a share's variance grows since patients, and not films, were drawn; at least 1.

    By the ratio estimator over patients (Kish 1965). 1 where all films pass or none does.

    Args:
        passed: `[N]` bool; patient_ids: `[N]`.
    """
    patients, inverse = np.unique(patient_ids, return_inverse=True)
    share, films, count = passed.mean(), len(passed), len(patients)
    if share in (0, 1) or count < 2:
        return 1.0
    residuals = np.bincount(inverse, passed - share)
    variance = count / (count - 1) * np.sum(residuals**2) / films**2
    return float(max(1.0, variance / (share * (1 - share) / films)))


def films_needed(
    prevalence: float, sensitivity: float, specificity: float, effects: Sequence[float] = (1.0, 1.0)
) -> dict:
    """Expect the width of the intervals of sensitivity and specificity for 50 to 1,000 films.

    Args:
        prevalence: the share of films with pneumonia.
        sensitivity, specificity: that are expected.
        effects: design effects of the films with pneumonia, and of the normal ones.

    Returns:
        `{"sizes": [{"films", "sensitivity", "specificity"}], "margin", "for_margin": {...}}`: the widths, and how many
        films it takes for an interval that reaches at most .05 to the wider side; None above 20,000.
    """
    shares = {"sensitivity": (prevalence, sensitivity, effects[0])}
    shares["specificity"] = (1 - prevalence, specificity, effects[1])
    sizes: list[dict] = [{"films": size} for size in SIZES]
    tried = np.arange(20, MOST_FILMS + 1)
    enough: dict[str, int | None] = {}
    for name, (part, value, effect) in shares.items():
        low, high = _limits(value * part * np.array(SIZES) / effect, part * np.array(SIZES) / effect)
        for row, width in zip(sizes, high - low, strict=True):
            row[name] = float(width)
        low, high = _limits(value * part * tried / effect, part * tried / effect)
        reached = np.flatnonzero(np.maximum(high - value, value - low) <= MARGIN)
        enough[name] = int(tried[reached[0]]) if len(reached) else None
    both = [enough["sensitivity"], enough["specificity"]]
    enough["both"] = None if None in both else max(filter(None, both))
    return {"sizes": sizes, "margin": MARGIN, "for_margin": enough}


def films_of_label_needed(share: float, half_width: float = MARGIN) -> int:
    """Compute how many films of a label a 95 % interval of plus or minus `half_width` needs around a share.

    Of independent films, one a patient (Buderer 1996). Divided by the share of that label, it is the size of a study.

    >>> films_of_label_needed(0.9)
    139
    """
    return ceil(norm.ppf(0.975) ** 2 * share * (1 - share) / half_width**2)


def sample_sizes(metrics: Mapping) -> dict[str, dict[str, float]]:
    """Set what a report knows beside what it would need, for sensitivity and specificity.

    Returns:
        `{metric: {"films", "half_width", "needed", "needed_in_all"}}`: films of the label, half the measured 95 %
        interval, the films of the label that plus or minus .05 needs at the measured figure, and all films, at the
        share that the label has here. A metric without films is left out.
    """
    counts, found = metrics["confusion_matrix"], {}
    for name, right, wrong in (("sensitivity", "tp", "fn"), ("specificity", "tn", "fp")):
        films = counts[right] + counts[wrong]
        low, high = metrics["metrics"][name]["ci95"]
        if films and low is not None:
            needed = films_of_label_needed((counts[right] + 1) / (films + 2))  # a figure of 1 would need no film
            in_all = ceil(needed * metrics["n"] / films)
            found[name] = {"films": films, "half_width": (high - low) / 2, "needed": needed, "needed_in_all": in_all}
    return found


def _limits(passed: np.ndarray, films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = beta.ppf([[0.025], [0.975]], passed + 0.5, films - passed + 0.5)
    return np.where(passed > 0, low, 0.0), np.where(passed < films, high, 1.0)

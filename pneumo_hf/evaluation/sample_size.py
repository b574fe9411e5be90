"""How many films it takes: to know a sensitivity, and to be sure of that of a threshold chosen on these films."""

from collections.abc import Mapping, Sequence

import numpy as np

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
    shares = {"sensitivity": (sensitivity, prevalence, effects[0])}
    shares["specificity"] = (specificity, 1 - prevalence, effects[1])
    sizes: list[dict] = [{"films": size} for size in SIZES]
    enough: dict[str, int | None] = {}
    for name, (share, part, effect) in shares.items():
        low, high = _around(share, part * np.array(SIZES) / effect)
        for row, width in zip(sizes, high - low, strict=True):
            row[name] = float(width)
        enough[name] = films_for_margin(share, MARGIN, part, effect)
    both = [enough["sensitivity"], enough["specificity"]]
    enough["both"] = None if None in both else max(filter(None, both))
    return {"sizes": sizes, "margin": MARGIN, "for_margin": enough}


def films_for_margin(share: float, margin: float = MARGIN, part: float = 1.0, effect: float = 1.0) -> int | None:
    """Compute how many films it takes for a 95 % interval that reaches at most `margin` to the wider side of a share.

    The interval is that of `coverage_interval`; None above 20,000 films.

    Args:
        share: that is expected, as of a sensitivity.
        part: the share of films that are of the label; 1 counts films of the label alone.
        effect: of `design_effect`.

    >>> films_for_margin(0.9), films_for_margin(0.9, part=0.25), films_for_margin(0.9, effect=2.0)
    (182, 725, 363)
    """
    low, high = _around(share, part * np.arange(1, MOST_FILMS + 1) / effect)
    reached = np.flatnonzero(np.maximum(high - share, share - low) <= margin)
    return int(reached[0]) + 1 if len(reached) else None


def sample_sizes(metrics: Mapping) -> dict[str, dict[str, float | None]]:
    """Set what a report knows beside what it would need, for sensitivity and specificity.

    Returns:
        `{metric: {"films", "half_width", "needed", "needed_in_all"}}`: films of the label, half the measured 95 %
        interval, the films of the label that plus or minus .05 needs at the measured figure, and all films, at the
        share that the label has here, by `films_for_margin`. A metric without films is left out.
    """
    counts, found = metrics["confusion_matrix"], {}
    for name, right, wrong in (("sensitivity", "tp", "fn"), ("specificity", "tn", "fp")):
        metric, films = metrics["metrics"][name], counts[right] + counts[wrong]
        low, high = metric["ci95"]
        if films and low is not None:
            share, effect = counts[right] / films, metric.get("design_effect", 1.0)
            found[name] = {
                "films": films,
                "half_width": (high - low) / 2,
                "needed": films_for_margin(share, effect=effect),
                "needed_in_all": films_for_margin(share, part=films / metrics["n"], effect=effect),
            }
    return found


def _around(share: float, films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _limits(share * films, films)


def _limits(passed: np.ndarray, films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import beta  # here: the app, which asks for it late, starts without

    low, high = beta.ppf([[0.025], [0.975]], passed + 0.5, films - passed + 0.5)
    return np.where(passed > 0, low, 0.0), np.where(passed < films, high, 1.0)

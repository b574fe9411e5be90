"""How many films tell sensitivity and specificity to a wanted width (Buderer 1996)."""

from collections.abc import Mapping
from math import ceil

from scipy.stats import norm

HALF_WIDTH = 0.05


def films_needed(share: float, half_width: float = HALF_WIDTH) -> int:
    """Compute how many films of a label a 95 % interval of plus or minus `half_width` needs around a share.

    Of independent films, one a patient. Divided by the share of that label among all, it is the size of a study.

    >>> films_needed(0.9)
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
            needed = films_needed((counts[right] + 1) / (films + 2))  # a figure of 1 would need no film
            in_all = ceil(needed * metrics["n"] / films)
            found[name] = {"films": films, "half_width": (high - low) / 2, "needed": needed, "needed_in_all": in_all}
    return found

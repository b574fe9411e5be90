"""Split-conformal limits: on which scores neither label is certain enough."""

from typing import Any

import numpy as np

ERROR_RATE = 0.05


def conformal_limits(labels: np.ndarray, probs: np.ndarray, error_rate: float = ERROR_RATE) -> dict[str, float] | None:
    """Compute split-conformal limits of validation scores, label by label (Vovk 2012).

    Of new films exchangeable with validation's, each label is wrongly left out at most at `error_rate`. PNEUMONIA is
    possible from `pneumonia_from` up, NORMAL up to `normal_up_to`; where both are or none is, there is no answer.
    None where validation has too few films of a label (fewer than 19 for a rate of .05) to leave any out.

    Args:
        labels: `[N]`, 1 for pneumonia; probs: `[N]`, P(PNEUMONIA).
    """
    limits = []
    for scores in (1 - probs[labels == 0], probs[labels == 1]):
        rank = int(error_rate * (len(scores) + 1))
        if not rank:
            return None
        limits.append(float(np.sort(scores)[rank - 1]))
    return {"error_rate": error_rate, "normal_up_to": 1 - limits[0], "pneumonia_from": limits[1]}


def undecided(probs: Any, limits: dict[str, float]) -> np.ndarray:
    """Return `[N]` bool: where both labels are possible, or neither is."""
    return (probs <= limits["normal_up_to"]) == (probs >= limits["pneumonia_from"])

"""What `predict` does to a score before it writes it: isotonic regression, and another prevalence."""

from collections import Counter

import numpy as np

from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.ensembles import validation_scores
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.table import Rescale


def rescaling(scorer: Scorer, calibration: str, prevalence: float | None) -> Rescale:
    """Make the function that maps a score to the one that is written.

    Args:
        calibration: "temperature", which is folded into the weights, or "isotonic", fitted to the validation
            predictions beside the checkpoint. prevalence: share of pneumonia where the films come from.

    Raises:
        InputError: the prevalence is no share, or the checkpoint does not carry what is needed.
    """
    steps, own = [], scorer.settings.prevalence_of_scores
    if calibration == "isotonic":
        from pneumo_hf.evaluation.calibration import fit_isotonic

        labels, probs = validation_scores(scorer)
        steps.append(fit_isotonic(labels, probs))
        own = float(labels.mean())  # the share of pneumonia that the isotonic scores answer to
    if prevalence is not None:
        if not 0 < prevalence < 1:
            raise InputError(f"--prevalence is a share between 0 and 1, not {prevalence}")
        if own is None:
            raise InputError(f"{scorer.name} does not carry the prevalence that its scores are calibrated to")
        from pneumo_hf.evaluation.calibration import at_prevalence

        steps.append(lambda probs: at_prevalence(probs, own, prevalence))

    def rescale(probability: float) -> float:
        for step in steps:
            probability = float(step(np.array([probability]))[0])
        return probability

    return rescale


def summary(scorer: Scorer, flags: Counter, output: str, rescale: Rescale | None) -> list[str]:
    """Say in a few lines what was scored, and between which scores a film is flagged.

    Args:
        flags: films by flag, None for the unreadable.
        rescale: None where the written scores have steps, which may
            hold films of either side of the threshold.

    Raises:
        InputError: no film could be read.
    """
    settings, scored = scorer.settings, flags.total() - flags[None]
    if not scored:
        raise InputError(f"none of the films could be read; the reasons are in {output}")
    lines = [
        f"films scored: {scored}; unreadable: {flags[None]} (see the column error); {output}",
        f"for review: {flags['review']}; abstained: {flags['abstain']}; no chest X-rays: {flags['not_chest_xray']}",
    ]
    if rescale:
        lines.append(f"review is from probability {rescale(settings.threshold):.4g} on ({settings.method})")
        if band := settings.abstention_band():
            above = ", also above the threshold" if settings.threshold < band[1] else ""
            low, high = map(rescale, band)
            lines.append(f"between {low:.4g} and {high:.4g} no label is certain enough: abstained{above}")
    return lines

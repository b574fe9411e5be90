"""What a report says first: the figures that matter, in words, beside those of the films that chose the threshold."""

from collections.abc import Mapping

import numpy as np


def verdict(metrics: Mapping, on_validation: Mapping[str, float] | None, finding: str) -> list[str]:
    """Say in a few sentences what was measured.

    Args:
        metrics: of the split, but for these words.
        on_validation: sensitivity and specificity of the same threshold on the films that it was chosen on, where the
            checkpoint carries them.
        finding: what a film that is not normal shows.
    """
    counts = metrics["confusion_matrix"]
    words = []
    for key, wrong, films, what in (
        ("specificity", counts["fp"], counts["fp"] + counts["tn"], "normal films are flagged"),
        ("sensitivity", counts["fn"], counts["fn"] + counts["tp"], f"films of {finding} are missed"),
    ):
        if films:
            before = None if on_validation is None else on_validation.get(key)
            words.append(_share(wrong, films, what, key, metrics["metrics"][key]["ci95"], before))
    words.append(_worth(metrics["decision_curve"]["useful"], finding))
    words += [
        f"{metric.replace('_', ' ').capitalize()} differs by {gap['value']:.2f} ({gap['ci95'][0]:.2f} to "
        f"{gap['ci95'][1]:.2f}) between groups by {column}: it is higher in {gap['largest']} than in {gap['least']}."
        for column, found in metrics["gaps"].items()
        for metric, gap in found.items()
        if (gap["ci95"][0] or 0) > 0
    ]
    return words + _heat(metrics.get("explanation") or {})


def is_warning(sentence: str) -> bool:
    """Whether a sentence of the verdict says that something is wrong.

    >>> is_warning("At no threshold probability is it shown to be worth more than flagging every film, or none.")
    True
    """
    return "does not keep" in sentence or sentence.startswith("At no ") or " differs by " in sentence


def _share(wrong: int, films: int, what: str, key: str, interval: tuple[float, float], before: float | None) -> str:
    low, high = interval
    text = f"{wrong} of {films} {what}: {key} {1 - wrong / films:.2f}, 95 % {low:.2f} to {high:.2f}"
    if before is None or not np.isfinite(before):
        return f"{text}."
    text += f"; on validation {100 * (1 - before):.0f} %"
    return f"{text}. The threshold does not keep its {key} here." if before > high else f"{text}."


def _worth(useful: tuple[float, float] | None, finding: str) -> str:
    if useful is None:
        return "At no threshold probability is it shown to be worth more than flagging every film, or none."
    low, high = useful
    return (
        "It is worth more than flagging every film, or none, for those who would act from a probability of "
        f"{finding} of {low:.2f} to {high:.2f}."
    )


def _heat(explanation: Mapping) -> list[str]:
    found = explanation.get("mistakes")
    if not found or not found["n"]:
        return []
    chance = 1 - explanation["by_chance"]
    return [
        f"Of the heat over {found['n']} of the surest mistakes {100 * found['outside']:.0f} % lies outside the "
        f"central box where the lungs are ({100 * chance:.0f} % by chance), most of that at the {found['side']}."
    ]

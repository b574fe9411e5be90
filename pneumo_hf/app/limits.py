"""What limits a model, in plain words, from what its checkpoint and its report say: nothing else is known of it."""

from collections.abc import Sequence
from typing import Any

from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.reporting.findings import shortcut_level

PERCENT = 100


def limits(
    predictor: Scorer, metrics: dict[str, Any], external: Sequence[dict], originals: dict | None = None
) -> list[str]:
    """Say in sentences what the model was trained on and what was not measured.

    Args:
        metrics: of its report.
        external: metrics of films of other hospitals, where there are any.
        originals: what the same films give as full-size originals and as small copies, where that was measured.
    """
    finding, settings = predictor.task.finding, predictor.settings
    words = [_trained_on(predictor), *_read_at(predictor)]
    words += _threshold_moves(predictor, metrics)
    if originals:
        full, small = originals["originals"]["sensitivity"], originals["copies"]["sensitivity"]
        words.append(
            f"It was trained on small, compressed copies. Of {full['of']} films with {finding} it calls "
            f"{full['right']} as full-size originals, {small['right']} as copies"
            + (": expect to miss more on originals." if full["right"] < small["right"] else ".")
        )
    floors = {name: floor for name, floor in metrics.get("shortcut_floors", {}).items() if shortcut_level(floor)}
    if floors:
        name, floor = max(floors.items(), key=lambda item: item[1]["value"])
        words.append(
            f"A regression that sees no lung ({name.replace('_', ' ')} alone) already reaches a ROC AUC of "
            f"{floor['value']:.2f}: part of the score may rest on how a film was taken."
        )
    if not external:
        words.append("It was not measured on films of another hospital.")
    for found in external:
        area = found["metrics"]["roc_auc"]
        low, high = area["ci95"]
        words.append(
            f"On {found['n']} films from elsewhere ({found['dataset']}) its ROC AUC is {area['value']:.2f} "
            f"({low:.2f} to {high:.2f}): measure it on your own films before you rely on it."
        )
    words.append(
        f"{PERCENT * metrics['prevalence']:.1f}% of the films of its test show {finding}. Where that is rarer, fewer "
        "of the flagged films do."
    )
    if not settings.is_calibrated:
        words.append("Its probabilities were not calibrated, and its threshold was not chosen on any films.")
    return [*words, f"A high score is no proof of {finding}, a low one no proof of health."]


def _trained_on(predictor: Scorer) -> str:
    data = predictor.settings.training_data
    if predictor.settings.trained_on_kermany:
        films = data.get("films", {}).get("train")
        of = f"{films:,} films" if isinstance(films, int) else "films"
        return f"It was trained on {of} of children of 1 to 5 years, of one hospital: adults and others were not seen."
    if name := data.get("dataset"):
        return f"It was trained on {name}; the checkpoint does not say who the patients were."
    return "The checkpoint does not say what it was trained on."


def _read_at(predictor: Scorer) -> list[str]:
    size = predictor.settings.preprocessing.get("size")
    if not isinstance(size, list) or len(size) != 2:
        return []
    return [f"It sees each film at {size[0]} x {size[1]} pixels, whatever the film has: fine detail is lost."]


def _threshold_moves(predictor: Scorer, metrics: dict[str, Any]) -> list[str]:
    """More false alarms, or more missed films, on the test than on the films that the threshold was chosen on."""
    point = next(
        (one for one in predictor.settings.operating_points if one["threshold"] == predictor.settings.threshold), None
    )
    words = []
    for name, what in (("specificity", "false alarms"), ("sensitivity", "missed films")):
        found = metrics["metrics"][name]
        if point and found["ci95"][1] is not None and point[name] > found["ci95"][1]:
            before, now = (PERCENT * (1 - value) for value in (point[name], found["value"]))
            words.append(
                f"There are more {what} on its test than on the films that its threshold was chosen on: "
                f"{now:.0f} in 100, not {before:.1f}. Elsewhere there may be more again."
            )
    return words

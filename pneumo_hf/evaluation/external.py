"""Another hospital's films: what is lost against the checkpoint's own test, in figures and words."""

import json
from pathlib import Path

import numpy as np
from transformers.utils import cached_file

from pneumo_hf.data.digests import are_kermany, known_again, read_held_out
from pneumo_hf.data.duplicates import film_digests
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.predictions import read_predictions
from pneumo_hf.evaluation.operating_points import choose_thresholds, operating_points

COMPARED = ("roc_auc", "sensitivity", "specificity", "ece")


def home_metrics(checkpoint: str | Path, films: FilmDataset) -> dict | None:
    """Read the `metrics.json` of the test that a checkpoint was reported on, if these films are others.

    None where none lies beside it, where a film of its report is among these (by content; by name where the checkpoint
    does not say), and where both are of the Kermany set.
    """
    try:
        path = cached_file(str(checkpoint), "report/metrics.json", _raise_exceptions_for_missing_entries=False)
        config = cached_file(str(checkpoint), "config.json")
    except OSError:
        return None
    if path is None:
        return None
    training = json.loads(Path(config).read_text()).get("training_data", {})
    digests, held_out = film_digests(films.thumbnails), read_held_out(checkpoint)
    if training.get("kermany") and are_kermany(digests).all():
        return None
    if held_out is not None:
        return None if known_again(digests, held_out).any() else json.loads(Path(path).read_text())
    names = set(films.table["file_name"])
    if any(names & set(read_predictions(checkpoint, split) or ()) for split in ("test", "validation")):
        return None
    return json.loads(Path(path).read_text())


def against_home(labels: np.ndarray, probs: np.ndarray, metrics: dict, home: dict, kermany: bool) -> dict:
    """Compare what these films show beside the checkpoint's own test, and the threshold that they would have needed.

    The thresholds are chosen on the very films, to say how far the carried one is off: they are no result.

    Args:
        labels, probs: `[N]`. metrics, home: of these films, and of the checkpoint's own test.
        kermany: whether it was trained on the children of the Kermany set.
    """
    carried, theirs = metrics["decision_threshold"], home["decision_threshold"]
    at_home = {name: home["metrics"][name]["value"] for name in COMPARED}
    if carried["value"] != theirs["value"]:  # another operating point: what its own test says of that one
        point = next((p for p in home["operating_points"] if p["name"] == carried["method"]), {})
        at_home |= {name: point.get(name) for name in ("sensitivity", "specificity")}
    rows = {
        name: {
            "home": at_home[name],
            "here": metrics["metrics"][name]["value"],
            "ci95": metrics["metrics"][name]["ci95"],
            "change": metrics["metrics"][name]["value"] - at_home[name],
        }
        for name in COMPARED
        if at_home[name] is not None
    }
    needed = operating_points(labels, probs, choose_thresholds(labels, probs))
    return {
        "home": {"dataset": home["dataset"], "n": home["n"]},
        "metrics": rows,
        "thresholds_needed": needed,
        "words": _words(metrics, rows, needed, kermany),
    }


def _words(metrics: dict, rows: dict, needed: list[dict], kermany: bool) -> list[str]:
    area, threshold = rows["roc_auc"], metrics["decision_threshold"]["value"]
    direction = "falls" if area["change"] < 0 else "rises"
    low, high = area["ci95"]
    within = "within" if low <= area["home"] <= high else "outside"
    note = f"; the home figure is {within} the 95 % interval of these films ({low:.3f} to {high:.3f})"
    note = note if low < high else ", where they are too few for an interval"
    words = [
        f"ROC AUC {direction} from {area['home']:.3f} on the checkpoint's own test to {area['here']:.3f} here{note}."
    ]
    if {"sensitivity", "specificity"} <= set(rows):
        words.append(
            f"At the carried threshold of {threshold:.3f} sensitivity goes from {rows['sensitivity']['home']:.3f} to "
            f"{rows['sensitivity']['here']:.3f} and specificity from {rows['specificity']['home']:.3f} to "
            f"{rows['specificity']['here']:.3f}."
        )
    wanted = next(point for point in needed if point["name"] == "sensitivity@0.95")
    words.append(
        f"For a sensitivity of .95 these films would have needed a threshold of {wanted['threshold']:.3f}, at a "
        f"specificity of {wanted['specificity']:.3f}."
    )
    slope = metrics["calibration"]["slope"]
    if np.isfinite(slope):
        error = rows["ece"]
        words.append(
            f"Calibration: the expected error goes from {error['home']:.3f} to {error['here']:.3f}, the slope is "
            f"{slope:.2f} ({'scores too extreme' if slope < 1 else 'scores not extreme enough'}; 1 is ideal)."
        )
    if kermany:
        words.append("The checkpoint was trained on films of children of 1 to 5 years, and on none of adults.")
    return words

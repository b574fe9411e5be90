"""Another hospital's films: what is lost against the checkpoint's own test, in figures and words."""

import json
from pathlib import Path

import numpy as np
from transformers.utils import cached_file

from pneumo_hf.evaluation.thresholds import choose_thresholds, operating_points

COMPARED = ("roc_auc", "accuracy", "sensitivity", "specificity", "ece")


def home_metrics(checkpoint: str | Path) -> dict | None:
    """The `metrics.json` of the test that a checkpoint was reported on; None where none lies beside it."""
    try:
        path = cached_file(str(checkpoint), "report/metrics.json", _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None
    return json.loads(Path(path).read_text()) if path else None


def against_home(labels: np.ndarray, probs: np.ndarray, metrics: dict, home: dict, kermany: bool) -> dict:
    """What these films show beside the checkpoint's own test, and the threshold that they would have needed.

    The thresholds are chosen on the very films, to say how far the carried one is off: they are no result.

    Args:
        labels, probs: `[N]`. metrics, home: of these films, and of the checkpoint's own test.
        kermany: whether it learnt the children of the Kermany set.
    """
    rows = {
        name: {
            "home": home["metrics"][name]["value"],
            "here": metrics["metrics"][name]["value"],
            "ci95": metrics["metrics"][name]["ci95"],
            "change": metrics["metrics"][name]["value"] - home["metrics"][name]["value"],
        }
        for name in COMPARED
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
    fell = "falls" if area["change"] < 0 else "rises"
    within = "within" if area["ci95"][0] <= area["home"] <= area["ci95"][1] else "outside"
    words = [
        f"ROC AUC {fell} from {area['home']:.3f} on the checkpoint's own test to {area['here']:.3f} here; the home "
        f"figure is {within} the 95 % interval of these films ({area['ci95'][0]:.3f} to {area['ci95'][1]:.3f}).",
        f"At the carried threshold of {threshold:.3f} sensitivity goes from {rows['sensitivity']['home']:.3f} to "
        f"{rows['sensitivity']['here']:.3f} and specificity from {rows['specificity']['home']:.3f} to "
        f"{rows['specificity']['here']:.3f}.",
    ]
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
            f"{slope:.2f} ({'scores too extreme' if slope < 1 else 'scores too timid'}; 1 is ideal)."
        )
    if kermany:
        words.append("The checkpoint learnt films of children of 1 to 5 years: adults are beyond what it has seen.")
    return words

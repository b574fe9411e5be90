"""Runs side by side: their figures with intervals, and whether two differ by more than the films allow to say."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, norm

from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.decision_curve import THRESHOLDS, net_benefit
from pneumo_hf.evaluation.metrics import delong_areas
from pneumo_hf.inference.settings import is_positive
from pneumo_hf.labels import NEGATIVE

SHOWN = ("roc_auc", "accuracy", "sensitivity", "specificity", "ece")


@dataclass
class Run:
    """A run's `metrics.json`, and its test films in the order of their paths."""

    name: str
    metrics: dict
    paths: list[str]
    labels: np.ndarray  # [N], 1 for pneumonia
    probs: np.ndarray  # [N]

    @property
    def correct(self) -> np.ndarray:
        return is_positive(self.probs, self.metrics["decision_threshold"]["value"]) == self.labels


def read_run(folder: str | Path) -> Run:
    """Read a run folder of train_hf.py, or a report folder of `evaluate`.

    Raises:
        InputError: there is no whole report.
    """
    folder = Path(folder)
    report = folder / "report" if (folder / "report").is_dir() else folder
    try:
        metrics = json.loads((report / "metrics.json").read_text())
        with (report / f"predictions_{metrics['split']}.csv").open(newline="") as file:
            rows = sorted((row for row in csv.DictReader(file) if row["probability"]), key=lambda row: row["path"])
        labels = np.array([row["label"] != NEGATIVE for row in rows]).astype(int)
        probs = np.array([float(row["probability"]) for row in rows])
        return Run(folder.resolve().name, metrics, [row["path"] for row in rows], labels, probs)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"no finished run in {folder}: metrics.json and predictions are looked for there") from error


def compare(folders: Sequence[str | Path]) -> dict:
    """Set several runs on the same films side by side: what `compare.json` holds (see `compare_runs`)."""
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if names.count(run.name) > 1:
            run.name = "/".join(Path(folder).resolve().parts[-2:])
    return compare_runs(runs)


def compare_runs(runs: Sequence[Run]) -> dict:
    """Set runs on the same films side by side.

    Each run is set against the one of the largest ROC AUC: DeLong's test for the areas, McNemar's exact test for the
    decisions. Both take films as independent, which the few further films of one child are not quite. With several
    runs, a p below .05 / (number of runs - 1) is what counts (Bonferroni).

    Raises:
        InputError: fewer than two runs, or not of the same films.
    """
    if len(runs) < 2:
        raise InputError("compare needs two runs or more")
    if len({run.name for run in runs}) < len(runs):
        raise InputError("two runs have one name: " + ", ".join(run.name for run in runs))
    for run in runs[1:]:
        if run.paths != runs[0].paths or not np.array_equal(run.labels, runs[0].labels):
            raise InputError(f"{run.name} and {runs[0].name} are not of the same films: evaluate both on one split")
    best = max(runs, key=lambda run: run.metrics["metrics"]["roc_auc"]["value"])
    return {
        "dataset": runs[0].metrics["dataset"],
        "split": runs[0].metrics["split"],
        "n": len(runs[0].paths),
        "reference": best.name,
        "runs": {run.name: _row(run, best) for run in runs},
        "decision_curves": decision_curves(runs),
        "shortcut_floors": next((r.metrics["shortcut_floors"] for r in runs if r.metrics["shortcut_floors"]), {}),
    }


def decision_curves(runs: Sequence[Run]) -> dict:
    """Compute the net benefit of every run at the same thresholds, beside treating all: `{name: [99]}` in `runs`."""
    once, everyone = np.ones((1, len(runs[0].labels))), np.ones(len(runs[0].labels))
    return {
        "thresholds": THRESHOLDS.tolist(),
        "treat_all": net_benefit(runs[0].labels, everyone, once)[0].tolist(),
        "runs": {run.name: net_benefit(run.labels, run.probs, once)[0].tolist() for run in runs},
    }


def delong(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Compare two ROC areas of the same films by DeLong's test (DeLong, DeLong and Clarke-Pearson 1988).

    Args:
        labels: `[N]`, 1 for pneumonia. first, second: `[N]`, scores.
    """
    areas, covariance = delong_areas(labels, first, second)
    difference = areas[0] - areas[1]
    error = np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0))
    p = 2 * norm.sf(abs(difference) / error) if error > 0 else float(difference == 0)
    names = ("first", "second", "difference", "standard_error", "p")
    return dict(zip(names, map(float, (*areas, difference, error, p)), strict=True))


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Compare the errors on the same films by McNemar's exact test, two-sided (McNemar 1947).

    Args:
        first, second: `[N]`, whether the film was called right.
    """
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(~first & second))
    discordant = only_first + only_second
    p = binomtest(only_first, discordant).pvalue if discordant else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p": p}


def _row(run: Run, best: Run) -> dict:
    row = {
        "metrics": {name: run.metrics["metrics"][name] for name in SHOWN},
        "decision_threshold": run.metrics["decision_threshold"],
        "training": run.metrics.get("training"),
    }
    if run is not best:
        row["delong"] = delong(run.labels, run.probs, best.probs)
        row["mcnemar"] = mcnemar(run.correct, best.correct)
    return row

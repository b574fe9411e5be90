"""Scores of a labelled split become `metrics.json`, the predictions, the figures and one page that shows them."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pneumo_hf import DISCLAIMER
from pneumo_hf.config import write_csv
from pneumo_hf.data.page import write_page
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.shortcuts import Floors
from pneumo_hf.evaluation.metrics import confusion, metrics_with_intervals
from pneumo_hf.evaluation.plots import save_figures
from pneumo_hf.evaluation.thresholds import operating_points
from pneumo_hf.inference.predictor import PREDICTION_COLUMNS, Predictor, prediction_rows, probability_of

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "scikit-learn", "numpy", "pillow")
SMALLEST_SUBGROUP = 20  # films; of fewer, no figure is given

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC (average precision)",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "precision": "Precision (PPV)",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "log_loss": "Log loss",
}
FIGURES = {
    "roc.png": "Sensitivity against 1 - specificity; the dots are the operating points.",
    "confusion_matrix.png": "Films by label and by decision.",
    "reliability.png": "On the dotted line a probability means what it says; large dots are many films.",
    "pr.png": "Precision against sensitivity.",
    "training_curves.png": "How the training went.",
}


def evaluate_films(
    predictor: Predictor,
    views: Sequence[FilmDataset],
    model: str,
    dataset: str,
    split: str,
    floors: Floors | None = None,
) -> tuple[dict, list[dict]]:
    """Score labelled films once: the contract's metrics dictionary and the rows of the predictions CSV.

    Args:
        predictor: whose decision threshold and operating points, chosen on validation, are applied.
        views: the films as each of the predictor's members decodes them; of one checkpoint, one.
        floors: ROC AUC of models that see no lung, to stand beside the result.
    """
    films = views[0]
    logits, distances = predictor.look_at_films(*views)
    labels, probs = films.labels, probability_of(logits)
    thresholds = {point["name"]: point["threshold"] for point in predictor.operating_points}
    metrics = {
        "model": model,
        "dataset": dataset,
        "split": split,
        "n": len(films),
        "n_patients": len(set(films.patient_ids)),
        "prevalence": float(labels.mean()),
        "metrics": metrics_with_intervals(labels, probs, predictor.threshold, films.patient_ids),
        "decision_threshold": {
            "value": predictor.threshold,
            "method": predictor.method,
            "chosen_on": predictor.chosen_on,
        },
        "confusion_matrix": confusion(labels, probs >= predictor.threshold),
        "operating_points": operating_points(labels, probs, thresholds),
        "shortcut_floors": floors or {},
        "subgroups": subgroups(films, probs, predictor.threshold),
        "versions": {package: version(package) for package in PACKAGES},
    }
    return metrics, prediction_rows(films, probs, distances, predictor)


def subgroups(films: FilmDataset, probs: np.ndarray, threshold: float) -> dict[str, dict]:
    """The kinds of pneumonia, each against all normal films: `{subtype: {"n", "roc_auc", "sensitivity"}}`."""
    if "subtype" not in films.table.column_names:
        return {}
    subtypes, result = np.array(films.table["subtype"]), {}
    for subtype in sorted(set(subtypes[films.labels == 1]) - {""}):
        chosen = (subtypes == subtype) & (films.labels == 1)
        if chosen.sum() < SMALLEST_SUBGROUP:
            result[subtype] = {"n": int(chosen.sum()), "note": f"fewer than {SMALLEST_SUBGROUP} films"}
            continue
        both = chosen | (films.labels == 0)
        values = metrics_with_intervals(films.labels[both], probs[both], threshold, films.patient_ids[both])
        result[subtype] = {"n": int(chosen.sum()), "roc_auc": values["roc_auc"], "sensitivity": values["sensitivity"]}
    return result


def write_split(folder: Path, metrics: dict, rows: list[dict], suffix: str = "") -> None:
    """`metrics{suffix}.json` and `predictions_{split}.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"metrics{suffix}.json").write_text(json.dumps(_without_nan(metrics), indent=2) + "\n")
    write_csv(folder / f"predictions_{metrics['split']}.csv", PREDICTION_COLUMNS, rows)


def write_report(folder: Path, metrics: dict, rows: list[dict], rejected: list[dict], validation: dict | None) -> None:
    """The figures of a split and `index.html`, one page without outside parts."""
    labels = np.array([row["label"] == "PNEUMONIA" for row in rows]).astype(int)
    probs = np.array([row["probability"] for row in rows])
    save_figures(folder, labels, probs, metrics, np.array([row["patient_id"] for row in rows]))
    mistakes = sorted(
        (row for row in rows if row["label"] != row["prediction"]),
        key=lambda row: -abs(row["probability"] - metrics["decision_threshold"]["value"]),
    )
    write_page(
        folder,
        "report.html.jinja",
        FIGURES,
        metrics=metrics,
        names=METRIC_NAMES,
        validation=validation,
        rejected=rejected,
        mistakes=mistakes[:12],
        disclaimer=DISCLAIMER,
    )


def _without_nan(value):
    """JSON has no NaN: an undefined figure is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

"""Scores of a labelled split become `metrics.json`, the predictions, the figures and one page that shows them."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pneumo_hf import DISCLAIMER
from pneumo_hf.config import write_csv
from pneumo_hf.data.page import write_page
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.shortcuts import Floors
from pneumo_hf.evaluation.abstention import abstention_summary, sureness
from pneumo_hf.evaluation.calibration import slope_and_intercept
from pneumo_hf.evaluation.checklist import checklist
from pneumo_hf.evaluation.metrics import FEW_PATIENTS, confusion, metrics_with_intervals, top_label_error
from pneumo_hf.evaluation.plots import save_figures
from pneumo_hf.evaluation.subgroups import subgroups
from pneumo_hf.evaluation.thresholds import CURVE_COLUMNS, operating_points, predictive_values, threshold_curve
from pneumo_hf.inference.predictor import PREDICTION_COLUMNS, Predictor, prediction_rows, probability_of

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "scikit-learn", "numpy", "pillow")
PREVALENCES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)

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
    "thresholds.png": "What another threshold would give on these films.",
    "predictive_values.png": "What a flag, and no flag, are worth where pneumonia is rarer or more common.",
    "risk_coverage.png": "Share of errors when only the surest films are answered.",
    "robustness.png": "ROC AUC, sensitivity and specificity at the carried threshold, as films get worse.",
    "training_curves.png": "How the training went.",
    "mistakes.png": "The surest mistakes, with what Grad-CAM says they rest on.",
    "abstained.png": "Films without an answer: neither label is sure, or no chest X-ray.",
    "heatmaps.png": "Films of pneumonia that were found, with Grad-CAM.",
}


def evaluate_films(
    predictor: Predictor,
    views: Sequence[FilmDataset],
    model: str,
    dataset: str,
    split: str,
    floors: Floors | None = None,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[dict, list[dict]]:
    """Score labelled films once: the contract's metrics dictionary and the rows of the predictions CSV.

    Args:
        predictor: whose decision threshold and operating points, chosen on validation, are applied.
        views: the films as each of the predictor's members decodes them; of one checkpoint, one.
        floors: ROC AUC of models that see no lung, to stand beside the result.
        seen: logits and distances of the films, where several processes have scored them.
    """
    films = views[0]
    logits, distances = seen or predictor.look_at_films(*views)
    labels, probs = films.labels, probability_of(logits)
    rows = prediction_rows(films, probs, distances, predictor)
    thresholds = {point["name"]: point["threshold"] for point in predictor.operating_points}
    values = metrics_with_intervals(labels, probs, predictor.threshold, films.patient_ids)
    metrics = {
        "model": model,
        "dataset": dataset,
        "split": split,
        "n": len(films),
        "n_patients": len(set(films.patient_ids)),
        "prevalence": float(labels.mean()),
        "metrics": values,
        "decision_threshold": {
            "value": predictor.threshold,
            "method": predictor.method,
            "chosen_on": predictor.chosen_on,
        },
        "confusion_matrix": confusion(labels, probs >= predictor.threshold),
        "operating_points": operating_points(labels, probs, thresholds),
        "confusion_matrices": {name: confusion(labels, probs >= value) for name, value in thresholds.items()},
        "calibration": {**slope_and_intercept(labels, probs), "top_label_ece": top_label_error(labels, probs)},
        "predictive_values": _predictive_values(values),
        "abstention": abstention_summary(labels, rows, predictor.limits),
        "shortcut_floors": floors or {},
        "subgroups": subgroups(films, probs, predictor.threshold),
        "versions": {package: version(package) for package in PACKAGES},
    }
    return metrics, rows


def _predictive_values(values: dict) -> list[dict[str, float]]:
    """PPV and NPV at the decision threshold, were a share of 1 % to 70 % of such films of pneumonia."""
    shares = np.array(PREVALENCES)
    ppv, npv = predictive_values(values["sensitivity"]["value"], values["specificity"]["value"], shares)
    return [
        {"prevalence": share, "ppv": float(p), "npv": float(n)}
        for share, p, n in zip(PREVALENCES, ppv, npv, strict=True)
    ]


def write_split(folder: Path, metrics: dict, rows: list[dict], suffix: str = "") -> None:
    """`metrics{suffix}.json` and `predictions_{split}.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"metrics{suffix}.json").write_text(json.dumps(_without_nan(metrics), indent=2) + "\n")
    write_csv(folder / f"predictions_{metrics['split']}.csv", PREDICTION_COLUMNS, rows)


def write_report(
    folder: Path,
    metrics: dict,
    rows: list[dict],
    rejected: list[dict],
    validation: dict | None,
    config: dict,
) -> None:
    """The figures of a split, `threshold_curve.csv`, and `index.html`, one page without outside parts.

    Args:
        validation: the metrics of the validation films, to stand beside these; None where they are not at hand.
        config: of the checkpoint: what it was trained on, and how it decides.
    """
    labels = np.array([row["label"] == "PNEUMONIA" for row in rows]).astype(int)
    probs = np.array([row["probability"] for row in rows])
    metrics, threshold = _without_nan(metrics), metrics["decision_threshold"]["value"]
    write_csv(folder / "threshold_curve.csv", CURVE_COLUMNS, threshold_curve(labels, probs))
    save_figures(folder, labels, probs, metrics, np.array([row["patient_id"] for row in rows]))
    # The page names no film, so that it can be published: it points to lines of the predictions.
    numbered = [{**row, "line": line} for line, row in enumerate(rows, start=2)]
    mistakes = surest([row for row in numbered if row["label"] != row["prediction"]], threshold)
    write_page(
        folder,
        "report.html.jinja",
        FIGURES,
        metrics=metrics,
        names=METRIC_NAMES,
        few=FEW_PATIENTS,
        validation=validation,
        rejected=Counter(film["reason"] for film in rejected).most_common(),
        unreadable=len(rejected),
        mistakes=mistakes[:12],
        not_chests=[row for row in numbered if row["flag"] == "not_chest_xray"][:12],
        config=config,
        checklist=checklist(metrics, config, len(rejected)),
        disclaimer=DISCLAIMER,
    )


def surest(rows: list[dict], threshold: float) -> list[dict]:
    """Rows of predictions, those farthest from the decision threshold first."""
    order = np.argsort(-sureness(np.array([row["probability"] for row in rows]), threshold), kind="stable")
    return [rows[index] for index in order]


def _without_nan(value):
    """JSON has no NaN: an undefined figure is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

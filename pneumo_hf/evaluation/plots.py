"""The report's figures, by matplotlib, from labels and scores alone."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumo_hf.config import LABELS
from pneumo_hf.data.figures import ACCENT, INK, SOFT, save
from pneumo_hf.evaluation.metrics import bootstrap_weights, reliability

BANDS = 200  # resamples behind a shaded band


def save_figures(folder: Path, labels: np.ndarray, probs: np.ndarray, metrics: dict, patient_ids: np.ndarray) -> None:
    """Write confusion_matrix.png, roc.png, pr.png and reliability.png for one split."""
    weights = bootstrap_weights(patient_ids, BANDS, seed=0)
    save(folder / "confusion_matrix.png", lambda axes: confusion_matrix(axes, metrics["confusion_matrix"]))
    save(folder / "roc.png", lambda axes: roc(axes, labels, probs, metrics, weights))
    save(folder / "pr.png", lambda axes: precision_recall(axes, labels, probs, metrics))
    save(folder / "reliability.png", lambda axes: reliability_diagram(axes, labels, probs, metrics))


def save_training_curves(path: Path, history: list[dict]) -> None:
    """Loss and validation ROC AUC by epoch, both stages one after the other."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    probe_end = max((row["epoch"] for row in history if row["stage"] == 1), default=0)
    for column, axes, label, color in (
        ("loss", left, "train loss", SOFT),
        ("eval_loss", left, "validation loss", ACCENT),
        ("eval_roc_auc", right, "validation ROC AUC", ACCENT),
    ):
        points = [(row["epoch"] + (row["stage"] == 2) * probe_end, row[column]) for row in history if column in row]
        axes.plot(
            *zip(*points, strict=True) if points else ([], []), marker="o", markersize=3, color=color, label=label
        )
    for axes in (left, right):
        if probe_end:
            axes.axvline(probe_end, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch (the dotted line: classifier alone | fine-tuning)")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def confusion_matrix(axes: Axes, counts: dict[str, int]) -> None:
    table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    share = table / table.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(share, cmap="GnBu", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        color = "white" if share[row, column] > 0.6 else INK
        axes.text(column, row, count, ha="center", va="center", fontsize=16, color=color)
    axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=LABELS, yticklabels=LABELS)
    axes.set(xlabel="called", ylabel="labelled", title="At the decision threshold")


def roc(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict, weights: np.ndarray) -> None:
    grid = np.linspace(0, 1, 101)
    curves = [
        np.interp(grid, *roc_curve(labels, probs, sample_weight=row)[:2])
        for row in weights
        if row[labels == 0].any() and row[labels == 1].any()
    ]
    if curves:
        axes.fill_between(grid, *np.percentile(curves, [2.5, 97.5], axis=0), color=SOFT, alpha=0.5, label="95 % band")
    fpr, tpr, _ = roc_curve(labels, probs)
    area = metrics["metrics"]["roc_auc"]
    axes.plot(fpr, tpr, color=ACCENT, label="AUC {value:.3f} [{0:.3f}, {1:.3f}]".format(*area["ci95"], **area))
    for point in metrics["operating_points"]:
        axes.plot(1 - point["specificity"], point["sensitivity"], "o", color=INK, markersize=4)
        axes.annotate(point["name"], (1 - point["specificity"], point["sensitivity"]), (5, -12), fontsize=7,
                      textcoords="offset points")  # fmt: skip
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    axes.legend(loc="lower right", frameon=False)


def precision_recall(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict) -> None:
    precision, recall, _ = precision_recall_curve(labels, probs)
    area = metrics["metrics"]["pr_auc"]
    axes.plot(
        recall, precision, color=ACCENT, label="AUC {value:.3f} [{0:.3f}, {1:.3f}]".format(*area["ci95"], **area)
    )
    axes.axhline(metrics["prevalence"], color=INK, linewidth=0.8, linestyle=":", label="prevalence")
    axes.set(xlabel="sensitivity (recall)", ylabel="precision", title="Precision and recall", ylim=(0, 1.02))
    axes.legend(loc="lower left", frameon=False)


def reliability_diagram(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict) -> None:
    predicted, observed, films = reliability(labels, probs)
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=0.8)
    axes.scatter(predicted, observed, s=20 + 300 * films / films.sum(), color=ACCENT, alpha=0.8)
    axes.plot(predicted, observed, color=ACCENT, linewidth=0.8)
    error = metrics["metrics"]["ece"]
    axes.set(xlabel="mean probability of a bin", ylabel="share with pneumonia", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title("Reliability, ECE {value:.3f} [{0:.3f}, {1:.3f}]".format(*error["ci95"], **error))

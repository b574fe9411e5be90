"""The report's figures, by matplotlib, from labels and scores alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumo_hf.evaluation.abstention import risk_coverage
from pneumo_hf.evaluation.metrics import bootstrap_weights, reliability
from pneumo_hf.evaluation.operating_points import predictive_values
from pneumo_hf.inference.settings import is_positive
from pneumo_hf.labels import NEGATIVE, Task
from pneumo_hf.reporting.page import ACCENT, INK, SOFT, save_figure, save_png

BANDS = 200  # resamples behind a shaded band
CYCLE = [f"C{number}" for number in range(10)]  # matplotlib's colours
TITLES = {"roc_auc": "ROC AUC", "sensitivity": "sensitivity", "specificity": "specificity"}


def save_figures(
    folder: Path, labels: np.ndarray, probs: np.ndarray, metrics: dict, patient_ids: np.ndarray, task: Task
) -> None:
    """Write every figure of one split that is drawn from labels, scores and metrics."""
    weights = np.concatenate(list(bootstrap_weights(patient_ids, BANDS, seed=0)))
    counts, called = metrics["confusion_matrix"], (NEGATIVE, task.positive)
    table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    title = "At the decision threshold"
    save_figure(folder / "confusion_matrix.png", lambda axes: confusion_matrix(axes, table, called, title))
    (folder / "labels.png").unlink(missing_ok=True)  # of an earlier report
    if found := metrics.get("labels"):
        table, title = np.array(found["confusion_matrix"]), "By the likeliest label"
        save_figure(folder / "labels.png", lambda axes: confusion_matrix(axes, table, found["labels"], title))
    save_figure(folder / "roc.png", lambda axes: roc(axes, labels, probs, metrics, weights))
    save_figure(folder / "pr.png", lambda axes: precision_recall(axes, labels, probs, metrics))
    save_figure(folder / "reliability.png", lambda axes: reliability_diagram(axes, labels, probs, metrics))
    save_figure(folder / "thresholds.png", lambda axes: thresholds(axes, labels, probs, metrics))
    save_figure(folder / "predictive_values.png", lambda axes: prevalence_curves(axes, metrics))
    save_figure(folder / "decision_curve.png", lambda axes: decision_curves(axes, metrics))
    save_figure(folder / "risk_coverage.png", lambda axes: risk_against_coverage(axes, labels, probs, metrics))
    (folder / "robustness.png").unlink(missing_ok=True)  # of an earlier report
    if "robustness" in metrics:
        robustness_curves(folder / "robustness.png", metrics["robustness"])


def save_training_curves(path: Path, history: list[dict]) -> None:
    """Draw loss and validation ROC AUC by epoch, both stages one after the other."""
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
    save_png(path, figure)


def confusion_matrix(axes: Axes, table: np.ndarray, names: Sequence[str], title: str) -> None:
    """Draw a confusion matrix, counts `[C, C]` by label and by what was called."""
    share = table / table.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(share, cmap="GnBu", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        color = "white" if share[row, column] > 0.6 else INK
        axes.text(column, row, count, ha="center", va="center", fontsize=16, color=color)
    ticks = range(len(names))
    axes.set(xticks=ticks, yticks=ticks, xticklabels=names, yticklabels=names)
    axes.set(xlabel="called", ylabel="labelled", title=title)


def roc(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict, weights: np.ndarray) -> None:
    """Draw the ROC curve with its band and the operating points."""
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
    name_points(axes, metrics["operating_points"])
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC")
    axes.legend(loc="lower right", frameon=False)


def name_points(axes: Axes, points: list[dict]) -> None:
    """Draw operating points on a ROC curve, and their names one below the other, so that no two overlap.

    The rightmost point has the topmost name: the lines to the names do not cross.
    """
    known = [point for point in points if point["specificity"] is not None and point["sensitivity"] is not None]
    for number, point in enumerate(sorted(known, key=lambda point: point["specificity"])):
        place, name = (1 - point["specificity"], point["sensitivity"]), f"{point['name']}, {point['threshold']:.3f}"
        axes.plot(*place, "o", color=INK, markersize=4)
        line = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5)}
        text = axes.annotate(name, place, (0.54, 0.8 - 0.065 * number), va="center", fontsize=8.5, arrowprops=line)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})


def precision_recall(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict) -> None:
    """Draw precision against sensitivity."""
    precision, recall, _ = precision_recall_curve(labels, probs)
    area = metrics["metrics"]["pr_auc"]
    axes.plot(
        recall, precision, color=ACCENT, label="AUC {value:.3f} [{0:.3f}, {1:.3f}]".format(*area["ci95"], **area)
    )
    axes.axhline(metrics["prevalence"], color=INK, linewidth=0.8, linestyle=":", label="prevalence")
    axes.set(xlabel="sensitivity (recall)", ylabel="precision", title="Precision and recall", ylim=(0, 1.02))
    axes.legend(loc="lower left", frameon=False)


def reliability_diagram(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict) -> None:
    """Draw the reliability diagram."""
    predicted, observed, films = reliability(labels, probs)
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=0.8)
    axes.scatter(predicted, observed, s=20 + 300 * films / films.sum(), color=ACCENT, alpha=0.8)
    axes.plot(predicted, observed, color=ACCENT, linewidth=0.8)
    error = metrics["metrics"]["ece"]
    axes.set(xlabel="mean probability of a bin", ylabel="observed share", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title("Reliability, ECE {value:.3f} [{0:.3f}, {1:.3f}]".format(*error["ci95"], **error))


def thresholds(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict) -> None:
    """Draw sensitivity and specificity against the threshold."""
    cuts = np.linspace(0, 1, 401)
    for label, name, color, share in (
        (1, "sensitivity", ACCENT, lambda scores: np.mean(is_positive(scores[:, None], cuts), axis=0)),
        (0, "specificity", "#b45309", lambda scores: np.mean(~is_positive(scores[:, None], cuts), axis=0)),
    ):
        if (labels == label).any():
            axes.plot(cuts, share(probs[labels == label]), color=color, label=name)
    axes.axvline(metrics["decision_threshold"]["value"], color=INK, linewidth=0.8, linestyle=":", label="threshold")
    axes.set(xlabel="threshold", ylabel="share of the films", title="Sensitivity and specificity")
    axes.legend(frameon=False)


def prevalence_curves(axes: Axes, metrics: dict) -> None:
    """Draw predictive values against prevalence."""
    prevalence = np.linspace(0.005, 0.995, 199)
    sensitivity, specificity = (metrics["metrics"][name]["value"] for name in ("sensitivity", "specificity"))
    if sensitivity is not None and specificity is not None:
        ppv, npv = predictive_values(sensitivity, specificity, prevalence)
        axes.plot(prevalence, ppv, color=ACCENT, label="PPV")
        axes.plot(prevalence, npv, color="#b45309", label="NPV")
    axes.axvline(metrics["prevalence"], color=INK, linewidth=0.8, linestyle=":", label="of these films")
    axes.set(xlabel="prevalence", ylabel="share right", title="Predictive values", ylim=(0, 1.02))
    axes.legend(frameon=False)


def decision_curves(axes: Axes, metrics: dict) -> None:
    """Draw net benefit with its band against treating all and none, and where the model decides."""
    found = metrics["decision_curve"]
    axes.fill_between(found["thresholds"], *np.transpose(found["ci95"]), color=SOFT, alpha=0.5, label="95 % band")
    axes.plot(found["thresholds"], found["model"], color=ACCENT, label="the model")
    defaults(axes, found)
    axes.axvline(metrics["decision_threshold"]["value"], color=INK, linewidth=0.8, linestyle=":", label="threshold")
    axes.legend(frameon=False, fontsize=8)


def defaults(axes: Axes, found: dict) -> None:
    """Draw the net benefit of treating all and of treating none, which bound the view."""
    axes.plot(found["thresholds"], found["treat_all"], color="#b45309", linewidth=1, label="treat all")
    axes.axhline(0, color=INK, linewidth=1, label="treat none")
    top = max(*found["treat_all"], 0.001)
    axes.set(xlabel="threshold probability", ylabel="net benefit, per film", title="Decision curve")
    axes.set(ylim=(-0.15 * top, 1.1 * top))


def risk_against_coverage(axes: Axes, labels: np.ndarray, probs: np.ndarray, metrics: dict) -> None:
    """Draw the share of errors against the share of films answered."""
    coverage, risk = risk_coverage(labels, probs, metrics["decision_threshold"]["value"])
    axes.plot(coverage, risk, color=ACCENT, label="the most certain films")
    summary = metrics["abstention"]
    if summary["of_the_answered"]["accuracy"] is not None:
        axes.plot(
            summary["answered"], 1 - summary["of_the_answered"]["accuracy"], "o", color=INK, label="with the flags"
        )
    axes.set(xlabel="share of the films answered", ylabel="share of errors", title="Risk and coverage", ylim=(0, None))
    axes.legend(frameon=False)


def robustness_curves(path: Path, rows: dict[str, list[dict]]) -> None:
    """Draw one panel a figure, one line a corruption, severity 0 being the films as they are."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), TITLES, strict=True):
        for number, (kind, points) in enumerate(rows.items()):
            line = "o-" if number < len(CYCLE) else "o--"  # which has fewer colours than there are kinds
            style = {"color": CYCLE[number % len(CYCLE)], "label": kind, "markersize": 3}
            axes.plot([point["severity"] for point in points], [point[name] for point in points], line, **style)
        axes.set(xlabel="severity", title=TITLES[name], ylim=(-0.02, 1.02))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_png(path, figure, 110)

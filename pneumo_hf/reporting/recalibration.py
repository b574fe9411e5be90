"""A recalibration becomes a checkpoint with its card, `recalibration.json`, and one page of before and after."""

import json
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from transformers.utils import cached_file

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.data.predictions import write_csv
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.metrics import reliability
from pneumo_hf.evaluation.operating_points import CURVE_COLUMNS, threshold_curve
from pneumo_hf.evaluation.recalibration import Recalibration
from pneumo_hf.inference.settings import TASK, CheckpointSettings
from pneumo_hf.labels import Task
from pneumo_hf.reporting.names import METRIC_NAMES
from pneumo_hf.reporting.page import ACCENT, INK, TEMPLATES, save_figure, write_page
from pneumo_hf.reporting.report import without_nan

FIGURES = {
    "reliability.png": "On the dotted line a probability means what it says. After: by fits to other patients.",
    "films_needed.png": "Width of the 95 % intervals that so many films of this hospital would give.",
}
SHOWN = ("roc_auc", "ece", "brier", "sensitivity", "specificity", "accuracy", "precision", "npv")
REPORT = "report/recalibration.json"
BEFORE = "#7c9cc0"


def write_recalibration(folder: str | Path, result: Recalibration) -> None:
    """Write the checkpoint with its card, and in `report/` what was measured: `index.html`, `recalibration.json`, ...

    Where the films were too few for a checkpoint, `report/` alone. The page works without a network.

    Raises:
        InputError: the folder holds another checkpoint, or holds one while there is a report alone to write.
    """
    folder = Path(folder)
    if not result.refused:
        result.save(folder)
    elif (folder / "config.json").exists():  # whose card is made of the report that would be replaced
        raise InputError(f"{folder} holds a checkpoint, and this is a report alone: choose another --output_dir")
    write_recalibration_report(folder, result)


def write_recalibration_report(folder: Path, result: Recalibration) -> None:
    """Write all of `write_recalibration` but the checkpoint, which is there unless it was refused."""
    report, found = folder / "report", without_nan(result.report)
    report.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(json.dumps(found, indent=2) + "\n")
    save_figure(report / "reliability.png", lambda axes: reliability_before_and_after(axes, result))
    save_figure(report / "films_needed.png", lambda axes: widths(axes, found))
    values = {"found": found, "names": METRIC_NAMES, "shown": SHOWN}
    write_page(report, "recalibration.html.jinja", FIGURES, task=result.settings.task, **values)
    write_csv(report / "rejected.csv", ("path", "reason"), result.films.rejected)
    if result.refused:
        return
    (report / "metrics.json").write_text(json.dumps(without_nan(result.metrics), indent=2) + "\n")
    curve = threshold_curve(result.films.labels, result.after.probs)
    write_csv(report / "threshold_curve.csv", CURVE_COLUMNS, curve)
    if card := cached_file(result.scorer.name, "README.md", _raise_exceptions_for_missing_entries=False):
        (report / "card_before.md").write_text(Path(card).read_text())
    write_recalibrated_card(folder)


def summary(found: dict) -> list[str]:
    """Say in a few lines what was fitted and what it changed.

    Args:
        found: `recalibration.json`.
    """
    fitted = f"slope {found['slope']:.3f}" if found["with_slope"] else "slope 1, as it was"
    before, after = (found["decision_threshold"][when]["value"] for when in ("before", "after"))
    lines = [f"offset {found['offset']:+.3f}, {fitted}; threshold {before:.3f} -> {after:.3f}"]
    for name in ("roc_auc", "ece", "sensitivity", "specificity"):
        first, then = (found["metrics"][name][when] for when in ("before", "after"))
        before_after = " -> ".join("{value:.4f} [{0:.4f}, {1:.4f}]".format(*m["ci95"], **m) for m in (first, then))
        lines.append(f"{name:<12} {before_after}")
    need = found["films_needed"]["for_margin"]["both"]
    lines.append(f"{found['n']} films; sensitivity and specificity to within .05 take {need or 'more than 20,000'}")
    if found["refused"]:
        lines.append(f"no checkpoint was written: {found['refused']}")
    return lines


def write_recalibrated_card(folder: Path) -> None:
    """Render the card of a recalibrated checkpoint to its `README.md`, from the files beside it."""
    config = json.loads((folder / "config.json").read_text())
    before = folder / "report" / "card_before.md"
    data = ModelCard(before.read_text(), ignore_metadata_errors=True).data if before.exists() else ModelCardData()
    data.eval_results, data.model_name = None, None  # they were of the checkpoint before
    data.library_name, data.pipeline_tag = "transformers", "image-classification"
    data.tags = list(dict.fromkeys([*(data.tags or ()), "chest-x-ray", "radiology", "research-only", "recalibrated"]))
    text = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    card = text.get_template("recalibrated_card.md.jinja").render(
        card_data=data.to_yaml(),
        name=folder.resolve().name,
        found=json.loads((folder / REPORT).read_text()),
        settings=CheckpointSettings.from_config(config),
        task=Task(tuple(config[TASK]["labels"]), config[TASK]["positive"]),
        names=METRIC_NAMES,
        shown=SHOWN,
        disclaimer=DISCLAIMER,
        package_version=__version__,
    )
    ModelCard(card).save(folder / "README.md")


def reliability_before_and_after(axes: Axes, result: Recalibration) -> None:
    """Draw both reliability diagrams into one."""
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=0.8)
    for name, scored, color in (("before", result.before, BEFORE), ("after", result.after, ACCENT)):
        predicted, observed, films = reliability(result.films.labels, scored.probs)
        error = result.report["metrics"]["ece"][name]
        low, high = error["ci95"]
        label = f"{name}: ECE {error['value']:.3f} [{low:.3f}, {high:.3f}]"
        axes.plot(predicted, observed, color=color, linewidth=0.8)
        axes.scatter(predicted, observed, s=20 + 300 * films / films.sum(), color=color, alpha=0.8, label=label)
    axes.set(xlabel="mean probability of a bin", ylabel="observed share", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title("Reliability")
    axes.legend(loc="lower right", frameon=False, fontsize=8, markerscale=0.5)


def widths(axes: Axes, found: dict) -> None:
    """Draw how the intervals of sensitivity and specificity narrow with the number of films."""
    sizes = found["films_needed"]["sizes"]
    films = np.array([row["films"] for row in sizes])
    for name, color in (("sensitivity", ACCENT), ("specificity", "#b45309")):
        axes.plot(films, [row[name] for row in sizes], marker="o", markersize=3, color=color, label=name)
    axes.axhline(2 * found["films_needed"]["margin"], color=INK, linewidth=0.8, linestyle=":", label="± .05")
    axes.axvline(found["n"], color=INK, linewidth=0.8, label=f"these {found['n']}")
    axes.set(xlabel="films", ylabel="width of the 95 % interval", xscale="log", xticks=films, ylim=(0, None))
    axes.set_xticklabels(films)
    axes.minorticks_off()
    axes.set_title("How many films?")
    axes.legend(frameon=False)

"""The page of several runs side by side."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes

from pneumo_hf.reporting.page import ACCENT, INK, TEMPLATES, save_figure, write_page
from pneumo_hf.reporting.plots import defaults

SIGNIFICANT = 0.05  # p, over all comparisons together


def write_comparison(folder: Path, result: dict) -> str:
    """Write compare.json, compare.md, the figures and index.html of what `compare` found; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(result, indent=2) + "\n")
    texts = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True)
    table = texts.get_template("compare.md.jinja").render(**result)
    (folder / "compare.md").write_text(table)
    save_figure(folder / "forest.png", lambda axes: forest(axes, result))
    save_figure(folder / "decision_curves.png", lambda axes: curves(axes, result["decision_curves"]))
    captions = {"decision_curves.png": "Net benefit, where a missed pneumonia is as bad as (1 - t) / t false alarms."}
    write_page(folder, "compare.html.jinja", captions, findings=conclusions(result), **result)
    return table


def conclusions(result: dict) -> list[tuple[str, str]]:
    """Say which run is best, and which are shown to be worse: levels and sentences."""
    runs, best = result["runs"], result["reference"]
    area, limit = runs[best]["metrics"]["roc_auc"], SIGNIFICANT / max(1, len(runs) - 1)
    worse = [name for name, run in runs.items() if "delong" in run and run["delong"]["p"] < limit]
    others = len(runs) - 1 - len(worse)
    found = [
        ("", "{0} has the largest ROC AUC: {value:.3f} ({1:.3f} to {2:.3f}).".format(best, *area["ci95"], **area))
    ]
    if worse:
        found.append(("note", f"Shown to be below it (p < {limit:.2g}): {', '.join(worse)}."))
    if others:
        found.append(("warn", f"{others} of {len(runs) - 1} others are not shown to differ from it."))
    return found


def forest(axes: Axes, result: dict) -> None:
    """Draw the ROC AUC of every run and baseline with its interval."""
    rows = {name: run["metrics"]["roc_auc"] for name, run in result["runs"].items()}
    rows |= {f"baseline: {name.replace('_', ' ')}": value for name, value in result["shortcut_floors"].items()}
    for place, (name, area) in enumerate(reversed(rows.items())):
        color = INK if name.startswith("baseline: ") else ACCENT
        axes.plot(area["ci95"], [place, place], color=color, linewidth=1.5)
        axes.plot(area["value"], place, "o", color=color, markersize=4)
    axes.set_yticks(range(len(rows)), reversed(rows), fontsize=7)
    axes.set(xlabel="ROC AUC, 95 % interval")


def curves(axes: Axes, found: dict) -> None:
    """Draw the decision curves of all runs in one pair of axes."""
    for name, values in found["runs"].items():
        axes.plot(found["thresholds"], values, linewidth=1.2, label=name)
    defaults(axes, found)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)

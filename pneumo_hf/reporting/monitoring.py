"""The page of films that are watched: `monitor.json`, a control chart of each statistic, and `index.html`."""

import json
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from pneumo_hf.evaluation.drift import SIMULATIONS
from pneumo_hf.evaluation.monitoring import WORDS
from pneumo_hf.reporting.page import ACCENT, INK, SOFT, save_figure, write_page

KINDS = {
    "ks": "largest distance of the two distribution functions (Kolmogorov-Smirnov)",
    "psi": "root of the population stability index",
    "share": "distance of the shares, by their arcsine",
    "new": "share of values that the reference does not have, by its arcsine",
}
VIEWS = {"batch": ("each batch", ACCENT), "window": ("the last four together", SOFT)}
OUT = "#b91c1c"


def write_monitor(folder: Path, result: dict) -> None:
    """Write monitor.json, the control charts and index.html of what `monitor` found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "monitor.json").write_text(json.dumps(result, indent=2) + "\n")
    for stale in folder.glob("chart_*.png"):
        stale.unlink()
    captions = {}
    for row in result["batches"][-1]["statistics"]:
        column, kind = row["column"], row["kind"]
        file = f"chart_{column}_{kind}.png"
        save_figure(folder / file, partial(control_chart, batches=result["batches"], statistic=row))
        captions[file] = f"{WORDS.get(column, column)}: {KINDS[kind]}, as a share of its limit."
    write_page(
        folder,
        "monitor.html.jinja",
        captions,
        result=result,
        newest=result["batches"][-1],
        words=WORDS,
        kinds=KINDS,
        simulations=SIMULATIONS,
    )


def control_chart(axes: Axes, batches: list[dict], statistic: dict) -> None:
    """Draw one statistic over the batches, as a share of its limit, alone and of the last ones together."""
    key = statistic["column"], statistic["kind"]
    for view, (label, color) in VIEWS.items():
        points = [
            (number, row[view]["value"] / row[view]["limit"])
            for number, batch in enumerate(batches)
            for row in batch["statistics"]
            if (row["column"], row["kind"]) == key and view in row
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, color=color, label=label)
        out = [point for point in points if point[1] > 1]
        if out:
            axes.plot(*zip(*out, strict=True), "o", markersize=6, color=OUT)
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=":", label="limit")
    step = max(1, len(batches) // 12)
    names = [batch["name"] for batch in batches]
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=60, ha="right", fontsize=7)
    axes.set(ylabel="share of the limit", title=f"{WORDS.get(key[0], key[0])} ({key[1]})")
    axes.set_ylim(0, max(1.3, 1.1 * axes.get_ylim()[1]))
    axes.legend(frameon=False, fontsize=7)

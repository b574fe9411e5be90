"""The page of an audit, and its figures by matplotlib."""

import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pneumo_hf.data.survey import SHOWN, Survey
from pneumo_hf.reporting.findings import audit_findings
from pneumo_hf.reporting.page import ACCENT, INK, ON_BLACK, SOFT, save_figure, save_png, write_page

COLORS = ("#7c9cc0", ACCENT, *(f"C{number}" for number in (1, 3, 4, 5, 6, 7, 8, 9)))  # of the labels, in their order
DRAWN = {"counts.png", "floors.png"}  # which the page draws by itself
GROUPS_SHOWN = 8
DOUBTS_SHOWN = 24


FIGURES = {
    "counts.png": "Films by split and label.",
    "montage.png": "Films drawn at random, a row or two a label.",
    "mean_films.png": "The mean film of each label, and the last less the first: red where it is brighter.",
    "floors.png": "What a linear model reaches without the lungs. A network no better relies on the frame.",
    "intensity.png": "Grey levels by label.",
    "geometry.png": "Sizes of the files and the films by label.",
    "duplicates.png": "Copies found, a group a column.",
    "doubts.png": "The most doubted labels, with their ranks: labelled, and what models take the film for.",
}


def write_audit(folder: Path, audit: dict, found: Survey, labels: Sequence[str]) -> None:
    """Write `audit.json`, the figures and `index.html` of an audit."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(audit, indent=2) + "\n")
    save_audit_figures(folder, audit, found, labels)
    pictures = {name: caption for name, caption in FIGURES.items() if name not in DRAWN}
    values = {"findings": audit_findings(audit), "versions": audit["versions"]}
    write_page(folder, "audit.html.jinja", pictures, audit=audit, labels=labels, **values)


def save_audit_figures(folder: Path, audit: dict, found: Survey, labels: Sequence[str]) -> None:
    """Write as PNG counts, montage, mean_films, floors, intensity, geometry and, if any, duplicates and doubts."""
    present = [number for number in range(len(labels)) if number in found.sums]
    save_figure(folder / "counts.png", lambda axes: counts(axes, audit["counts"], labels))
    save_figure(folder / "intensity.png", lambda axes: intensity(axes, found, labels, present))
    if audit["shortcut_floors"]:
        save_figure(
            folder / "floors.png", lambda axes: baselines(axes, audit["shortcut_floors"], audit["floors_measured_on"])
        )
    geometry(folder / "geometry.png", found, labels, present)
    with matplotlib.rc_context(ON_BLACK):
        montage(folder / "montage.png", found, labels, present)
        mean_films(folder / "mean_films.png", found, labels, present)
        duplicates(folder / "duplicates.png", audit["duplicates"], found)
        doubts(folder / "doubts.png", audit["label_doubts"], found)


def counts(axes: Axes, films: dict[str, dict[str, int]], labels: Sequence[str]) -> None:
    """Count readable films by split and label, patients by split, and films by each of the other columns."""
    bottom = np.zeros(len(films))
    for label, color in zip(labels, islice(cycle(COLORS), len(labels)), strict=True):
        values = np.array([split[label] for split in films.values()])
        bars = axes.bar(list(films), values, bottom=bottom, color=color, label=label)
        axes.bar_label(bars, [f"{value:,}" if value else "" for value in values], label_type="center", fontsize=8)
        bottom += values
    axes.set(ylabel="films", title="Films by split and label")
    axes.legend(frameon=False)


def intensity(axes: Axes, found: Survey, labels: Sequence[str], present: Sequence[int]) -> None:
    """Draw the grey levels by label."""
    for number in present:
        shares = found.histograms[number] / found.histograms[number].sum()
        axes.plot(range(1, 255), shares[1:-1], color=COLORS[number % len(COLORS)], label=labels[number])
    axes.set(xlabel="grey level", ylabel="share of the pixels", title="Grey levels but 0 and 255", ylim=(0, None))
    axes.legend(frameon=False)


def baselines(axes: Axes, values: dict[str, dict], measured_on: str) -> None:
    """Draw the shortcut baselines."""
    names = list(values)[::-1]
    centers = np.array([values[name]["value"] for name in names])
    ends = np.abs(np.array([values[name]["ci95"] for name in names]).T - centers)
    axes.barh([name.replace("_", " ") for name in names], centers, xerr=ends, color=SOFT, ecolor=INK, capsize=2)
    for position, value in enumerate(centers):
        axes.annotate(f"{value:.2f}", (0.02, position), va="center", fontsize=8, xycoords=("axes fraction", "data"))
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="ROC AUC", xlim=(0.3, 1), title=f"Shortcut baselines ({measured_on})")


def geometry(path: Path, found: Survey, labels: Sequence[str], present: Sequence[int]) -> None:
    """Draw width against height, and the sizes of the files, by label."""
    figure = Figure(figsize=(9.2, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    of_label, numbers = np.array(found.labels), {name: np.array(values) for name, values in found.numbers.items()}
    shown = np.random.default_rng(0).permutation(len(of_label))[:5000]
    edges = np.geomspace(max(numbers["bytes"].min(), 1), numbers["bytes"].max() * 1.01 + 1, 50) / 1024
    for number in present:
        chosen = shown[of_label[shown] == number]
        style = {"color": COLORS[number % len(COLORS)], "label": labels[number]}
        left.scatter(numbers["width"][chosen], numbers["height"][chosen], s=5, alpha=0.4, **style)
        sizes = numbers["bytes"][of_label == number] / 1024
        right.hist(sizes, edges, weights=np.full(len(sizes), 1 / len(sizes)), histtype="step", **style)
    left.set(xlabel="width, pixels", ylabel="height, pixels", title="Sizes of the films")
    scale = "log" if edges[-1] > 10 * edges[0] else "linear"
    right.set(xlabel="KiB", ylabel="share of the files", title="Sizes of the files", xscale=scale)
    left.legend(frameon=False)
    right.legend(frameon=False)
    save_png(path, figure)


def montage(path: Path, found: Survey, labels: Sequence[str], present: Sequence[int]) -> None:
    """Draw films drawn at random, two rows of eight a label."""
    columns = SHOWN // 2
    figure = Figure(figsize=(9.2, 2.5 * len(present)), layout="constrained")
    for part, number in zip(np.atleast_1d(figure.subfigures(len(present), 1)), present, strict=True):
        part.suptitle(labels[number], fontsize=10)
        for axes, film in zip(
            part.subplots(2, columns).ravel(), found.montages[number] + [None] * SHOWN, strict=False
        ):
            axes.set_axis_off()
            if film is not None:
                axes.imshow(film, cmap="gray", vmin=0, vmax=255)
    save_png(path, figure)


def mean_films(path: Path, found: Survey, labels: Sequence[str], present: Sequence[int]) -> None:
    """Draw the mean film of each label, and the last less the first."""
    means = {number: found.sums[number] / found.counts["label"][number] for number in present}
    figure = Figure(figsize=(3.1 * (len(present) + 1), 3.3), layout="constrained")
    panels = figure.subplots(1, len(present) + 1)
    for axes, number in zip(panels, present, strict=False):
        axes.imshow(means[number], cmap="gray")
        axes.set_title(f"mean {labels[number]}", fontsize=10)
    difference = means[present[-1]] - means[present[0]]
    limit = max(np.abs(difference).max(), 1)
    shown = panels[-1].imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
    panels[-1].set_title(f"{labels[present[-1]]} - {labels[present[0]]}", fontsize=10)
    figure.colorbar(shown, ax=panels[-1], label="grey levels", shrink=0.8)
    for axes in panels:
        axes.set_axis_off()
    save_png(path, figure)


def duplicates(path: Path, audit: dict, found: Survey) -> None:
    """Draw some groups of copies, one above the other: those across splits or labels first."""
    groups = sorted(
        [*audit["exact"]["list"], *audit["near"]["list"]],
        key=lambda group: -len(group["splits"]) - len(group["labels"]),
    )[:GROUPS_SHOWN]
    path.unlink(missing_ok=True)
    if not groups:
        return
    rows = {name: row for row, name in enumerate(found.names)}
    figure = Figure(figsize=(9.2, 3.2), layout="constrained")
    panels = figure.subplots(2, GROUPS_SHOWN)
    for axes in panels.ravel():
        axes.set_axis_off()
    for column, group in zip(panels.T, groups, strict=False):
        for axes, name in zip(column, group["films"], strict=False):
            axes.imshow(found.thumbnails[np.array([rows[name]])][0], cmap="gray", vmin=0, vmax=255)
            axes.set_title(Path(name).stem[-17:], fontsize=6)
    save_png(path, figure, 150)


def doubts(path: Path, audit: dict, found: Survey) -> None:
    """Draw the films whose labels are doubted most."""
    path.unlink(missing_ok=True)
    shown = audit.get("list", [])[:DOUBTS_SHOWN]
    if not shown:
        return
    rows = {name: row for row, name in enumerate(found.names)}
    figure = Figure(figsize=(9.2, 1.9 * -(-len(shown) // GROUPS_SHOWN)), layout="constrained")
    panels = figure.subplots(-(-len(shown) // GROUPS_SHOWN), GROUPS_SHOWN, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    thumbnails = found.thumbnails[np.array([rows[film["path"]] for film in shown])]
    for axes, film, thumbnail in zip(panels, shown, thumbnails, strict=False):
        axes.imshow(thumbnail, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
        axes.set_title(f"{film['rank']}: {film['label']}\n{film['looks_like']}?", fontsize=6)
    save_png(path, figure, 150)

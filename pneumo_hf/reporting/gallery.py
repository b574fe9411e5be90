"""Pictures for the report: the most certain mistakes, the films without an answer, and heatmaps over them."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.abstention import surest
from pneumo_hf.evaluation.evaluate import Evaluation
from pneumo_hf.evaluation.heatmaps import found_films, heatmaps_of, surest_mistakes
from pneumo_hf.inference.explain import GradCam, overlay
from pneumo_hf.reporting.page import ON_BLACK

SHOWN = 6  # films a picture
WIDTH = 224  # pixels, at least, of a mistake's picture


def save_galleries(folder: Path, evaluation: Evaluation) -> None:
    """Write mistakes.png, abstained.png and heatmaps.png, where the network gives heatmaps."""
    rows, threshold = evaluation.rows, evaluation.scorer.settings.threshold
    try:
        cam = GradCam(evaluation.scorer)
    except InputError:  # said when the heatmaps were measured
        return
    numbered = surest([{**row, "index": index} for index, row in enumerate(rows)], threshold)
    found = found_films(rows, threshold)
    with matplotlib.rc_context(ON_BLACK):
        for name, chosen in (
            ("mistakes.png", surest_mistakes(rows, threshold)),
            ("abstained.png", [row for row in numbered if row["flag"] in ("abstain", "not_chest_xray")]),
            ("heatmaps.png", found[:: max(1, len(found) // SHOWN)]),
        ):
            _save(folder / name, cam, evaluation.views, chosen[:SHOWN])


def mistakes_shown(evaluation: Evaluation) -> list[dict]:
    """Show the surest mistakes one by one: rows with `film` and `heatmap`, JPEG in base64 of 224 pixels or more.

    `outside` and `side` say how much of the heat lies outside the central box, and at which side most. Empty where the
    network gives no heatmap.
    """
    found = (evaluation.metrics.get("explanation") or {}).get("mistakes") or {}
    rows = surest_mistakes(evaluation.rows, evaluation.scorer.settings.threshold)
    if not rows or not found:
        return []
    pixels, maps = heatmaps_of(GradCam(evaluation.scorer), evaluation.views, [row["index"] for row in rows])
    shown = []
    for row, heat, film, heatmap in zip(rows, found["films"], pixels[0].numpy()[:, 0], maps, strict=True):
        picture = Image.fromarray(film)
        scale = max(1, -(-WIDTH // picture.width))
        picture = picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.BICUBIC)
        pictures = {"film": _jpeg(picture), "heatmap": _jpeg(overlay(picture, heatmap)), "width": picture.width}
        shown.append({**row, **heat, **pictures})
    return shown


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def _save(path: Path, cam: GradCam, views: Sequence[FilmDataset], rows: list[dict]) -> None:
    """Each film above the same film under its heatmap; no picture where there are no films."""
    path.unlink(missing_ok=True)
    if not rows:
        return
    pixels, maps = heatmaps_of(cam, views, [row["index"] for row in rows])
    figure = Figure(figsize=(1.9 * SHOWN, 4.6), layout="constrained")
    panels = figure.subplots(2, SHOWN)
    for axes in panels.ravel():
        axes.set_axis_off()
    for column, row, film, heatmap in zip(panels.T, rows, pixels[0].numpy()[:, 0], maps, strict=False):
        picture = Image.fromarray(film)
        column[0].imshow(picture, cmap="gray", vmin=0, vmax=255)
        column[1].imshow(overlay(picture, heatmap))
        flag = "" if row["flag"] in ("", "review") else f"\n{row['flag']}"
        column[0].set_title(f"{row['label'].lower()}\nP = {row['probability']:.2f}{flag}", fontsize=11)
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})  # in full colour: heatmaps would show bands

"""Pictures for the report: the surest mistakes, the films without an answer, and heatmaps over them."""

import logging
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from pneumo_hf.config import InputError
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.evaluation.report import surest
from pneumo_hf.inference.explain import GradCam, insertion_and_deletion, overlay, share_inside
from pneumo_hf.inference.predictor import Predictor

logger = logging.getLogger(__name__)

SHOWN = 6  # films a picture
EXPLAINED = 32  # films that the measures of the heatmaps are taken on


def explain_films(
    folder: Path, predictor: Predictor, views: list[FilmDataset], metrics: dict, rows: list[dict]
) -> dict:
    """Write mistakes.png, abstained.png and heatmaps.png, and measure the heatmaps on some films of pneumonia.

    Args:
        views: the films as each of the predictor's members decodes them; rows: their predictions, in order.

    Returns:
        `{"inside_central_box", "by_chance", "inserted", "deleted", "n"}`: the mean share of a heatmap in the central
        box and that of a map of no meaning, and the curves of `insertion_and_deletion`.
    """
    try:
        cam = GradCam(predictor)
    except InputError as error:
        logger.info("no heatmaps: %s", error)
        return {}
    numbered = surest([{**row, "index": i} for i, row in enumerate(rows)], metrics["decision_threshold"]["value"])
    answered = [row for row in numbered if row["flag"] in ("", "review")]
    found = [row for row in answered if row["label"] == row["prediction"] == "PNEUMONIA"]
    for name, chosen in (
        ("mistakes.png", [row for row in answered if row["label"] != row["prediction"]]),
        ("abstained.png", [row for row in numbered if row["flag"] in ("abstain", "not_chest_xray")]),
        ("heatmaps.png", found[:: max(1, len(found) // SHOWN)]),
    ):
        _save(folder / name, cam, views, chosen[:SHOWN])
    chosen = [row["index"] for row in found[:: max(1, len(found) // EXPLAINED)]][:EXPLAINED]
    if not chosen:
        return {}
    pixels, maps = _explained(cam, views, chosen)
    inserted, deleted = insertion_and_deletion(predictor, maps, *pixels)
    return {
        "n": len(chosen),
        "inside_central_box": float(share_inside(maps).mean()),
        "by_chance": float(share_inside(np.ones_like(maps[:1]))[0]),
        "inserted": inserted.tolist(),
        "deleted": deleted.tolist(),
    }


def _explained(cam: GradCam, views: list[FilmDataset], chosen: list[int]) -> tuple[list[torch.Tensor], np.ndarray]:
    """Of the chosen films, what each member is fed, and the heatmaps `[N, H, W]`."""
    pixels = [films.__getitems__(chosen)["pixel_values"] for films in views]
    batches = zip(*(torch.split(part, 8) for part in pixels), strict=True)
    return pixels, np.concatenate([cam(*batch) for batch in batches])


def _save(path: Path, cam: GradCam, views: list[FilmDataset], rows: list[dict]) -> None:
    """Each film above the same film under its heatmap; no picture where there are no films."""
    path.unlink(missing_ok=True)
    if not rows:
        return
    pixels, maps = _explained(cam, views, [row["index"] for row in rows])
    figure = Figure(figsize=(1.9 * SHOWN, 4.6), layout="constrained")
    panels = figure.subplots(2, SHOWN)
    for axes in panels.ravel():
        axes.set_axis_off()
    for column, row, film, heatmap in zip(panels.T, rows, pixels[0].numpy()[:, 0], maps, strict=False):
        picture = Image.fromarray(film)
        column[0].imshow(picture, cmap="gray", vmin=0, vmax=255)
        column[1].imshow(overlay(picture, heatmap))
        flag = "" if row["flag"] in ("", "review") else f"\n{row['flag']}"
        column[0].set_title(f"{row['label'].lower()}\nP = {row['probability']:.2f}{flag}", fontsize=8)
    figure.savefig(path, dpi=110)

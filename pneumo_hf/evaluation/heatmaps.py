"""Which films are explained, and how far their heatmaps can be believed."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.abstention import is_mistake, surest
from pneumo_hf.inference.explain import GradCam, insertion_and_deletion, share_inside, shares_by_side
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.labels import NEGATIVE

logger = logging.getLogger(__name__)

EXPLAINED = 32  # films that the measures are taken on
MISTAKES = 6  # that are looked at


def measure_heatmaps(scorer: Scorer, views: Sequence[FilmDataset], rows: list[dict]) -> dict:
    """Measure the heatmaps of some films of pneumonia that were found.

    Args:
        views: the films as each of the scorer's members decodes them.
        rows: their predictions, in order.

    Returns:
        `{"n", "inside_central_box", "by_chance", "inserted", "deleted", "mistakes"}`: the mean share of a heatmap in
        the central box and that of a map without meaning, the curves of `insertion_and_deletion`, and of the surest
        mistakes how many have heat, its mean share outside the box, at which side most, and both of each film by its
        row. Empty where there is no such film, and where the network gives no heatmap.
    """
    try:
        cam = GradCam(scorer)
    except InputError as error:
        logger.info("no heatmaps: %s", error)
        return {}
    found = found_films(rows, scorer.settings.threshold)
    chosen = [row["index"] for row in found[:: max(1, len(found) // EXPLAINED)]][:EXPLAINED]
    if not chosen:
        return {}
    pixels, maps = heatmaps_of(cam, views, chosen)
    inserted, deleted = insertion_and_deletion(scorer, maps, *pixels)
    return {
        "n": len(chosen),
        "inside_central_box": float(share_inside(maps).mean()),
        "by_chance": float(share_inside(np.ones_like(maps[:1]))[0]),
        "inserted": inserted.tolist(),
        "deleted": deleted.tolist(),
        "mistakes": heat_of_mistakes(cam, views, surest_mistakes(rows, scorer.settings.threshold)),
    }


def heat_of_mistakes(cam: GradCam, views: Sequence[FilmDataset], mistakes: list[dict]) -> dict:
    """Measure where the heat over the surest mistakes lies outside the central box (see `measure_heatmaps`)."""
    if not mistakes:
        return {}
    _, maps = heatmaps_of(cam, views, [row["index"] for row in mistakes])
    sides, hot = (
        shares_by_side(maps),
        np.array([heat.any() for heat in maps]),
    )  # a film without evidence for pneumonia has no heat
    names, shares = list(sides), np.stack(list(sides.values()))  # [4, N]
    films = [
        {"row": row["index"], "outside": float(of_sides.sum()), "side": names[of_sides.argmax()] if heat else None}
        for row, of_sides, heat in zip(mistakes, shares.T, hot, strict=True)
    ]
    if not hot.any():
        return {"n": 0, "films": films}
    outside, side = float(shares[:, hot].sum(axis=0).mean()), names[shares[:, hot].mean(axis=1).argmax()]
    return {"n": int(hot.sum()), "outside": outside, "side": side, "films": films}


def surest_mistakes(rows: list[dict], threshold: float) -> list[dict]:
    """Select the first of the answered films that were called wrong, each with its `index`, the most certain first."""
    return [row for row in answered_films(rows, threshold) if is_mistake(row)][:MISTAKES]


def answered_films(rows: list[dict], threshold: float) -> list[dict]:
    """Select the rows with an answer, each with its `index`, the most certain first."""
    numbered = surest([{**row, "index": index} for index, row in enumerate(rows)], threshold)
    return [row for row in numbered if row["flag"] in ("", "review")]


def found_films(rows: list[dict], threshold: float) -> list[dict]:
    """Select the films of pneumonia that were called so, the most certain first."""
    return [row for row in answered_films(rows, threshold) if NEGATIVE not in (row["label"], row["prediction"])]


def heatmaps_of(
    cam: GradCam, views: Sequence[FilmDataset], chosen: Sequence[int]
) -> tuple[list[torch.Tensor], np.ndarray]:
    """Compute what each member is fed of the chosen films, and their heatmaps `[N, H, W]`."""
    pixels = [films.__getitems__(chosen)["pixel_values"] for films in views]
    batches = zip(*(torch.split(part, 8) for part in pixels), strict=True)
    return pixels, np.concatenate([cam(*batch) for batch in batches])

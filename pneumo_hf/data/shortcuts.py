"""Shortcut floors: what a linear model reaches without the lungs. A network no better has learnt the frame."""

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo_hf.data.pixels import FilmDataset

SIDE = 56  # films are averaged down to this many pixels a side
REGIONS = ("corners", "border_ring", "outside_central_box")


def shortcut_floors(train: FilmDataset, test: FilmDataset) -> dict[str, float]:
    """ROC AUC on test of ridge regression on the parts of a film that hold no lung: `{region: roc_auc}`.

    The corners are eighths of the side; the border ring is a sixteenth wide; the central box is the middle half.
    """
    pixels = {split: shrink(films) for split, films in (("train", train), ("test", test))}
    floors = {}
    for region in REGIONS:
        mask = region_mask(region)
        ridge = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1000.0, class_weight="balanced"))
        ridge.fit(pixels["train"][:, mask], train.labels)
        floors[region] = float(roc_auc_score(test.labels, ridge.decision_function(pixels["test"][:, mask])))
    return floors


def shrink(films: FilmDataset) -> np.ndarray:
    """`[N, SIDE, SIDE]` float32 by averaging blocks, the odd edge left out."""
    block = films.pixels.shape[-1] // SIDE or 1
    side = films.pixels.shape[-1] // block
    side = min(side, SIDE)
    small = np.empty((len(films), SIDE, SIDE), np.float32)
    small.fill(0)
    for position, row in enumerate(films.rows):
        film = films.pixels[row, 0, : side * block, : side * block]
        small[position, :side, :side] = film.reshape(side, block, side, block).mean(axis=(1, 3))
    return small


def region_mask(region: str) -> np.ndarray:
    """Which pixels of `[SIDE, SIDE]` belong to a region."""
    edge = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])  # distance from the nearer edge
    near_x, near_y = np.meshgrid(edge, edge)
    if region == "corners":
        return (near_x < SIDE // 8) & (near_y < SIDE // 8)
    nearest = np.minimum(near_x, near_y)
    return nearest < (SIDE // 16 if region == "border_ring" else SIDE // 4)

"""What a film looks like at a glance: a thumbnail, and how far it resembles the mean chest film."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

THUMBNAIL = 56  # pixels a side
MEAN_CHEST = Path(__file__).parent / "mean_chest.png"
INVERTED = -0.3  # a chest film of the right polarity stays above: the least of 240 of other hospitals is -.18


def thumbnail(film: Image.Image) -> np.ndarray:
    """`[56, 56]` uint8, each pixel the mean of its area, whatever the film's proportions."""
    return np.asarray(film.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def standardise(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails `[N, 56, 56]` as rows `[N, 3136]` float32 of mean zero and length one (a blank film stays zero)."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@cache
def mean_chest() -> np.ndarray:
    """The mean train film of the embedded sample (`data/make_sample.py` wrote it), standardised: `[3136]`."""
    return standardise(np.asarray(Image.open(MEAN_CHEST))[None])[0]


def chest_correlation(film: Image.Image) -> float:
    """Pearson correlation with the mean chest film, -1 to 1: below `INVERTED`, lungs are bright and bones dark."""
    return float(standardise(thumbnail(film)[None])[0] @ mean_chest())

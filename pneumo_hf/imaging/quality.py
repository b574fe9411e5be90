"""What a film looks like at a glance: a thumbnail, and how far it resembles the mean chest film."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

THUMBNAIL = 56  # pixels a side
MEAN_CHEST = Path(__file__).parent / "mean_chest.png"
SMALLEST_SIDE = 64  # pixels
BLOCK = 8  # pixels a side, of JPEG
FAINTEST_STEP = 1e-3  # grey levels, added to both: nothing may be left inside blocks, and all of a blank film is equal
MOST_BLOCKS = 32  # a side, from the middle of a film: as many as its blockiness needs
FAINTEST = 3.0  # grey levels of deviation; the faintest train film of the embedded sample has 25
COLOURED = "coloured"  # in the `info` of a film that load_xray made of a colour picture
LATERAL = "lateral"  # in the `info` of a DICOM film: whether its header says that it shows the chest from the side
NOTES = "notes"  # in the `info` of a DICOM film: what of its header was not followed
SHOWN_RANGE = "shown_range"  # in that of a DICOM film: the values shown black and white, None of a look-up table
INVERTED = -0.45  # chest_correlation of a negative; no film of the Kermany set or of 240 from elsewhere is below -.19
MISFRAMED = 0.0  # below it a film is laid out unlike a chest: 11 of Kermany's 5216 train films, cut off or opaque, are

ATYPICAL_LAYOUT = "not laid out like a chest: cropped, turned or opaque"
LATERAL_VIEW = "a lateral view: frontal films alone are read"

QUALITY_ISSUES = {  # and the flag that a prediction gets for each
    "blank": "not_chest_xray",
    "a colour picture": "not_chest_xray",
    f"smaller than {SMALLEST_SIDE} pixels": "abstain",
    LATERAL_VIEW: "abstain",
    "a negative: its lungs are bright": "abstain",
    ATYPICAL_LAYOUT: "abstain",
}


def thumbnail(film: Image.Image) -> np.ndarray:
    """Shrink a film to `[56, 56]` uint8, each pixel the mean of its area, whatever its proportions."""
    return np.asarray(film.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def standardise(thumbnails: np.ndarray) -> np.ndarray:
    """Turn thumbnails `[N, 56, 56]` into rows `[N, 3136]` float32 of mean zero and length one (a blank film: zero)."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@cache
def mean_chest() -> np.ndarray:
    """Load the mean train film of the embedded sample (`data/make_sample.py` wrote it), standardised: `[3136]`."""
    return standardise(np.asarray(Image.open(MEAN_CHEST))[None])[0]


def chest_correlation(thumbnails: np.ndarray) -> np.ndarray:
    """Correlate thumbnails `[N, 56, 56]` with the mean chest film: `[N]` from -1 to 1.

    Quadratic shading is taken out of both, so that lungs, ribs and spine count, not a bright middle. Below `INVERTED`
    a film is a negative, its lungs bright.
    """
    shading = _shading()
    details = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    details, mean = details - details @ shading @ shading.T, mean_chest() - mean_chest() @ shading @ shading.T
    return details @ mean / np.maximum(np.linalg.norm(details, axis=1) * np.linalg.norm(mean), 1e-6)


@cache
def _shading() -> np.ndarray:
    """An orthonormal basis `[3136, 6]` of the quadratic polynomials in x and y."""
    y, x = np.mgrid[-1 : 1 : THUMBNAIL * 1j, -1 : 1 : THUMBNAIL * 1j].reshape(2, -1)
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))[0].astype(np.float32)


def image_statistics(pixels: np.ndarray, thumbnails: np.ndarray) -> dict[str, np.ndarray]:
    """Measure films as the network is fed them, `[N, H, W]` uint8, and their thumbnails `[N, 56, 56]`: `{name: [N]}`.

    `mean` and `contrast` (deviation) in grey levels, `sharpness`, the deviation of the Laplacian, which blur lowers
    and noise raises, and `layout`, `chest_correlation`.
    """
    grey = pixels.astype(np.float32)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return {
        "mean": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "sharpness": (4 * inner - around).std(axis=(1, 2)),
        "layout": chest_correlation(thumbnails),
    }


def blockiness(film: Image.Image) -> float:
    """Measure how far a film shows the blocks of JPEG: 1 not at all, more where it was compressed more.

    The mean step from pixel to pixel across the edges of blocks, by that inside them, along rows and columns (two of
    the terms of Wang, Sheikh and Bovik 2002); NaN of a film of one block. Blocks count from the upper left corner of
    the film as it was read: where it was cropped, or turned by its EXIF orientation, they may not be found.
    """
    if max(film.size) <= BLOCK:
        return float("nan")
    left, top = (max(0, (side // BLOCK - MOST_BLOCKS) // 2) * BLOCK for side in film.size)
    middle = np.s_[top : top + MOST_BLOCKS * BLOCK, left : left + MOST_BLOCKS * BLOCK]
    pixels = np.asarray(film)[middle].astype(np.int16)
    steps = [np.abs(np.diff(lines, axis=1)).sum(axis=0) / len(lines) for lines in (pixels, pixels.T)]
    across = np.concatenate([line[BLOCK - 1 :: BLOCK] for line in steps]).mean()
    inside = np.concatenate([np.delete(line, np.s_[BLOCK - 1 :: BLOCK]) for line in steps]).mean()
    return float((across + FAINTEST_STEP) / (inside + FAINTEST_STEP))


def quality_issue(film: Image.Image) -> str:
    """Say why a film should not be scored, a key of `QUALITY_ISSUES`; empty where nothing is wrong."""
    # twice as fast as `thumbnail`; areas are rounded to pixels: on 64 films of four sizes that moved the deviation by
    # .6 at most and the correlation by .01, which matters only for a film that close to a limit
    small = np.asarray(film.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=2.0))
    if small.std() < FAINTEST:
        return "blank"
    if film.info.get(COLOURED):
        return "a colour picture"
    if min(film.size) < SMALLEST_SIDE:
        return f"smaller than {SMALLEST_SIDE} pixels"
    if film.info.get(LATERAL):
        return LATERAL_VIEW
    correlation = chest_correlation(small[None])[0]
    if correlation < INVERTED:
        return "a negative: its lungs are bright"
    return ATYPICAL_LAYOUT if correlation < MISFRAMED else ""

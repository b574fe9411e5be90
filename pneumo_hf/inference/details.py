"""What can be said of a film beside its score: the columns by which `monitor` watches a stream of films."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pneumo_hf.imaging.dicom import dicom_facts, is_dicom
from pneumo_hf.imaging.quality import blockiness, image_statistics, thumbnail

if TYPE_CHECKING:
    from pneumo_hf.data.pixels import FilmDataset  # as in scorer.py

IMAGE_COLUMNS = ("distance", "mean", "contrast", "sharpness", "layout", "blockiness", "width", "height")
CATEGORIES = ("sex", "view", "patient_position", "manufacturer", "device_model")  # texts; the others are numbers
HEADER_COLUMNS = ("age", *CATEGORIES, "window_center", "window_width")
DETAIL_COLUMNS = IMAGE_COLUMNS + HEADER_COLUMNS
DIGITS = 5
FILMS_AT_ONCE = 64


def details_file(split: str) -> str:
    """Name the file of a report that has the details of a split, beside its predictions."""
    return f"details_{split}.csv"


def rounded(value: float) -> float | None:
    """Round to as many digits as are of use; None where it is no number.

    >>> rounded(0.1234567), rounded(float("nan"))
    (0.12346, None)
    """
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def details_of_film(row: Mapping[str, Any], film: Image.Image, pixels: np.ndarray, content: Any) -> dict[str, Any]:
    """Return DETAIL_COLUMNS of a film but for its distance.

    Args:
        row: what is known of it, of which `age`, `sex` and `view` are taken. film: as it was read.
        pixels: as the network is fed it, `[1, H, W]` uint8. content: the bytes of its file, where it came in one.
    """
    said = {}
    if isinstance(content, bytes) and is_dicom(content):
        with suppress(ValueError):  # a damaged header, of a film that could be read all the same
            said = {name: value for name, value in dicom_facts(content).items() if value is not None}
    statistics = image_statistics(pixels, thumbnail(film)[None])
    width, height = film.size
    return {
        **{name: said.get(name) if row.get(name) is None else row[name] for name in HEADER_COLUMNS},
        **{name: rounded(float(values[0])) for name, values in statistics.items()},
        "blockiness": rounded(blockiness(film)),
        "width": width,
        "height": height,
    }


def details_of_dataset(films: "FilmDataset", distances: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield DETAIL_COLUMNS of decoded films; of headers what their table has."""
    table = films.table.select_columns([name for name in HEADER_COLUMNS if name in films.table.column_names])
    for start in range(0, len(films), FILMS_AT_ONCE):
        chosen = slice(start, start + FILMS_AT_ONCE)
        statistics = image_statistics(films.pixels[films.rows[chosen]][:, 0], films.thumbnails[chosen])
        for place, row in enumerate(table.select(range(start, min(start + FILMS_AT_ONCE, len(films))))):
            width, height = films.sizes[start + place].tolist()
            yield {
                **row,
                **{name: rounded(float(values[place])) for name, values in statistics.items()},
                "distance": rounded(float(distances[start + place])),
                "blockiness": rounded(float(films.blockiness[start + place])),
                "width": width,
                "height": height,
            }

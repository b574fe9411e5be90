"""The same figures for parts of the films, and how far apart they lie: who and how, where the data say."""

from collections.abc import Iterator

import numpy as np

from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.schema import DEVICE_COLUMNS
from pneumo_hf.evaluation.gaps import SMALLEST, group_gaps
from pneumo_hf.evaluation.metrics import metrics_with_intervals

SHOWN = ("roc_auc", "sensitivity", "specificity")
AGES = {"under 18": (0, 18), "18 to 39": (18, 40), "40 to 64": (40, 65), "65 and older": (65, np.inf)}  # years
SIDES = {"below 500": (0, 500), "500 to 999": (500, 1000), "from 1000": (1000, np.inf)}  # pixels, the shorter one
ASPECTS = {"below 1.2": (0, 1.2), "1.2 to 1.5": (1.2, 1.5), "from 1.5": (1.5, np.inf)}  # width by height


def subgroups(films: FilmDataset, probs: np.ndarray, threshold: float) -> dict[str, dict]:
    """Measure `{group: {"n", "roc_auc", "sensitivity", "specificity"}}`, undefined ones left out.

    A kind of pneumonia is set against all normal films, so that it has a ROC area; it has no specificity of its own.
    A group of fewer than 20 films has a `note` in place of figures. A column that does not divide the films, or whose
    values the data do not tell, gives no group.
    """
    result = {}
    for name, chosen, against_all_normals in _groups(films):
        if chosen.sum() < SMALLEST:
            result[name] = {"n": int(chosen.sum()), "note": f"fewer than {SMALLEST} films"}
            continue
        both = chosen | (films.endpoint == 0) if against_all_normals else chosen
        values = metrics_with_intervals(films.endpoint[both], probs[both], threshold, films.patient_ids[both])
        shown = [key for key in SHOWN if np.isfinite(values[key]["value"])]
        if against_all_normals:
            shown.remove("specificity")
        result[name] = {"n": int(chosen.sum()), **{key: values[key] for key in shown}}
    return result


def _groups(films: FilmDataset) -> Iterator[tuple[str, np.ndarray, bool]]:
    """`(name, which films [N] bool, whether against all normals)` of every group."""
    subtypes = np.array(films.table["subtype"])
    for subtype in sorted(set(subtypes[films.labels > 0]) - {""}):
        yield subtype, (subtypes == subtype) & (films.labels > 0), True
    for column in ("source", "sex", "view", *DEVICE_COLUMNS):
        values = _words(films, column)
        known = sorted(set(values) - {""})
        for value in known if len(known) > 1 else ():
            yield f"{column.replace('_', ' ')} {value}", values == value, False
    ages = _ages(films)
    width, height = films.sizes.T
    for column, numbers, bands in (
        ("age", ages, AGES),
        ("shorter side", films.sizes.min(axis=1), SIDES),
        ("width by height", width / np.maximum(height, 1), ASPECTS),
    ):
        parts = {name: (numbers >= low) & (numbers < high) for name, (low, high) in bands.items()}
        parts = {name: part for name, part in parts.items() if part.any()}
        for name, part in parts.items() if len(parts) > 1 else ():
            yield f"{column} {name}", part, False


def gaps(films: FilmDataset, probs: np.ndarray, threshold: float) -> dict[str, dict]:
    """Measure the largest differences between the groups of sex, age, view, manufacturer and source (`group_gaps`)."""
    ages, bands = _ages(films), np.full(len(films), "", dtype=object)
    for name, (low, high) in AGES.items():
        bands[(ages >= low) & (ages < high)] = name
    groups = {column: _words(films, column) for column in ("sex", "view", "manufacturer", "source")} | {"age": bands}
    return group_gaps(films.endpoint, probs, threshold, films.patient_ids, groups)


def _words(films: FilmDataset, column: str) -> np.ndarray:
    return np.array([value or "" for value in films.table[column]])


def _ages(films: FilmDataset) -> np.ndarray:
    return np.array([np.nan if age is None else age for age in films.table["age"]], dtype=float)

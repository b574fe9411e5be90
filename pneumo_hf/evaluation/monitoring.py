"""Weeks of films against a reference: what `monitor.json` holds, and in words what moved."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.drift import (
    FLAG,
    FLAGS,
    MOST_FILMS,
    NUMBERS,
    PATIENT,
    SCORE,
    WINDOW,
    Films,
    Grid,
    Limits,
    Statistic,
    compare_with,
    counted,
    find_limits,
    join,
    number_patients,
)
from pneumo_hf.evaluation.reference import read_films, read_reference
from pneumo_hf.inference.details import CATEGORIES

RATES = (0.001, 0.5)
SHOWN = 3  # columns that the message names
WORDS = {
    SCORE: "scores",
    "distance": "distances from the films of training",
    "mean": "brightness",
    "contrast": "contrast",
    "sharpness": "sharpness",
    "layout": "likeness to the mean chest film",
    "blockiness": "blockiness of JPEG",
    "width": "width in pixels",
    "height": "height in pixels",
    "age": "age",
    "window_center": "centre of the window",
    "window_width": "width of the window",
    "patient_position": "patient position",
    "device_model": "model of the device",
    "review": "flagged for review",
    "abstain": "without an answer",
    "not_chest_xray": "called no chest X-ray",
    "unreadable": "unreadable",
}


def monitor(batches: Sequence[str | Path], reference: str | Path, false_alarms: float = 0.01) -> dict:
    """Judge batches of films, each alone and with the three before it, against a reference.

    Args:
        batches: CSVs of `predict`, a week each, the newest last; with `--details` more than scores and flags is
            watched.
        reference: a run folder, a report of `evaluate`, or a CSV of `predict`.
        false_alarms: share of calm batches that may raise an alarm, by all statistics together.

    Returns:
        What `monitor.json` holds: `alarm`, of the newest batch, `message`, and of each of `batches` its statistics
        with their limits.

    Raises:
        InputError: a file cannot be used, or the rate is none.

    >>> films = "models/pneumo-efficientnet/report/predictions_validation.csv"
    >>> monitor([films], "models/pneumo-efficientnet")["alarm"]
    False
    """
    low, high = RATES
    if not low <= false_alarms <= high:
        raise InputError(f"--false_alarms is a share from {low} to {high}, not {false_alarms}")
    paths = [Path(batch) for batch in batches]
    films = [read_films(path) for path in paths]
    against, missing = read_reference(Path(reference))
    found: dict[tuple, tuple[Grid, Limits]] = {}
    judged = []
    for number, path in enumerate(tqdm(paths, desc="Judging batches", unit="batch")):
        parts = [counted(part) for part in films[max(0, number + 1 - WINDOW) : number + 1]]
        columns = [name for name in (*NUMBERS, *CATEGORIES) if all(name in part for part in (*parts, against))]
        sizes = [len(part[FLAG]) for part in parts]
        key = (*sizes, *columns)
        if key not in found:
            grid = Grid.of(against, columns)
            found[key] = grid, find_limits(against, grid, sizes, false_alarms)
        flags = films[number][FLAG]
        numbers = {"films": len(flags), "counted": len(parts[-1][FLAG])}
        numbers["unreadable"] = int((flags == "unreadable").sum())
        judged.append({"name": path.stem, **numbers, **judge(parts, against, *found[key])})
    watched = _with_values(films[-1], found[key][0])
    lost = [name for name in _with_values(against, Grid.of(against, list(against))) if name not in watched]
    if not missing and "distance" not in films[-1]:
        missing = f"{paths[-1]} was written without --details: scores and flags alone are watched"
    elif not missing and lost:
        missing = f"no values of {', '.join(lost)} in {paths[-1]} or a batch before it"
    if judged[-1]["counted"] < judged[-1]["films"] / 2:
        few = f"of {paths[-1]} {judged[-1]['counted']} films count, at most {MOST_FILMS} of each patient_id"
        missing = "; ".join(filter(None, (missing, few)))
    result = {
        "reference": str(reference),
        "films": len(against[FLAG]),
        "patients": int(number_patients(against[PATIENT]).max()) + 1,
        "false_alarms": false_alarms,
        "watched": watched,
        "missing": missing,
        "alarm": judged[-1]["alarm"],
        "batches": judged,
    }
    return result | {"message": _message(result)}


def _with_values(films: Films, grid: Grid) -> list[str]:
    """What of a grid is watched of films: numbers that any of them has, flags and texts."""
    return [*(name for name in grid.numbers if np.isfinite(films[name]).any()), *FLAGS, *grid.categories]


def judge(parts: Sequence[Films], reference: Films, grid: Grid, limits: Limits) -> dict:
    """Judge the newest of some batches alone, and all of them together: an item of `batches` but its name and numbers.

    Args:
        parts: at most WINDOW batches, of films that count. limits: for batches of their sizes.
    """
    names = [*grid.numbers, *grid.categories, FLAG]
    views = {"batch": (parts[-1], limits.batch)}
    if len(parts) > 1:
        views["window"] = join(parts, names), limits.window
    rows: dict[Statistic, dict] = {}
    ratios: dict[str, tuple[float, str]] = {}  # of each column the largest, and of which view
    for view, (films, limit) in views.items():
        for statistic, value in compare_with(reference, films, grid).items():
            column, kind = statistic
            if np.isnan(value):  # no film of the batch has it
                continue
            row = rows.setdefault(statistic, {"column": column, "kind": kind})
            row[view] = {"value": value, "limit": limit[statistic]}
            ratios[column] = max(ratios.get(column, (0.0, "")), (value / limit[statistic], view))
    ordered = sorted(ratios.items(), key=lambda item: -item[1][0])
    moved = [
        describe(column, views[view][0], reference) + (f" over {len(parts)} batches" if view == "window" else "")
        for column, (ratio, view) in ordered
        if ratio > 1
    ]
    return {
        "alarm": bool(moved),
        "nearest": {"column": ordered[0][0], "of_limit": ordered[0][1][0]},
        "moved": moved,
        "statistics": [*rows.values()],
    }


def describe(column: str, films: Films, reference: Films) -> str:
    """Say in words how a column of films differs from the reference's.

    >>> old, new = ({"sharpness": np.array(values)} for values in ([4.0, 5.0, 6.0], [2.0, 2.5, 3.0]))
    >>> describe("sharpness", new, old)
    'sharpness is lower (median 2.5, reference 5)'
    """
    name = WORDS.get(column, column)
    if column in FLAGS:
        share, before = (100 * (part[FLAG] == column).mean() for part in (films, reference))
        return f"{share:.1f} % {name} (reference {before:.1f} %)"
    if column in CATEGORIES:
        values = np.unique(np.concatenate([films[column], reference[column]]))
        shares = np.array([[(part[column] == value).mean() for value in values] for part in (films, reference)])
        most = int(np.argmax(shares[0] - shares[1]))
        share, before = 100 * shares[:, most]
        return f"{name} {values[most] or 'not said'} of {share:.1f} % (reference {before:.1f} %)"
    median, before = (np.nanmedian(part[column]) for part in (films, reference))
    texts = f"median {median:.3g}, reference {before:.3g}"
    verb = "are" if name.endswith("s") and column in (SCORE, "distance") else "is"
    if f"{median:.2g}" == f"{before:.2g}":
        return f"{name} {verb} distributed otherwise ({texts})"
    return f"{name} {verb} {'higher' if median > before else 'lower'} ({texts})"


def _message(result: dict) -> str:
    """The verdict on the newest batch in one line."""
    newest, earlier = result["batches"][-1], [batch["name"] for batch in result["batches"][:-1] if batch["alarm"]]
    if newest["alarm"]:
        more = len(newest["moved"]) - SHOWN
        verdict = "alarm: " + "; ".join(newest["moved"][:SHOWN]) + (f"; and {more} more" if more > 0 else "")
    else:
        near = newest["nearest"]
        name = WORDS.get(near["column"], near["column"])
        verdict = f"calm, all within their limits; the nearest is {name!r} at {100 * near['of_limit']:.0f} % of its"
    words = f"{newest['name']}, {newest['films']} films: {verdict}"
    words += f" (alarms before: {', '.join(earlier)})" if earlier else ""
    return words + (f" ({result['missing']})" if result["missing"] else "")

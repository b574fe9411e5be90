"""What films are watched against, and the CSVs of `predict` as columns of arrays."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pneumo_hf.data.predictions import PREDICTION_COLUMNS
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.drift import FLAG, MOST_FILMS, NUMBERS, PATIENT, SCORE, Films, counted
from pneumo_hf.inference.details import CATEGORIES, details_file

LEAST_FILMS = 50  # of a reference
NEEDED = ("path", SCORE, FLAG)


def read_films(path: Path) -> Films:
    """Read a CSV of `predict` or of a report: a column each, with `unreadable` as the flag of films without a score.

    Raises:
        InputError: it is no such CSV, or has no film.
    """
    rows = read_rows(path)
    if not rows or not all(name in rows[0] for name in NEEDED):
        raise InputError(f"{path} is no CSV of predict: it needs films under {', '.join(PREDICTION_COLUMNS)}")
    return as_films(path, rows)


def read_reference(reference: Path) -> tuple[Films, str]:
    """Read what batches are set beside: films that count, and what is missing of them, in a sentence, or "".

    Args:
        reference: a run folder, whose validation films count; a report of `evaluate`; or a CSV of `predict`.

    Raises:
        InputError: there are no predictions, or too few.
    """
    if reference.is_dir():
        folder = reference / "report" if (reference / "report").is_dir() else reference
        split = "validation" if (folder / "predictions_validation.csv").exists() else _split_of(folder)
        path = folder / f"predictions_{split}.csv"
        films, details = read_films(path), folder / details_file(split)
        missing = f"{reference} has no {details.relative_to(reference)}: scores and flags alone are watched"
        if details.exists():
            films |= _details(details, path)
            missing = ""
    else:
        if not reference.exists():
            raise _no_reference(reference)
        films = read_films(reference)
        missing = "" if "distance" in films else f"{reference} was written without --details: scores and flags alone"
    films = counted(films)
    scored = int(np.isfinite(films[SCORE]).sum())
    if scored < LEAST_FILMS:
        raise InputError(
            f"{reference} has {scored} films with a score that count, at most {MOST_FILMS} of each patient_id: "
            f"a reference needs {LEAST_FILMS} or more"
        )
    return films, missing


def _split_of(folder: Path) -> str:
    try:
        return json.loads((folder / "metrics.json").read_text())["split"]
    except (OSError, KeyError, ValueError) as error:
        raise _no_reference(folder) from error


def _no_reference(path: Path) -> InputError:
    return InputError(
        f"{path} has no predictions to watch films against: give a run folder, a report of evaluate, or a CSV of "
        "predict --details"
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV.

    Raises:
        InputError: there is none, or it is no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except csv.Error as error:
        raise InputError(f"{path} is no CSV of predict: {error}") from error


def _details(path: Path, predictions: Path) -> Films:
    rows, of_predictions = read_rows(path), read_rows(predictions)
    if [row.get("path") for row in rows] != [row["path"] for row in of_predictions]:
        raise InputError(f"{path} is of other films than {predictions.name}: evaluate again, or remove it")
    return as_films(path, rows)


def as_films(path: Path, rows: Sequence[dict[str, str]]) -> Films:
    """Make columns of arrays of the rows of a CSV.

    Raises:
        InputError: a value cannot be used; `path` is the file that it names.
    """
    texts = {name: [row[name] or "" for row in rows] for name in rows[0] if name is not None}
    try:
        films = {name: np.array([float(value or "nan") for value in texts[name]]) for name in NUMBERS if name in texts}
    except ValueError as error:
        raise InputError(f"{path}: a column of numbers holds something else ({error})") from error
    for name in CATEGORIES:
        if name in texts:
            films[name] = np.array(texts[name])
            _assert_utf8(path, name, texts[name])
    if SCORE in films:
        outside = films[SCORE][np.isfinite(films[SCORE])]
        if ((outside < 0) | (outside > 1)).any():
            raise InputError(f"{path}: a probability is not between 0 and 1")
        films[FLAG] = np.where(np.isfinite(films[SCORE]), np.array(texts[FLAG]), "unreadable")
        films[PATIENT] = np.array(texts.get(PATIENT, [""] * len(rows)))
    return films


def _assert_utf8(path: Path, column: str, texts: Sequence[str]) -> None:
    """Refuse names of another encoding, which no page can show; a film's path may be of any."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: {column} is not in UTF-8: save the table as CSV in UTF-8") from error

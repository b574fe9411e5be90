"""The CSVs of a run: one row a film, with its score and decision."""

import csv
from collections.abc import Iterable, Sequence
from math import log
from pathlib import Path

import numpy as np
from transformers.utils import cached_file

from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS, Task, column_of

PREDICTION_COLUMNS = ("path", "label", "patient_id", "probability", "prediction", "flag", "error")
EPSILON = 1e-12  # 1.0 in the file is not certainty


def columns_of(task: Task) -> tuple[str, ...]:
    """Return the columns of a predictions CSV: of more than two labels, the probability of each at the end."""
    return (*PREDICTION_COLUMNS, *(() if task.is_binary else map(column_of, task.labels)))


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """Write rows under a header; values of other columns are left out."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def log_odds(probs: np.ndarray | float, least: float = EPSILON) -> np.ndarray:
    """Return the log odds of probabilities, which are first brought to `least` or more from 0 and 1.

    >>> log_odds(np.array([0.25, 0.75, 1.0]), least=1e-7).round(4).tolist()
    [-1.0986, 1.0986, 16.1181]
    """
    inside = np.clip(np.asarray(probs, np.float64), least, 1 - least)
    return np.log(inside) - np.log1p(-inside)


def read_predictions(
    checkpoint: str | Path, split: str, labels: Sequence[str] = LABELS
) -> dict[str, tuple[str, list[float]]] | None:
    """Read `{film: (label, logits [C])}` of a split from the report beside a checkpoint, a folder or Hub id.

    The logits are those of the probabilities, up to a constant, in the order of the labels; of two labels, of NORMAL
    and all others together.

    Returns:
        None where the checkpoint has no report, or where two films of merged sources share a name.

    Raises:
        InputError: the file is no predictions file of a labelled split.
    """
    file = f"report/predictions_{split}.csv"
    try:
        path = cached_file(str(checkpoint), file, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None
    if path is None:
        return None
    with open(path, newline="") as lines:
        rows = list(csv.DictReader(lines))
    try:
        columns = list(map(column_of, labels)) if len(labels) > 2 else []
        table = {row["path"]: (row["label"], _logits(row, columns)) for row in rows}
        if not all(label in labels if columns else label for label, _ in table.values()):
            raise ValueError("a film without one of the labels")
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no predictions file of a labelled split") from error
    return table if len(table) == len(rows) else None


def _logits(row: dict[str, str], columns: list[str]) -> list[float]:
    if not all(0 <= float(row[column]) <= 1 for column in ("probability", *columns)):
        raise ValueError(f"{row['probability']} is no probability")
    if columns:
        return [log(max(float(row[column]), EPSILON)) for column in columns]
    return [0.0, float(log_odds(float(row["probability"])))]

"""The CSVs of a run: one row a film, with its score and decision."""

import csv
from collections.abc import Iterable
from math import log
from pathlib import Path

from transformers.utils import cached_file

from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS

PREDICTION_COLUMNS = ("path", "label", "patient_id", "probability", "prediction", "flag", "error")
EPSILON = 1e-12  # 1.0 in the file is not certainty


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """Write rows under a header; values of other columns are left out."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_predictions(checkpoint: str | Path, split: str) -> dict[str, tuple[int, float]] | None:
    """Read `{film: (label, log odds)}` of a split from the report beside a checkpoint, a folder or Hub id.

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
        table = {row["path"]: (LABELS.index(row["label"]), _log_odds(float(row["probability"]))) for row in rows}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no predictions file of a labelled split") from error
    return table if len(table) == len(rows) else None


def _log_odds(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise ValueError(f"{probability} is no probability")
    probability = min(max(probability, EPSILON), 1 - EPSILON)
    return log(probability / (1 - probability))

"""The table that `predict` writes, a row a film: CSV or Parquet, on a disk or in an object store."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import IO

from pneumo_hf.data.files import readable
from pneumo_hf.data.labels import LabelNames
from pneumo_hf.data.reading import in_batches
from pneumo_hf.data.stores import is_address, open_store, replacing
from pneumo_hf.inference.clinical import ANSWERS
from pneumo_hf.inference.details import CATEGORIES
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.labels import NEGATIVE, column_of

Rescale = Callable[[float], float]

ROWS_AT_ONCE = 10_000
TEXTS = {"path", "label", "patient_id", "prediction", "flag", "error", ANSWERS[1], *CATEGORIES}  # others are numbers
TINY = 1e-300


class RowValues:
    """Scores as the values of a table's columns.

    Args:
        recalibrate: of the probabilities, after the decision.
    """

    def __init__(self, scorer: Scorer, recalibrate: Rescale):
        self.names, self.columns = LabelNames(scorer.task.labels), scorer.columns
        self.recalibrate = recalibrate

    def __call__(self, row: dict) -> list:
        """Return a scored row's values of the columns."""
        labels, number = self.names.labels, self.names.named(row["label"], row["subtype"])
        values = {**row, "path": row["file_name"], "label": "" if number is None else labels[number]}
        if row["probability"] is not None:  # decided already, at the threshold of the score as it was
            values["probability"] = new = self.recalibrate(row["probability"])
            if len(labels) > 2:
                values[column_of(NEGATIVE)] = 1 - new
                for column in map(column_of, labels[1:]):
                    values[column] = row[column] * new / max(row["probability"], TINY)
        return [values[column] for column in self.columns]


def write_table(rows: Iterable[list], columns: Sequence[str], output: str, partial: str) -> None:
    """Write `output`, Parquet where it is called so and else CSV, replacing an earlier one in one step.

    Args:
        partial: where it grows until it is whole, on the same disk; object stores do that by themselves.
    """
    write = _write_parquet if output.endswith(".parquet") else _write_csv
    if is_address(output):
        store, path = open_store(output)
        with store.open(path, "wb") as file:
            write(rows, columns, file)
        return
    with replacing(output, partial) as file:
        write(rows, columns, file)


def _write_csv(rows: Iterable[list], columns: Sequence[str], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    text.detach()  # flushes it, and leaves the file open


def _write_parquet(rows: Iterable[list], columns: Sequence[str], file: IO[bytes]) -> None:
    import pyarrow as pa  # half a second to import: for Parquet alone
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string() if name in TEXTS else pa.float64()) for name in columns])
    with pq.ParquetWriter(file, schema) as writer:
        for batch in in_batches(rows, ROWS_AT_ONCE):
            values = {name: list(column) for name, column in zip(columns, zip(*batch, strict=True), strict=True)}
            values["path"] = [readable(path) for path in values["path"]]
            writer.write_table(pa.table(values, schema=schema))

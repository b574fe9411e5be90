"""Films in Parquet shards: counted by the footer alone, then streamed from any row on."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image

from pneumo_hf.data import stores
from pneumo_hf.data.labels import NUMBERS
from pneumo_hf.data.patients import names_patient, parse_file_name
from pneumo_hf.data.schema import CLINICAL_COLUMNS, clinical_values
from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 32
PAGE_BUFFER = 1 << 20  # bytes: else pyarrow holds a column of a whole row group, which may be gigabytes
DAMAGED = (pa.ArrowException, OSError, TypeError, ValueError)


class Shard:
    """Films in a Parquet shard, read a few rows at a time; what is damaged gives rows without a picture.

    Args:
        groups: rows of each row group. size: in bytes. window: of the rows, all by default.
    """

    def __init__(self, path: str, groups: Sequence[int], size: int, window: range | None = None):
        self.path, self.groups, self.size = path, list(groups), size
        self.window = range(sum(groups)) if window is None else window

    def __len__(self) -> int:
        return len(self.window)

    def part(self, start: int, stop: int) -> "Shard":
        return Shard(self.path, self.groups, self.size, self.window[start:stop])

    def rows(self, start: int, stop: int) -> Iterator[dict]:
        """Yield rows; where the connection breaks, it is made again, and they continue.

        Raises:
            InputError: the shard cannot be reached any more.
        """
        at, end = self.window.start + start, self.window.start + stop
        waits = iter(stores.WAITS)
        while at < end:
            try:
                for row in self._read(at, end):
                    yield row
                    at, waits = at + 1, iter(stores.WAITS)
            except Exception as error:
                stores.pause(error, waits, self.path)

    def _read(self, start: int, stop: int) -> Iterator[dict]:
        begin = 0
        with fsspec.open(self.path) as file:
            parquet = pq.ParquetFile(file, buffer_size=PAGE_BUFFER)
            for group, count in enumerate(self.groups):
                if begin < stop and begin + count > start:
                    yield from self._group_rows(parquet, group, begin, max(start, begin), min(stop, begin + count))
                begin += count

    def _group_rows(self, parquet: pq.ParquetFile, group: int, at: int, start: int, stop: int) -> Iterator[dict]:
        """The rows from `start` to before `stop` of a row group that begins with row `at`."""
        described = Features.from_arrow_schema(parquet.schema_arrow)
        image, columns = _image_column(described), [name for name in _COLUMNS if name in described]
        try:
            for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[image, *columns]):
                wanted, at = batch[max(start - at, 0) : max(stop - at, 0)], at + len(batch)
                films = Image(decode=False).cast_storage(wanted.column(image)).to_pylist()
                for film, row in zip(films, wanted.select(columns).to_pylist(), strict=True):
                    yield self._row(film, row, described, start)
                    start += 1
                if start == stop:
                    return
        except DAMAGED as error:
            if stores.is_trouble(error, self.path):
                raise
            logger.warning("%s: rows %d to %d cannot be read (%s)", self.path, start, stop - 1, _first_line(error))
            for number in range(start, stop):
                yield self._row(None, {}, described, number)

    def _row(self, film: dict | None, row: dict, described: Features, number: int) -> dict:
        path = film["path"] if film else None
        name = row.get("file_name") or (path and PurePosixPath(path).name) or f"{Path(self.path).name}-row_{number}"
        if film and film["bytes"] is None:
            film = None  # a shard holds its films: a path in it may lead anywhere
        return {
            "image": film,
            "file_name": name,
            "patient_id": row.get("patient_id") or (parse_file_name(name)[0] if names_patient(name) else ""),
            "subtype": parse_file_name(name)[1],
            "label": next((_name(row[key], described[key]) for key in ("label", "labels") if key in row), ""),
            **dict.fromkeys(CLINICAL_COLUMNS),
            **clinical_values({column: _text(row.get(column), described.get(column)) for column in CLINICAL_COLUMNS}),
        }

    def update(self, digest) -> None:
        digest.update(f"{self.path} {self.groups} {self.size}\n".encode(errors="surrogateescape"))


_COLUMNS = ("label", "labels", "file_name", "patient_id", *CLINICAL_COLUMNS)


def read_shard(path: str) -> Shard | None:
    """Read a shard's footer; None for one that has none.

    Raises:
        InputError: it has no column of images, or cannot be reached.
    """

    def footer() -> tuple[list[int], Features, int]:
        with fsspec.open(path) as file:
            parquet = pq.ParquetFile(file)
            groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            return groups, Features.from_arrow_schema(parquet.schema_arrow), file.seek(0, 2)

    try:
        groups, described, size = stores.patiently(footer, path)
    except DAMAGED as error:
        logger.warning("%s cannot be read as Parquet (%s)", path, _first_line(error))
        return None
    if _image_column(described) is None:
        raise InputError(f"{path}: no column of images among {', '.join(described)}")
    return Shard(path, groups, size)


def _image_column(described: Features) -> str | None:
    return next((name for name, kind in described.items() if isinstance(kind, Image) or name == "image"), None)


def _name(value: object, kind: object) -> str:
    """A label's name; a number that nothing names may mean anything."""
    name = _text(value, kind)
    return "" if re.fullmatch(NUMBERS, name.lower()) else name


def _text(value: object, kind: object) -> str:
    """A value as text: a class by its name."""
    if isinstance(kind, ClassLabel):
        return kind.names[value] if isinstance(value, int) and 0 <= value < len(kind.names) else ""
    return "" if value is None else str(value).strip()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Films to score, labelled or not: counted without being read, then streamed from any one of them on."""

import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import fsspec
from httpx2 import HTTPError  # the client of huggingface_hub

from pneumo_hf.data.files import (
    HUB_ID,
    is_in_zip,
    is_missing,
    list_folder,
    list_shards,
    list_zip,
    only_films,
    split_zip_path,
)
from pneumo_hf.data.labels import NUMBERS
from pneumo_hf.data.patients import is_unknown, names_patient, parse_file_name
from pneumo_hf.data.schema import CLINICAL_COLUMNS, clinical_values, file_row
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import FILM_SUFFIXES

if TYPE_CHECKING:  # a second to import: for shards alone
    import pyarrow.parquet as pq
    from datasets import Features

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 32  # of a Parquet shard
NETWORK = (ConnectionError, TimeoutError, HTTPError)
PAGE_BUFFER = 1 << 20  # bytes: else pyarrow holds a column of a whole row group, which may be gigabytes


class FilmList:
    """Films in order, none of them held: `len` counts them, `rows` streams them from any one of them on.

    All that is kept is the path of each file, and of a Parquet shard its path and its number of rows.
    """

    def __init__(self, parts: Sequence["_Files | _Shard"]):
        self.parts = parts
        self.told: dict[str, dict] = {}  # of `read_clinical`
        self.matched = 0  # films read so far that it told of

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[dict]:
        return self.rows(0, len(self))

    def rows(self, start: int, stop: int) -> Iterator[dict]:
        """Yield the films from `start` to before `stop`; what lies before is not read.

        Rows of `image`, `file_name` (a path as the caller would write it), `patient_id` ("" if unknown), `label`, the
        name of the film's folder or what a column says, and `age`, `sex` and `view` where header, column or `told`
        know them.
        """
        for part in self.parts:
            if start < len(part) and stop > 0:
                for row in part.rows(max(start, 0), min(stop, len(part))):
                    name = row["file_name"]
                    told = self.told.get(name) or self.told.get(PurePosixPath(name).name) or {}
                    self.matched += bool(told)
                    yield row | told
            start, stop = start - len(part), stop - len(part)

    @property
    def digest(self) -> str:
        """Hash the list, the same for the same list: of files their paths, of shards also rows and bytes."""
        digest = hashlib.blake2b(digest_size=12)
        for part in self.parts:
            part.update(digest)
        return digest.hexdigest()


def list_films(*sources: str | Path) -> FilmList:
    """List every film of files, folders, zips, Parquet shards or a Hub data set of Parquet shards, for scoring.

    A source that is given twice counts once.

    Raises:
        InputError: there is no such file, no film in it, or no column of images.
    """
    once = {}
    for source in sources:
        once.setdefault(os.path.abspath(source), source)  # `films`, `films/` and `./films` are one
    return FilmList([part for source in once.values() for part in _parts(source)])


def _parts(source: str | Path) -> list["_Files | _Shard"]:
    path = Path(source)
    if path.is_dir():
        parts = [_shard(str(shard)) for shard in list_shards(path)] or [
            _Files([file for _, file in only_films(list_folder(path)[1])])
        ]
    elif path.suffix == ".parquet" and path.is_file():
        parts = [_shard(str(path))]
    elif path.is_file() and path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        parts = [_Files([file for _, file in only_films(list_zip(path)[1])])]
    elif path.is_file():
        parts = [_Files([str(path)])]
    elif HUB_ID.match(str(source)) and not is_missing(path):
        parts = [_shard(url) for url in _hub_shards(str(source))]
    else:
        raise InputError(f"no such file or folder: {path}")
    if not any(map(len, parts)):
        raise InputError(f"no films in {path}: looked for {', '.join(sorted(FILM_SUFFIXES))}")
    return parts


def _hub_shards(name: str) -> list[str]:
    from datasets import load_dataset_builder

    try:
        files = load_dataset_builder(name).config.data_files or {}
    except (OSError, ValueError) as error:
        raise InputError(f"no such file or folder: {name}, and the Hub gave no such data set") from error
    shards = [str(url) for split in files.values() for url in split if str(url).endswith(".parquet")]
    if not shards:
        raise InputError(f"{name}: of Hub data sets only those of Parquet shards can be streamed here; download it")
    return shards


class _Files:
    """Films that are files, on disk or in a zip."""

    def __init__(self, files: list[str]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, start: int, stop: int) -> Iterator[dict]:
        for file in self.files[start:stop]:
            inside, archive = split_zip_path(file) if is_in_zip(file) else (file, "")
            name = Path(archive, inside.replace("\\", "/") if archive else inside)
            row = file_row(file, str(name), None, "")
            known = not is_unknown(row["patient_id"], row["file_name"])
            yield {
                "image": row["image"],
                "file_name": str(name),
                "patient_id": row["patient_id"] if known else "",
                "label": name.parent.name,
                "subtype": row["subtype"],
                **{column: row[column] for column in CLINICAL_COLUMNS},
            }

    def update(self, digest) -> None:
        for file in self.files:
            digest.update(f"{file}\n".encode(errors="surrogateescape"))


class _Shard:
    """Films in a Parquet shard, read a few rows at a time; what is damaged gives rows without a picture."""

    def __init__(self, path: str, groups: list[int], size: int):
        self.path, self.groups, self.size = path, groups, size  # rows of each row group; bytes

    def __len__(self) -> int:
        return sum(self.groups)

    def rows(self, start: int, stop: int) -> Iterator[dict]:
        import pyarrow.parquet as pq

        begin = 0
        with fsspec.open(self.path) as file:
            parquet = pq.ParquetFile(file, buffer_size=PAGE_BUFFER)
            for group, count in enumerate(self.groups):
                if begin < stop and begin + count > start:
                    yield from self._group_rows(parquet, group, begin, max(start, begin), min(stop, begin + count))
                begin += count

    def _group_rows(self, parquet: "pq.ParquetFile", group: int, at: int, start: int, stop: int) -> Iterator[dict]:
        """The rows from `start` to before `stop` of a row group that begins with row `at`."""
        import pyarrow as pa
        from datasets import Features, Image

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
        except NETWORK as error:
            raise InputError(_unreachable(self.path, error)) from error
        except (pa.ArrowException, OSError, TypeError, ValueError) as error:
            logger.warning("%s: rows %d to %d cannot be read (%s)", self.path, start, stop - 1, _first_line(error))
            for number in range(start, stop):
                yield self._row(None, {}, described, number)

    def _row(self, film: dict | None, row: dict, described: "Features", number: int) -> dict:
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


def _shard(path: str) -> "_Shard | _Files":
    """A shard by its footer alone; one that has none is a film that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    try:
        with fsspec.open(path) as file:
            parquet = pq.ParquetFile(file)
            groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            described, size = Features.from_arrow_schema(parquet.schema_arrow), file.seek(0, 2)
    except NETWORK as error:
        raise InputError(_unreachable(path, error)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        logger.warning("%s cannot be read as Parquet (%s)", path, _first_line(error))
        return _Files([path])
    if _image_column(described) is None:
        raise InputError(f"{path}: no column of images among {', '.join(described)}")
    return _Shard(path, groups, size)


def _unreachable(path: str, error: Exception) -> str:
    """What the network does not bring now may come later: its films are not given up as unreadable."""
    return f"{path} cannot be reached ({_first_line(error)}): the same command resumes from here"


def _image_column(described: "Features") -> str | None:
    from datasets import Image

    return next((name for name, kind in described.items() if isinstance(kind, Image) or name == "image"), None)


def _name(value: object, kind: object) -> str:
    """A label's name; a number that nothing names may mean anything."""
    name = _text(value, kind)
    return "" if re.fullmatch(NUMBERS, name.lower()) else name


def _text(value: object, kind: object) -> str:
    """A value as text: a class by its name."""
    from datasets import ClassLabel

    if isinstance(kind, ClassLabel):
        return kind.names[value] if isinstance(value, int) and 0 <= value < len(kind.names) else ""
    return "" if value is None else str(value).strip()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

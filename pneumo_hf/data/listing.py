"""Films to score, labelled or not: counted without being read, then streamed from any one of them on."""

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pneumo_hf.data.files import (
    HUB_ID,
    is_in_zip,
    is_missing,
    list_address,
    list_folder,
    list_shards,
    list_zip,
    only_films,
    split_zip_path,
)
from pneumo_hf.data.patients import is_unknown
from pneumo_hf.data.schema import CLINICAL_COLUMNS, file_row
from pneumo_hf.data.stores import is_address
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import FILM_SUFFIXES

if TYPE_CHECKING:
    from pneumo_hf.data.shards import Shard


class FilmList:
    """Films in order, none of them held: `len` counts them, `rows` streams them from any one of them on.

    All that is kept is the path of each file, and of a Parquet shard its path and its number of rows.
    """

    def __init__(self, parts: Sequence["_Files | Shard"]):
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

    def part(self, start: int, stop: int) -> "FilmList":
        """Return the list of the films from `start` to before `stop`: little, to be sent to another process."""
        parts = []
        for part in self.parts:
            if start < len(part) and stop > 0:
                parts.append(part.part(max(start, 0), min(stop, len(part))))
            start, stop = start - len(part), stop - len(part)
        films = FilmList(parts)
        films.told = self.told
        return films

    def cuts(self, films: int) -> list[int]:
        """Return where pieces of at least so many films begin, none of them inside a row group of a shard."""
        found, at = [0], 0
        for part in self.parts:
            for count in part.groups:
                if at - found[-1] >= films:
                    found.append(at)
                at += count
        return found

    @property
    def digest(self) -> str:
        """Hash the list, the same for the same list: of files their paths, of shards also rows and bytes."""
        digest = hashlib.blake2b(digest_size=12)
        for part in self.parts:
            part.update(digest)
        return digest.hexdigest()


def list_films(*sources: str | Path) -> FilmList:
    """List every film of files, folders, zips, Parquet shards, addresses of these or a Hub data set, for scoring.

    A source that is given twice counts once.

    Raises:
        InputError: there is no such file, no film in it, or no column of images.
    """
    once = {}
    for source in sources:
        once.setdefault(os.path.abspath(source), source)  # `films`, `films/` and `./films` are one
    return FilmList([part for source in once.values() for part in _parts(source)])


def _parts(source: str | Path) -> list["_Files | Shard"]:
    path = Path(source)
    if is_address(source):
        parts = _address_parts(str(source))
    elif path.is_dir():
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


def _address_parts(source: str) -> list["_Files | Shard"]:
    entries = list_address(source)
    shards = [_shard(address) for _, address in entries if address.endswith(".parquet")]
    return shards or [_Files([address for _, address in only_films(entries)])]


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

    @property
    def groups(self) -> list[int]:
        return [1] * len(self.files)

    def part(self, start: int, stop: int) -> "_Files":
        return _Files(self.files[start:stop])

    def rows(self, start: int, stop: int) -> Iterator[dict]:
        for file in self.files[start:stop]:
            inside, archive = split_zip_path(file) if is_in_zip(file) else (file, "")
            name = Path(archive, inside.replace("\\", "/") if archive else inside)
            written = file if is_address(file) else str(name)
            row = file_row(file, written, None, "")
            known = not is_unknown(row["patient_id"], row["file_name"])
            yield {
                "image": row["image"],
                "file_name": written,
                "patient_id": row["patient_id"] if known else "",
                "label": name.parent.name,
                "subtype": row["subtype"],
                **{column: row[column] for column in CLINICAL_COLUMNS},
            }

    def update(self, digest) -> None:
        for file in self.files:
            digest.update(f"{file}\n".encode(errors="surrogateescape"))


def _shard(path: str) -> "Shard | _Files":
    """A shard; one that cannot be read as such is a film that cannot be read."""
    from pneumo_hf.data.shards import read_shard  # with datasets a second to import: for shards alone

    return read_shard(path) or _Files([path])

"""Where films lie: the files of a folder or zip, which of them are films, and their bytes."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import fsspec

from pneumo_hf.config import InputError
from pneumo_hf.imaging.dicom import PREAMBLE, is_dicom
from pneumo_hf.imaging.film import FILM_SUFFIXES

UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError)  # what `read_film` may raise


def read_film(image: dict) -> bytes:
    """The bytes of a value of the `image` column: embedded, in a file, in a zip (`zip://inside::archive`) or remote.

    Raises:
        OSError, BadZipFile, zlib.error: it is missing or damaged (`UNREADABLE` holds them all).
    """
    if image["bytes"] is not None:
        return image["bytes"]
    path = image["path"]
    if path.startswith("zip://") and "://" not in path.removeprefix("zip://"):
        inside, archive = path.removeprefix("zip://").split("::")
        try:
            return _open_zip(archive).read(inside)
        except KeyError as error:
            raise FileNotFoundError(f"not in {Path(archive).name}") from error
    if "://" in path:
        with fsspec.open(path) as file:
            return file.read()
    return Path(path).read_bytes()


def list_folder(root: Path) -> tuple[Path, list[tuple[str, str]]]:
    """The root and `(name below it, path)` of each file."""
    files = [os.path.join(folder, file) for folder, _, files in os.walk(root, followlinks=True) for file in files]
    return root, [(Path(os.path.relpath(file, root)).as_posix(), file) for file in sorted(files)]


def list_zip(archive: Path) -> tuple[Path, list[tuple[str, str]]]:
    try:
        names = sorted(info.filename for info in _open_zip(str(archive)).infolist() if not info.is_dir())
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive} is a damaged zip ({error})") from error
    return archive, [(name, f"zip://{name}::{archive}") for name in names]


def only_films(entries: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The entries that are films: by their suffix, or without one by DICOM's magic word."""
    for name, file in entries:
        path = PurePosixPath(name)
        if "__MACOSX" in path.parts or path.name.startswith("."):
            continue
        if path.suffix.lower() in FILM_SUFFIXES or (not path.suffix and is_dicom(_head(file))):
            yield name, file


def _head(file: str) -> bytes:
    if file.startswith("zip://"):
        inside, archive = file.removeprefix("zip://").split("::")
        with _open_zip(archive).open(inside) as opened:
            return opened.read(PREAMBLE + 4)
    with open(file, "rb") as opened:
        return opened.read(PREAMBLE + 4)


@lru_cache(maxsize=8)
def _open_zip(archive: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)

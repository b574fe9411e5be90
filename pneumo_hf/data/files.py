"""Where films lie: the files of a folder or zip, which of them are films, and their bytes."""

import logging
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

import fsspec

from pneumo_hf.data.stores import open_store, patiently
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.dicom import HEAD, is_dicom
from pneumo_hf.imaging.film import FILM_SUFFIXES

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
LARGEST = 256 << 20  # bytes of a film's file; a zip can promise more than memory holds
LONGEST_ENTRY = 400  # bytes of a zip's table for each file: 46 and its name, in which folders are
UNREADABLE = (  # what `read_film` may raise: missing, damaged or encrypted
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def is_missing(path: Path) -> bool:
    """Return whether a path, not there, can only be one, and no Hub id: it is absolute, or its folder is there."""
    return not path.exists() and (path.is_absolute() or bool(path.parent.name and path.parent.is_dir()))


def assert_apart(sources: Iterable[str | Path], folder: Path) -> None:
    """Raise InputError where a folder to write and a source lie in one another."""
    for source in map(Path, sources):
        here, there = source.resolve(), folder.resolve()
        if source.exists() and (here == there or here in there.parents or there in here.parents):
            raise InputError(f"{folder} and {source} lie in one another: choose another --output_dir")


def read_film(image: dict | None) -> bytes:
    """Read a value of the column `image`: embedded, in a file, in a zip (`zip://inside::archive`) or remote.

    Raises:
        OSError, BadZipFile, zlib.error: it is missing or damaged (`UNREADABLE` holds them all).
    """
    if image is None or (image["bytes"] is None and not image["path"]):
        raise FileNotFoundError("no picture")
    return read_head(image["path"], None) if image["bytes"] is None else image["bytes"]


def is_utf8(name: str) -> bool:
    """Return whether a file's name is UTF-8: to Linux it is any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def readable(name: str) -> str:
    """Write a file's name as text, by Windows' code page where it is not UTF-8."""
    return name if is_utf8(name) else os.fsencode(name).decode("cp1252", errors="replace")


def name_in_zip(info: zipfile.ZipInfo) -> str:
    """Return the name that is meant: with slashes, and in UTF-8 where an archive does not say so of its names."""
    name = info.filename
    if not info.flag_bits & 0x800 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def read_head(file: str, size: int | None) -> bytes:
    """Read the first bytes of a file, or all of it for None.

    Raises:
        InputError: an object store cannot be reached. Else what `read_film` raises.
    """
    if is_in_zip(file):
        inside, archive = split_zip_path(file)
        try:
            if size is None and file_size(file) > LARGEST:
                raise OSError("too large for a film")
            with _open_zip(archive).open(inside) as opened:
                return opened.read(-1 if size is None else size)
        except KeyError as error:
            raise FileNotFoundError(f"not in {Path(archive).name}") from error
    if "://" in file:
        return patiently(partial(_read_address, file, size), file)
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise FileNotFoundError("not a file")
    with open(file, "rb") as opened:
        return opened.read(-1 if size is None else size)


def _read_address(file: str, size: int | None) -> bytes:
    with fsspec.open(file) as opened:
        return opened.read(-1 if size is None else size)


def file_size(file: str) -> int:
    """Return bytes of a file on disk or in a zip."""
    if is_in_zip(file):
        inside, archive = split_zip_path(file)
        return _open_zip(archive).getinfo(inside).file_size
    return os.stat(file).st_size


def is_in_zip(file: str) -> bool:
    """Return whether it is a path of `list_zip`; remote ones are fsspec's."""
    return file.startswith("zip://") and "://" not in file.removeprefix("zip://")


def split_zip_path(file: str) -> tuple[str, str]:
    """Split the name inside, in which a colon is written %3A, and the archive."""
    inside, archive = file.removeprefix("zip://").split("::", 1)
    return unquote(inside), archive


def list_folder(root: Path) -> tuple[Path, list[tuple[str, str]]]:
    """List the root and `(name below it, path)` of each file; links are followed, but no folder is entered twice."""
    files, entered = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            below.clear()
            continue
        entered.add(real)
        files += [os.path.join(folder, name) for name in names]
    return root, [(Path(os.path.relpath(file, root)).as_posix(), file) for file in sorted(files)]


def list_shards(root: Path) -> list[Path]:
    """List the Parquet shards below a folder; where there are any, its pictures are not read, which is said."""
    shards = sorted(root.rglob("*.parquet"))
    beside = len(list(only_films(list_folder(root)[1]))) if shards else 0
    if beside:
        logger.info("%s: its Parquet shards are read, not the pictures beside them (%d)", root, beside)
    return shards


def list_address(address: str) -> list[tuple[str, str]]:
    """List `(name below it, address)` of each file of a folder in an object store, or of the one file that it is.

    Raises:
        InputError: there is none, or the store does not let us in.
    """
    store, root = open_store(address)
    try:
        found = sorted(patiently(lambda: store.find(root), address))
    except (PermissionError, FileNotFoundError) as error:
        raise InputError(f"{address} cannot be read: {str(error) or type(error).__name__}") from error
    if not found:
        raise InputError(f"no such file or folder: {address}")
    return [(file.removeprefix(root).lstrip("/") or file, store.unstrip_protocol(file)) for file in found]


def list_zip(archive: Path, most: int | None = None) -> tuple[Path, list[tuple[str, str]]]:
    """List the archive and `(name inside, path)` of each file.

    Args:
        most: files that it may hold, which is found out before memory is taken for them; any number for None.

    Raises:
        InputError: it is damaged, or holds more.
    """
    try:
        if most is not None and _table_size(archive) > most * LONGEST_ENTRY:
            raise InputError(f"{archive} holds more than {most} files: send it in parts")
        files = [(name_in_zip(info), info.filename) for info in _open_zip(str(archive)).infolist()]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{archive} is a damaged zip ({error})") from error
    if most is not None and len(files) > most:
        raise InputError(f"{archive} holds more than {most} files: send it in parts")
    return archive, [
        (name, f"zip://{quote(inside)}::{archive}") for name, inside in sorted(files) if not name.endswith("/")
    ]


def only_films(entries: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Select the films: by their suffix, or, where it is missing or a number, DICOM by its content."""
    for name, file in entries:
        path = PurePosixPath(name)
        if "__MACOSX" in path.parts or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
            continue
        suffix = path.suffix.lower()
        named = path.name.lower().endswith(tuple(FILM_SUFFIXES))
        if named or ((not suffix or suffix[1:].isdigit()) and _is_dicom_file(file)):
            yield name, file


def _is_dicom_file(file: str) -> bool:
    try:
        return is_dicom(read_head(file, HEAD))
    except UNREADABLE:
        return False


def _table_size(archive: Path) -> int:
    """Bytes of a zip's table of names, by which zipfile goes, and not by the number of them that it claims."""
    with archive.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        raise zipfile.BadZipFile("File is not a zip file")
    return end[zipfile._ECD_SIZE]  # type: ignore[attr-defined]


@lru_cache(maxsize=8)
def _open_zip(archive: str) -> zipfile.ZipFile:
    """Keep it open for its next film; `close_archives` ends that."""
    return zipfile.ZipFile(archive)


def close_archives() -> None:
    """Let go of the zips that were read, as a process must that lives longer than they do."""
    _open_zip.cache_clear()

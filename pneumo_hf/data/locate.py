"""The films that the rows of tables mean, each once, with the split that column, table and folders say."""

import logging
import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pneumo_hf.data.files import readable
from pneumo_hf.data.schema import seems_split, split_of_path
from pneumo_hf.data.tables import Rows, stem_of
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import FILM_SUFFIXES

logger = logging.getLogger(__name__)


@dataclass
class Places:
    """Where films lie: found by what a table writes, in whole or in part, and never outside.

    A path may be relative to the table or to the root, begin with the root's own name, be one of another machine, or
    the end of one name alone, of a film that lies anywhere below. Endings may be missing; accents may be composed.
    """

    root: str
    entries: list[tuple[str, str]]  # `(name below the root, file)`
    exact: dict[str, tuple[str, str]] = field(default_factory=dict)
    bare: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))  # by the last part

    def __post_init__(self):
        twice = Counter(_without_ending(_key(name)) for name, _ in self.entries)
        for name, file in self.entries:
            key = _key(name)
            short = _without_ending(key)
            for form in {key, *((short,) if twice[short] == 1 else ())}:
                self.exact.setdefault(form, (name, file))
            for form in {posixpath.basename(key), posixpath.basename(short)}:
                self.bare[form].append((name, file))

    def find(self, path: str, table: str, split: str | None) -> tuple[str, str] | None:
        """Find the entry of a path that a table writes; of several that end so, the one in a folder of the split."""
        path = _clean(path)
        if "://" in path:
            return None
        folder = posixpath.dirname(table)
        for form in (posixpath.normpath(posixpath.join(folder, path)), posixpath.normpath(path)):
            if form in self.exact:
                return self.exact[form]
        found = [
            entry
            for entry in self.bare.get(posixpath.basename(path), ())
            if any(f"/{form}".endswith(f"/{posixpath.normpath(path)}") for form in _forms(entry[0]))
        ]
        if len(found) > 1 and split:
            found = [entry for entry in found if split_of_path(posixpath.dirname(entry[0])) == split]
        return found[0] if len(found) == 1 else None

    def find_rest(self, path: str, table: str) -> tuple[str, tuple[str, str]] | None:
        """Find the longest end of a path that is an entry's whole name, and what comes before it."""
        path, folder = _clean(path), _key(posixpath.dirname(table))
        parts = [] if "://" in path else path.split("/")
        for at in range(1, len(parts)):
            before, rest = "/".join(parts[:at]), posixpath.normpath("/".join(parts[at:]))
            for form in (posixpath.join(folder, rest), rest):
                foreign = "/" in rest or _is_absolute(path) or posixpath.basename(before) == self.root
                if form in self.exact and foreign:
                    return before, self.exact[form]
        return None

    def match(self, table: str, rows: Rows, split: str | None, outside: bool) -> list[tuple[str, str] | None]:
        """Find the entry of each row; what comes before a name counts only if it is one and the same, or the root."""
        found = [self.find(row["path"], table, row.get("split") or split) for row in rows]
        rests = [None if entry else self.find_rest(row["path"], table) for row, entry in zip(rows, found, strict=True)]
        several = len({rest[0] for rest in rests if rest}) > 1
        for at, rest in enumerate(rests):
            if rest and (not several or posixpath.basename(rest[0]) == self.root):
                found[at] = rest[1]
            elif not found[at] and outside and _is_absolute(rows[at]["path"]) and Path(rows[at]["path"]).is_file():
                found[at] = (rows[at]["path"], rows[at]["path"])
        return found


def locate(
    tables: Mapping[str, Rows], root: Path, entries: list[tuple[str, str]], outside: bool = False
) -> list[dict[str, str]]:
    """Find the films of tables, each once, with `file`, its `name`, `split` and all columns that a table has of it.

    The split is "" where others have one, train among them, and nothing says this one's.

    What a column says of the split counts before a table's name, and that before the folders that a film lies in. A
    film of a train folder can be held out so; one of a test folder cannot become a train film.

    Args:
        tables: rows under our names, by the table's name below the root.
        root: the folder or archive.
        entries: `(name below the root, file)` of everything there.
        outside: whether an absolute path may lead out of the root.

    Raises:
        InputError: two things are said of a film, or a table or folder seems to mean a split that it does not name.
    """
    title, said, absent = root.name, {}, []
    places = Places(stem_of(title) if root.is_file() else root.resolve().name, entries)
    for table, rows in tables.items():
        of_table = split_of_path(posixpath.join(posixpath.dirname(table), stem_of(table)))
        for row, entry in zip(rows, places.match(table, rows, of_table, outside), strict=True):
            if entry is None:
                absent.append(row["path"])
                continue
            name, file = entry
            film = said.setdefault(file, {"file": file, "name": name, "table": table})
            of_folder = split_of_path(posixpath.dirname(name)) or ""
            told = {**row, "split of the table": of_table or "", "split of the folder": of_folder}
            for column, value in told.items():
                if value and film.setdefault(column, value) != value and column not in ("path", "view"):
                    _contradiction(title, film, column, value)
    if absent:
        logger.warning(
            "%s: %d films of the CSV are not there, or not one alone is called so, the first %s",
            title,
            len(absent),
            absent[0],
        )
    return _settle_splits(title, list(said.values()))


def _contradiction(title: str, film: dict[str, str], column: str, value: str) -> None:
    if column in ("label", "split", "split of the table", "patient_id"):
        raise InputError(f"{title}: the CSV says two things of {film['path']}: {film[column]}, and {value}")


def _settle_splits(title: str, films: list[dict[str, str]]) -> list[dict[str, str]]:
    """One split of each film; those of none are train films, and of none, "", where others are said to be."""
    unsaid = []
    for film in films:
        told = [film.pop("split", ""), film.pop("split of the table", ""), film.pop("split of the folder", "")]
        split = next(filter(None, told), "")
        against = next((other for other in told if other not in ("", "train", split)), "")
        if against:
            raise InputError(
                f"{title}: {film['path']} is said to be in {split}, and its table or folder is called {against}: "
                "rename that, or correct the column"
            )
        for name in () if split else (stem_of(film["table"]), *PurePosixPath(film["name"]).parts[:-1]):
            if seems_split(name):
                raise InputError(
                    f"{title}: {name} seems to mean a split; call it train, val or test, or add a column split"
                )
        film["split"] = split
        if not split:
            unsaid.append(film)
    if unsaid and len(unsaid) < len(films):
        others = "left out" if any(film["split"] == "train" for film in films) else "taken for train films:"
        logger.warning("%s: %s %d films of no split, the first %s", title, others, len(unsaid), unsaid[0]["path"])
        if others == "left out":
            return films
    return [{**film, "split": film["split"] or "train"} for film in films]


def _key(name: str) -> str:
    """A name as it is compared: composed accents, whatever the disk or the table has."""
    return name if name.isascii() else unicodedata.normalize("NFC", readable(name))


def _clean(path: str) -> str:
    return _key(path.replace("\\", "/").strip())


def _is_absolute(path: str) -> bool:
    return path.startswith(("/", "\\")) or path[1:2] == ":"


def _without_ending(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in FILM_SUFFIXES else name


def _forms(name: str) -> tuple[str, str]:
    return _key(name), _without_ending(_key(name))

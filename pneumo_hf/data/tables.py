"""Tables that say which film is what: read in any usual encoding, under our names of their columns."""

import csv
import io
import json
import logging
import posixpath
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pneumo_hf.data.files import LARGEST, UNREADABLE, read_head
from pneumo_hf.data.labels import NORMALS, UNCERTAIN
from pneumo_hf.data.schema import CLINICAL_COLUMNS, SPLITS, clinical_values, split_in
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.film import FILM_SUFFIXES

logger = logging.getLogger(__name__)

Rows = list[dict[str, str]]

COLUMNS = {  # as written without spaces, slashes, hyphens and underscores; the first that is there counts
    "path": (
        *("path", "file", "filename", "filepath", "image", "imagepath", "imageindex", "imageid", "imagename"),
        *("imagefile", "imagefilename", "img", "imgpath", "xrayimagename"),
    ),
    "label": ("label", "labels", "finding", "findinglabels", "class", "target", "diagnosis"),
    "patient_id": ("patientid", "patient", "subjectid"),
    "split": ("split", "subset", "partition", "datasettype", "datasplit"),
    "view": ("view", "viewposition", "projection", "appa", "frontallateral"),
    "age": ("age", "patientage"),
    "sex": ("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
    "manufacturer": ("manufacturer", "manufacturerdicom"),
    "device_model": ("devicemodel", "manufacturermodelname"),
    "patient_position": ("patientposition",),
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
FLAGS = {"": 0, "nan": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "-1": -1, "-1.0": -1}
NO_FINDINGS = {"supportdevices"}  # columns of 0 and 1 that leave a film normal
COVIDX = re.compile(rf"(\S+) (.+?(?:{'|'.join(map(re.escape, sorted(FILM_SUFFIXES)))})) (\S+)(?: \S+)?", re.IGNORECASE)


def read_clinical(path: Path) -> dict[str, dict[str, Any]]:
    """Read what a CSV says of films: `{path: {"age", "sex", "view"}}` of the values that are there.

    A path is kept as it is written and as it lies from the CSV.

    Raises:
        InputError: there is no such table, or it has no column of paths or none of age, sex or view.
    """
    try:
        raw = parse(path.name, path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    lines = as_ours(path.name, raw or [])
    if not lines or not {*CLINICAL_COLUMNS} & lines[0].keys():
        raise InputError(f"{path} is no CSV with the columns path and age, sex or view")
    told = {}
    for line in lines:
        known, name = clinical_values(line), line["path"].replace("\\", "/")
        told |= {name: known, posixpath.normpath(posixpath.join(path.parent.as_posix(), name)): known}
    return told


def is_table(name: str) -> bool:
    """Return whether a file can be one by its name; a text is one only where its name says a split."""
    path = PurePosixPath(name.lower().removesuffix(".gz"))
    if "__macosx" in path.parts or path.name.startswith("."):
        return False
    return path.suffix in SUFFIXES and (path.suffix != ".txt" or bool(split_in(stem_of(name))))


def stem_of(name: str) -> str:
    """Return a table's name without folders and endings."""
    return re.sub(r"(\.\w{2,5})?(\.gz)?$", "", PurePosixPath(name).name, flags=re.IGNORECASE)


def read_tables(entries: list[tuple[str, str]]) -> dict[str, Rows]:
    """Read the tables among files, `(name below the root, file)`: their rows by name, under their own columns."""
    found = {}
    for name, file in entries:
        if is_table(name):
            try:
                rows = parse(name, read_head(file, None))
            except UNREADABLE as error:
                raise InputError(f"{name} cannot be read ({error}): mend it, or take it out") from error
            if rows:
                found[name] = rows
    return found


def parse(name: str, content: bytes) -> Rows | None:
    """Read the rows of a table under its own columns; None where it is none.

    CSV with commas, semicolons or tabs, and a header; JSON a line; a text of names, or of COVIDx's `patient name
    label`; each of them in UTF-8, UTF-16 or Windows-1252, and gzip.
    """
    if content.startswith(b"\x1f\x8b"):
        unpacked = zlib.decompressobj(wbits=31)
        try:
            content = unpacked.decompress(content, LARGEST)
        except zlib.error as error:
            raise InputError(f"{name} is a damaged gzip ({error})") from error
        if not unpacked.eof:
            raise InputError(f"{name} is a cut gzip, or larger than {LARGEST >> 20} MB")
    text = decode(content)
    name = name.lower().removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _parse_json(name, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name.endswith(".txt") and all(COVIDX.fullmatch(line) for line in lines):
        matches = map(COVIDX.fullmatch, lines)
        return [dict(zip(("patient_id", "path", "label"), match.groups(), strict=True)) for match in matches if match]
    if name.endswith(".txt") and all(line.lower().endswith(tuple(FILM_SUFFIXES)) for line in lines):
        return [{"path": line} for line in lines]
    return _parse_csv(name, text)


def decode(content: bytes) -> str:
    """Decode a table's text: by its byte order mark, else as UTF-16 by its zeros, as UTF-8, or as Windows-1252."""
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    zeros = content[:200].count(0)
    if zeros > len(content[:200]) // 3:
        return content.decode("utf-16-le" if content[:200:2].count(0) < zeros / 2 else "utf-16-be", errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _parse_csv(name: str, text: str) -> Rows | None:
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        rows = [row for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        logger.warning("%s is passed over: it cannot be read as a table (%s)", name, error)
        return None
    longer = [row for row in rows if any(map(str.strip, row[len(header) :]))]
    if longer:
        logger.warning("%s: left out %d rows longer than the header, the first %s", name, len(longer), longer[0])
        rows = [row for row in rows if not any(map(str.strip, row[len(header) :]))]
    for ours in ("path", "label", "split"):
        named = [column for column in header if _plain(column) in COLUMNS[ours]]
        if len(named) > len(set(map(_plain, named))):
            raise InputError(f"{name} has two columns called {named[0]}: take one out")
    return [{column: (row[at] if at < len(row) else "").strip() for at, column in enumerate(header)} for row in rows]


def _parse_json(name: str, text: str) -> Rows:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                values = json.loads(line).items()
            except (ValueError, AttributeError) as error:
                raise InputError(f"{name}: line {number} is no JSON object ({error})") from error
            rows.append({column: _cell(value) for column, value in values})
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column, "") for column in columns} for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(_cell, value))
    return "" if value is None else str(value).strip()


def as_ours(name: str, raw: Rows) -> Rows:
    """Name the columns of a table as ours: `path`, and those of COLUMNS that it has; no rows without a path.

    Where no column is the label, columns of 1, 0, -1 and blanks are findings, if one of them says that there is none.

    Raises:
        InputError: its columns of splits contradict one another, or seem to mean splits in no way that is known.
    """
    plain = {_plain(column): column for column in raw[0]} if raw else {}
    columns = {
        ours: [plain[alias] for alias in theirs if alias in plain]
        for ours, theirs in COLUMNS.items()
        if any(alias in plain for alias in theirs)
    }
    if "path" not in columns:
        return []
    splits = _split_columns(name, raw, columns)
    columns.pop("split", None)
    flags = [] if "label" in columns else flag_columns(raw, {column for named in columns.values() for column in named})
    if len(flags) < 2 or not {"normal", *NORMALS} & {column.lower() for column in flags}:
        flags = []
    rows = []
    for line in raw:
        row = {ours: line[theirs[0]] for ours, theirs in columns.items()}
        row |= {
            ours: next(filter(None, map(line.get, columns[ours])), "") for ours in CLINICAL_COLUMNS if ours in columns
        }
        if flags:
            row["label"] = flagged({column: line[column] for column in flags})
        if splits:
            row["split"] = one_split(name, row["path"], {line[column] for column in splits} - {""})
        rows.append(row)
    return rows


def flagged(values: Mapping[str, str]) -> str:
    """Write findings that are columns as a list: those of 1, and as uncertain those of -1."""
    told = {column: FLAGS.get(value.lower(), 0) for column, value in values.items()}
    parts = [column for column, flag in told.items() if flag == 1 and _plain(column) not in NO_FINDINGS]
    return "|".join(parts + [column + UNCERTAIN for column, flag in told.items() if flag == -1])


def flag_columns(raw: Rows, taken: Iterable[str]) -> list[str]:
    """Return the columns that hold 1, 0, -1 and blanks alone, but for those `taken`."""
    return [
        column
        for column in raw[0]
        if column not in set(taken) and {line[column].lower() for line in raw} <= FLAGS.keys()
    ]


def _split_columns(name: str, raw: Rows, columns: Mapping[str, list[str]]) -> list[str]:
    """The columns that say the split: by their names, or since they hold nothing but splits."""
    taken = {column for ours, named in columns.items() if ours != "split" for column in named}
    found = list(columns.get("split", []))
    for column in raw[0]:
        values = {line[column].lower() for line in raw} - {""}
        if column in taken or column in found or not values:
            continue
        if values <= SPLITS.keys():
            found.append(column)
        elif values <= FLAGS.keys() and _plain(column).removeprefix("is") in SPLITS:
            raise InputError(
                f"{name}: the column {column} seems to mean a split; write it as a column split of train, val and test"
            )
    return found


def one_split(name: str, path: str, told: set[str]) -> str:
    """Return the split that a table says of a path, in its words; "" where it says none.

    Raises:
        InputError: it is none of SPLITS, or two.
    """
    for value in told:
        if value.lower() not in SPLITS:
            raise InputError(f"{name}: the CSV puts {path} into {value}, none of {', '.join(SPLITS)}")
    splits = {SPLITS[value.lower()] for value in told}
    if len(splits) > 1:
        raise InputError(f"{name} says two things of {path}: it is in {' and in '.join(sorted(splits))}")
    return splits.pop() if splits else ""


def column_names(tables: Mapping[str, Rows]) -> Iterator[str]:
    """Write of each table which columns it has, for a message."""
    for name, rows in tables.items():
        shown = [column for column in rows[0] if column]
        yield f"{name} has the columns {', '.join(shown[:12])}{', ...' if len(shown) > 12 else ''}"


def _plain(column: str) -> str:
    return re.sub(r"[\s/_-]", "", column).lower()

"""CSVs that say which film is what: their columns by any usual name, and the files that their paths mean."""

import csv
import io
import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pneumo_hf.data.schema import SPLITS
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.dicom import years

logger = logging.getLogger(__name__)

COLUMNS = {  # as written without spaces, hyphens and underscores
    "path": ("path", "file", "filename", "filepath", "image", "imagepath", "imageindex"),
    "label": ("label", "finding", "findinglabels", "class", "target", "diagnosis"),
    "patient_id": ("patientid", "patient", "subjectid"),
    "split": ("split", "subset"),
    "view": ("view", "viewposition"),
    "age": ("age", "patientage"),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
}


def read_clinical(path: Path) -> dict[str, dict[str, Any]]:
    """Read what a CSV tells of films: `{path: {"age", "sex", "view"}}` of the values that are there.

    A path is kept as it is written and as it lies from the CSV.

    Raises:
        InputError: there is no such table, or it has no column of paths or none of age, sex or view.
    """
    try:
        lines = read_rows(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not lines or "path" not in lines[0] or not {"age", "sex", "view"} & lines[0].keys():
        raise InputError(f"{path} is no CSV with the columns path and age, sex or view")
    told = {}
    for line in lines:
        values = {
            "age": years(line.get("age")),
            "sex": line.get("sex", "").upper(),
            "view": line.get("view", "").upper(),
        }
        known = {name: value for name, value in values.items() if value not in (None, "")}
        name = line["path"].replace("\\", "/")
        told |= {name: known, posixpath.normpath(posixpath.join(path.parent.as_posix(), name)): known}
    return told


def read_table(content: bytes) -> list[dict[str, str]] | None:
    """Read the rows of a CSV with the columns path and label, under our column names; None if it is no such table.

    Commas, semicolons or tabs; UTF-8 with or without a byte order mark.
    """
    rows = read_rows(content)
    return rows if rows and {"path", "label"} <= rows[0].keys() else None


def read_rows(content: bytes) -> list[dict[str, str]] | None:
    """Read the rows of a CSV under our names of those columns that are known; None where it is no CSV."""
    text = content.decode("utf-8-sig", errors="replace")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        plain = {re.sub(r"[\s_-]", "", name or "").lower(): name for name in reader.fieldnames or []}
        columns = {
            ours: next(plain[alias] for alias in theirs if alias in plain)
            for ours, theirs in COLUMNS.items()
            if any(alias in plain for alias in theirs)
        }
        return [{ours: (line[theirs] or "").strip() for ours, theirs in columns.items()} for line in reader]
    except csv.Error:
        return None


def locate(
    tables: Iterable[tuple[str, list[dict[str, str]]]], entries: list[tuple[str, str]], title: str
) -> list[dict[str, str]]:
    """Find the rows whose film is there, each with its `file`, once; a table called train, val or test says the split.

    A path may be relative to its table or to the root, absolute, or the bare name of a film that lies anywhere below.

    Args:
        tables: `(name below the root, rows)`.
        entries: `(name below the root, file)` of everything there.

    Raises:
        InputError: two rows say different things of one film.
    """
    places = dict(entries)
    bare = Counter(PurePosixPath(name).name for name, _ in entries)
    unique = {PurePosixPath(name).name: file for name, file in entries if bare[PurePosixPath(name).name] == 1}
    said, absent = {}, []
    for table, rows in tables:
        of_table = PurePosixPath(table).stem if PurePosixPath(table).stem.lower() in SPLITS else "train"
        for row in rows:
            path = row["path"].replace("\\", "/")
            tried = (posixpath.normpath(posixpath.join(posixpath.dirname(table), path)), posixpath.normpath(path))
            file = next((places[name] for name in tried if name in places), None) or unique.get(
                PurePosixPath(path).name
            )
            if file is None and os.path.isabs(path) and os.path.isfile(path):
                file = path
            if file is None:
                absent.append(row["path"])
                continue
            row = {**row, "split": row.get("split") or of_table, "file": file}
            before = said.setdefault(file, row)
            if (before["label"], before["split"]) != (row["label"], row["split"]):
                raise InputError(
                    f"{title}: the CSV says two things of {row['path']}: {before['label']} in {before['split']}, and "
                    f"{row['label']} in {row['split']}"
                )
    if absent:
        logger.warning("%s: %d films of the CSV are not there, the first %s", title, len(absent), absent[0])
    return list(said.values())

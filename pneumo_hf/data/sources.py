"""Folders, zips, CSVs, Parquet, MedMNIST, Kaggle and the Hub become one `DatasetDict`, no film being decoded."""

import io
import logging
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from datasets import DatasetDict, IterableDatasetDict
from PIL import Image

from pneumo_hf.data.files import (
    HUB_ID,
    file_size,
    is_missing,
    list_folder,
    list_shards,
    list_zip,
    only_films,
    read_head,
)
from pneumo_hf.data.hub import from_hub, from_kaggle, from_parquet
from pneumo_hf.data.labels import LabelNames, assert_every_label
from pneumo_hf.data.patients import parse_file_name
from pneumo_hf.data.schema import SPLITS, file_row, film_row, make_table
from pneumo_hf.data.tables import locate, read_table
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.dicom import years
from pneumo_hf.labels import LABELS, NEGATIVE, Task

logger = logging.getLogger(__name__)

EXPECTED = (
    "expected split/LABEL/file with splits train and test, LABEL/file, or a CSV with the columns path and label; "
    "labels other than NORMAL and PNEUMONIA need a label_map or labels"
)


def load_data(
    source: str | Path,
    labels: Sequence[str] | None = LABELS,
    label_map: Mapping[str, str] | None = None,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """Read the table of a data set: the splits found of `train`, `validation` and `test`, all with the same columns.

    Columns: `image` (bytes or a path, not decoded), `label`, `patient_id`, `subtype`, `source`, `file_name`, and of
    DICOM films and CSVs `view`, `age`, `sex`, `body_part`, `modality`.

    Args:
        source: a folder or zip of split/LABEL/file, of LABEL/file, or of films beside a CSV; such a CSV; a folder of
            Parquet shards; MedMNIST's `pneumoniamnist*.npz`; `kaggle:owner/name`; or a Hub data set id. In archives,
            the copies that they carry (`__MACOSX`, Kaggle's nested `chest_xray`) are passed over.
        labels: those to tell apart, NORMAL among them; None for what the data has (see `read_source`).
        label_map: other names of labels, `{"No Finding": "NORMAL"}`; films of still others are left out and counted.
        streaming: read a Hub data set film by film, without downloading it whole.

    Raises:
        InputError: no such data, a label without films in a split, or another layout.
    """
    data = read_source(source, labels, label_map, streaming)
    if not streaming:
        for split, films in data.items():
            found = films.features["label"].names
            assert_every_label(films["label"], found, message=f"{source}: the {split} split has no {{}} films")
    return data


def split_of(tables: Mapping[str, Any], split: str, title: str | Path) -> Any:
    """Return a split's table.

    Raises:
        InputError: there is no such split; `title` names the set.
    """
    if split not in tables:
        raise InputError(f"{title} has no {split} split, only {', '.join(tables)}: see --split")
    return tables[split]


def read_source(
    source: str | Path,
    labels: Sequence[str] | None = LABELS,
    label_map: Mapping[str, str] | None = None,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """Load a set in which a split may have no film of a label, as `load_data` does: to be merged, or audited.

    Without `labels`, they are NORMAL, PNEUMONIA and what else the data calls films of every split, unless there is a
    `label_map`, which says what is kept.
    """
    names, title = LabelNames(Task.of(labels).labels if labels else LABELS, label_map), str(source)
    data = _load(Path(source).expanduser(), title, names, streaming)
    if not (labels or label_map or streaming):
        names, data = _with_further_labels(title, names, data)
    names.report(title)
    if not streaming:
        logger.info("%s: %s", title, ", ".join(f"{len(films)} {split}" for split, films in data.items()))
    return data


def _with_further_labels(title: str, names: LabelNames, data: DatasetDict) -> tuple[LabelNames, DatasetDict]:
    """The data again with what else it calls its films for labels, if it has films of them in every split."""
    found = {LABELS[number] for films in data.values() for number in set(films["label"])}
    further = names.further_labels(sum(map(len, data.values())))
    while further and names.by_name:
        tried = LabelNames(Task.of([NEGATIVE, *sorted(found - {NEGATIVE}), *further]).labels)
        again = _load(Path(title).expanduser(), title, tried, streaming=False)
        present = [{tried.labels[number] for number in set(films["label"])} for films in again.values()]
        if further == (everywhere := [name for name in further if all(name in split for split in present)]):
            counts = Counter(number for films in again.values() for number in films["label"])
            of_each = ", ".join(f"{label} ({counts[number]})" for number, label in enumerate(tried.labels))
            logger.warning("%s: the labels are %s (--labels NORMAL,PNEUMONIA leaves others out)", title, of_each)
            return tried, again
        further = everywhere
    return names, data


def _load(path: Path, title: str, names: LabelNames, streaming: bool) -> DatasetDict | IterableDatasetDict:
    if title.startswith("kaggle:"):
        return _from_files(*list_folder(from_kaggle(title.removeprefix("kaggle:"))), names)
    if path.is_dir():
        shards = list_shards(path)
        return from_parquet(path, shards, names) if shards else _from_files(*list_folder(path), names)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _from_medmnist(path, names)
    if path.suffix.lower() == ".csv" and path.is_file():
        return _from_csv(path, names)
    if path.is_file() and zipfile.is_zipfile(path):
        return _from_files(*list_zip(path), names)
    if path.exists():
        raise InputError(f"{path} is neither a folder, a zip, a CSV nor MedMNIST's npz: {EXPECTED}")
    if HUB_ID.match(title) and not is_missing(path):
        return from_hub(title, names, streaming)
    if HUB_ID.match(title):
        raise InputError(f"no such data: {path} (the folder {path.parent} is here, so that it is taken for no Hub id)")
    raise InputError(f"no such data: {path} (a folder, zip, CSV, kaggle:owner/name or Hub data set id)")


def _from_files(root: Path, entries: list[tuple[str, str]], names: LabelNames) -> DatasetDict:
    """A table of what lies in a folder or archive: split/LABEL/file, else CSVs of most films, else LABEL/file."""
    films = list(only_films(entries))
    found = _by_split_and_label(films, names)
    if not found:
        tables = [(name, read_table(read_head(file, None))) for name, file in entries if name.lower().endswith(".csv")]
        known_tables = [(name, rows) for name, rows in tables if rows is not None and "__MACOSX" not in name]
        rows = locate(known_tables, entries, root.name)
        by_folder = [("train", *_label_and_rest(name), file) for name, file in films]
        known = any(label in names for _, label, _, _ in by_folder)
        if rows and (2 * len(rows) >= len(films) or not known):
            logger.info("%s: labels from %s", root.name, ", ".join(name for name, _ in known_tables))
            return _from_rows(root.name, rows, names)
        found = by_folder
    splits = defaultdict(list)
    for split, label, name, file in found:
        number = names.number(label, parse_file_name(name)[1])
        if number is not None:
            stored = label.upper() if label.upper() in names.labels else label
            splits[split].append((file, f"{split}/{stored}/{name}", number))
    if not splits:
        names_found = ", ".join([label for label in names.left_out if label][:5]) or "no folder that names one"
        labels = f" of a known label (found {names_found})" if names.left_out else ""
        raise InputError(f"no films{labels} in {root}: {EXPECTED}")
    return DatasetDict(
        {
            split: make_table((file_row(*film, root.name) for film in films), names.labels)
            for split, films in splits.items()
        }
    )


def _label_and_rest(name: str) -> tuple[str, str]:
    """The folder that a film lies in, and its name without it."""
    *above, label, base = ("", *PurePosixPath(name).parts)[-max(2, name.count("/") + 1) :]
    return label, "/".join((*above, base))


def _by_split_and_label(films: list[tuple[str, str]], names: LabelNames) -> list[tuple[str, str, str, str]]:
    """`(split, label, name, file)` of the films below a split/LABEL pair of folders; nothing if no label is known.

    A nested copy, the same name with as many bytes deeper down, counts once, as Kaggle's `chest_xray/chest_xray` must.
    """
    found, seen, elsewhere = [], {}, []
    for name, file in sorted(films, key=lambda entry: (entry[0].count("/"), entry[0])):
        parts = PurePosixPath(name).parts
        at = next((i for i in range(len(parts) - 2) if parts[i].lower() in SPLITS), None)
        if at is None:
            elsewhere.append(name)
            continue
        split, label, below = SPLITS[parts[at].lower()], parts[at + 1], "/".join(parts[at + 2 :])
        key = (split, label.lower(), below)
        if key in seen and file_size(file) == file_size(seen[key]):
            continue
        found.append((split, label, below if key not in seen else "/".join((*parts[:at], below)), file))
        seen.setdefault(key, file)
    if not any(label in names for _, label, _, _ in found):
        return []
    if elsewhere:
        logger.warning(
            "%d films lie outside split/LABEL and are passed over, the first %s", len(elsewhere), elsewhere[0]
        )
    return found


def _from_rows(source: str, rows: list[dict[str, str]], names: LabelNames) -> DatasetDict:
    """A table from the rows of CSVs, each with the `file` that it means."""
    splits = defaultdict(list)
    for values in rows:
        label = names.number(values["label"], parse_file_name(values["path"])[1])
        split = values["split"].lower()
        if label is None:
            continue
        if split not in SPLITS:
            raise InputError(
                f"{source}: the CSV puts {values['path']} into {values['split']}, none of {', '.join(SPLITS)}"
            )
        row = file_row(values["file"], values["path"].replace("\\", "/"), label, source)
        for column in ("view", "sex"):
            if values.get(column):
                row[column] = values[column].upper()
        row["patient_id"] = values.get("patient_id") or row["patient_id"]
        row["age"] = years(values.get("age")) or row["age"]
        splits[SPLITS[split]].append(row)
    if not splits:
        raise InputError(f"{source}: no row of the CSV has a film that is there and a known label ({EXPECTED})")
    return DatasetDict({split: make_table(rows, names.labels) for split, rows in splits.items()})


def _from_csv(path: Path, names: LabelNames) -> DatasetDict:
    rows = read_table(path.read_bytes())
    if rows is None:
        raise InputError(f"{path} is no CSV with the columns path and label")
    return _from_rows(path.name, locate([(path.name, rows)], list_folder(path.parent)[1], path.name), names)


def _from_medmnist(path: Path, names: LabelNames) -> DatasetDict:
    """MedMNIST's arrays, each film as a PNG: `{split}_images` `[N, S, S]` uint8, `{split}_labels` `[N, 1]`."""
    data = DatasetDict()
    if "pneumonia" not in path.name.lower():
        raise InputError(f"{path.name} is not MedMNIST's pneumoniamnist npz: its other sets are not of chests")
    try:
        with np.load(path) as arrays:
            for theirs, split in SPLITS.items():
                if f"{theirs}_images" not in arrays:
                    continue
                images, numbers = arrays[f"{theirs}_images"], arrays[f"{theirs}_labels"].ravel()
                if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(numbers):
                    raise ValueError("its arrays are no grey films")
                if numbers.max() >= len(LABELS) or names.labels != LABELS:
                    raise InputError(f"{path.name} has two labels, NORMAL and PNEUMONIA, and no others")
                rows = (
                    film_row({"bytes": _png(image), "path": None}, f"{split}-{row:05d}.png", int(number), path.name)
                    for row, (image, number) in enumerate(zip(images, numbers, strict=True))
                )
                data[split] = make_table(rows, names.labels)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not MedMNIST's pneumoniamnist npz ({error})") from error
    if not data:
        raise InputError(f"{path} is not MedMNIST's pneumoniamnist npz: it has no train_images")
    logger.info("%s names no patients: each film counts as one", path.name)
    return data


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

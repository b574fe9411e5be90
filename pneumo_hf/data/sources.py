"""Folders, zips, CSVs, Parquet, MedMNIST, Kaggle and the Hub become one `DatasetDict`, no film being decoded."""

import logging
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset, DatasetDict, IterableDatasetDict

from pneumo_hf.data.files import HUB_ID, file_size, is_missing, list_folder, list_shards, list_zip, only_films
from pneumo_hf.data.hub import from_hub, from_kaggle, from_parquet
from pneumo_hf.data.labels import LabelNames, assert_every_label
from pneumo_hf.data.locate import locate
from pneumo_hf.data.medmnist import from_medmnist
from pneumo_hf.data.patients import is_unknown, parse_file_name
from pneumo_hf.data.public_sets import is_public, recognise
from pneumo_hf.data.schema import clinical_values, file_row, make_table, split_in, split_of_path
from pneumo_hf.data.tables import Rows, as_ours, column_names, is_table, parse, read_tables, stem_of
from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS, NEGATIVE, Task

logger = logging.getLogger(__name__)
_warned = set()  # the sources whose patients are unknown: it is said once

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
        _warn_of_unknown_patients(title, tuple(data.values()))
        logger.info("%s: %s", title, ", ".join(f"{len(films)} {split}" for split, films in data.items()))
    return data


def _with_further_labels(title: str, names: LabelNames, data: DatasetDict) -> tuple[LabelNames, DatasetDict]:
    """The data again with what else it calls its films for labels, if it has films of them in every split."""
    found = {LABELS[number] for films in data.values() for number in set(films["label"])}
    further = names.further_labels(sum(map(len, data.values())))
    while further and names.by_name and NEGATIVE in found:
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


def _warn_of_unknown_patients(title: str, splits: Sequence[Dataset]) -> None:
    unknown = sum(
        is_unknown(*ids) for films in splits for ids in zip(films["patient_id"], films["file_name"], strict=True)
    )
    if unknown and title not in _warned:
        _warned.add(title)
        logger.warning(
            "%s: nothing says who is on %d of %d films: each counts as a patient of its own, so that films of one "
            "person may be in train and in test (a column patient_id would say)",
            *(title, unknown, sum(map(len, splits))),
        )


def _load(path: Path, title: str, names: LabelNames, streaming: bool) -> DatasetDict | IterableDatasetDict:
    if title.startswith("kaggle:"):
        return _from_files(*list_folder(from_kaggle(title.removeprefix("kaggle:"))), names)
    if path.is_dir():
        shards = list_shards(path)
        return from_parquet(path, shards, names) if shards else _from_files(*list_folder(path), names)
    if path.suffix.lower() == ".npz" and path.is_file():
        return from_medmnist(path, names)
    if path.is_file() and is_table(path.name):
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
    """A table of what lies in a folder or archive: split/LABEL/file, else tables of most films, else LABEL/file."""
    films = list(only_films(entries))
    found = _by_split_and_label(films, names)
    if not found:
        tables = read_tables(entries)
        ours = _our_tables(tables, names)
        rows = locate(ours, root, entries) if ours else []
        labelled = sum(bool(row.get("label")) for row in rows)
        folders = [{"path": name, "label": _label_and_rest(name, names)[0]} for name, _ in films]
        known = any(row["label"] in names for row in folders)
        if labelled and (2 * labelled >= len(films) or not known):
            return _from_rows(root, rows, names, tables, films)
        splits = {name: [{**row, "label": ""} for row in rows] for name, rows in ours.items()}
        found = [
            (row["split"], *_label_and_rest(row["name"], names), row["file"])
            for row in locate({**splits, "": folders}, root, films)
            if row["split"]
        ]
    places = defaultdict(list)
    for split, label, name, file in found:
        number = names.number(label, parse_file_name(name)[1])
        if number is not None:
            stored = label.upper() if label.upper() in names.labels else label
            places[split].append((file, f"{split}/{stored}/{name}", number))
    if not places:
        said = [label for label in names.left_out if label]
        labels = f" of a known label (found {', '.join(said[:5]) or 'no folder that names one'})"
        columns = "".join(f"; {line}" for line in column_names(tables)) if not said or tables else ""
        raise InputError(f"no films{labels if names.left_out else ''} in {root}{columns}: {EXPECTED}")
    return DatasetDict(
        {
            split: make_table((file_row(*film, root.name) for film in films), names.labels)
            for split, films in places.items()
        }
    )


def _our_tables(tables: Mapping[str, Rows], names: LabelNames) -> dict[str, Rows]:
    """The tables that say a label or a split of films, under our names; of a public set, what they mean there."""
    public = recognise(tables)
    ours = {}
    if public:
        names.others, names.several = public[0].labels, True
        ours = public[1]
    for name in tables.keys() - ours.keys():
        rows = as_ours(name, tables[name])
        if public:  # beside its tables, others only add to the splits
            rows = [{column: row[column] for column in ("path", "split") if column in row} for row in rows]
        if rows and (
            {"label", "split"} & rows[0].keys() or split_of_path(str(PurePosixPath(name).parent / stem_of(name)))
        ):
            ours[name] = rows
    return {name: ours[name] for name in sorted(ours)}


def _label_and_rest(name: str, names: LabelNames) -> tuple[str, str]:
    """The innermost folder of a film that is a label, else that which it lies in, and its name without it."""
    *above, base = PurePosixPath(name).parts
    at = next((at for at in reversed(range(len(above))) if above[at] in names), len(above) - 1)
    label = above.pop(at) if above else ""
    return label, "/".join((*above, base))


def _by_split_and_label(films: list[tuple[str, str]], names: LabelNames) -> list[tuple[str, str, str, str]]:
    """`(split, label, name, file)` of the films below a split/LABEL pair of folders; nothing if no label is known.

    A nested copy, the same name with as many bytes deeper down, counts once, as Kaggle's `chest_xray/chest_xray` must.
    """
    found, seen, elsewhere = [], {}, []
    for name, file in sorted(films, key=lambda entry: (entry[0].count("/"), entry[0])):
        parts = PurePosixPath(name).parts
        at = next((i for i in range(len(parts) - 2) if split_in(parts[i])), None)
        if at is None:
            elsewhere.append(name)
            continue
        split, label, below = split_in(parts[at]) or "", parts[at + 1], "/".join(parts[at + 2 :])
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


def _from_rows(
    root: Path,
    rows: list[dict[str, str]],
    names: LabelNames,
    tables: Mapping[str, Rows],
    films: Sequence[tuple[str, str]] = (),
) -> DatasetDict:
    """A table from the rows of `locate`; `tables` and `films` are what else is there, for messages."""
    logger.info("%s: labels from %s", root.name, ", ".join(tables))
    splits, unnamed = defaultdict(list), {file for _, file in films} - {row["file"] for row in rows}
    if unnamed:
        logger.warning("%s: left out %d films that no table names", root.name, len(unnamed))
    for values in filter(lambda row: row["split"], rows):
        try:
            label = names.number(values.get("label", ""), parse_file_name(values["name"])[1])
        except InputError as error:
            found = ", ".join(sorted({row.get("label", "") for row in rows})[:12])
            raise InputError(f"{root.name}: {error} (found {found}; {'; '.join(column_names(tables))})") from error
        if label is None:
            continue
        row = file_row(values["file"], values["name"], label, root.name) | clinical_values(values)
        row["patient_id"] = values.get("patient_id") or row["patient_id"]
        splits[values["split"]].append(row)
    if not splits:
        found = f" (found {names.counts()})" if names.left_out else ""
        columns = "; ".join(column_names(tables))
        raise InputError(
            f"{root.name}: no row of the CSV has a film that is there and a known label{found}; {columns}; {EXPECTED}"
        )
    return DatasetDict({split: make_table(rows, names.labels) for split, rows in splits.items()})


def _from_csv(path: Path, names: LabelNames) -> DatasetDict:
    """A table from a CSV and the films below its folder; of a public set its other tables there are read, too."""
    tables = {path.name: parse(path.name, path.read_bytes()) or []}
    if not tables[path.name]:
        raise InputError(f"{path} is no CSV with the columns path and label")
    entries = list_folder(path.parent)[1]
    if is_public(tables):
        tables = read_tables([entry for entry in entries if "/" not in entry[0]])
    ours = _our_tables(tables, names)
    if not any("label" in rows[0] for rows in ours.values()):
        raise InputError(f"{path} is no CSV with the columns path and label: {'; '.join(column_names(tables))}")
    rows = locate(ours, path.parent, entries, outside=True)
    return _from_rows(path, rows, names, tables)

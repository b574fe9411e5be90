"""Folders, zips, CSVs, Parquet, MedMNIST, Kaggle and the Hub become one `DatasetDict`, no film being decoded."""

import csv
import io
import logging
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from datasets import DatasetDict, IterableDatasetDict
from PIL import Image

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.data.columns import SPLITS, LabelNames, assert_every_label, film_row, make_table
from pneumo_hf.data.files import UNREADABLE, list_folder, list_zip, only_films, read_film
from pneumo_hf.data.foreign import from_hub, from_kaggle, from_parquet
from pneumo_hf.data.patients import parse_file_name
from pneumo_hf.imaging.dicom import is_dicom
from pneumo_hf.imaging.film import FILM_SUFFIXES

logger = logging.getLogger(__name__)

EXPECTED = (
    "expected split/LABEL/file with splits train and test, LABEL/file, or a CSV with the columns path and label; "
    "labels other than NORMAL and PNEUMONIA need a label_map"
)
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
CSV_COLUMNS = {  # as written without spaces, hyphens and underscores
    "path": ("path", "file", "filename", "filepath", "image", "imagepath", "imageindex"),
    "label": ("label", "finding", "findinglabels", "class", "target", "diagnosis"),
    "patient_id": ("patientid", "patient", "subjectid"),
    "split": ("split", "subset"),
    "view": ("view", "viewposition"),
    "age": ("age", "patientage"),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
}


def load_data(
    source: str | Path,
    labels: Sequence[str] = LABELS,
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
        labels: NORMAL and PNEUMONIA, or NORMAL, BACTERIA and VIRUS.
        label_map: other names of labels, `{"No Finding": "NORMAL"}`; films of still others are left out and counted.
        streaming: read a Hub data set film by film, without downloading it whole.

    Raises:
        InputError: no such data, a label without films in a split, or another layout.
    """
    data = read_source(source, labels, label_map, streaming)
    if not streaming:
        for split, films in data.items():
            assert_every_label(films["label"], labels, f"{source}: the {split} split has no {{}} films")
    return data


def read_source(
    source: str | Path,
    labels: Sequence[str] = LABELS,
    label_map: Mapping[str, str] | None = None,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """`load_data` of a set in which a split may lack a label: to be merged, or audited."""
    names, title = LabelNames(labels, label_map), str(source)
    if title.startswith("kaggle:"):
        data = _from_files(*list_folder(from_kaggle(title.removeprefix("kaggle:"))), names)
    else:
        data = _load(Path(source).expanduser(), title, names, streaming)
    names.report(title)
    if not streaming:
        logger.info("%s: %s", title, ", ".join(f"{len(films)} {split}" for split, films in data.items()))
    return data


def _load(path: Path, title: str, names: LabelNames, streaming: bool) -> DatasetDict | IterableDatasetDict:
    if path.is_dir():
        shards = sorted(path.rglob("*.parquet"))
        return from_parquet(path, shards, names) if shards else _from_files(*list_folder(path), names)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _from_medmnist(path, names)
    if path.suffix.lower() == ".csv" and path.is_file():
        root, entries = list_folder(path.parent)
        return _from_csv(path.name, path.read_bytes(), partial(_place, dict(entries), PurePosixPath()), names)
    if path.is_file() and zipfile.is_zipfile(path):
        return _from_files(*list_zip(path), names)
    if path.exists():
        raise InputError(f"{path} is neither a folder, a zip, a CSV nor MedMNIST's npz: {EXPECTED}")
    if HUB_ID.match(title):
        return from_hub(title, names, streaming)
    raise InputError(f"no such data: {path} (a folder, zip, CSV, kaggle:owner/name or Hub data set id)")


def list_films(source: str | Path) -> list[dict]:
    """Every film below a file, folder or zip, or in Parquet shards, labelled or not, for scoring.

    Rows of `image`, `file_name` (a path as the caller would write it), `patient_id`, and `label`, None where neither
    the film's folder nor a column says it.

    Raises:
        InputError: there is no such file, or no film in it.
    """
    path = Path(source)
    shards = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    names = LabelNames(LABELS)
    if shards:
        data = from_parquet(path, shards, names)
        rows = [dict(row) for films in data.values() for row in films]
    elif path.is_dir():
        rows = [_row_to_score(file, file) for _, file in only_films(list_folder(path)[1])]
    elif path.is_file() and path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        rows = [_row_to_score(file, str(path / name)) for name, file in only_films(list_zip(path)[1])]
    elif path.is_file():
        rows = [_row_to_score(str(path), str(path))]
    else:
        raise InputError(f"no such file or folder: {path}")
    if not rows:
        raise InputError(f"no films in {path}: looked for {', '.join(sorted(FILM_SUFFIXES))}")
    return rows


def _from_files(root: Path, entries: list[tuple[str, str]], names: LabelNames) -> DatasetDict:
    """A table from what lies in a folder or archive: split/LABEL/file before a CSV, and that before LABEL/file."""
    films = sorted(only_films(entries), key=lambda entry: (entry[0].count("/"), entry[0]))  # a nested copy comes later
    splits, found, seen = defaultdict(list), [], set()
    for name, file in films:
        split, label, base = ("", "", *PurePosixPath(name).parts)[-3:]
        if split.lower() in SPLITS and (split.lower(), label.lower(), base) not in seen:
            seen.add((split.lower(), label.lower(), base))
            found.append((SPLITS[split.lower()], label, base, file))
    tables = [entry for entry in entries if entry[0].lower().endswith(".csv") and "__MACOSX" not in entry[0]]
    if not any(label in names for _, label, _, _ in found):
        places = dict(entries)
        for name, file in tables:
            content = read_film({"bytes": None, "path": file})
            if _csv_columns(content):
                return _from_csv(root.name, content, partial(_place, places, PurePosixPath(name).parent), names)
        found = [("train", PurePosixPath(name).parent.name, PurePosixPath(name).name, file) for name, file in films]
    for split, label, base, file in found:
        number = names.number(label, parse_file_name(base)[1])
        if number is not None:
            stored = label.upper() if label.upper() in names.labels else label
            splits[split].append((file, f"{split}/{stored}/{base}", number))
    if not splits:
        labels = f" of a known label (found {', '.join(list(names.left_out)[:5])})" if names.left_out else ""
        raise InputError(f"no films{labels} in {root}: {EXPECTED}")
    return DatasetDict(
        {
            split: make_table((_file_row(*film, root.name) for film in films), names.labels)
            for split, films in splits.items()
        }
    )


def _place(places: dict[str, str], folder: PurePosixPath, path: str) -> str | None:
    return places.get(str(folder / path))


def _file_row(file: str, file_name: str, label: int | None, source: str) -> dict:
    """A row for a film in a file; of DICOM the header is read."""
    image = {"bytes": None, "path": file}
    dicom = None
    if PurePosixPath(file_name).suffix.lower() in (".dcm", ".dicom", ""):
        try:
            dicom = read_film(image)
        except UNREADABLE:  # whoever decodes the film lists it
            dicom = None
    return film_row(image, file_name, label, source, dicom if dicom and is_dicom(dicom) else None)


def _row_to_score(file: str, name: str) -> dict:
    folder = Path(name).parent.name.upper()
    return _file_row(file, name, LABELS.index(folder) if folder in LABELS else None, "")


def _csv_columns(content: bytes) -> dict[str, str]:
    """`{our column: theirs}` of a CSV with at least path and label, else nothing."""
    header = next(csv.reader(_csv_lines(content), _csv_dialect(content)), [])
    plain = {re.sub(r"[\s_-]", "", name).lower(): name for name in header}
    found = {
        ours: next(plain[alias] for alias in theirs if alias in plain)
        for ours, theirs in CSV_COLUMNS.items()
        if any(alias in plain for alias in theirs)
    }
    return found if {"path", "label"} <= found.keys() else {}


def _csv_lines(content: bytes) -> io.StringIO:
    return io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")


def _csv_dialect(content: bytes) -> type[csv.Dialect]:
    first = _csv_lines(content).readline()

    class Dialect(csv.excel):
        delimiter = max(",;\t", key=first.count)

    return Dialect


def _from_csv(source: str, content: bytes, place: Callable[[str], str | None], names: LabelNames) -> DatasetDict:
    """A table from a CSV; `place(path)` says where the file of a row lies, or None."""
    columns = _csv_columns(content)
    if not columns:
        raise InputError(f"{source}: the CSV has no columns path and label")
    splits, absent = defaultdict(list), []
    for line in csv.DictReader(_csv_lines(content), dialect=_csv_dialect(content)):
        values = {ours: (line[theirs] or "").strip() for ours, theirs in columns.items()}
        label = names.number(values["label"], parse_file_name(values["path"])[1])
        if label is None or not values["path"]:
            continue
        file = place(values["path"])
        if file is None:
            absent.append(values["path"])
            continue
        row = _file_row(file, values["path"], label, source)
        for column in ("patient_id", "view", "sex"):
            if values.get(column):
                row[column] = values[column].upper() if column != "patient_id" else values[column]
        if re.fullmatch(r"\d+(\.\d+)?", age := values.get("age", "").removesuffix("Y")):
            row["age"] = float(age)
        splits[SPLITS.get(values.get("split", "").lower(), "train")].append(row)
    if absent:
        logger.warning("%s: %d films of the CSV are not there, the first %s", source, len(absent), absent[0])
    if not splits:
        raise InputError(f"{source}: no row of the CSV has a film that is there and a known label ({EXPECTED})")
    return DatasetDict({split: make_table(rows, names.labels) for split, rows in splits.items()})


def _from_medmnist(path: Path, names: LabelNames) -> DatasetDict:
    """MedMNIST's arrays, each film as a PNG: `{split}_images` `[N, S, S]` uint8, `{split}_labels` `[N, 1]`."""
    data = DatasetDict()
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

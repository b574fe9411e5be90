"""Folders, zips and Parquet shards become one `DatasetDict` with the same columns, without a film being decoded."""

import logging
import re
import zipfile
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from pneumo_hf.config import LABELS, InputError
from pneumo_hf.data.patients import parse_file_name
from pneumo_hf.imaging.film import FILM_SUFFIXES

logger = logging.getLogger(__name__)

FEATURES = Features(
    {
        "image": Image(decode=False),  # {"bytes", "path"}: reading is load_xray's
        "label": ClassLabel(names=list(LABELS)),
        "patient_id": Value("string"),
        "subtype": Value("string"),  # bacteria, virus, normal or ""
        "source": Value("string"),
        "file_name": Value("string"),  # as below the data's root
    }
)
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
LAYOUT = re.compile(rf"(?:^|/)({'|'.join(SPLITS)})/({'|'.join(LABELS)})/([^/]+)$", re.IGNORECASE)
EXPECTED = "expected split/LABEL/file with splits train and test and labels NORMAL and PNEUMONIA"


def load_data(source: str | Path) -> DatasetDict:
    """Read the table of a data set: a folder or zip in split/LABEL/file layout, or a folder of Parquet shards.

    Columns: `image` (bytes or a path, not decoded), `label` (0 NORMAL, 1 PNEUMONIA), `patient_id`, `subtype`,
    `source`, `file_name`. Splits: those found of `train`, `validation` and `test`. Files that are no films by their
    name, and the copies that archives carry (`__MACOSX`, Kaggle's nested `chest_xray`), are passed over.

    Raises:
        InputError: no such folder or file, none or one label in it, or another layout.
    """
    path = Path(source)
    if path.is_dir():
        shards = sorted(path.rglob("*.parquet"))
        data = _from_parquet(path, shards) if shards else _from_names(path, _folder_entries(path))
    elif path.is_file() and zipfile.is_zipfile(path):
        data = _from_names(path, _zip_entries(path))
    elif path.exists():
        raise InputError(f"{path} is neither a folder nor a zip: {EXPECTED}")
    else:
        raise InputError(f"no such data: {path} (a folder or zip of split/LABEL/file, or a folder of Parquet shards)")
    for split, films in data.items():
        present = set(films["label"])
        if len(present) < len(LABELS):
            missing = ", ".join(label for number, label in enumerate(LABELS) if number not in present)
            raise InputError(f"{path}: the {split} split has no {missing} films; both labels are needed")
    return data


def read_film(image: dict) -> bytes:
    """The bytes of a value of the `image` column: embedded, in a file, or in a zip (`zip://inside::archive`)."""
    if image["bytes"] is not None:
        return image["bytes"]
    if image["path"].startswith("zip://"):
        inside, archive = image["path"].removeprefix("zip://").split("::")
        return _open_zip(archive).read(inside)
    return Path(image["path"]).read_bytes()


def list_films(source: str | Path) -> list[dict]:
    """Every film below a file, folder or zip, or in Parquet shards, labelled or not, for scoring.

    Rows of `image`, `file_name` (a path as the caller would write it), `patient_id`, and `label`, None where neither
    the film's folder nor a column says it.

    Raises:
        InputError: there is no such file, or no film in it.
    """
    path = Path(source)
    shards = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    if shards:
        data = _from_parquet(path, shards)
        rows = [dict(row) for films in data.values() for row in films]
    elif path.is_dir():
        rows = [_row_to_score(file, file) for _, file in _folder_entries(path)]
    elif path.is_file() and path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        rows = [_row_to_score(file, str(path / name)) for name, file in _zip_entries(path)]
    elif path.is_file():
        rows = [_row_to_score(str(path), str(path))]
    else:
        raise InputError(f"no such file or folder: {path}")
    if not rows:
        raise InputError(f"no films in {path}: looked for {', '.join(sorted(FILM_SUFFIXES))}")
    return rows


def _folder_entries(root: Path) -> list[tuple[str, str]]:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return [(str(file.relative_to(root).as_posix()), str(file)) for file in files if _is_film(file.name)]


def _zip_entries(archive: Path) -> list[tuple[str, str]]:
    names = sorted(info.filename for info in zipfile.ZipFile(archive).infolist() if not info.is_dir())
    return [
        (name, f"zip://{name}::{archive}") for name in names if "__MACOSX" not in name and _is_film(Path(name).name)
    ]


def _is_film(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in FILM_SUFFIXES


def _from_names(root: Path, entries: list[tuple[str, str]]) -> DatasetDict:
    rows, seen = defaultdict(list), set()
    for name, file in sorted(entries, key=lambda entry: (entry[0].count("/"), entry[0])):
        match = LAYOUT.search(name)
        if not match or match.groups() in seen:  # a nested copy lies deeper, so it comes later
            continue
        seen.add(match.groups())
        split, label = SPLITS[match[1].lower()], match[2].upper()
        rows[split].append(_row(file, f"{split}/{label}/{match[3]}", LABELS.index(label), root.name))
    if not rows:
        raise InputError(f"no films in {root}: {EXPECTED}")
    logger.info("%s: %s", root, ", ".join(f"{len(films)} {split}" for split, films in rows.items()))
    return DatasetDict({split: Dataset.from_list(films, features=FEATURES) for split, films in rows.items()})


def _row(file: str, file_name: str, label: int, source: str) -> dict:
    patient_id, subtype = parse_file_name(file_name)
    image = {"bytes": None, "path": file}
    return {
        "image": image,
        "label": label,
        "patient_id": patient_id,
        "subtype": subtype,
        "source": source,
        "file_name": file_name,
    }


def _row_to_score(file: str, name: str) -> dict:
    folder = Path(name).parent.name.upper()
    row = _row(file, name, LABELS.index(folder) if folder in LABELS else -1, "")
    return row if row["label"] >= 0 else {**row, "label": None}


def _from_parquet(root: Path, shards: list[Path]) -> DatasetDict:
    files = defaultdict(list)
    for shard in shards:
        files[SPLITS.get(re.split(r"[-.]", shard.name)[0], "train")].append(str(shard))
    try:
        data = load_dataset("parquet", data_files=dict(files))
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise InputError(f"{root}: the Parquet shards cannot be read ({str(error).splitlines()[0]})") from error
    return DatasetDict({split: _complete(root, films) for split, films in data.items()})


def _complete(root: Path, films: Dataset) -> Dataset:
    """The columns of `FEATURES`: what a Parquet set of images and labels lacks comes from its file names."""
    missing = {"image", "label"} - set(films.column_names)
    if missing:
        raise InputError(f"{root}: the Parquet shards have no column {', '.join(sorted(missing))}")
    label = films.features["label"]
    if isinstance(label, ClassLabel) and tuple(name.upper() for name in label.names) != LABELS:
        raise InputError(f"{root}: the labels are {', '.join(label.names)}, but should be {', '.join(LABELS)}")
    films = films.cast_column("image", Image(decode=False))
    names = [image["path"] or f"row_{row}" for row, image in enumerate(films["image"])]
    patients, subtypes = zip(*map(parse_file_name, names), strict=True)
    made = {"patient_id": patients, "subtype": subtypes, "source": [root.name] * len(films), "file_name": names}
    for column, values in made.items():
        if column not in films.column_names:
            films = films.add_column(column, list(values))
    return films.select_columns(list(FEATURES)).cast(FEATURES)


@lru_cache(maxsize=8)
def _open_zip(archive: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)

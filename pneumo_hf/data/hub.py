"""Sets that others packed, on disk, on the Hub or on Kaggle: their columns and label names become ours."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    List,
    load_dataset,
)
from datasets.exceptions import DatasetGenerationError
from datasets.table import InMemoryTable
from huggingface_hub.constants import HF_HUB_CACHE

from pneumo_hf.data.labels import NUMBERS, LabelNames, is_no_label, plain
from pneumo_hf.data.patients import names_patient, parse_file_name
from pneumo_hf.data.schema import (
    CLINICAL_COLUMNS,
    DEVICE_COLUMNS,
    SPLITS,
    clinical_values,
    features,
    film_row,
    seems_split,
    split_of_path,
)
from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)

Films = Any  # a Dataset or an IterableDataset


def from_parquet(root: Path, shards: list[Path], names: LabelNames) -> DatasetDict:
    """Load Parquet shards; their names say the split.

    Raises:
        InputError: a shard is damaged, or its name seems to mean a split in no way that is known.
    """
    files = defaultdict(list)
    for shard in shards:
        name = shard.relative_to(root).with_suffix("")
        split = split_of_path(name.as_posix())
        if not split and any(map(seems_split, name.parts)):
            raise InputError(f"{name}.parquet in {root} seems to mean a split; call it train, val or test")
        files[split or "train"].append(str(shard))
    try:
        data = load_dataset("parquet", data_files=dict(files))
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise InputError(f"{root}: the Parquet shards cannot be read ({str(error).splitlines()[0]})") from error
    return _complete_all(root.name, data, names)


def _complete_all(source: str, data: Mapping[str, Dataset], names: LabelNames) -> DatasetDict:
    done = DatasetDict({split: complete(source, split, films, names) for split, films in data.items()})
    if names.left_out and not any(map(len, done.values())):
        raise InputError(
            f"{source}: no film has a known label (found {names.counts()}); a label_map says what they are"
        )
    return done


def complete(source: str, split: str, films: Dataset, names: LabelNames) -> Dataset:
    """Bring a set of images and labels from elsewhere into our columns; what is missing comes from its file names.

    Raises:
        InputError: no columns `image` and `label`, or labels that are numbers without names.
    """
    films = _rename(source, films)
    other, images = films.remove_columns("image"), _within(source, films.select_columns(["image"]))
    paths = pc.struct_field(images.data.column("image"), "path").to_pylist()  # without reading a film
    columns = _complete_batch(source, split, other[:], paths, 0, films.features, names)
    kept = columns.pop("kept")
    films = images.select(kept) if len(kept) < len(films) else images
    for column, values in columns.items():
        films = films.add_column(column, values, feature=features(names.labels)[column])
    return films.select_columns(list(features())).cast(features(names.labels))


def from_hub(name: str, names: LabelNames, streaming: bool) -> DatasetDict | IterableDatasetDict:
    """Load a data set of the Hub, whole or as a stream."""
    try:
        data = load_dataset(name, streaming=streaming)
    except (OSError, ValueError, DatasetGenerationError) as error:
        raise InputError(
            f"no such data: {name} is no folder or file here, and the Hub gave no such data set "
            "(is it spelt so, is there a network, does a private one have a token: `hf auth login`?)"
        ) from error
    splits = {SPLITS[split.lower()]: films for split, films in data.items() if split.lower() in SPLITS}
    if not splits:
        raise InputError(f"{name} has the splits {', '.join(data)}, none of train, validation and test")
    if not streaming:
        return _complete_all(name, splits, names)

    def stream(split: str, films: IterableDataset) -> IterableDataset:
        films = _rename(name, films)
        described = films.features

        def rows(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
            images = batch.pop("image")
            paths = [image["path"] for image in images]
            columns = _complete_batch(name, split, batch, paths, numbers[0], described, names)
            return {"image": [images[row] for row in columns.pop("kept")], **columns}

        drop = list(films.features)
        return films.map(
            rows, batched=True, batch_size=64, with_indices=True, remove_columns=drop, features=features(names.labels)
        )

    return IterableDatasetDict({split: stream(split, films) for split, films in splits.items()})


def _within(source: str, images: Dataset) -> Dataset:
    """Take away those paths that lead out of the set: a cell can name any file here, or any address.

    What `datasets` unpacked lies in its cache; in other sets the films are in the shards.
    """
    column = images.data.column("image")
    bare = pc.and_(pc.is_null(pc.struct_field(column, "bytes")), pc.is_valid(pc.struct_field(column, "path")))
    if not pc.any(bare).as_py():
        return images
    caches = [Path(folder).resolve() for folder in (datasets.config.HF_CACHE_HOME, HF_HUB_CACHE)]

    def inside(path: str) -> bool:
        return "://" not in path and any(Path(path).resolve().is_relative_to(cache) for cache in caches)

    paths = pc.struct_field(column, "path").to_pylist()
    outside = [alone and not inside(path) for alone, path in zip(bare.to_pylist(), paths, strict=True)]
    if not any(outside):
        return images
    logger.warning(
        "%s: %d films are not in it but lie elsewhere, where nothing is read, the first %s",
        *(source, sum(outside), paths[outside.index(True)]),
    )
    chunks, at = [], 0
    for chunk in column.chunks:
        path = pc.if_else(pa.array(outside[at : at + len(chunk)]), None, chunk.field("path"))
        chunks.append(pa.StructArray.from_arrays([chunk.field("bytes"), path], ["bytes", "path"]))
        at += len(chunk)
    return Dataset(InMemoryTable(pa.table({"image": pa.chunked_array(chunks)})), info=images.info)


def _rename(source: str, films: Films) -> Films:
    """`image` (not decoded) and `label`, whatever a set calls its columns of images and of labels."""
    images = [name for name, kind in films.features.items() if isinstance(kind, Image)]
    images = [name for name in ("image", *images) if name in films.features]
    found = [name for name in ("label", "labels") if name in films.features]
    if not images or not found:
        raise InputError(f"{source}: no column of images, or none called label, among {', '.join(films.features)}")
    films = films.cast_column(images[0], Image(decode=False))  # first: a stream's renaming would encode films again
    renamed = {old: new for old, new in ((images[0], "image"), (found[0], "label")) if old != new}
    return films.rename_columns(renamed) if renamed else films


def _complete_batch(
    source: str,
    split: str,
    batch: dict[str, list],
    paths: list[str | None],
    start: int,
    described: Features,
    names: LabelNames,
) -> dict[str, list]:
    """Our columns but the image for some rows of another set, and `kept`: which of them have a label of ours."""
    batch = {name: _plain(values, described[name]) for name, values in batch.items() if name in features()}
    kind = described["label"]
    called = {name for name in (kind.names if isinstance(kind, ClassLabel) else batch["label"]) if name}
    numbers = {plain(name) for name in called if not is_no_label(name)}
    if numbers and all(re.fullmatch(NUMBERS, name) for name in numbers) and not numbers <= names.mapped:
        raise InputError(
            f"{source}: its labels are the numbers {', '.join(sorted(numbers))}, and it does not say of what; "
            "a label_map like 0=NORMAL,1=PNEUMONIA does"
        )
    rows = []
    for row, path in enumerate(paths):
        given = {column: values[row] for column, values in batch.items() if column != "label"}
        file_name = given.get("file_name") or (path and PurePosixPath(path).name) or f"{split}-row_{start + row}"
        subtype = given.get("subtype") or parse_file_name(file_name)[1]
        number = names.number(batch["label"][row] or "", subtype)
        if number is not None:
            made = film_row({"bytes": None, "path": None}, file_name, number, source)
            if not names_patient(file_name):  # a name of no known scheme may come again in another split
                made["patient_id"] = f"{split}/{made['patient_id']}"
            given |= dict.fromkeys((*CLINICAL_COLUMNS, *DEVICE_COLUMNS)) | clinical_values(given)
            rows.append(made | {column: value for column, value in given.items() if value is not None} | {"kept": row})
    columns = {column: [row[column] for row in rows] for column in ("kept", *features())}
    columns.pop("image")
    return columns


def _plain(values: list, kind: object) -> list[str | None]:
    """A column as text: class names for their numbers, a list as `A|B`, None for what is missing."""
    if isinstance(kind, ClassLabel):
        return [None if value is None or value < 0 else kind.names[value] for value in values]
    if isinstance(kind, List):
        return [value and "|".join(filter(None, _plain(value, kind.feature))) for value in values]
    return [None if value is None else str(value) for value in values]


def from_kaggle(handle: str) -> Path:
    """Download a data set of Kaggle; returns its folder."""
    try:
        import kagglehub
        from kagglehub import exceptions
    except ImportError as error:
        raise InputError(
            f"kaggle:{handle} needs kagglehub: pip install kagglehub, or download the zip from "
            f"kaggle.com/datasets/{handle} and give its path"
        ) from error
    try:
        return Path(kagglehub.dataset_download(handle))
    except (
        *(OSError, ValueError, exceptions.CredentialError, exceptions.UnauthenticatedError),
        *(exceptions.NotFoundError, exceptions.BackendError, exceptions.DataCorruptionError),
    ) as error:
        raise InputError(
            f"kaggle:{handle} cannot be downloaded ({type(error).__name__}): it takes a network, the spelling "
            "owner/name, and for some sets an API token in ~/.kaggle/kaggle.json (kaggle.com/settings); or download "
            "the zip by hand and give its path"
        ) from error

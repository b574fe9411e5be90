"""Several sources become one data set: what one of them already has, the others lose."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from tqdm.auto import tqdm

from pneumo_hf.data.duplicates import Fingerprint, copy_groups, copy_pairs, fingerprint
from pneumo_hf.data.labels import parse_label_map, parse_labels
from pneumo_hf.data.patients import qualify
from pneumo_hf.data.reading import in_threads, try_film
from pneumo_hf.data.schema import features
from pneumo_hf.data.sources import read_source
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.quality import THUMBNAIL
from pneumo_hf.labels import LABELS, Task

logger = logging.getLogger(__name__)


def load_sources(
    sources: Sequence[str], labels: Sequence[str] | None = LABELS, label_map: Mapping[str, str] | None = None
) -> tuple[DatasetDict, list[dict[str, str]]]:
    """Load one or several sources (see `load_data`), and `{"path", "reason"}` of the films that merging dropped.

    A film that is in several sources, exactly or as a near-duplicate, stays in one: in that which has it as a test
    film, else in the first. So no film of one source's test comes back in another's train. Copies within a source
    stay. Patient ids that are no known scheme's get the source's name before them.

    Raises:
        InputError: no such data, or another layout than `load_data` knows.
    """
    if len(sources) == 1:
        return read_source(sources[0], labels, label_map), []
    tables, origin, splits, titles = [], [], [], []
    loaded = [read_source(source, labels, label_map) for source in sources]
    found = dict.fromkeys(name for data in loaded for name in labels_of(data))
    for name in found if labels is None else ():
        of = [source for source, data in zip(sources, loaded, strict=True) if name in labels_of(data)]
        if len(of) < len(sources):
            logger.warning(
                "only %s has the label %s: what gives away the source gives away the label", ", ".join(of), name
            )
    if any(labels_of(data) != list(found) for data in loaded):
        loaded = [read_source(source, list(found), label_map) for source in sources]
    for number, data in enumerate(loaded):
        for split, table in data.items():
            title = table[0]["source"]
            title = title if title not in titles else f"{title} ({number + 1})"
            tables.append(_rename_source(table, title))
            origin += [number] * len(table)
            splits += [split] * len(table)
        titles.append(title)
    merged = concatenate_datasets(tables)
    origin, splits = np.array(origin), np.array(splits)
    keep, dropped = _drop_copies(merged, origin, splits)
    rows = defaultdict(list)
    for row in keep:
        rows[splits[row]].append(row)
    data = DatasetDict({split: merged.select(rows[split]) for split in dict.fromkeys(splits) if rows[split]})
    counts = ", ".join(f"{len(films)} {split}" for split, films in data.items())
    logger.info("%d sources: %s; %d copies dropped", len(sources), counts, len(dropped))
    return data, dropped


def labels_of(tables: Mapping[str, Dataset]) -> list[str]:
    """Return the names of a data set's labels, in the order of their numbers."""
    return next(iter(tables.values())).features["label"].names


def _rename_source(table: Dataset, title: str) -> Dataset:
    patients = [qualify(patient, title) for patient in table["patient_id"]]
    columns = {"patient_id": patients, "source": [title] * len(table)}
    for name, values in columns.items():
        table = table.remove_columns(name).add_column(name, values, feature=table.features[name])
    return table.select_columns(list(features()))


def _drop_copies(films: Dataset, origin: np.ndarray, splits: np.ndarray) -> tuple[list[int], list[dict[str, str]]]:
    contents, thumbnails = _fingerprints(films)
    groups = copy_groups(copy_pairs(contents, thumbnails, origin), len(films))
    priority = np.lexsort((np.arange(len(films)), origin, splits != "test"))  # test films first, then by source
    owner, keep, dropped = {}, [], []
    names, sources = films["file_name"][:], films["source"][:]
    for row in priority:
        first = owner.setdefault(groups[row], row)
        if origin[first] == origin[row]:
            keep.append(int(row))
        else:
            reason = f"a copy of {names[first]} of {sources[first]}"
            dropped.append({"path": f"{sources[row]}: {names[row]}", "reason": reason})
    return sorted(keep), dropped


def _fingerprints(films: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """`contents` and `thumbnails` of every film; one that cannot be read is like no other."""
    contents = np.array([f"unreadable {row}" for row in range(len(films))], dtype="U32")
    thumbnails = np.zeros((len(films), THUMBNAIL, THUMBNAIL), np.uint8)

    def read(row: int) -> Fingerprint | None:
        film = try_film(films[row]["image"]).film
        return fingerprint(film) if film else None

    rows = in_threads(read, range(len(films)))
    for row, found in tqdm(rows, total=len(films), desc="Looking for copies", unit="film"):
        if found:
            contents[row], thumbnails[row] = found.content, found.thumbnail
    return contents, thumbnails


def read_for_audit(
    sources: Sequence[str], labels: str | None, label_map: str | None, streaming: bool
) -> tuple[Mapping[str, Dataset], list[dict[str, str]], str, Sequence[str]]:
    """Read sources in which a split may have no film of a label.

    Returns:
        The tables by split, the copies that merging dropped, a title without folders, and the labels.

    Raises:
        InputError: several sources are to be streamed.
    """
    wanted, names = parse_labels(labels), parse_label_map(label_map)
    title = " + ".join(Path(source).name for source in sources)
    if streaming:
        if len(sources) > 1:
            raise InputError("--streaming reads one Hub data set; several sources are merged only when they are whole")
        tables = read_source(sources[0], wanted or LABELS, names, streaming=True)
        return tables, [], title, Task.of(wanted or LABELS).labels
    tables, dropped = load_sources(sources, wanted, names)
    return tables, dropped, title, labels_of(tables)

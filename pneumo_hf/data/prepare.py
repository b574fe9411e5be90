"""Any source becomes Parquet shards with the films in them, on request without anything that names a person."""

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, IterableDataset
from tqdm.auto import tqdm

from pneumo_hf.data.duplicates import copy_groups, exact_groups, near_pairs
from pneumo_hf.data.leakage import HELD_OUT
from pneumo_hf.data.patients import keyed_hash
from pneumo_hf.data.reading import in_batches, in_threads, try_film
from pneumo_hf.data.schema import features
from pneumo_hf.data.survey import Survey, survey_films
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.dicom import CHEST, MODALITIES, is_dicom

SHARD = re.compile(r"\w+-\d{5}-of-\d{5}\.parquet|\w+-\d+\.partial")
FILMS_A_SHARD = 5_000
FILMS_AT_ONCE = 100
KNOWN = {
    "view": ("PA", "AP", "LL", "RL", "LATERAL", "LAO", "RAO", "LPO", "RPO", "AP SUPINE", "FRONTAL"),
    "sex": ("F", "M"),
    "modality": tuple(sorted(MODALITIES - {""})),
    "patient_position": ("HFS", "HFP", "FFS", "FFP", "HFDR", "HFDL", "ERECT", "RECUMBENT", "SUPINE"),
}
MAKERS = re.compile(  # of X-ray machines: what else a header says there could be a hospital's name
    r"\b(AGFA|CANON|CARESTREAM|DRTECH|FUJI|GE\b|KODAK|KONICA|PHILIPS|SAMSUNG|SHIMADZU|SIEMENS|TOSHIBA)"
)
OLDEST = 90  # years; a higher age names a person (45 CFR 164.514)


def prepare(
    data: Mapping[str, Dataset | IterableDataset],
    labels: Sequence[str],
    output_dir: Path,
    anonymize: bool = False,
    drop_leaks: bool = False,
) -> list[dict[str, str]]:
    """Write `data/*.parquet` into `output_dir`.

    Films keep their bytes; DICOM films become 8-bit PNG, for their headers name persons. `anonymize` makes all films
    PNG without metadata, gives them new names (in an order that says nothing, but for a stream), hashes patient ids
    with a key, caps ages at 90 years, numbers the sources, and keeps of the other columns only what is a known term.
    `drop_leaks` leaves out the films of a patient, or the copies of a film, that test or validation has as well.

    Returns:
        The films left out, `{"path", "reason"}`.

    Raises:
        InputError: nothing can be read, or a split has lost every film of a label.
    """
    shards = output_dir / "data"
    shards.mkdir(parents=True, exist_ok=True)
    if foreign := [path.name for path in shards.iterdir() if not SHARD.fullmatch(path.name)]:
        raise InputError(f"{shards} holds {foreign[0]}, which prepare did not write: choose another --output_dir")
    leaking = leaks(survey_films(data)) if drop_leaks else {}
    for path in shards.iterdir():
        path.unlink()
    rejected = []
    for split, films in data.items():
        left_out = leaking.get(split, {})
        _write_shards(shards, split, _film_rows(films, split, labels, anonymize, left_out, rejected), labels)
    return rejected


def leaks(found: Survey) -> dict[str, dict[int, str]]:
    """Return `{split: {position: reason}}` of the films whose patient or copy an earlier split of `HELD_OUT` has."""
    splits, contents = np.array(found.splits), np.array(found.contents)
    pairs = [(int(i), int(j)) for i, j, _ in near_pairs(contents, found.thumbnails, splits)]
    for column in (contents, np.array(found.patients)):
        pairs += [(int(group[0]), int(other)) for group in exact_groups(column) for other in group[1:]]
    groups = copy_groups(pairs, len(splits))
    rank = np.array([HELD_OUT.index(split) for split in splits])
    best = np.full(groups.max() + 1, len(HELD_OUT))
    np.minimum.at(best, groups, rank)
    result = {}
    for row in np.flatnonzero(rank > best[groups]):
        reason = f"its patient or a copy of it is in {HELD_OUT[best[groups[row]]]}"
        result.setdefault(found.splits[row], {})[found.positions[row]] = reason
    return result


def _film_rows(
    films: Dataset | IterableDataset,
    split: str,
    labels: Sequence[str],
    anonymize: bool,
    left_out: Mapping[int, str],
    rejected: list[dict[str, str]],
) -> Iterator[dict]:
    """The rows to write, their films read in parallel; what is left out goes to `rejected`."""
    order: Iterable[tuple[int, dict]] = enumerate(films)
    if anonymize and isinstance(films, Dataset):
        shuffled = sorted(range(len(films)), key=lambda row: keyed_hash(films[row]["file_name"]))
        order = ((row, films[row]) for row in shuffled)
    sources = {}
    total, written = len(films) if isinstance(films, Dataset) else None, 0
    embedded = in_threads(lambda item: _embed(item[1]["image"], anonymize), order, at_once=FILMS_AT_ONCE)
    for (position, row), (content, suffix, reason) in tqdm(
        embedded, total=total, desc=f"Writing {split}", unit="film"
    ):
        if reason := reason or left_out.get(position, ""):
            rejected.append({"path": row["file_name"], "reason": reason})
            continue
        name = PurePosixPath(row["file_name"])
        if anonymize:
            name = PurePosixPath(split, labels[row["label"]], f"{split}-{written:06d}")
            row |= _anonymous(row, sources)
        if suffix:  # of a name such as 1.2.840.77 nothing is a suffix
            name = name.with_name((name.name if name.suffix[1:].isdigit() else name.stem) + suffix)
        written += 1
        yield row | {"file_name": str(name), "image": {"bytes": content, "path": name.name}}


def _anonymous(row: dict, sources: dict[str, str]) -> dict:
    """The columns of a row that could name somebody, so that they do not."""
    known = {column: row[column] if row[column] in terms else None for column, terms in KNOWN.items()}
    return known | {
        "patient_id": keyed_hash(row["patient_id"]),
        "age": row["age"] and min(row["age"], OLDEST),
        "source": sources.setdefault(row["source"], f"source-{len(sources) + 1}"),
        "subtype": row["subtype"] if row["subtype"] in ("normal", "bacteria", "virus") else "",
        "manufacturer": maker[1] if (maker := MAKERS.search(row["manufacturer"] or "")) else None,
        "device_model": None,
        "body_part": "CHEST" if CHEST.search(row["body_part"] or "") else None,
    }


def _embed(image: dict, png: bool) -> tuple[bytes, str, str]:
    """The bytes to write, the suffix that they need if it is another, and the reason if there are none."""
    film, reason, content = try_film(image)
    if film is None:
        return b"", "", reason
    if not png and not is_dicom(content):
        return content, "", ""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.asarray(film)).save(buffer, "PNG")  # a new picture: no profile, comment or text of the old
    return buffer.getvalue(), ".png", ""


def _write_shards(folder: Path, split: str, rows: Iterator[dict], labels: Sequence[str]) -> None:
    """`{split}-00000-of-0000N.parquet`, at most `FILMS_A_SHARD` films each, written a row group at a time."""
    columns = Features({**features(labels), "image": Image()})
    schema, written = columns.arrow_schema, []
    batches = in_batches(rows, FILMS_AT_ONCE)
    while first := next(batches, None):
        written.append(folder / f"{split}-{len(written)}.partial")
        with pq.ParquetWriter(written[-1], schema) as writer:
            for batch in itertools.chain([first], itertools.islice(batches, FILMS_A_SHARD // FILMS_AT_ONCE - 1)):
                writer.write_table(pa.Table.from_pylist(batch, schema))
    for number, path in enumerate(written):
        path.rename(folder / f"{split}-{number:05d}-of-{len(written):05d}.parquet")

"""One pass over a data set: every film is read once, in parallel and in constant memory, and measured."""

import os
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from datasets import Dataset, IterableDataset
from PIL import Image
from tqdm.auto import tqdm

from pneumo_hf.data.duplicates import Fingerprint, fingerprint
from pneumo_hf.data.reading import in_threads, try_film
from pneumo_hf.data.schema import DEVICE_COLUMNS
from pneumo_hf.imaging.film import describe
from pneumo_hf.imaging.quality import INVERTED, THUMBNAIL, chest_correlation

SIDE = 224  # of the pictures that mean films, histograms and montages are made of
SHOWN = 16  # films of each label in the montage
FILMS_AT_ONCE = 256
EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".dcm", ".dicom", ".ima", ".gz"), ("DICOM",)),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
}


@dataclass(frozen=True)
class Film:
    """What one file shows. Of a film that cannot be read, only its kind and the reason."""

    kind: str
    reason: str = ""
    size: int = 0  # bytes
    width: int = 0
    height: int = 0
    mode: str = ""
    bits: int = 0
    print: Fingerprint | None = None
    picture: np.ndarray | None = None  # [SIDE, SIDE] uint8


class ThumbnailFile:
    """Thumbnails `[N, 56, 56]` uint8 in a temporary file: rows are read when asked for, and stay in no memory.

    A memory map would do the same, but its pages count as the process's own.
    """

    def __init__(self):
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self.rows = 0

    def __len__(self) -> int:
        return self.rows

    def append(self, thumbnail: np.ndarray) -> None:
        self.file.write(thumbnail.tobytes())
        self.rows += 1

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The thumbnails `[R, 56, 56]` of some rows `[R]`."""
        self.file.flush()
        size = THUMBNAIL * THUMBNAIL
        read = b"".join(os.pread(self.file.fileno(), size, int(row) * size) for row in rows)
        return np.frombuffer(read, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)


@dataclass
class Survey:
    """What the pass found. Lists and arrays have an entry a readable film, in the order of the pass."""

    rows: int = 0
    splits: list[str] = field(default_factory=list)
    positions: array = field(default_factory=lambda: array("l"))  # in the split
    labels: array = field(default_factory=lambda: array("b"))
    names: list[str] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    numbers: dict[str, array] = field(
        default_factory=lambda: {
            name: array("f") for name in ("bytes", "width", "height", "brightness", "contrast", "sharpness")
        }
    )
    counts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    unreadable: list[dict[str, str]] = field(default_factory=list)
    wrong_extension: list[dict[str, str]] = field(default_factory=list)
    inverted: list[dict] = field(default_factory=list)
    histograms: dict[int, np.ndarray] = field(default_factory=lambda: defaultdict(lambda: np.zeros(256, np.int64)))
    sums: dict[int, np.ndarray] = field(default_factory=lambda: defaultdict(lambda: np.zeros((SIDE, SIDE), np.int64)))
    montages: dict[int, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    thumbnails: "ThumbnailFile" = field(default_factory=lambda: ThumbnailFile())


def survey_films(data: Mapping[str, Dataset | IterableDataset]) -> Survey:
    """Read every film of every split, with threads (decoding leaves Python's lock) and a progress bar."""
    found, random = Survey(), np.random.default_rng(0)
    total = sum(len(films) for films in data.values() if isinstance(films, Dataset)) or None
    films = in_threads(lambda row: _measure(row[2]["image"]), _rows(data), at_once=FILMS_AT_ONCE)
    for (split, position, row), film in tqdm(films, total=total, desc="Reading films", unit="film"):
        _note(found, split, row, film, random)
        if film.print:
            found.positions.append(position)
            found.thumbnails.append(film.print.thumbnail)
    _note_inverted(found)
    return found


def _rows(data: Mapping[str, Dataset | IterableDataset]) -> Iterator[tuple[str, int, dict]]:
    """Yield the split, the position in it, and the row of every film."""
    for split, films in data.items():
        position = 0
        for batch in films.iter(FILMS_AT_ONCE):
            for values in zip(*batch.values(), strict=True):
                yield split, position, dict(zip(batch, values, strict=True))
                position += 1


def _measure(image: dict) -> Film:
    film, reason, content = try_film(image)
    if not content and reason != "empty file":
        return Film("missing", reason)
    kind = describe(content)
    if film is None:
        return Film(kind["kind"], reason, len(content))
    picture = np.asarray(film.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    size = (len(content), *film.size)
    return Film(kind["kind"], "", *size, kind["mode"], kind["bits"], fingerprint(film), picture)


def _note(found: Survey, split: str, row: dict, film: Film, random: np.random.Generator) -> None:
    found.rows += 1
    name, label = row["file_name"], row["label"]
    expected = EXTENSIONS.get(PurePosixPath(name).suffix.lower())
    if expected and film.kind not in (*expected, "empty", "unknown", "missing"):
        found.wrong_extension.append({"path": name, "kind": film.kind})
    if film.print is None or film.picture is None:
        found.unreadable.append({"path": name, "split": split, "kind": film.kind, "reason": film.reason})
        return
    picture = film.picture.astype(np.int16)
    for key, value in (
        ("bytes", film.size),
        ("width", film.width),
        ("height", film.height),
        ("brightness", picture.mean()),
        ("contrast", picture.std()),
        ("sharpness", np.abs(np.diff(picture, axis=1)).mean()),
    ):
        found.numbers[key].append(value)
    found.splits.append(split)
    found.labels.append(label)
    found.names.append(name)
    found.patients.append(row["patient_id"])
    found.contents.append(film.print.content)
    for column in ("subtype", "source", "view", "sex", "modality", *DEVICE_COLUMNS):
        found.counts[column][row[column] or ""] += 1
    for column, value in (("format", film.kind), ("mode", film.mode), ("bits", film.bits)):
        found.counts[column][value] += 1
    found.histograms[label] += np.bincount(film.picture.ravel(), minlength=256)
    found.sums[label] += film.picture
    found.counts["label"][label] += 1
    kept, place = found.montages[label], random.integers(found.counts["label"][label])
    if len(kept) < SHOWN:
        kept.append(film.picture)
    elif place < SHOWN:  # a reservoir: every film is as likely to be shown
        kept[place] = film.picture


def _note_inverted(found: Survey) -> None:
    """Films that resemble the negative of a chest film: bright lungs, dark bones."""
    for start in range(0, len(found.names), FILMS_AT_ONCE):
        rows = np.arange(start, min(start + FILMS_AT_ONCE, len(found.names)))
        similar = chest_correlation(found.thumbnails[rows])
        for row in np.flatnonzero(similar < INVERTED):
            found.inverted.append({"path": found.names[start + row], "correlation": round(float(similar[row]), 3)})

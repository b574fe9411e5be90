"""The pixel cache: every film is decoded and resized once, then read by its index from a memory map."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from datasets import Dataset
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.data.duplicates import Fingerprint, fingerprint
from pneumo_hf.data.files import is_in_zip, split_zip_path
from pneumo_hf.data.reading import in_threads, try_film
from pneumo_hf.imaging.dicom import is_lateral
from pneumo_hf.imaging.processor import resize_film
from pneumo_hf.imaging.quality import LATERAL_VIEW, QUALITY_ISSUES, THUMBNAIL, blockiness, quality_issue

CODE_VERSION = "11"  # raise it when load_xray, resize_film, fingerprint or imaging.quality gives something else
KEPT = ("contents", "thumbnails", "issues", "blockiness", "sizes")  # of each film, beside its pixels


class FilmDataset(torch.utils.data.Dataset):
    """Films of one split, decoded: `table` (the columns of load_data but the image) beside a pixel memory map.

    A batch is gathered with one indexing: `{"pixel_values": [B, 1, H, W] uint8, "labels": [B] int64}`. `contents`
    `[N]` and `thumbnails` `[N, 56, 56]` are the films' fingerprints, by which copies are found; `issues` `[N]` say why
    a film should not be scored, mostly nothing; `blockiness` `[N]` shows JPEG's blocks, and `sizes` `[N, 2]` are width
    and height, before resizing. `finer` is the same memory map at the larger size that teachers take, if they do.
    """

    def __init__(
        self,
        table: Dataset,
        pixels: np.ndarray,
        rows: np.ndarray,
        contents: np.ndarray,
        thumbnails: np.ndarray,
        issues: np.ndarray,
        blockiness: np.ndarray,
        sizes: np.ndarray,
    ):
        self.table, self.pixels, self.rows = table, pixels, rows
        self.contents, self.thumbnails = contents, thumbnails
        self.issues, self.blockiness, self.sizes = issues, blockiness, sizes
        self.finer: np.ndarray | None = None
        self.labels = np.asarray(table["label"], dtype=np.int64)
        self.label_names = table.features["label"].names
        self.patient_ids = np.asarray(table["patient_id"])

    @property
    def endpoint(self) -> np.ndarray:
        """`[N]`, 1 for every label but NORMAL: what is decided, and 0 for NORMAL."""
        return (self.labels > 0).astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: values[0] for key, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.from_numpy(self.pixels[self.rows[indices]]),  # [B, 1, H, W] uint8
            "labels": torch.from_numpy(self.labels[indices]),
        }

    def select(self, indices: np.ndarray) -> "FilmDataset":
        """Keep the films `[K]` at these indices; the pixels are not copied."""
        kept = [getattr(self, name)[indices] for name in ("rows", *KEPT)]
        selected = FilmDataset(self.table.select(indices), self.pixels, *kept)
        selected.finer = self.finer
        return selected

    def for_teachers(self) -> "FilmDataset":
        """Take the same films at the size that teachers take."""
        if self.finer is None:
            return self
        return FilmDataset(self.table, self.finer, self.rows, *(getattr(self, name) for name in KEPT))


def decode_films(
    films: Dataset, image_processor: BaseImageProcessor, cache_dir: str | Path
) -> tuple[FilmDataset, list[dict[str, str]]]:
    """Decode every film of a split, or reuse the cache of the same films, processor and code.

    Returns:
        The readable films with their pixels, `[N, 1, H, W]` uint8, and for each of the others `{"path", "reason"}`.
    """
    folder = Path(cache_dir).expanduser() / "pixels"
    folder.mkdir(parents=True, exist_ok=True)
    images = films["image"]
    key = _fingerprint(images, image_processor)
    paths = {kind: folder / f"{key}.{kind}" for kind in ("npy", "npz", "json")}
    if not paths["json"].exists():
        reasons = _decode_all(images, image_processor, paths["npy"], paths["npz"])
        _replace(paths["json"], lambda path: path.write_text(json.dumps(reasons)))  # last: it marks the cache whole
    reasons = {int(index): reason for index, reason in json.loads(paths["json"].read_text()).items()}
    readable = np.array([index for index in range(len(films)) if index not in reasons], dtype=np.int64)
    pixels, prints = np.load(paths["npy"], mmap_mode="r"), np.load(paths["npz"])
    rejected = [{"path": films[index]["file_name"], "reason": reason} for index, reason in reasons.items()]
    table = films.remove_columns("image").select(readable)
    decoded = FilmDataset(table, pixels, readable, *(prints[name][readable] for name in KEPT))
    decoded.issues[(decoded.issues == "") & np.array(list(map(is_lateral, table["view"])), bool)] = LATERAL_VIEW
    return decoded, rejected


def _decode_all(
    images: Sequence[dict], image_processor: BaseImageProcessor, pixels_path: Path, prints_path: Path
) -> dict[int, str]:
    """Fill the memory map; returns `{index: reason}` of the films that cannot be read."""
    size, count = image_processor.size, len(images)
    partial = _partial(pixels_path)
    pixels = open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, 1, size["height"], size["width"]))
    if sys.platform == "linux":  # on a full disk an error here, not a crash when the pages are written
        with partial.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    prints = {
        "contents": np.zeros(count, "U32"),
        "thumbnails": np.zeros((count, THUMBNAIL, THUMBNAIL), np.uint8),
        "issues": np.zeros(count, f"U{max(map(len, QUALITY_ISSUES))}"),
        "blockiness": np.zeros(count, np.float32),
        "sizes": np.zeros((count, 2), np.int32),
    }
    reasons = {}

    def decode(index: int) -> Fingerprint | None:
        film, reason, _ = try_film(images[index])
        if film is None:
            reasons[index] = reason
            return None
        pixels[index] = resize_film(film, image_processor)
        prints["issues"][index], prints["blockiness"][index] = quality_issue(film), blockiness(film)
        prints["sizes"][index] = film.size
        return fingerprint(film)

    bar = tqdm(in_threads(decode, range(count)), total=count, desc="Decoding films", unit="film")
    for index, found in bar:
        if found:
            prints["contents"][index], prints["thumbnails"][index] = found.content, found.thumbnail
    pixels.flush()
    _replace(prints_path, lambda path: _save_arrays(path, prints))
    os.replace(partial, pixels_path)
    return dict(sorted(reasons.items()))


def _fingerprint(images: Sequence[dict], image_processor: BaseImageProcessor) -> str:
    """A key of the films' content (bytes; path, size and time of files), the processor's resizing and this code."""
    digest = hashlib.blake2b(digest_size=12)
    resizing = {name: image_processor.to_dict().get(name) for name in ("size", "resample", "do_resize", "clahe")}
    digest.update(json.dumps([CODE_VERSION, resizing], sort_keys=True, default=str).encode())
    archives = {}
    for image in images:
        if image["bytes"] is not None:
            digest.update(hashlib.blake2b(image["bytes"]).digest())
            continue
        in_zip = is_in_zip(image["path"])
        file = split_zip_path(image["path"])[1] if in_zip else image["path"]
        if not in_zip or file not in archives:
            archives[file] = _status(file)
        digest.update(f"{image['path']} {archives[file]}".encode())
    return digest.hexdigest()


def _status(file: str) -> str:
    try:
        status = os.stat(file)
    except OSError:
        return "missing"  # whoever decodes the film lists it
    return f"{status.st_size} {status.st_mtime_ns}"


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = _partial(path)
    write(partial)
    os.replace(partial, path)


def _partial(path: Path) -> Path:
    """A name of its own for each that writes: machines that share the disk may write the same cache at once."""
    return path.with_suffix(f".{uuid4().hex[:12]}.partial")

"""The pixel cache: every film is decoded and resized once, then read by its index from a memory map."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config import LABELS, DataArguments, InputError
from pneumo_hf.data.columns import assert_every_label, in_batches
from pneumo_hf.data.duplicates import Fingerprint, assert_no_leaks, copy_pairs, fingerprint, near_pairs
from pneumo_hf.data.files import UNREADABLE, is_in_zip, read_film, split_zip_path
from pneumo_hf.data.patients import split_by_patient
from pneumo_hf.imaging.film import UnreadableFilmError, load_xray
from pneumo_hf.imaging.processor import resize_film
from pneumo_hf.imaging.quality import SHORTCOMINGS, THUMBNAIL, shortcoming

logger = logging.getLogger(__name__)

CODE_VERSION = "8"  # raise it when load_xray, resize_film, fingerprint or shortcoming gives something else


SEEN = ("contents", "thumbnails", "shortcomings", "sizes")  # of each film, when it was decoded
VIRAL = {"bacteria": 0, "virus": 1}


class FilmDataset(torch.utils.data.Dataset):
    """Films of one split, decoded: `table` (the columns of load_data but the image) beside a pixel memory map.

    A batch is gathered with one indexing: `{"pixel_values": [B, 1, H, W] uint8, "labels": [B] int64, "viral": [B]
    int64}`; `viral` is 1 for virus, 0 for bacteria and -1 where the file name tells neither. `contents` `[N]` and
    `thumbnails` `[N, 56, 56]` are the films' fingerprints, by which copies are found; `shortcomings` `[N]` say why a
    film should not be scored, mostly nothing; `sizes` `[N, 2]` are width and height before resizing.
    """

    def __init__(
        self,
        table: Dataset,
        pixels: np.ndarray,
        rows: np.ndarray,
        contents: np.ndarray,
        thumbnails: np.ndarray,
        shortcomings: np.ndarray,
        sizes: np.ndarray,
    ):
        self.table, self.pixels, self.rows = table, pixels, rows
        self.contents, self.thumbnails = contents, thumbnails
        self.shortcomings, self.sizes = shortcomings, sizes
        self.labels = np.asarray(table["label"], dtype=np.int64)
        self.patient_ids = np.asarray(table["patient_id"])
        self.viral = np.array([VIRAL.get(subtype, -1) for subtype in table["subtype"]], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: values[0] for key, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.from_numpy(self.pixels[self.rows[indices]]),  # [B, 1, H, W] uint8
            "labels": torch.from_numpy(self.labels[indices]),
            "viral": torch.from_numpy(self.viral[indices]),
        }

    def select(self, indices: np.ndarray) -> "FilmDataset":
        seen = [getattr(self, name)[indices] for name in ("rows", *SEEN)]
        return FilmDataset(self.table.select(indices), self.pixels, *seen)


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
    seen = [prints[name][readable] for name in SEEN]
    return FilmDataset(table, pixels, readable, *seen), rejected


def decode_splits(
    data: DatasetDict, image_processor: BaseImageProcessor, arguments: DataArguments, seed: int
) -> tuple[dict[str, FilmDataset], list[dict[str, str]]]:
    """Decode a data set and hold out what it lacks: `train`, `validation` and `test`.

    No patient, film or near-duplicate of a film is in two of them. Patients who share a film are held out together.

    Without a test split, as many patients as for validation are held out for it, at random. A validation split of the
    data is used only if the recipe says `given`; else it joins train, whose patients are then held out afresh.

    Raises:
        InputError: no train split, too few films or patients, or something is in two splits.
    """
    if "train" not in data:
        raise InputError(f"{arguments.name} has no train split, only {', '.join(data)}")
    if arguments.validation == "given":
        if "validation" not in data:
            raise InputError(f"{arguments.name} has no validation split: use --validation random or block")
    elif "validation" in data:
        logger.info("the data's own validation split joins train (use it with --validation given)")
        data = DatasetDict(data)
        data["train"] = concatenate_datasets([data["train"], data.pop("validation")])
    seed = seed if arguments.split_seed is None else arguments.split_seed
    films, rejected = {}, []
    for split, table in data.items():
        films[split], unreadable = decode_films(table, image_processor, arguments.cache_dir)
        rejected += unreadable
        message = f"the {split} split of {arguments.name} has no {{}} films that can be read"
        assert_every_label(films[split].labels, LABELS, message)
    if rejected:
        logger.warning("%d films cannot be read; they are listed in rejected.csv", len(rejected))
    if "test" not in films:
        films["train"], films["test"] = _hold_out(films["train"], arguments, seed + 1, "random")
    if "validation" not in films:
        films["train"], films["validation"] = _hold_out(
            films["train"], arguments, seed, arguments.validation, arguments.fold
        )
    everywhere = [np.concatenate(parts) for parts in zip(*map(_identity, films.values()), strict=True)]
    assert_no_leaks(np.repeat(list(films), [len(part) for part in films.values()]), *everywhere)
    logger.info(", ".join(f"{len(part)} {split} films" for split, part in films.items()))
    return films, rejected


def _identity(films: FilmDataset) -> tuple[np.ndarray, ...]:
    return films.patient_ids, films.contents, films.thumbnails, np.asarray(films.table["file_name"])


def _hold_out(
    films: FilmDataset, arguments: DataArguments, seed: int, method: str, fold: int = 0
) -> tuple[FilmDataset, FilmDataset]:
    copies, crossing = copy_pairs(films.contents, films.thumbnails), [(0, 0)]
    while crossing:  # of many copies of one film the first search may not have linked all
        rest, held_out = split_by_patient(
            films.patient_ids, films.labels, arguments.validation_fraction, seed, method, fold, copies
        )
        side = np.isin(np.arange(len(films)), held_out)
        near = near_pairs(films.contents, films.thumbnails, side)
        crossing = [(i, j) for i, j, _ in near if side[i] != side[j]]
        copies += crossing
    return films.select(rest), films.select(held_out)


def _decode_all(
    images: Sequence[dict], image_processor: BaseImageProcessor, pixels_path: Path, prints_path: Path
) -> dict[int, str]:
    """Fill the memory map with threads (decoding and resizing leave Python's lock); returns what could not be read."""
    size = image_processor.size
    partial = _partial(pixels_path)
    pixels = open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(images), 1, size["height"], size["width"]))
    contents = np.zeros(len(images), "U32")
    thumbnails = np.zeros((len(images), THUMBNAIL, THUMBNAIL), np.uint8)
    shortcomings = np.zeros(len(images), f"U{max(map(len, SHORTCOMINGS))}")
    sizes = np.zeros((len(images), 2), np.int32)
    reasons = {}

    def decode(index: int) -> Fingerprint | None:
        try:
            film = load_xray(read_film(images[index]))
            pixels[index] = resize_film(film, image_processor)
            shortcomings[index], sizes[index] = shortcoming(film), film.size
            return fingerprint(film)
        except (UnreadableFilmError, *UNREADABLE) as error:
            reasons[index] = str(error) or type(error).__name__

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(images), desc="Decoding films", unit="film") as bar,
    ):
        for indices in in_batches(range(len(images)), 512):
            for index, found in zip(indices, pool.map(decode, indices), strict=True):
                if found:
                    contents[index], thumbnails[index] = found.content, found.thumbnail
                bar.update()
    pixels.flush()
    prints = {"contents": contents, "thumbnails": thumbnails, "shortcomings": shortcomings, "sizes": sizes}
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


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = _partial(path)
    write(partial)
    os.replace(partial, path)


def _partial(path: Path) -> Path:
    """A name of its own for each that writes: machines that share the disk may write the same cache at once."""
    return path.with_suffix(f".{uuid4().hex[:12]}.partial")

"""MedMNIST's arrays become films."""

import io
import zipfile
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from PIL import Image

from pneumo_hf.data.labels import LabelNames
from pneumo_hf.data.schema import SPLITS, film_row, make_table
from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS


def from_medmnist(path: Path, names: LabelNames) -> DatasetDict:
    """Load MedMNIST's arrays, each film as a PNG: `{split}_images` `[N, S, S]` uint8, `{split}_labels` `[N, 1]`.

    Raises:
        InputError: it is another file, damaged, or has other labels.
    """
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
                odd = sorted(set(numbers.tolist()) - set(range(len(LABELS))))
                if odd or names.labels != LABELS:
                    found = f", but {', '.join(map(str, odd[:5]))} in {theirs}_labels" if odd else ""
                    raise InputError(f"{path.name} should have the labels 0, NORMAL, and 1, PNEUMONIA, alone{found}")
                rows = (
                    film_row({"bytes": _png(image), "path": None}, f"{split}-{row:05d}.png", int(number), path.name)
                    for row, (image, number) in enumerate(zip(images, numbers, strict=True))
                )
                data[split] = make_table(rows, names.labels)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not MedMNIST's pneumoniamnist npz ({error})") from error
    if not data:
        raise InputError(f"{path} is not MedMNIST's pneumoniamnist npz: it has no train_images")
    return data


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

"""The same films as full-size originals and as small compressed copies: how far do their scores differ?

    python benchmarks/originals.py --originals ORIGINALS --copies COPIES [--model RUN]

Both as `predict` takes them, with labels; a film's copy is the one of its name. Writes
benchmarks/results/originals.json: for the originals as they are, made smaller, compressed again, and shrunk to the
model's size by the ways of other software, what is called, what is abstained from, and how far the scores are from
those of the copies. A way of software that is not installed is left out. The films have to be held out of training
(train_hf.py --hold_out): those of films that it was trained on say little.
"""

import base64
import io
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import MODEL, parser, write_part
from PIL import Image
from scipy.stats import binomtest
from torch.nn.functional import interpolate
from tqdm import tqdm

from pneumo_hf import Predictor
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.imaging.film import load_xray
from pneumo_hf.labels import NEGATIVE

SIZES = (2048, 1024, 512, 320)  # pixels of the longer side
QUALITIES = (95, 90, 75, 50, 30)  # of JPEG
CANVAS = """async ([url, side]) => {
    const image = new Image(); image.src = url; await image.decode();
    const canvas = document.createElement("canvas"); canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"); context.drawImage(image, 0, 0, side, side);
    return canvas.toDataURL("image/png").split(",")[1];
}"""  # what transformers.js does in a browser: RawImage.resize


def main(arguments: Namespace) -> None:
    predictor = Predictor(arguments.model, device="cpu")
    originals, copies = read_by_name(arguments.originals), read_by_name(arguments.copies)
    names = [name for name in originals if name in copies]
    labels = np.array([originals[name][1] for name in names])
    full = [originals[name][0] for name in names]
    threshold, side = predictor.settings.threshold, predictor.image_processor.size["height"]
    home = list(predictor(copies[name][0] for name in names))
    rows = [compared("copies", home, home, labels, threshold)]
    for name, change in ways(side).items():
        answers = list(predictor(tqdm(map(change, full), total=len(full), desc=name, unit="film")))
        rows.append(compared(name, answers, home, labels, threshold))
    with suppress(ImportError, FileNotFoundError), canvas(side) as change:
        answers = list(predictor([change(film) for film in full]))
        rows.append(compared("shrunk by a browser's canvas (transformers.js)", answers, home, labels, threshold))
    change = next(row for row in rows if row["way"] == "originals")["mean_change"]
    facts = {"model": Path(arguments.model).name, "threshold": threshold, "films": len(names)}
    write_part("originals", "pairs", {"mean_change_of_a_score": change}, rows, **facts)


def read_by_name(source: str) -> dict[str, tuple[Image.Image, str]]:
    """Read films and labels by file name, without folders."""
    found = {}
    for row in tqdm(list_films(source), desc=f"Reading {Path(source).name}", unit="film"):
        found[Path(row["file_name"]).name] = (load_xray(read_film(row["image"])), row["label"])
    return found


def ways(side: int) -> dict[str, Callable[[Image.Image], Image.Image]]:
    """What is done to an original before it is scored."""
    found: dict[str, Callable] = {"originals": lambda film: film}
    found |= {f"longer side {size} pixels": partial(shrunk_to, longer=size) for size in SIZES}
    found |= {f"JPEG of quality {quality} at full size": partial(as_jpeg, quality=quality) for quality in QUALITIES}
    small = (side, side)
    found["shrunk, bilinear (Pillow, the stock pipeline)"] = lambda film: film.resize(small, Image.Resampling.BILINEAR)
    for quality in QUALITIES:
        found[f"shrunk, then JPEG of quality {quality}"] = lambda film, quality=quality: as_jpeg(
            film.resize(small, Image.Resampling.BILINEAR), quality
        )
    found["shrunk, bicubic (Pillow)"] = lambda film: film.resize(small, Image.Resampling.BICUBIC)
    found["shrunk, Lanczos (Pillow)"] = lambda film: film.resize(small, Image.Resampling.LANCZOS)
    found["shrunk, bilinear (torchvision's)"] = partial(shrunk_by_torch, side=side, antialias=True)
    found["shrunk, bilinear without antialiasing"] = partial(shrunk_by_torch, side=side, antialias=False)
    return found


def shrunk_to(film: Image.Image, longer: int) -> Image.Image:
    small = film.copy()
    small.thumbnail((longer, longer), Image.Resampling.BICUBIC)  # never enlarges
    return small


def as_jpeg(film: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    film.save(file, "JPEG", quality=quality)
    return Image.open(file)


def shrunk_by_torch(film: Image.Image, side: int, antialias: bool) -> Image.Image:
    """Shrink by the very function that torchvision's transforms call on tensors."""
    pixels = torch.from_numpy(np.array(film, dtype=np.float32))[None, None]
    small = interpolate(pixels, (side, side), mode="bilinear", antialias=antialias, align_corners=False)
    return Image.fromarray(small[0, 0].round().clamp(0, 255).to(torch.uint8).numpy())


@contextmanager
def canvas(side: int) -> Iterator[Callable[[Image.Image], Image.Image]]:
    """Shrink in a real Chromium, as transformers.js does in a visitor's browser."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise FileNotFoundError("no Chromium")
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()

        def change(film: Image.Image) -> Image.Image:
            file = io.BytesIO()
            film.save(file, "PNG")
            url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            return Image.open(io.BytesIO(base64.b64decode(page.evaluate(CANVAS, [url, side])))).convert("L")

        yield change


def compared(way: str, answers: list[dict], home: list[dict], labels: np.ndarray, threshold: float) -> dict[str, Any]:
    """Compare the answers to one version of the films with those to their copies."""
    probs, before = (np.array([answer["probability"] for answer in these]) for these in (answers, home))
    flagged, ill = probs >= threshold, labels != NEGATIVE
    row = {"way": way}
    for name, right in (("sensitivity", flagged[ill]), ("specificity", ~flagged[~ill])):
        interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
        row[name] = {"value": right.mean(), "right": int(right.sum()), "of": len(right), "ci95": list(interval)}
    change = np.abs(probs - before)
    abstained = sum(answer["flag"] == "abstain" for answer in answers)
    return row | {"abstained": abstained, "mean_change": float(change.mean()), "largest_change": float(change.max())}


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--originals", required=True)
    arguments.add_argument("--copies", required=True)
    arguments.add_argument("--model", default=MODEL)
    main(arguments.parse_args())

"""Files that the app makes: the examples, and what visitors download."""

import secrets
import shutil
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.errors import InputError

EXAMPLES_PER_LABEL = 3
KEPT = 3600  # seconds that uploads and downloads live


def write_examples(sample: Path) -> list[Path]:
    """Write a few test films of the embedded sample as files for the examples row; none where the sample is absent."""
    try:
        films = list_films(sample / "test-00000-of-00001.parquet")
    except InputError:
        return []
    folder = Path(_root().name) / "examples"
    folder.mkdir(exist_ok=True)
    paths = []
    for name in ("pneumonia", "normal"):
        chosen = [film for film in films if film["label"].lower() == name][::60][:EXAMPLES_PER_LABEL]
        for number, film in enumerate(chosen, start=1):
            paths.append(folder / f"{name}_{number}.jpeg")
            paths[-1].write_bytes(read_film(film["image"]))
    return paths


def download_path(name: str) -> Path:
    """Choose where to write a file of this name for a visitor."""
    own = _downloads() / secrets.token_hex(8)
    own.mkdir()
    return own / name


def sweep_downloads() -> None:
    """Delete the downloads of an hour ago and more, now and every ten minutes until the app ends."""
    for old in _downloads().iterdir():
        if time.time() - old.stat().st_mtime > KEPT:
            shutil.rmtree(old, ignore_errors=True)
    again = threading.Timer(KEPT / 6, sweep_downloads)
    again.daemon = True
    again.start()


def uploads_folder() -> Path:
    """Make the folder where gradio keeps what visitors send; it is removed with the app, and old uploads before."""
    folder = Path(_root().name) / "uploads"
    folder.mkdir(exist_ok=True)
    return folder


def _downloads() -> Path:
    folder = Path(_root().name) / "downloads"
    folder.mkdir(exist_ok=True)
    return folder


@cache
def _root() -> tempfile.TemporaryDirectory:
    """Gone when the app ends."""
    return tempfile.TemporaryDirectory(prefix="pneumo_hf_")

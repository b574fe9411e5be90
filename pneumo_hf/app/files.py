"""Files that the app makes and is sent: all in one folder of its process, gone when they are old or when it ends."""

import atexit
import inspect
import os
import secrets
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.errors import InputError

KEPT = 3600  # seconds that uploads and downloads live
SWEEP = 600  # seconds from one sweep to the next; an upload that has stood still for so long was broken off
PREFIX = "pneumo_hf_app_"
EXAMPLES = {  # of the embedded sample: both have an answer by the shipped model
    "pneumonia": "test/PNEUMONIA/person100_bacteria_475.jpeg",
    "normal": "test/NORMAL/IM-0003-0001.jpeg",
}


def write_examples(sample: Path) -> list[Path]:
    """Write a test film of each label of the embedded sample, its examples; none where the sample is absent."""
    try:
        films = list_films(sample / "test-00000-of-00001.parquet")
    except InputError:
        return []
    folder, paths = _folder("examples"), []
    for name, file_name in EXAMPLES.items():
        example = next(film for film in films if film["file_name"] == file_name)
        paths.append(folder / f"{name}.jpeg")
        paths[-1].write_bytes(read_film(example["image"]))
    return paths


def download_path(name: str) -> Path:
    """Choose where to write a file of this name for a visitor."""
    own = _folder("downloads") / secrets.token_hex(8)
    own.mkdir()
    return own / name


def uploads_folder() -> Path:
    """Make the folder where gradio keeps what visitors send."""
    return _folder("uploads")


def import_gradio() -> None:
    """Import gradio, which reads GRADIO_TEMP_DIR then, without the stubs for editors that it writes at each import.

    They are two fifths of the time, and lie in its own folder. It writes none for a class that has no file.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(uploads_folder())
    getfile, inspect_ = inspect.getfile, cast(Any, inspect)

    def no_file(kind: Any) -> str:
        if isinstance(kind, type) and kind.__module__.startswith("gradio."):
            raise OSError(f"no stub for {kind.__name__}")
        return getfile(kind)

    inspect_.getfile = no_file
    try:
        import_module("gradio")
    finally:
        inspect_.getfile = getfile


def sweep_regularly() -> None:
    """Sweep every ten minutes until the app ends; files that are there already are its own, and stay."""
    own = {path for path in _root().rglob("*") if path.is_file()}

    def again() -> None:
        sweep(own)
        timer = threading.Timer(SWEEP, again)
        timer.daemon = True
        timer.start()

    again()


def sweep(own: set[Path]) -> None:
    """Delete what visitors sent and took away an hour ago and more, and uploads that were broken off.

    gradio deletes uploads and downloads after `KEPT` too, but not those that it was not told the end of.
    """
    now = time.time()
    for path in sorted(_root().rglob("*"), reverse=True):  # files before their folders
        with suppress(OSError):  # gradio was first
            age = now - path.stat().st_mtime
            if path.is_dir():
                if age > KEPT and path.parent != _root():
                    path.rmdir()  # if it is empty
            elif path not in own and age > (SWEEP if path.parent == uploads_folder() else KEPT):
                path.unlink()


def remove_files() -> None:
    """Remove all of this process's files, which else happens when the interpreter ends."""
    _remove(_root())


@cache
def _root() -> Path:
    """The folder of this process, locked as long as it lives; those of processes that were killed are removed."""
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{PREFIX}*/"):
        with suppress(Timeout, OSError), FileLock(_lock_of(left), blocking=False):  # in use, or another user's
            _remove(left)
    root = parent / f"{PREFIX}{secrets.token_hex(8)}"
    _locks.append(FileLock(_lock_of(root)))  # before there is a folder that could be taken for a dead process's
    _locks[0].acquire()
    root.mkdir(mode=0o700)
    atexit.register(_remove, root)
    return root


_locks: list[FileLock] = []  # a lock that nothing holds on to is released


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _folder(name: str) -> Path:
    folder = _root() / name
    folder.mkdir(exist_ok=True)
    return folder

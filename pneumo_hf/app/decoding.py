"""Where what visitors send is read: in processes that can be ended, so that no film holds up the others.

Nothing here imports torch or gradio: every such process would.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any, TypeVar

from pneumo_hf.data.files import UNREADABLE, list_zip, only_films, read_film
from pneumo_hf.data.patients import keyed_hash
from pneumo_hf.data.processes import Pool, TooSlowError
from pneumo_hf.data.reading import ReadFilm, try_film
from pneumo_hf.imaging.dicom import dicom_facts, is_dicom
from pneumo_hf.imaging.quality import quality_issue
from pneumo_hf.imaging.resizing import Resize

if TYPE_CHECKING:
    from pneumo_hf.inference.scorer import Decoded

R = TypeVar("R")

AT_ONCE = max(4, os.cpu_count() or 1)  # films that are read at a time
QUICK = 1.0  # seconds; most films take some milliseconds, the largest JPEG 2000 some seconds
SLOW_AT_ONCE, SLOW_WAITING = 2, 16  # of the films that are not quick; more are told to come again
LONGEST = 15.0  # seconds for one of these
MOST_NAMES = 10_000  # in a zip, films or not


@cache
def _pools() -> tuple[Pool, Pool]:
    """Of what is quick, and of what is not."""
    return Pool(AT_ONCE, QUICK), Pool(SLOW_AT_ONCE, LONGEST, nice=10)


_lock, _places = Lock(), BoundedSemaphore(SLOW_WAITING)


def start_processes() -> tuple[Pool, Pool]:
    """Start the processes unless they have been; they take a second, in which nobody need wait."""
    with _lock:
        return _pools()


def call(function: Callable[..., R], *arguments: Any) -> R:
    """Call a function of a module in one of the processes; what is not quick begins again among its like.

    Raises:
        TooSlowError: it took longer than `LONGEST`, took its process with it, or too many such calls wait.
    """
    quick, slow = start_processes()
    try:
        return quick.call(function, *arguments)
    except TooSlowError:
        if not _places.acquire(blocking=False):
            raise TooSlowError("too many slow films are being read: send it again later") from None
        try:
            return slow.call(function, *arguments)
        finally:
            _places.release()


def decode(image: dict) -> ReadFilm:
    """Read a value of the column `image` as `try_film` does, without its content."""
    try:
        return call(_decode, _plain(image))
    except TooSlowError as error:
        return ReadFilm(None, str(error))


def prepare(image: dict, resizes: Sequence[Resize]) -> "Decoded":
    """Read a film and make it what a predictor's members are fed: 50 kB cross from process to process, not a film.

    Args:
        image: a value of the column `image`. resizes: of each member.

    Returns:
        What `Scorer.score_batch` takes: `error` and `issue` of the film, and the film `[1, H, W]` uint8 of each
        member, None where it cannot be read.
    """
    try:
        return call(_prepare, image, resizes)
    except TooSlowError as error:
        return {"error": str(error)}, None


def list_zipped_films(archive: str) -> list[tuple[str, str]]:
    """List name and path of the films in a zip, nothing of which is read.

    Raises:
        InputError, ValueError, OSError: it is damaged, or has more than `MOST_NAMES` names.
        TooSlowError: it takes too long.
    """
    return call(_list_zipped_films, str(archive))


def facts_in_header(image: dict) -> dict:
    """Return `dicom_facts` of a film, `patient` as a keyed hash; nothing where it has no such header."""
    try:
        facts = call(_facts_in_header, _plain(image))
    except (ValueError, TooSlowError, *UNREADABLE):  # whoever decodes the film says so
        return {}
    return facts | {"patient": facts["patient"] and keyed_hash(facts["patient"])} if facts else {}


def end_processes() -> None:
    """End all processes that read for the app."""
    for pool in start_processes():
        pool.end()


def _plain(image: dict) -> dict:
    """Gradio's paths are of a class of its own, which would bring gradio into the processes that read."""
    return {**image, "path": image["path"] and str(image["path"])}


def _decode(image: dict) -> ReadFilm:
    return try_film(image)._replace(content=b"")


def _prepare(image: dict, resizes: Sequence[Resize]) -> "Decoded":
    film, reason, _ = try_film(image)
    if film is None:
        return {"error": reason}, None
    return {"error": "", "issue": quality_issue(film)}, tuple(resize(film) for resize in resizes)


def _list_zipped_films(archive: str) -> list[tuple[str, str]]:
    return list(only_films(list_zip(Path(archive), MOST_NAMES)[1]))


def _facts_in_header(image: dict) -> dict:
    content = read_film(image)
    return dicom_facts(content) if is_dicom(content) else {}

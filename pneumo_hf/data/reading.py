"""The one pool that decodes: cache, audit, merge, prepare and predict all read films here, and name failures alike."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from pneumo_hf.data.files import UNREADABLE, read_film
from pneumo_hf.imaging.film import UnreadableFilmError, load_xray

T = TypeVar("T")
R = TypeVar("R")


class ReadFilm(NamedTuple):
    """A film, or the reason why it cannot be read."""

    film: Image.Image | None  # mode "L"
    reason: str = ""
    content: Any = b""  # the bytes of its file, as far as they could be had


def try_film(image: Any, read: Callable[[Any], Any] = read_film) -> ReadFilm:
    """Read and decode a film without raising.

    Args:
        image: a value of the column `image`.
        read: how it becomes something that `load_xray` takes.
    """
    content = b""
    try:
        content = read(image)
        return ReadFilm(load_xray(content), "", content)
    except (UnreadableFilmError, *UNREADABLE) as error:
        return ReadFilm(None, reason_of(error), content)


def reason_of(error: Exception) -> str:
    """Say in a few words, without its path, why a film was not read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def in_threads(
    work: Callable[[T], R], items: Iterable[T], threads: int | None = None, at_once: int = 256
) -> Iterator[tuple[T, R]]:
    """Yield `(item, work(item))` in order, a bounded number ahead: decoding and resizing leave Python's lock.

    Args:
        threads: by default one for each core.
    """
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for batch in in_batches(items, at_once):
            results = pool.map(work, batch) if min(threads, len(batch)) > 1 else map(work, batch)
            yield from zip(batch, results, strict=True)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last perhaps shorter."""
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, none of them None, a thread making each but the first while the one before is in use."""
    item = next(items, None)
    with ThreadPoolExecutor(1) as pool:
        while item is not None:
            coming = pool.submit(next, items, None)
            yield item
            item = coming.result()

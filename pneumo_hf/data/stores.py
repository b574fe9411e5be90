"""Object stores, by fsspec: `s3://`, `gs://`, `hf://`. A connection that breaks is tried again, for half a minute."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

from fsspec.core import url_to_fs

from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAITS = (1, 2, 4, 8, 16)  # seconds between the trials, beside those of the clients themselves
CLIENTS = {"botocore", "aiohttp", "httpx2", "httpcore2", "gcsfs"}  # whose errors are of the network
OVERLOADED = {errno.EIO, errno.EREMOTEIO, errno.EBUSY}  # as fsspec gives the stores' answers 500 and 503


def is_address(source: object) -> bool:
    """Return whether it is an address, `s3://bucket/films`, not a path; films inside zips are no addresses."""
    return "://" in str(source) and not str(source).startswith("zip://")


def open_store(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and its path there.

    Raises:
        InputError: no such protocol, or its package is not installed.
    """
    try:
        return url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise InputError(f"{address}: {error} (of s3://, pip install 'pneumo-hf[ray]' does)") from error
    except ValueError as error:
        raise InputError(f"{address}: {error}") from error


@contextmanager
def replacing(path: str, partial: str) -> Iterator[IO[bytes]]:
    """Write a file on a disk in one step: `partial` grows until it is whole, and takes the place of `path`."""
    with open(partial, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def is_trouble(error: Exception, address: str) -> bool:
    """Return whether an error is of the way to a store and may pass, as a missing file does not."""
    if type(error).__module__.split(".")[0] in CLIENTS:
        return True
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in OVERLOADED and is_address(address)


def patiently(work: Callable[[], T], address: str) -> T:
    """Do what needs the network, again and again where it fails on the way.

    Raises:
        InputError: it fails for half a minute.
    """
    waits = iter(WAITS)
    while True:
        try:
            return work()
        except Exception as error:
            pause(error, waits, address)


def pause(error: Exception, waits: Iterator[float], address: str) -> None:
    """Wait before the next trial; what is no trouble of the network is raised.

    Raises:
        InputError: there was the last trial. What the network does not bring now may come later: nothing is given up.
    """
    if not is_trouble(error, address):
        raise error
    why = (str(error).splitlines() or [type(error).__name__])[0]
    wait = next(waits, None)
    if wait is None:
        raise InputError(f"{address} cannot be reached ({why}): the same command resumes from here") from error
    logger.info("%s cannot be reached (%s): again in %d s", address, why, wait)
    time.sleep(wait)

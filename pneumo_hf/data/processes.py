"""Processes that can be ended, for files from strangers: none holds up the others, or crashes the process that asks.

Nothing here imports torch: every such process would.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeVar

from pneumo_hf.data.files import close_archives

R = TypeVar("R")

ARCHIVES_OPEN = 60.0  # seconds, at most, after which their memory and their place on the disk are free

# Of glibc: the memory of one film serves the next. To give back and fetch some MB costs a fifth of the time of a film.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}  # bytes


class TooSlowError(Exception):
    """A call took too long; the message says so to whoever sent what it read."""


class Pool:
    """So many processes that call functions for threads, each call within a limit.

    Args:
        processes: calls at once; others wait for their turn.
        limit: seconds for a call, after which its process is ended and replaced.
        nice: how far the processes stand back behind others.
    """

    def __init__(self, processes: int, limit: float, nice: int = 0):
        self.limit, self.nice = limit, nice
        self.lock, self.ended = Lock(), False  # a process is ended, and replaced, by one thread
        self.workers = {_Worker(limit, nice) for _ in range(processes)}
        self.free: SimpleQueue = SimpleQueue()
        for worker in self.workers:
            self.free.put(worker)

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Return what a function of a module returns, or raise what it raises.

        Raises:
            TooSlowError: it took longer than the limit, or took its process with it.
        """
        worker = self.free.get()
        try:
            worker.pipe.send((function, arguments))
            error, value = worker.pipe.recv()
        except (EOFError, OSError) as ended:
            worker = self._replaced(worker)
            raise TooSlowError("it cannot be read, or not in time") from ended
        finally:
            self.free.put(worker)
        if error is not None:
            raise error
        return value

    def end(self) -> None:
        """End the processes, whatever they do, for good: calls raise TooSlowError from now on."""
        with self.lock:
            self.ended = True
            for worker in self.workers:
                worker.end()

    def _replaced(self, worker: "_Worker") -> "_Worker":
        with self.lock:
            if self.ended:
                return worker
            worker.end()
            self.workers.discard(worker)
            new = _Worker(self.limit, self.nice)
            self.workers.add(new)
            return new


class _Worker:
    """A process that starts on its own time: what it is sent before waits in the pipe."""

    def __init__(self, limit: float, nice: int):
        self.pipe, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import work; work({theirs.fileno()}, {limit}, {nice})"],
            env={**os.environ, **KEPT_MEMORY, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is its parent's
        )
        theirs.close()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def work(pipe: int, limit: float, nice: int) -> None:
    """Answer calls until the parent ends; the kernel ends a process that works longer, even without the parent."""
    os.nice(nice)
    parent, to_close = Connection(pipe), time.monotonic() + ARCHIVES_OPEN
    while True:
        if not parent.poll(ARCHIVES_OPEN) or time.monotonic() > to_close:
            close_archives()
            to_close = time.monotonic() + ARCHIVES_OPEN
            continue
        try:
            function, arguments = parent.recv()
            signal.setitimer(signal.ITIMER_REAL, limit)
            answer: tuple[Exception | None, Any]
            try:
                answer = None, function(*arguments)
            except Exception as error:  # the caller's to judge
                answer = error, None
            signal.setitimer(signal.ITIMER_REAL, 0)
            parent.send(answer)
        except (EOFError, OSError):
            return

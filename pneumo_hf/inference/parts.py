"""An unfinished table of scores: files named by the numbers of their films, on a disk or in an object store."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

from pneumo_hf.data.stores import is_address, open_store, patiently
from pneumo_hf.errors import InputError

JOB = "job.json"
NAME = re.compile(r"(\d+)-(\d+)\.jsonl")  # the first film's number, and the one behind the last


class Parts:
    """The folder `{output}.parts`: whoever scores some films adds them in one step, so that a part is whole or absent.

    Killed at any moment, any number of processes, another number later, find out what is left to do.
    """

    def __init__(self, output: str):
        self.output = output if is_address(output) else os.path.abspath(output)
        self.store, root = open_store(self.output) if is_address(output) else (LocalFileSystem(), self.output)
        self.folder = f"{root}.parts"

    def start_or_resume(self, job: dict) -> None:
        """Begin, or accept what is there if it is of the same job.

        Raises:
            InputError: it is of another one.
        """
        found = self._read(JOB)
        if found is None:
            self._write(JOB, json.dumps(job, indent=2).encode())
            return
        differing = [key for key, value in job.items() if json.loads(found).get(key) != value]
        if differing:
            raise InputError(
                f"{self.output}.parts holds the unfinished table of another command, with other "
                f"{', '.join(differing)}: repeat that command, or delete the folder"
            )

    def add(self, first: int, rows: Sequence[Sequence]) -> None:
        """Write the rows of films `first` and on."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        self._write(f"{first:012d}-{first + len(rows):012d}.jsonl", lines.encode())

    def done(self) -> list[range]:
        """List the films that are there, in order."""
        matches = map(NAME.fullmatch, self._names())
        return sorted((range(int(match[1]), int(match[2])) for match in matches if match), key=lambda part: part.start)

    def left(self, films: int) -> list[range]:
        """List the films, of so many, that are not there, in order."""
        gaps, at = [], 0
        for part in (*self.done(), range(films, films)):
            if part.start > at:
                gaps.append(range(at, part.start))
            at = max(at, part.stop)
        return gaps

    def rows(self) -> Iterator[list]:
        """Yield the rows of all films in order, each once, even where two commands wrote them at the same time."""
        at = 0
        for part in self.done():
            content = self._read(f"{part.start:012d}-{part.stop:012d}.jsonl") or b""
            yield from map(json.loads, content.splitlines()[max(at - part.start, 0) :])
            at = max(at, part.stop)

    def remove(self) -> None:
        """Delete the folder, the job last: it marks an unfinished table."""
        for name in sorted(self._names(), key=lambda name: name == JOB):
            self.store.rm_file(self._path(name))
        with suppress(FileNotFoundError):
            self.store.rmdir(self.folder)  # which an object store does not have

    def _names(self) -> list[str]:
        try:
            paths = patiently(lambda: self.store.ls(self.folder, detail=False), self.output)
        except FileNotFoundError:
            return []
        return [path.rpartition("/")[2] for path in paths]

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _read(self, name: str) -> bytes | None:
        try:
            return patiently(lambda: self.store.cat_file(self._path(name)), self.output)
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        """In one step, as object stores do by themselves."""
        if is_address(self.output):
            patiently(lambda: self.store.pipe_file(self._path(name), content), self.output)
            return
        partial = self._path(f"{uuid4().hex[:12]}.partial")
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path(name))

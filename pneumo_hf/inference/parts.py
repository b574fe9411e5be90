"""An unfinished table of scores: files named by the numbers of their films, on a disk or in an object store."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

from pneumo_hf.data.stores import is_address, open_store, patiently, replacing
from pneumo_hf.errors import InputError

JOB = "job.json"
PART, NAME = "{:012d}-{:012d}.jsonl", re.compile(r"(\d+)-(\d+)\.jsonl")  # the first film, the one behind the last


class Parts:
    """The folder `{output}.parts`: whoever scores some films adds them in one step, so that a part is whole or absent.

    Killed at any moment, any number of processes, another number later, find out what is left to do.
    """

    def __init__(self, output: str):
        self.output = output if is_address(output) else os.path.abspath(output)
        self.store, root = open_store(self.output) if is_address(output) else (LocalFileSystem(), self.output)
        self.folder = f"{root}.parts"

    def start_or_resume(self, job: dict) -> None:
        """Begin, or accept what is there if it is of the same job; else raise InputError."""
        if JOB not in self._names():
            self._write(JOB, json.dumps(job, indent=2).encode())
        found = json.loads(self._read(JOB))
        if differing := [key for key, value in job.items() if found.get(key) != value]:
            theirs = f"the unfinished table of another command, with other {', '.join(differing)}"
            raise InputError(f"{self.output}.parts holds {theirs}: repeat that command, or delete the folder")

    def add(self, first: int, rows: Sequence[Sequence]) -> None:
        """Write the rows of films `first` and on."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        self._write(PART.format(first, first + len(rows)), lines.encode())

    def done(self) -> list[range]:
        """List the films that are there, in order."""
        parts = (range(int(m[1]), int(m[2])) for m in map(NAME.fullmatch, self._names()) if m)
        return sorted(parts, key=lambda part: part.start)

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
            lines = self._read(PART.format(part.start, part.stop)).splitlines()
            yield from map(json.loads, lines[max(at - part.start, 0) :])
            at = max(at, part.stop)

    def remove(self) -> None:
        """Delete the folder, the job last: it marks an unfinished table."""
        for name in sorted(self._names(), key=JOB.__eq__):
            self.store.rm_file(f"{self.folder}/{name}")
        with suppress(FileNotFoundError):
            self.store.rmdir(self.folder)  # which an object store does not have

    def _names(self) -> list[str]:
        with suppress(FileNotFoundError):
            paths = patiently(lambda: self.store.ls(self.folder, detail=False), self.output)
            return [path.rpartition("/")[2] for path in paths]
        return []

    def _read(self, name: str) -> bytes:
        return patiently(lambda: self.store.cat_file(f"{self.folder}/{name}"), self.output)

    def _write(self, name: str, content: bytes) -> None:
        """In one step, as object stores do by themselves."""
        path, partial = f"{self.folder}/{name}", f"{self.folder}/{uuid4().hex[:12]}.partial"
        if is_address(self.output):
            patiently(lambda: self.store.pipe_file(path, content), self.output)
            return
        with replacing(path, partial) as file:
            file.write(content)

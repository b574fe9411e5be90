"""The films that wait for an answer, on disk: what was taken is not lost, and each film has one answer.

`films/UID.dcm` is a film that is not answered for good; `answers/UID/` holds its documents once it was scored, the
same ones until the receiver has taken them. `partial/` is what a kill may leave half written.
"""

import os
import shutil
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from pydicom import Dataset

from pneumo_hf.errors import NO_ROOM, InputError

KEPT_FREE = 256 << 20  # bytes of the disk


class QueueFullError(Exception):
    """There is no room for another film."""


class OtherFilmError(Exception):
    """A film waits that is called by the same UID, and is another one."""


class DiskQueue:
    """A bounded queue of films in a folder, for one node.

    Args:
        folder: made if it is missing. most: films that may wait.

    Raises:
        InputError: another node uses the folder.
    """

    def __init__(self, folder: Path, most: int):
        self.films, self.answers, self.partial = (folder / name for name in ("films", "answers", "partial"))
        for part in (self.films, self.answers, self.partial):
            part.mkdir(parents=True, exist_ok=True)
        self.owner = FileLock(folder / "lock", blocking=False)
        try:
            self.owner.acquire()
        except Timeout as error:
            raise InputError(f"another node uses {folder}: give this one another --queue_dir") from error
        for left in self.partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.most, self.changed = most, threading.Condition()
        waiting = sorted(self.films.iterdir(), key=lambda film: (film.stat().st_mtime, film.name))
        self.present = {film.stem for film in waiting}
        self.unscored = deque(film.stem for film in waiting if not (self.answers / film.stem).exists())

    def __len__(self) -> int:
        return len(self.present)

    def put(self, uid: str, content: bytes) -> None:
        """Keep a film: when this returns it is on the disk. One that is sent again while it waits is there already.

        Raises:
            QueueFullError: so many films wait, or the disk is full.
            OtherFilmError: another film of that UID waits.
        """
        with self.changed:
            if uid in self.present:
                if self.film(uid).read_bytes() != content:
                    raise OtherFilmError
                return
            room = shutil.disk_usage(self.films).free - len(content) > KEPT_FREE
            if len(self.present) >= self.most or not room:
                raise QueueFullError
            try:
                _write(self.partial / uid, content)
            except OSError as error:
                (self.partial / uid).unlink(missing_ok=True)
                if error.errno in NO_ROOM:
                    raise QueueFullError from error
                raise
            _move(self.partial / uid, self.film(uid))
            self.present.add(uid)
            self.unscored.append(uid)
            self.changed.notify_all()

    def film(self, uid: str) -> Path:
        """Return where a film lies."""
        return self.films / f"{uid}.dcm"

    def take(self, patience: float) -> str | None:
        """Return the film that has waited longest for its score, None where there is none for so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.unscored, patience)
            return self.unscored.popleft() if self.unscored else None

    def put_back(self, uid: str) -> None:
        """Let a film that was taken be the next again."""
        with self.changed:
            self.unscored.appendleft(uid)
            self.changed.notify_all()

    def answer(self, uid: str, documents: Sequence[Dataset]) -> None:
        """Keep the documents of a film's answer until they are taken; when this returns they are on the disk."""
        folder = self.partial / f"{uid}.answer"
        folder.mkdir(exist_ok=True)
        for number, document in enumerate(documents):
            with (folder / f"{number}.dcm").open("wb") as file:
                document.save_as(file, enforce_file_format=True)
                file.flush()
                os.fsync(file.fileno())
        _sync(folder)
        _move(folder, self.answers / uid)

    def answered(self) -> list[str]:
        """List the films whose answers have not been taken yet, the oldest answer first."""
        return [path.name for path in sorted(self.answers.iterdir(), key=lambda path: path.stat().st_mtime)]

    def documents(self, uid: str) -> list[Path]:
        """List the documents of a film's answer, the report first."""
        return sorted((self.answers / uid).iterdir())

    def remove(self, uid: str) -> None:
        """Forget a film: first the film, so that a kill in between leaves an answer to send again, and no film."""
        with self.changed:
            self.film(uid).unlink(missing_ok=True)
            _sync(self.films)
            if (self.answers / uid).exists():
                os.replace(self.answers / uid, self.partial / f"{uid}.taken")
                shutil.rmtree(self.partial / f"{uid}.taken")
            self.present.discard(uid)

    def close(self) -> None:
        """Let another node use the folder."""
        self.owner.release()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _move(path: Path, to: Path) -> None:
    os.replace(path, to)
    _sync(to.parent)


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk, which a file's own fsync leaves out."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

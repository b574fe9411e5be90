"""What the queue took is on the disk, once, and no more than it may hold."""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom import Dataset

from pneumo_hf.errors import InputError
from pneumo_hf.pacs import disk_queue
from pneumo_hf.pacs.disk_queue import DiskQueue, OtherFilmError, QueueFullError
from pneumo_hf.pacs.screening import screen
from tests.pacs.conftest import dicom_films


def document() -> Dataset:
    header = screen(dicom_films(1)[0]).header
    assert header is not None
    header.file_meta = Dataset()  # what enforces a file format fills it in
    return header


def test_films_come_out_in_order_and_wait_for_the_next_start(tmp_path: Path) -> None:
    queue = DiskQueue(tmp_path, most=3)
    for uid in ("1.2", "1.1", "1.3"):
        queue.put(uid, uid.encode())
    queue.put("1.1", b"1.1")  # sent again: it is there
    assert len(queue) == 3 and queue.take(0) == "1.2"
    with pytest.raises(OtherFilmError):
        queue.put("1.1", b"another film of this UID")
    with pytest.raises(QueueFullError):
        queue.put("1.4", b"one too many")
    with pytest.raises(InputError, match="another node uses"):
        DiskQueue(tmp_path, most=3)
    queue.close()
    again = DiskQueue(tmp_path, most=3)
    assert [again.take(0) for _ in range(4)] == ["1.2", "1.1", "1.3", None]
    assert again.film("1.2").read_bytes() == b"1.2"


def test_a_scored_film_is_not_scored_again(tmp_path: Path) -> None:
    queue = DiskQueue(tmp_path, most=3)
    for uid in ("1.1", "1.2"):
        queue.put(uid, b"film")
    (tmp_path / "answers" / "1.1").mkdir()
    (tmp_path / "partial" / "1.2.answer").mkdir()  # half written when it was killed
    (tmp_path / "partial" / "1.5").write_bytes(b"half a film")
    queue.close()
    again = DiskQueue(tmp_path, most=3)
    assert again.answered() == ["1.1"] and again.take(0) == "1.2" and again.take(0) is None
    assert not list((tmp_path / "partial").iterdir())
    again.remove("1.1")
    assert len(again) == 1 and again.answered() == [] and not again.film("1.1").exists()


def test_a_full_disk_takes_no_film_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = DiskQueue(tmp_path, most=3)
    monkeypatch.setattr(disk_queue, "KEPT_FREE", shutil.disk_usage(tmp_path).total)
    with pytest.raises(QueueFullError):
        queue.put("1.1", b"film")
    monkeypatch.setattr(disk_queue, "KEPT_FREE", 0)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(disk_queue, "os", SimpleNamespace(fsync=full))
        with pytest.raises(QueueFullError):
            queue.put("1.1", b"film")
    assert len(queue) == 0 and not list((tmp_path / "partial").iterdir())
    queue.put("1.1", b"film")
    assert queue.take(0) == "1.1"

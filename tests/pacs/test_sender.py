"""Answers go out until they are taken; one that is refused holds up no other."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from pneumo_hf.pacs import sender
from pneumo_hf.pacs.answering import as_file
from pneumo_hf.pacs.disk_queue import DiskQueue
from pneumo_hf.pacs.network import Callers, Peer, Settings
from pneumo_hf.pacs.sender import Sender

ABORT = -1


def document(uid: str, sop_class: str = ComprehensiveSRStorage) -> bytes:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = sop_class, uid
    return as_file(made)


class Receiver:
    """Answers C-STORE by the statuses that are set for a UID, one after the other, and then by success."""

    def __init__(self) -> None:
        self.received, self.statuses = Counter(), {}
        self.ae = AE("ARCHIVE")
        for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
            self.ae.add_supported_context(sop_class)
        server = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)])
        self.port = server.server_address[1]

    def store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.statuses[uid].pop(0) if self.statuses.get(uid) else 0
        if status == ABORT:
            event.assoc.abort()
            return 0
        self.received[uid] += 1
        return status


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.ae.shutdown()


@pytest.fixture
def sending(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple]:
    """A sender with answers in its queue, by the UIDs of their documents."""
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.0)

    def make(*answers: list[bytes]) -> tuple[Sender, DiskQueue]:
        queue = DiskQueue(tmp_path / "queue", most=9)
        for number, documents in enumerate(answers):
            queue.put(f"1.{number}", b"film")
            queue.answer(f"1.{number}", documents)
        peer = Peer("ARCHIVE", "127.0.0.1", receiver.port)
        return Sender(queue, Settings("PNEUMO", ("", 0), peer, Callers([]), tmp_path)), queue

    return make


def test_an_answer_that_is_refused_is_sent_again_and_holds_up_no_other(receiver: Receiver, sending) -> None:
    receiver.statuses = {"2.1": [0xA700, 0xC000], "2.2": [0x0111], "2.3": [0xB000]}
    sent, queue = sending([document("2.1")], [document("2.2")], [document("2.3")])
    assert sent.send_all(threading.Event())
    assert queue.answered() == ["1.0"] and len(queue) == 1  # a duplicate is there already, a warning means stored
    for _ in range(2):
        assert sent.send_all(threading.Event())
    assert queue.answered() == [] and len(queue) == 0 and receiver.received == {"2.1": 3, "2.2": 1, "2.3": 1}


def test_what_was_taken_of_an_answer_is_not_sent_again(receiver: Receiver, sending) -> None:
    receiver.statuses = {"2.2": [0xA700]}
    sent, queue = sending([document("2.1"), document("2.2", SecondaryCaptureImageStorage)])
    assert sent.send_all(threading.Event()) and len(queue) == 1
    assert sent.send_all(threading.Event()) and len(queue) == 0
    assert receiver.received == {"2.1": 1, "2.2": 2}


def test_a_receiver_that_breaks_off_or_is_away_loses_nothing(receiver: Receiver, sending) -> None:
    receiver.statuses = {"2.1": [ABORT]}
    sent, queue = sending([document("2.1")], [document("2.2")])
    assert not sent.send_all(threading.Event()) and len(queue) == 2
    receiver.ae.shutdown()
    assert not sent.send_all(threading.Event()) and len(queue) == 2
    again = Receiver()
    sent.peer = Peer("ARCHIVE", "127.0.0.1", again.port)
    assert sent.send_all(threading.Event()) and len(queue) == 0 and again.received == {"2.1": 1, "2.2": 1}
    again.ae.shutdown()

"""Who is let in, and what the status of a film is that cannot be taken."""

from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from pneumo_hf.errors import InputError
from pneumo_hf.pacs.disk_queue import DiskQueue
from pneumo_hf.pacs.network import Callers, Peer, Settings, Tls
from pneumo_hf.pacs.receiver import Receiver
from tests.pacs.conftest import dicom_films, free_port, send


def test_callers_are_known_by_title_and_address() -> None:
    callers = Callers(["CR1@127.0.0.1", "CR2@10.1.2.0/24", "WEB@localhost", "V6@fe80::/10"])
    known = [("CR1", "127.0.0.1"), ("CR1 ", "::ffff:127.0.0.1"), ("CR2", "10.1.2.77"), ("WEB", "127.0.0.1")]
    assert all(caller in callers for caller in [*known, ("V6", "fe80::1")])
    assert not any(caller in callers for caller in [("CR1", "127.0.0.2"), ("CR2", "127.0.0.1"), ("cr1", "127.0.0.1")])


@pytest.mark.parametrize("text", ["ORTHANC", "ORTHANC@host", "ORTHANC@host:0", "@host:1", "SEVENTEEN_LETTERS@host:1"])
def test_a_receiver_is_ae_at_host_and_port(text: str) -> None:
    with pytest.raises(InputError):
        Peer.parse(text)


@pytest.mark.parametrize("text", ["CR1", "CR1@", "@127.0.0.1", "CR\\1@127.0.0.1", "CR1@no.such.host.invalid"])
def test_a_caller_is_ae_at_address(text: str) -> None:
    with pytest.raises(InputError):
        Callers([text])


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    peer = Peer("ARCHIVE", "127.0.0.1", 104)
    settings = Settings("PNEUMO", ("127.0.0.1", free_port()), peer, Callers(["CR1@127.0.0.1"]), tmp_path, most=1)
    started = Receiver(DiskQueue(tmp_path / "queue", settings.most), settings, Counter(), Counter())
    with pytest.raises(InputError, match="cannot be used"):
        Receiver(started.queue, settings, Counter(), Counter())
    yield started
    started.stop()


def port_of(receiver: Receiver) -> int:
    return receiver.ae._servers[0].server_address[1]


def test_a_film_that_finds_no_room_is_not_taken(receiver: Receiver, write) -> None:
    first, other = write(dicom_films(2))
    assert send(port_of(receiver), "PNEUMO", first).returncode == 0
    assert send(port_of(receiver), "PNEUMO", first).returncode == 0  # it is there already
    full = send(port_of(receiver), "PNEUMO", other, options=["-v"])
    assert "Refused: OutOfResources" in full.stdout + full.stderr
    assert len(receiver.queue) == 1 and receiver.counts["received"] == 3 and not receiver.refused


def test_half_a_film_is_none(receiver: Receiver) -> None:
    """A sender that breaks off in the middle leaves nothing, and the next one is served."""
    film = pydicom.dcmread(BytesIO(dicom_films(1)[0]))
    ae = AE("CR1")
    ae.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port_of(receiver), ae_title="PNEUMO")
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = film.SOPClassUID, film.SOPInstanceUID
    request.DataSet = BytesIO(encode(film, False, True))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    parts = list(message.encode_msg(association.accepted_contexts[0].context_id, 16382))
    for part in parts[: len(parts) // 2]:
        association.dul.send_pdu(part)
    association.abort()
    assert len(parts) > 3 and len(receiver.queue) == 0 and receiver.counts["received"] == 0
    again = ae.associate("127.0.0.1", port_of(receiver), ae_title="PNEUMO")
    assert again.send_c_store(film).Status == 0 and len(receiver.queue) == 1
    again.release()


def test_files_for_tls_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tls"):
        Tls(*(tmp_path / name for name in "abc")).context(server=True)

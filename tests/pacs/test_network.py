"""Who is let in, and what the status of a film is that cannot be taken."""

from collections import Counter
from pathlib import Path

import pytest

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


def test_a_film_that_finds_no_room_is_not_taken(tmp_path: Path, write) -> None:
    queue, counts, refused = DiskQueue(tmp_path / "queue", most=1), Counter(), Counter()
    peer = Peer("ARCHIVE", "127.0.0.1", 104)
    settings = Settings("PNEUMO", ("127.0.0.1", free_port()), peer, Callers(["CR1@127.0.0.1"]), tmp_path)
    receiver = Receiver(queue, settings, counts, refused)
    first, other = dicom_films(2)
    try:
        paths = write([first, other])
        assert send(settings.address[1], "PNEUMO", paths[0]).returncode == 0
        assert send(settings.address[1], "PNEUMO", paths[0]).returncode == 0  # it is there already
        full = send(settings.address[1], "PNEUMO", paths[1], options=["-v"])
        assert "Refused: OutOfResources" in full.stdout + full.stderr
        with pytest.raises(InputError, match="cannot be used"):
            Receiver(queue, settings, counts, refused)
    finally:
        receiver.stop()
    assert len(queue) == 1 and counts["received"] == 3 and not refused


def test_files_for_tls_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tls"):
        Tls(*(tmp_path / name for name in "abc")).context(server=True)

"""A real PACS on loopback: Debian's Orthanc with DICOMweb, and DCMTK's tools to send and to look with."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from pneumo_hf import load_xray
from tests.conftest import ROOT, public_films
from tests.imaging.test_dicom import dicom

LISTENS = "listens on port"  # in the log of a node that does
DEBIAN = "/usr/bin:/usr/sbin"  # pynetdicom installs tools of the same names beside Python
NEEDED = ("Orthanc", "storescu", "echoscu", "dsrdump")
WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MODEL = ROOT / "models" / "pneumo-efficientnet"
ROUTE = """
function OnStoredInstance(id, tags, metadata, origin)
    local film = tags.Modality == 'DX' or tags.Modality == 'CR'
    if film and origin.RequestOrigin == 'DicomProtocol' then SendToModality(id, 'PNEUMO') end
end
"""
CHEST = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
    "Modality": "DX",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
}


def tool(name: str) -> str:
    found = shutil.which(name, path=DEBIAN)
    if not found:
        pytest.skip(f"{name} is not installed: apt-get install orthanc orthanc-dicomweb dcmtk")
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(condition: Callable[[], object], seconds: float = 120) -> object:
    """What a condition gives, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


@cache
def chest_films() -> list[np.ndarray]:
    return [np.asarray(load_xray(content)) for content in public_films(20)]


def dicom_films(count: int, **tags: object) -> list[bytes]:
    """Chest films of the embedded sample as DICOM, each of a study of its own unless the tags say otherwise."""
    films = []
    for number, pixels in enumerate(chest_films()[:count]):
        own = {name: generate_uid() for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
        patient = {"PatientID": f"P{number}", "PatientName": f"Test^Patient {number}"}
        films.append(dicom(pixels, **{**CHEST, **own, **patient, **tags}))
    return films


def header(film: bytes | Path) -> Dataset:
    return pydicom.dcmread(BytesIO(film) if isinstance(film, bytes) else film, stop_before_pixels=True)


class Orthanc:
    """A running Orthanc that forwards films to the node's port."""

    def __init__(self, folder: Path, node_port: int):
        self.dicom, self.http, self.node_port = free_port(), free_port(), node_port
        (folder / "route.lua").write_text(ROUTE)
        settings = {
            "Name": "a PACS for tests",
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom,
            "HttpPort": self.http,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(WEB)],
            "LuaScripts": [str(folder / "route.lua")],
            "DicomModalities": {"PNEUMO": ["PNEUMO", "127.0.0.1", node_port]},
            "AuthenticationEnabled": False,
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowStore": True,
            "OverwriteInstances": False,
            "StableAge": 1,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        log = (folder / "log").open("w")
        self.process = subprocess.Popen([tool("Orthanc"), str(folder / "orthanc.json")], stdout=log, stderr=log)
        wait_until(lambda: self.process.poll() is None and self.answers())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def peer(self) -> str:
        return f"ORTHANC@127.0.0.1:{self.dicom}"

    @property
    def web(self) -> str:
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=10) as answer:
            return answer.read()

    def json(self, path: str) -> list | dict:
        return json.loads(self.get(path) or b"[]")

    def answers(self) -> bool:
        try:
            return bool(self.get("system"))
        except OSError:
            return False

    def send(self, *files: Path, title: str = "CR1") -> None:
        """Send films as a modality does."""
        send(self.dicom, "ORTHANC", *files, title=title)

    def store(self, *films: bytes) -> None:
        """Put films into the archive, as if they had always been there: their origin is REST, and not a modality."""
        for film in films:
            urllib.request.urlopen(urllib.request.Request(f"{self.url}/instances", film), timeout=10).close()

    def instances(self, study: str, modality: str = "SR") -> list[dict]:
        """QIDO: the instances of a study and modality, as DICOM JSON."""
        return self.json(f"dicom-web/studies/{study}/instances?Modality={modality}&includefield=SOPInstanceUID")

    def retrieve(self, study: str, modality: str = "SR") -> list[bytes]:
        """The files of a study and modality."""
        query = {
            "Level": "Instance",
            "Query": {"StudyInstanceUID": study, "Modality": modality},
            "CaseSensitive": False,
        }
        request = urllib.request.Request(f"{self.url}/tools/find", json.dumps(query).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)
        return [self.get(f"instances/{name}/file") for name in found]


def send(
    port: int, called: str, *files: Path, title: str = "CR1", options: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    command = [tool("storescu"), *options, "-aet", title, "-aec", called, "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Nursery:
    """Starts nodes."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.pacs.nursery", str(MODEL)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, log: Path, *options: str) -> psutil.Process:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([str(log), *options]) + "\n")
        self.process.stdin.flush()
        return psutil.Process(int(self.process.stdout.readline()))


class Listening:
    """A node in a process of its own, killed and started as often as a test likes."""

    def __init__(self, nursery: Nursery, folder: Path, port: int, send_to: str, *options: str):
        self.nursery, self.port, self.log, self.queue = nursery, port, folder / "node.log", folder / "queue"
        self.options = ["--model", str(MODEL), "--host", "127.0.0.1", "--port", str(port), "--send_to", send_to]
        self.options += ["--queue_dir", str(self.queue), *options]

    def start(self) -> "Listening":
        before = self.text().count(LISTENS)
        self.process = self.nursery.start(self.log, *self.options)
        wait_until(lambda: not self.process.is_running() or self.text().count(LISTENS) > before)
        assert self.process.is_running(), self.text()
        return self

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def waiting(self) -> list[Path]:
        """What lies in the queue: films, and answers that were not taken."""
        return [path for part in ("films", "answers") for path in (self.queue / part).iterdir()]

    def kill(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.process.kill()
            self.process.wait(10)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    yield started
    started.process.kill()
    started.process.wait()


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    for name in NEEDED:
        tool(name)
    if not WEB.exists():
        pytest.skip("Orthanc's DICOMweb is not installed: apt-get install orthanc-dicomweb")
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"), free_port())
    yield pacs
    pacs.process.kill()
    pacs.process.wait()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[bytes]], list[Path]]:
    """Write films to files."""

    def write_all(films: list[bytes]) -> list[Path]:
        paths = [tmp_path / f"{number}.dcm" for number in range(len(films))]
        for path, film in zip(paths, films, strict=True):
            path.write_bytes(film)
        return paths

    return write_all


@pytest.fixture
def listen(nursery: Nursery, tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    """Start a node, by its port, who gets the reports, and options."""
    started = []

    def start(port: int, send_to: str, *options: str) -> Listening:
        started.append(Listening(nursery, tmp_path, port, send_to, *options))
        return started[-1].start()

    yield start
    for node in started:
        node.kill()


@pytest.fixture(scope="session")
def node(nursery: Nursery, orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """The node of all tests that only send it something."""
    callers = ("--allow", "ORTHANC@127.0.0.1", "CR1@127.0.0.0/8", "CR2@10.1.2.3")
    started = Listening(nursery, tmp_path_factory.mktemp("node"), orthanc.node_port, orthanc.peer, *callers).start()
    yield started
    started.kill()

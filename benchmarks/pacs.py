"""A DICOM node under load: hundreds of films in a row from two senders at once, a tenth of them broken.

    python benchmarks/pacs.py [--films 500] [--model RUN]

Writes benchmarks/results/pacs.json: how many films had one report, none or several, how many were refused, how long it
took, and the memory of the node and the process that decodes for it, after every 50th report. The films have 1522 x
1221 pixels; the receiver counts what it is sent.
"""

import io
import re
import socket
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from common import MODEL, ROOT, SAMPLE, SIZE, parser, write_part
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
)
from tqdm import tqdm

from pneumo_hf.data.sources import load_data

SENDERS, EVERY, SETTLED = 2, 50, 100  # films after which memory should not grow
PATIENCE = 600  # seconds
BROKEN: list[Callable[[Dataset], object]] = [  # one of them is done to every tenth film
    lambda film: setattr(film, "PixelData", film.PixelData[:1000]),
    lambda film: setattr(film, "ViewPosition", "LL"),
    lambda film: setattr(film, "StudyInstanceUID", ""),
    lambda film: setattr(film, "Modality", "XA"),
    lambda film: setattr(film, "BodyPartExamined", "HAND"),
]


def main(arguments: Namespace) -> None:
    received, samples = Counter(), []
    with tempfile.TemporaryDirectory() as folder, receiving(received) as port:
        log = Path(folder) / "log"
        with listening(arguments.model, port, Path(folder), log) as (node, own_port):
            films = make_films(arguments.films)
            start = time.perf_counter()
            with ThreadPoolExecutor(SENDERS) as pool:
                sent = [pool.submit(send, films[part::SENDERS], own_port) for part in range(SENDERS)]
                watch(node, received, arguments.films, log, samples)
                answered = {uid: broken for part in sent for uid, broken in part.result()}
            seconds = time.perf_counter() - start
        summary = log.read_text().splitlines()[-1]
    report_of = Counter(received.values())
    settled = next(row["mib"] for row in samples if row["reports"] >= min(SETTLED, samples[-1]["reports"] // 2))
    write_part(
        *("pacs", "node", {"node_memory_end_vs_settled": samples[-1]["mib"] / settled}, samples),
        films=arguments.films,
        broken=sum(answered.values()),
        senders=SENDERS,
        films_with_one_report=report_of[1],
        films_with_several=sum(count for times, count in report_of.items() if times > 1),
        lost=arguments.films - sum(answered.values()) - len(received),
        refused=int(re.search(r"refused (\d+)", summary)[1]),  # type: ignore[index]
        seconds=seconds,
        pixels=SIZE,
    )


def make_films(count: int) -> list[tuple[Image.Image, int]]:
    """Films of the embedded sample, and their numbers; made large only when they are sent."""
    films = load_data(SAMPLE)["train"].shuffle(seed=0).select(range(count))
    return [(Image.open(io.BytesIO(film["image"]["bytes"])).convert("L"), number) for number, film in enumerate(films)]


def dicom(small: Image.Image, number: int) -> tuple[Dataset, bool]:
    """A film as DICOM, and whether it is broken."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = DigitalXRayImageStorageForPresentation if number % 2 else ComputedRadiographyImageStorage
    film.Modality = "DX" if number % 2 else "CR"
    film.SOPInstanceUID, film.StudyInstanceUID, film.SeriesInstanceUID = (generate_uid() for _ in range(3))
    film.PatientName, film.PatientID, film.BodyPartExamined, film.ViewPosition = "A^B", str(number), "CHEST", "AP"
    film.Columns, film.Rows = SIZE
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 8, 8, 7, 0
    film.PixelData = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC)).tobytes()
    film["PixelData"].VR = "OB"
    if is_broken := number % 10 == 9:
        BROKEN[number // 10 % len(BROKEN)](film)
    return film, is_broken


def send(films: list[tuple[Image.Image, int]], port: int) -> list[tuple[str, bool]]:
    """Send films by one association; what is not taken is sent again."""
    ae, sent = AE("CR1"), []
    for sop_class in (DigitalXRayImageStorageForPresentation, ComputedRadiographyImageStorage):
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="PNEUMO")
    for small, number in films:
        film, is_broken = dicom(small, number)
        while association.send_c_store(film).Status:
            time.sleep(1)
        sent.append((film.SOPInstanceUID, is_broken))
    association.release()
    return sent


@contextmanager
def receiving(received: Counter) -> Iterator[int]:
    """A receiver that counts reports by the film that they are of."""

    def store(event: evt.Event) -> int:
        (study,) = event.dataset.CurrentRequestedProcedureEvidenceSequence
        received[study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID] += 1
        return 0

    ae = AE("ARCHIVE")
    ae.add_supported_context(ComprehensiveSRStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    yield server.server_address[1]
    ae.shutdown()


@contextmanager
def listening(model: str, send_to: int, folder: Path, log: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A node in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--model", model, "--host", "127.0.0.1", "--port", str(port), "--queue_dir", str(folder / "queue")]
    options += ["--send_to", f"ARCHIVE@127.0.0.1:{send_to}", "--allow", "CR1@127.0.0.1"]
    with log.open("w") as file:
        command = [sys.executable, "-m", "pneumo_hf", "listen", *options]
        node = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        while "listens on port" not in log.read_text():
            assert node.poll() is None, log.read_text()
            time.sleep(0.2)
        yield psutil.Process(node.pid), port
    finally:
        node.terminate()
        node.wait()


def watch(node: psutil.Process, received: Counter, films: int, log: Path, samples: list[dict]) -> None:
    """Note the memory after every so many reports, until every film has its report or was refused."""
    end = time.monotonic() + PATIENCE
    with tqdm(total=films, unit="film") as progress:
        while progress.n < films and time.monotonic() < end:
            progress.update(received.total() + log.read_text().count(": refused, ") - progress.n)
            if received.total() >= (samples[-1]["reports"] + EVERY if samples else EVERY) or progress.n >= films:
                mib = sum(process.memory_info().rss for process in [node, *node.children()]) / 2**20
                samples.append({"reports": received.total(), "mib": mib})
            time.sleep(0.1)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--films", type=int, default=500, help="(default: %(default)s)")
    options.add_argument("--model", default=str(MODEL), help="a checkpoint (default: the shipped one)")
    main(options.parse_args())

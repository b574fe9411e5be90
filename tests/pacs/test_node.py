"""Films to a real PACS, on to the node, and reports back: kills, strangers, TLS, and a receiver that is away."""

import random
import subprocess
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
from highdicom import sr
from pydicom.uid import generate_uid
from transformers import pipeline

from pneumo_hf import Predictor, load_xray
from tests.pacs.conftest import MODEL, Listening, Orthanc, dicom_films, free_port, header, send, tool, wait_until

KILLS = 5


def probability_in(report: bytes) -> float:
    (group,) = sr.srread(BytesIO(report)).content.get_image_measurement_groups()
    return group.get_measurements()[0].value


def test_a_film_in_the_pacs_has_its_report_in_the_same_study(
    orthanc: Orthanc, node: Listening, tmp_path: Path, write
) -> None:
    films = dicom_films(2, PatientName="Müller", SpecificCharacterSet="ISO_IR 100")
    paths, predictor = write(films), Predictor(MODEL)
    stock = pipeline("image-classification", model=str(MODEL))
    orthanc.send(*paths)
    for film, path in zip(films, paths, strict=True):
        study = header(film).StudyInstanceUID
        wait_until(lambda study=study: orthanc.instances(study))
        (report,) = orthanc.retrieve(study)
        assert probability_in(report) == predictor([path])[0]["probability"]
        scores = {row["label"]: row["score"] for row in stock(load_xray(path).convert("RGB"))}
        assert probability_in(report) == pytest.approx(scores["PNEUMONIA"], abs=1e-6)
        assert str(header(report).PatientName) == "Müller"
        (tmp_path / "report.dcm").write_bytes(report)
        command = [tool("dsrdump"), "+Pl", "+Pu", str(tmp_path / "report.dcm")]
        shown = subprocess.run(command, capture_output=True, text=True)
        assert shown.returncode == 0 and "E:" not in shown.stderr
        assert "Research use only, not a diagnosis" in shown.stdout and header(film).SOPInstanceUID in shown.stdout
    wait_until(lambda: not node.waiting())
    assert "Müller" not in node.text()


def test_killed_at_five_random_moments_there_is_one_report_a_film(orthanc: Orthanc, write, listen) -> None:
    films = dicom_films(20)
    paths, seed = write(films), time.time_ns()
    moments = random.Random(seed)
    node = listen(free_port(), orthanc.peer)

    def send_all() -> None:
        for path in paths:  # as a PACS does: until it is taken
            while send(node.port, "PNEUMO", path, title="ORTHANC").returncode:
                time.sleep(0.1)

    sender = threading.Thread(target=send_all)
    sender.start()
    for _ in range(KILLS):
        time.sleep(moments.uniform(0, 0.6))
        node.kill()
        node.start()
    sender.join(60)
    wait_until(lambda: not node.waiting())
    send_all()  # once more, as if its answer had been lost
    wait_until(lambda: not node.waiting())
    for film in films:
        assert len(orthanc.instances(header(film).StudyInstanceUID)) == 1, seed


def test_strangers_are_refused_and_the_rest_is_answered(orthanc: Orthanc, node: Listening, write) -> None:
    (film,) = write(dicom_films(1))
    for title, called in (("CR3", "PNEUMO"), ("CR2", "PNEUMO"), ("CR1", "OTHER")):
        refused = send(node.port, called, film, title=title)
        assert refused.returncode and "Association Rejected" in refused.stderr
    echo = [tool("echoscu"), "-aet", "CR1", "-aec", "PNEUMO", "127.0.0.1", str(node.port)]
    assert subprocess.run(echo, capture_output=True).returncode == 0
    assert send(node.port, "PNEUMO", film).returncode == 0
    wait_until(lambda: orthanc.instances(header(film).StudyInstanceUID))
    for title in ("CR3", "CR2"):
        assert f"refused a caller that is not allowed: '{title}' from 127.0.0.1" in node.text()


def test_what_is_no_frontal_chest_film_is_refused_with_its_reason(orthanc: Orthanc, node: Listening, write) -> None:
    good = dicom_films(1)[0]
    refused = {
        "not a frontal film": dicom_films(1, ViewPosition="LL")[0],
        "modality MG, not DX, CR, RG": dicom_films(1, Modality="MG")[0],
        "not a chest film: no part of its header says so": dicom_films(1, BodyPartExamined="HAND")[0],
        "no study: StudyInstanceUID is missing or no UID": dicom_films(1, StudyInstanceUID="")[0],
        "no film: CT Image Storage": dicom_films(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT")[0],
        "damaged DICOM: its pixels cannot be decoded (Explicit VR Little Endian)": dicom_films(1, BitsAllocated=64)[0],
    }
    for path in write([*refused.values(), good]):
        assert send(node.port, "PNEUMO", path).returncode == 0
    wait_until(lambda: orthanc.instances(header(good).StudyInstanceUID) and not node.waiting())
    for reason, film in refused.items():
        assert f"{header(film).SOPInstanceUID}: refused, {reason}" in node.text()
        assert not orthanc.instances(str(header(film).StudyInstanceUID) or "1.2")


def test_answers_wait_for_a_receiver_that_is_away(orthanc: Orthanc, write, listen) -> None:
    (film,) = write(dicom_films(1))
    node = listen(free_port(), f"ORTHANC@127.0.0.1:{free_port()}", "--allow", "CR1@127.0.0.1")
    assert send(node.port, "PNEUMO", film).returncode == 0
    wait_until(lambda: "cannot be reached" in node.text())
    assert [path.name for path in node.waiting()] == [
        f"{header(film).SOPInstanceUID}.dcm",
        header(film).SOPInstanceUID,
    ]
    node.end()
    node.options[node.options.index("--send_to") + 1] = orthanc.peer
    node.start()
    wait_until(lambda: orthanc.instances(header(film).StudyInstanceUID) and not node.waiting())
    assert (
        node.text().count(f"{header(film).SOPInstanceUID}: PNEUMONIA") + node.text().count("NORMAL") == 1
    )  # scored once


def test_a_dry_run_scores_and_sends_nothing(orthanc: Orthanc, write, listen) -> None:
    film, lateral = write(
        dicom_films(1, StudyInstanceUID=(study := generate_uid())) + dicom_films(1, ViewPosition="RL")
    )
    node = listen(free_port(), orthanc.peer, "--allow", "CR1@127.0.0.1", "--dry_run")
    assert send(node.port, "PNEUMO", film, lateral).returncode == 0
    wait_until(lambda: "not a frontal film" in node.text() and not node.waiting())
    node.end()
    counted = "received 2, scored 1, answers taken 0, waiting 0, refused 1 (not a frontal film 1)"
    assert counted in node.text() and not orthanc.instances(study)


def make_certificates(folder: Path) -> dict[str, Path]:
    """An authority, and a certificate that it has signed for this machine."""
    files = {name: folder / f"{name}.pem" for name in ("authority", "authority_key", "certificate", "key")}
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    own = ["-x509", "-keyout", files["authority_key"], "-out", files["authority"]]
    signed = ["openssl", "x509", "-req", "-in", folder / "request", "-CA", files["authority"], "-CAcreateserial"]
    signed += ["-CAkey", files["authority_key"], "-extfile", folder / "extensions", "-out", files["certificate"]]
    for command in (
        [*new, "/CN=authority", *own],
        [*new, "/CN=node", "-keyout", files["key"], "-out", folder / "request"],
        signed,
    ):
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return files


def test_tls_in_both_directions(tmp_path: Path, write, listen) -> None:
    (film,) = write(dicom_films(1))
    files, port, received = make_certificates(tmp_path), free_port(), tmp_path / "received"
    received.mkdir()
    tls = ["+tls", str(files["key"]), str(files["certificate"]), "+cf", str(files["authority"])]
    scp = subprocess.Popen([tool("storescp"), *tls, "-aet", "ARCHIVE", "-od", str(received), str(port)])
    own = ["--tls", *(str(files[name]) for name in ("certificate", "key", "authority"))]
    node = listen(free_port(), f"ARCHIVE@127.0.0.1:{port}", "--allow", "CR1@127.0.0.1", *own)
    try:
        assert send(node.port, "PNEUMO", film).returncode  # in plain text
        assert send(node.port, "PNEUMO", film, options=["+tla", "-ic"]).returncode  # without a certificate
        assert send(node.port, "PNEUMO", film, options=tls).returncode == 0
        wait_until(lambda: list(received.iterdir()) and not node.waiting())
        assert header(next(received.iterdir())).StudyInstanceUID == header(film).StudyInstanceUID
    finally:
        scp.kill()
        scp.wait()

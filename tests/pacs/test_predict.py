"""`predict` writes reports into a folder, or into a study on a DICOMweb server."""

import csv
from pathlib import Path

import pytest
from highdicom import sr
from PIL import Image
from pydicom.uid import generate_uid

from pneumo_hf import Predictor
from tests.pacs.conftest import MODEL, Orthanc, chest_films, dicom_films, header
from tests.pacs.test_node import probability_in


def test_reports_of_films_in_a_folder(tmp_path: Path, command) -> None:
    films = tmp_path / "films"
    films.mkdir()
    good, twin, other = dicom_films(3)
    for name, film in {"a": good, "b": dicom_films(1, ViewPosition="LL")[0], "c": good, "e": other}.items():
        (films / f"{name}.dcm").write_bytes(film)
    Image.fromarray(chest_films()[0]).save(films / "d.png")
    (films / "f.dcm").write_bytes(twin[:2000])
    options = [
        "--model",
        MODEL,
        films,
        "--output",
        tmp_path / "p.csv",
        "--dicom_output",
        tmp_path / "out",
        "--heatmap",
    ]
    code, said = command("predict", *options)
    assert code == 0
    uids = {header(film).SOPInstanceUID for film in (good, other)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{uid}_{kind}.dcm" for uid in uids for kind in ("report", "heatmap")
    }
    for name, reason in {"b": "not a frontal film", "c": "another film has its UID", "d": "no DICOM"}.items():
        assert f"{films / name}.{'png' if name == 'd' else 'dcm'}: no report, {reason}" in said
    assert "DICOM documents: 4 in" in said and "films without: 4" in said
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    for name, film in {"a": good, "e": other}.items():
        report = (tmp_path / "out" / f"{header(film).SOPInstanceUID}_report.dcm").read_bytes()
        assert probability_in(report) == float(rows[name]["probability"])


def test_another_prevalence_moves_probability_and_threshold_alike(tmp_path: Path, command) -> None:
    (film,) = dicom_films(1)
    (tmp_path / "film.dcm").write_bytes(film)
    options = [
        "--model",
        MODEL,
        tmp_path / "film.dcm",
        "--output",
        tmp_path / "p.csv",
        "--dicom_output",
        tmp_path / "out",
    ]
    command("predict", *options)
    (report,) = (tmp_path / "out").iterdir()
    usual = sr.srread(report)
    code, said = command("predict", *options, "--prevalence", "0.05")
    moved = sr.srread(report)
    assert code == 0 and moved.SOPInstanceUID != usual.SOPInstanceUID
    (group,), (before,) = (one.content.get_image_measurement_groups() for one in (moved, usual))
    probability, threshold = (item.value for item in group.get_measurements())
    assert f"review is from probability {threshold:.4g} on" in said
    assert threshold < before.get_measurements()[1].value and probability < before.get_measurements()[0].value


def test_a_study_on_a_server_gets_its_reports(orthanc: Orthanc, tmp_path: Path, write, command, monkeypatch) -> None:
    study = generate_uid()
    films = [*dicom_films(2, StudyInstanceUID=study), dicom_films(1, StudyInstanceUID=study, Modality="OT")[0]]
    orthanc.store(*films)
    monkeypatch.chdir(tmp_path)
    options = ["--model", MODEL, "--dicomweb", orthanc.web, "--study", study]
    code, said = command("predict", *options)
    assert code == 0 and "not asked for: OT 1" in said and "stored in the study: 2" in said
    predictor = Predictor(MODEL)
    wanted = {row["probability"] for row in predictor(films[:2])}
    assert {probability_in(report) for report in orthanc.retrieve(study)} == wanted
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".dcm"] == ["preds.csv"]  # no film stays
    assert command("predict", *options)[0] == 0  # once more
    assert len(orthanc.instances(study)) == 2


@pytest.mark.parametrize(
    "options, said",
    [
        (["--dicomweb", "http://127.0.0.1:1/dicom-web"], "go together"),
        (["--study", "1.2.3"], "go together"),
        (["--dicomweb", "http://127.0.0.1:1/dicom-web", "--study", "1.2.3"], "cannot be reached"),
        (["--dicomweb", "http://127.0.0.1:1/dicom-web", "--study", "Meier"], "not Meier"),
        (["--dicomweb", "file:///etc", "--study", "1.2.3"], "not file:///etc"),
        ([], "no film is named"),
        (["docs/film.jpeg", "--heatmap"], "--heatmap is part of --dicom_output"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(options: list[str], said: str, command, tmp_path: Path) -> None:
    code, text = command("predict", "--model", MODEL, "--output", tmp_path / "p.csv", *options)
    assert code == 2 and said in text and "Traceback" not in text


def test_a_server_without_the_study_says_so(orthanc: Orthanc, tmp_path: Path, command) -> None:
    options = ["--model", MODEL, "--output", tmp_path / "p.csv", "--study", generate_uid()]
    code, said = command("predict", *options, "--dicomweb", orthanc.web)
    assert code == 2 and "has no film of DX, CR, RG there" in said
    code, said = command("predict", *options, "--dicomweb", f"{orthanc.url}/nowhere")
    assert code == 2 and "answers 404" in said

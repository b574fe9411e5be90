"""Films become reports, whatever their headers say: names in any script, missing and broken values."""

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom import sr
from PIL import Image
from pydicom import Dataset
from pydicom.sr.codedict import codes

from pneumo_hf import Predictor
from pneumo_hf.pacs.answering import Answering
from pneumo_hf.pacs.screening import screen
from pneumo_hf.pacs.structured_report import FLAG, PROBABILITY, THRESHOLD, Model
from tests.conftest import make_photograph
from tests.imaging.test_dicom import dicom
from tests.pacs.conftest import CHEST, MODEL, chest_films, dicom_films, tool

ANSWER = {"probability": 0.1 + 0.2, "prediction": "PNEUMONIA", "flag": "review", "error": ""}
NAMES = {  # by specific character set
    "ISO_IR 100": "Müller^Jürgen",
    "ISO_IR 144": "Люкceмбypг",
    "ISO_IR 192": "王^小東",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
}


@pytest.fixture(scope="module")
def answering() -> Answering:
    return Answering(Predictor(MODEL), heatmap=True)


def written(document: Dataset) -> BytesIO:
    file = BytesIO()
    document.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def report_of(answering: Answering, film: bytes, answer: dict = ANSWER) -> Dataset:
    screened = screen(film)
    assert screened.header is not None, screened.reason
    (report,) = answering.documents(screened.header, None, answer)
    return pydicom.dcmread(written(report))


def without_errors(document: Dataset, folder: Path, *accept: str) -> None:
    """DCMTK reads it, and dicom3tools finds no error in it."""
    path = folder / "document.dcm"
    path.write_bytes(written(document).getvalue())
    if document.Modality == "SR":
        shown = subprocess.run([tool("dsrdump"), str(path)], capture_output=True, text=True)
        assert shown.returncode == 0 and "E:" not in shown.stderr, shown.stderr
    if shutil.which("dciodvfy"):
        found = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True).stderr
        assert "Error" not in found, found


def test_highdicom_reads_back_what_was_answered(answering: Answering, tmp_path: Path) -> None:
    film = dicom_films(1)[0]
    report = report_of(answering, film)
    without_errors(report, tmp_path)
    (group,) = sr.ComprehensiveSR.from_dataset(report).content.get_image_measurement_groups()
    measured = {item.name.value: item.value for item in group.get_measurements()}
    assert measured == {PROBABILITY.value: 0.1 + 0.2, THRESHOLD.value: answering.model.threshold}
    (flag,) = group.get_qualitative_evaluations(FLAG)
    assert flag.value.value == "review" and group.finding_type.meaning == "Pneumonia"
    source = pydicom.dcmread(BytesIO(film))
    (image,) = group.get_measurements()[0].referenced_images
    assert image.referenced_sop_instance_uid == source.SOPInstanceUID
    assert report.StudyInstanceUID == source.StudyInstanceUID and report.Modality == "SR"
    texts = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert {"Research use only, not a diagnosis", "sensitivity@0.95", "pneumo-efficientnet"} <= set(texts)
    assert sr.utils.find_content_items(group[0], name=codes.DCM.AlgorithmVersion)[0].value == answering.model.version


@pytest.mark.parametrize("charset", NAMES)
def test_names_in_any_script_stay_as_they_are(answering: Answering, charset: str, tmp_path: Path) -> None:
    charsets = charset.split("\\") if "\\" in charset else charset
    report = report_of(answering, dicom_films(1, SpecificCharacterSet=charsets, PatientName=NAMES[charset])[0])
    assert str(report.PatientName) == NAMES[charset]
    without_errors(report, tmp_path)


def test_a_film_that_says_little_or_nonsense_has_a_report_too(answering: Answering, tmp_path: Path) -> None:
    plain = pydicom.dcmread(BytesIO(dicom_films(1)[0]))
    del plain.PatientName, plain.PatientID
    report = report_of(answering, written(plain).getvalue())
    without_errors(report, tmp_path)
    assert report.PatientName == "" and report.PatientID == ""
    broken = {"PatientBirthDate": "1.2.1970", "PatientSex": "W", "StudyDate": "yesterday", "StudyTime": "25:00"}
    long = {"AccessionNumber": "A" * 40, "PatientID": "P" * 90}
    film = pydicom.dcmread(BytesIO(dicom_films(1)[0]))
    for name, value in (broken | long).items():
        film.add(pydicom.DataElement(name, pydicom.datadict.dictionary_VR(name), value, validation_mode=0))
    report = report_of(answering, written(film).getvalue())
    assert [report[name].value for name in broken] == [""] * 4 or not any(report[name].value for name in broken)
    assert report.AccessionNumber == "A" * 40 and report.PatientID == "P" * 90  # so that it is filed with its film


def test_the_same_film_has_the_same_answer_and_another_model_another(answering: Answering) -> None:
    film, other = dicom_films(2)
    uid = report_of(answering, film).SOPInstanceUID
    assert uid == report_of(answering, film).SOPInstanceUID != report_of(answering, other).SOPInstanceUID
    scorer = Predictor(MODEL)
    scorer.settings.use("youden")
    assert report_of(Answering(scorer), film).SOPInstanceUID != uid
    assert Model.of(scorer, prevalence=0.1).identity != Model.of(scorer).identity


def test_a_heatmap_says_what_it_is_not_for(answering: Answering, tmp_path: Path) -> None:
    film = dicom_films(1)[0]
    screened = screen(film)
    _, capture = answering.documents(screened.header, screened.film, ANSWER)
    capture = pydicom.dcmread(written(capture))
    without_errors(capture, tmp_path)
    pixels = capture.pixel_array
    band = (len(pixels) - screened.film.height) // 2
    assert pixels.shape[1] == screened.film.width and capture.Modality == "OT"
    for part in (pixels[:band], pixels[-band:]):  # yellow letters on black
        assert (part == 0).any() and (part[..., 0] > 200).any() and part[..., 2].max() < 60
    assert capture.StudyInstanceUID == screened.header.StudyInstanceUID
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == screened.header.SOPInstanceUID


def test_what_the_model_takes_for_no_chest_film_has_no_report(answering: Answering) -> None:
    photograph = np.asarray(Image.fromarray(make_photograph(1)).convert("L"))
    screened = screen(dicom(photograph, **CHEST, StudyInstanceUID="1.2", SeriesInstanceUID="1.3"))
    assert screened.film is not None
    answer = answering.score(screened.film)
    assert answer["flag"] == "not_chest_xray" and not answering.documents(screened.header, screened.film, answer)


@pytest.mark.parametrize(
    "tags, reason",
    [
        ({"ViewPosition": "LATERAL"}, "not a frontal film"),
        ({"ViewPosition": "", "SeriesDescription": "Thorax seitlich lat."}, "not a frontal film"),
        ({"ViewPosition": "RAO"}, "not a frontal film"),
        ({"ViewPosition": "LLD", "BodyPartExamined": "", "StudyDescription": "chest decubitus"}, ""),
        ({"ViewPosition": "", "BodyPartExamined": "", "ProtocolName": "W033 Thorax p.a."}, ""),
        ({"ViewPosition": "", "BodyPartExamined": ""}, "not a chest film: no part of its header says so"),
        ({"Modality": "CR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}, ""),
        ({"Modality": "RG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, ""),
        ({"Modality": "RF"}, "modality RF, not DX, CR, RG"),
        ({"Modality": "Meier^Hans"}, "modality missing, not DX, CR, RG"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw: its pixels are for processing, not for presentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2"}, "not stored as a radiograph or a capture of one"),
        ({"SeriesInstanceUID": "../../etc"}, "no series: SeriesInstanceUID is missing or no UID"),
        ({"NumberOfFrames": 2}, "DICOM of several frames, not a film"),
    ],
)
def test_who_is_answered(tags: dict, reason: str) -> None:
    screened = screen(dicom_films(1, **tags)[0])
    assert (screened.reason, screened.header is not None) == (reason, not reason)
    if screened.film is not None:
        assert np.array_equal(np.asarray(screened.film), chest_films()[0])

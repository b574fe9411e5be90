"""The tab for a hospital's own films: before and after, the checkpoint, and what a visitor must not be able to."""

import csv
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from torch.nn.modules.module import register_module_forward_pre_hook

from pneumo_hf import Predictor, recalibrate
from pneumo_hf.__main__ import main
from pneumo_hf.app import local_films
from pneumo_hf.app.model_thread import in_model_thread
from pneumo_hf.inference.details import DETAIL_COLUMNS
from tests.app.test_app import serving
from tests.conftest import make_film
from tests.evaluation.test_recalibration import write_local
from tests.imaging.test_dicom import dicom


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_local(tmp_path_factory.mktemp("local") / "ours", 36, 44)
    (folder / "NORMAL" / "broken.png").write_text("no picture")
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for film in sorted(folder.rglob("*.png")):
            archive.write(film, f"ward/{film.relative_to(folder)}")
        archive.writestr("ward/notes/Doe_Jane.png", b"of no label")
    return path


@pytest.fixture(scope="module")
def url(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app")
    with (folder / "log").open("w") as log, serving(tiny_run, log=log, TMPDIR=str(folder)) as (address, _):
        yield address
    assert not list(folder.rglob("*.zip")) and "Doe" not in (folder / "log").read_text()  # all of it is gone


def test_a_zip_of_labelled_films_gives_what_the_command_does(
    url: str, tiny_run: Path, local: Path, cache_dir: Path, tmp_path: Path
) -> None:
    outcome, figures, archive = Client(url, verbose=False, download_files=str(tmp_path)).predict(
        handle_file(zipped(local, tmp_path / "Doe_films.zip")), api_name="/recalibrate"
    )
    expected = recalibrate(tiny_run, local, device="cpu", cache_dir=cache_dir)
    assert "80 films, each counted as a patient of its own. 1 could not be read." in outcome and len(figures) == 2
    found = expected.report["metrics"]
    for name, worse in (("sensitivity", ", more missed films"), ("specificity", ", more false alarms")):
        lost = found[name]["before"]["value"] - found[name]["after"]["value"] >= 0.05
        assert (worse in re.search(r"<strong>(.*)</strong>", outcome)[1]) == lost  # beside whether it is better
    assert f"Offset {expected.offset:+.3f}, slope {expected.slope:.3f}" in outcome
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path)
    scorer = Predictor(tmp_path / "recalibrated", device="cpu")
    assert scorer.settings.threshold == pytest.approx(expected.settings.threshold, abs=1e-6)
    assert scorer.settings.recalibration["dataset"] == "Doe_films.zip"
    found = json.loads((tmp_path / "recalibrated" / "report" / "recalibration.json").read_text())
    for name in ("brier", "roc_auc"):
        theirs = expected.report["metrics"][name]["before"]["value"]
        assert found["metrics"][name]["before"]["value"] == pytest.approx(theirs, abs=1e-6)
    with (tmp_path / "recalibrated" / "report" / "details_validation.csv").open(newline="") as file:
        details = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    for name, row in zip(expected.films.names, expected.films.details, strict=True):
        for column in ("sharpness", "layout", "width", "distance"):
            assert float(details[Path(name).name][column]) == pytest.approx(row[column], rel=1e-3)
    value = found["metrics"]["ece"]["before"]["value"]
    assert re.search(rf"Expected calibration error</td><td>{value:.3f} <span class=\"interval\">\(", outcome)


def test_a_csv_of_predict_will_do(url: str, tiny_run: Path, local: Path, cache_dir: Path, tmp_path: Path) -> None:
    preds = tmp_path / "preds.csv"
    main(["predict", "--model", str(tiny_run), str(local), "--device", "cpu", "--details", "--output", str(preds)])
    rows = list(csv.reader(preds.open(newline="")))
    late = rows[0].index("blockiness")  # as a `predict` of before this column wrote it
    preds.write_text("".join(",".join(row[:late] + row[late + 1 :]) + "\n" for row in rows))
    client = Client(url, verbose=False, download_files=str(tmp_path))
    outcome, _, archive = client.predict(handle_file(preds), api_name="/recalibrate")
    expected = recalibrate(tiny_run, local, device="cpu", cache_dir=cache_dir)
    assert f"Offset {expected.offset:+.3f}, slope {expected.slope:.3f}" in outcome
    with zipfile.ZipFile(archive) as file:
        details = file.read("recalibrated/report/details_validation.csv").decode().splitlines()
    assert details[0] == ",".join(["path", *DETAIL_COLUMNS]) and len(details) == 81


def test_too_few_films_are_measured_and_give_no_checkpoint(url: str, tmp_path: Path) -> None:
    few = zipped(write_local(tmp_path / "few", 12, 30), tmp_path / "few.zip")
    outcome, figures, archive = Client(url, verbose=False).predict(handle_file(few), api_name="/recalibrate")
    assert "No checkpoint: few.zip has 12 films of NORMAL and 30 of PNEUMONIA" in outcome
    assert archive is None and len(figures) == 2


def test_what_is_no_such_upload_gets_one_line(url: str, films_folder: Path, tmp_path: Path) -> None:
    client = Client(url, verbose=False)
    scores = [{"label": label, "probability": p} for label, p in (("NORMAL", 0.1), ("PNEUMONIA", 1.2))]
    uploads = {
        "text.zip": (b"no zip", "text.zip is a damaged zip"),
        "other.csv": (b"path,score\na.png,0.5\n", "other.csv is no CSV with the columns label and probability"),
        "null.csv": (b"\0\xff", "null.csv is no CSV"),
        "empty.csv": (b"label,probability\n", "empty.csv: its rows have no label and score: each row needs NORMAL"),
        "numbers.csv": (b"label,probability\n1,0.5\n0,0.2\n", "numbers.csv: its labels are '0', '1': each row needs"),
    }
    for name, (content, message) in uploads.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AppError, match=message):
            client.predict(handle_file(tmp_path / name), api_name="/recalibrate")
    with (tmp_path / "wrong.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(scores[0]))
        writer.writeheader()
        writer.writerows(scores)
    with pytest.raises(AppError, match="a probability is not between 0 and 1"):
        client.predict(handle_file(tmp_path / "wrong.csv"), api_name="/recalibrate")
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for film in (films_folder / "train").rglob("*.jpeg"):
            archive.write(film, str(film.relative_to(films_folder / "train")))
    with pytest.raises(AppError, match="may have been trained on .* of the 112 films"):
        client.predict(handle_file(tmp_path / "train.zip"), api_name="/recalibrate")
    with pytest.raises(AppError, match="drop a zip or a CSV"):
        client.predict(None, api_name="/recalibrate")


def test_dicom_headers_say_who_is_on_a_film(tiny_run: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for number, patient in enumerate(("Doe^Jane", "Doe^Jane", "Roe^Jim")):
            content = dicom(make_film(number, True, (48, 48)), PatientID=patient, Manufacturer="Acme")
            archive.writestr(f"PNEUMONIA/{number}.dcm", content)
    films = local_films.read_films(Predictor(tiny_run, device="cpu"), str(tmp_path / "films.zip"))
    first, second, third = films.patient_ids
    assert first == second != third and "Doe" not in first and len(films.logits) == 3
    assert [row["manufacturer"] for row in films.details] == ["ACME"] * 3 and "Doe" not in str(films.details)


def test_the_network_runs_in_the_model_thread_alone(tiny_run: Path, local: Path, tmp_path: Path) -> None:
    scorer, used = Predictor(tiny_run, device="cpu"), set()
    noted = register_module_forward_pre_hook(lambda module, _: used.add(threading.get_ident()))
    try:
        archive = local_films.recalibrate_upload(scorer, str(zipped(local, tmp_path / "films.zip")))[2]
    finally:
        noted.remove()
    assert archive and used == {in_model_thread(threading.get_ident)()}


def test_uploads_are_bounded(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Predictor(tiny_run, device="cpu")
    monkeypatch.setattr(local_films, "MOST_SCORES", 10)
    (tmp_path / "long.csv").write_text("label,probability\n" + "NORMAL,0.5\n" * 12)
    with pytest.raises(local_films.InputError, match="at most 10"):
        local_films.read_scores(scorer, str(tmp_path / "long.csv"))
    monkeypatch.setattr(local_films, "MOST_BYTES", 10)
    with pytest.raises(local_films.InputError, match="is larger than"):
        local_films.read_scores(scorer, str(tmp_path / "long.csv"))
    monkeypatch.setattr(local_films, "MOST_FILMS", 3)
    films = zipped(write_local(tmp_path / "many", 2, 2), tmp_path / "many.zip")
    with pytest.raises(local_films.InputError, match="4 films are too many at once: at most 3"):
        local_films.read_films(scorer, str(films))

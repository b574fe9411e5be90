"""`monitor` from CSVs to the exit code and the page, and `predict --details`, which it reads."""

import csv
import json
import re
import shlex
import shutil
import zipfile
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pneumo_hf.__main__ import main
from pneumo_hf.data.predictions import PREDICTION_COLUMNS
from pneumo_hf.evaluation.drift import FLAG, MOST_FILMS, PATIENT, SCORE
from pneumo_hf.evaluation.monitoring import monitor
from pneumo_hf.evaluation.reference import read_films, read_reference
from pneumo_hf.evaluation.robustness import CORRUPTIONS, corrupt
from pneumo_hf.inference.details import DETAIL_COLUMNS
from tests.conftest import make_film, public_films, write_films
from tests.evaluation.test_drift import hospital
from tests.imaging.test_dicom import dicom

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "pneumo-efficientnet"
SMALL = 0.5  # of a deviation of 1.1


def write_week(path: Path, films: dict[str, np.ndarray], unreadable: int = 0, details: bool = True) -> Path:
    """A CSV as `predict --details` writes it, the first films without a score."""
    columns = [*PREDICTION_COLUMNS, *(name for name in DETAIL_COLUMNS if details)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for number in range(len(films[SCORE])):
            row = {name: values[number] for name, values in films.items()} | {"path": f"{number}.png"}
            if number < unreadable:
                row |= {SCORE: "", FLAG: "", "error": "truncated file"}
            writer.writerow(row)
    return path


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of them: the rate itself is tested in test_drift.py."""
    monkeypatch.setattr("pneumo_hf.evaluation.drift.SIMULATIONS", 1000)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_week(tmp_path_factory.mktemp("reference") / "reference.csv", hospital(600, seed=0))


def run(folder: Path, reference: Path, *weeks: Path, **options: object) -> tuple[int, dict]:
    """The exit code and monitor.json of the command."""
    more = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    files = [str(week) for week in weeks]
    try:
        main(["monitor", *files, "--reference", str(reference), "--output_dir", str(folder), *more])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, json.loads((folder / "monitor.json").read_text())


def test_calm_weeks_end_with_0_and_a_page(reference: Path, tmp_path: Path, capsys) -> None:
    weeks = [write_week(tmp_path / f"week_{number}.csv", hospital(200, seed=number)) for number in range(1, 4)]
    code, found = run(tmp_path / "watched", reference, *weeks)
    assert code == 0 and not found["alarm"] and found["false_alarms"] == 0.01
    assert [batch["name"] for batch in found["batches"]] == ["week_1", "week_2", "week_3"]
    assert (found["films"], found["patients"]) == (600, len(np.unique(hospital(600, seed=0)[PATIENT])))
    line = capsys.readouterr().out.strip()
    assert line == found["message"] and "\n" not in line and line.startswith("week_3, 200 films: calm")
    page = (tmp_path / "watched" / "index.html").read_text()
    statistics = found["batches"][-1]["statistics"]
    assert page.count("data:image/png;base64,") == len(statistics) > 8
    assert all({"batch", "window"} <= row.keys() for row in statistics)
    assert not any(row["batch"]["value"] > row["batch"]["limit"] for row in statistics)
    assert "http" not in page.split("<body>")[1]


def test_a_changed_week_ends_with_3_and_says_what_moved(reference: Path, tmp_path: Path, capsys) -> None:
    calm = write_week(tmp_path / "calm.csv", hospital(200, seed=1))
    changed = write_week(tmp_path / "changed.csv", hospital(200, seed=2, sharpness=-1.5, scanner="NEW"))
    code, found = run(tmp_path / "watched", reference, calm, changed)
    assert (code, [batch["alarm"] for batch in found["batches"]]) == (3, [False, True])
    line = capsys.readouterr().out
    assert "changed, 200 films: alarm: " in line and "sharpness is lower (median" in line
    assert "manufacturer NEW of 68.0 % (reference 0.0 %)" in line
    assert "sharpness is lower" in (tmp_path / "watched" / "index.html").read_text()


def test_an_earlier_alarm_is_named_and_does_not_decide(reference: Path, tmp_path: Path) -> None:
    """cron is not to be woken for ever by one bad week."""
    weeks = [write_week(tmp_path / "bad.csv", hospital(200, seed=1, sharpness=3.0))]
    weeks += [write_week(tmp_path / f"good_{number}.csv", hospital(200, seed=10 + number)) for number in range(4)]
    found = monitor(weeks, reference)
    assert (found["batches"][0]["alarm"], found["alarm"]) == (True, False)
    assert "(alarms before: bad" in found["message"]


def test_a_small_change_is_found_over_weeks_that_no_week_shows(reference: Path, tmp_path: Path) -> None:
    weeks = [
        write_week(tmp_path / f"week_{number}.csv", hospital(200, seed=140 + number, sharpness=SMALL))
        for number in range(4)
    ]
    result = monitor(weeks, reference)
    assert [batch["alarm"] for batch in result["batches"]] == [False, False, True, True]
    assert "over 4 batches" in result["message"]
    newest = {row["column"]: row for row in result["batches"][-1]["statistics"]}["sharpness"]
    assert (
        newest["batch"]["value"] < newest["batch"]["limit"] and newest["window"]["value"] > newest["window"]["limit"]
    )


def test_films_that_cannot_be_read_are_an_alarm_and_one_of_them_is_none(reference: Path, tmp_path: Path) -> None:
    few = write_week(tmp_path / "few.csv", hospital(200, seed=1), unreadable=1)
    many = write_week(tmp_path / "many.csv", hospital(200, seed=1), unreadable=60)
    assert not monitor([few], reference)["alarm"]
    found = monitor([many], reference)
    assert found["alarm"] and "30.0 % unreadable (reference 0.0 %)" in found["message"]
    none = write_week(tmp_path / "none.csv", hospital(40, seed=1), unreadable=40)
    assert "100.0 % unreadable" in monitor([none], reference)["message"]


def test_without_details_scores_and_flags_are_watched_and_it_is_said(reference: Path, tmp_path: Path) -> None:
    bare = write_week(tmp_path / "bare.csv", hospital(200, seed=1, sharpness=9.0), details=False)
    found = monitor([bare], reference)
    assert found["watched"] == [SCORE, "review", "abstain", "not_chest_xray", "unreadable"]
    assert not found["alarm"] and "bare.csv was written without --details" in found["message"]
    found = monitor([bare], bare)
    assert "bare.csv was written without --details: scores and flags alone" in found["message"]


@pytest.mark.parametrize("how", ["no values", "no column"])
def test_a_column_that_vanishes_is_named_and_no_longer_watched(how: str, tmp_path: Path) -> None:
    films = hospital(200, seed=1) | {"distance": np.ones(200)}
    if how == "no values":
        films["sharpness"] = np.full(200, np.nan)
    week = write_week(tmp_path / "week.csv", films)
    if how == "no column":
        week.write_text(week.read_text().replace("sharpness", "keenness", 1))
    known = write_week(tmp_path / "known.csv", hospital(600, seed=0) | {"distance": np.ones(600)})
    found = monitor([week], known)
    assert "sharpness" not in found["watched"] and {"distance", "age", "manufacturer"} <= {*found["watched"]}
    assert found["missing"] == f"no values of sharpness in {week} or a batch before it"
    assert not found["alarm"] and found["missing"] in found["message"]
    assert monitor([known], known)["missing"] == ""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing", "cannot read .*nothing.csv: No such file"),
        ("other table", "is no CSV of predict"),
        ("empty", "is no CSV of predict"),
        ("no number", "a column of numbers holds something else"),
        ("no probability", "a probability is not between 0 and 1"),
        ("Latin-1", "Latin-1.csv: manufacturer is not in UTF-8: save the table as CSV in UTF-8"),
        ("a run without report", "has no predictions to watch films against"),
        ("no reference", "has no predictions to watch films against: give a run folder"),
        ("a small reference", "has 49 films with a score that count, at most 5 of each patient_id: a reference n"),
        ("rate", "--false_alarms is a share from 0.001 to 0.5, not 2.0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(case: str, message: str, reference: Path, tmp_path: Path, capsys):
    week = write_week(tmp_path / f"{case.split()[0]}.csv", hospital(60, seed=1))
    text, against, options = week.read_text(), reference, []
    if case == "nothing":
        week.unlink()
    elif case == "other table":
        week.write_text("a,b\n1,2\n")
    elif case == "empty":
        week.write_text(text.splitlines()[0] + "\n")
    elif case == "no number":
        week.write_text(text.replace("224.0", "wide", 1))
    elif case == "no probability":
        week.write_text("path,probability,flag\na.png,1.5,review\n")
    elif case == "Latin-1":
        week.write_text(text.replace(",B", ",Siémens"), encoding="latin-1")
    elif case == "a run without report":
        against = tmp_path
    elif case == "no reference":
        against = tmp_path / "nothing"
    elif case == "a small reference":
        against = write_week(tmp_path / "few.csv", hospital(49, seed=1))
    else:
        options = ["--false_alarms", "2"]
    with pytest.raises(SystemExit) as stop:
        main(["monitor", str(week), "--reference", str(against), "--output_dir", str(tmp_path / "out"), *options])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert re.search(message, error)


def test_names_of_films_may_be_of_any_encoding(reference: Path, tmp_path: Path) -> None:
    week = write_week(tmp_path / "week.csv", hospital(200, seed=1))
    week.write_text(week.read_text().replace("1.png", "é.png"), encoding="latin-1")
    assert not monitor([week], reference)["alarm"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_a_reference_and_predict_finds_its_details(
    tiny_run: Path, films_folder: Path, tmp_path: Path
) -> None:
    report = tiny_run / "report"
    details = rows_of(report / "details_validation.csv")
    paths = [row["path"] for row in rows_of(report / "predictions_validation.csv")]
    assert [row["path"] for row in details] == paths and list(details[0]) == ["path", *DETAIL_COLUMNS]
    films = [str(films_folder / path) for path in paths]
    output = tmp_path / "preds.csv"
    main(["predict", "--model", str(tiny_run), "--device", "cpu", "--details", *films, "--output", str(output)])
    found = rows_of(output)
    assert list(found[0]) == [*PREDICTION_COLUMNS, *DETAIL_COLUMNS]
    for row, expected in zip(found, details, strict=True):
        for name in ("distance", "mean", "contrast", "sharpness", "layout", "blockiness", "width", "height"):
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-3), name
    assert {row["width"] for row in details} == {"96"} and {row["height"] for row in details} == {"80"}
    assert (tiny_run / "report" / "details_test.csv").exists()  # and so of a report of evaluate


def test_details_of_dicom_are_of_its_header(tiny_run: Path, tmp_path: Path) -> None:
    tags = {"Manufacturer": "Acme, Inc.", "ManufacturerModelName": "X1", "PatientPosition": "ERECT"}
    tags |= {"WindowCenter": [128, 90], "WindowWidth": "200", "ViewPosition": "AP", "PatientAge": "034Y"}
    (tmp_path / "film.dcm").write_bytes(dicom(make_film(1, True), Modality="CR", **tags))
    (tmp_path / "bare.dcm").write_bytes(dicom(make_film(2, False), Modality="CR"))
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    output = tmp_path / "preds.csv"
    options = ["--details", str(tmp_path), "--output", str(output)]
    main(["predict", "--model", str(tiny_run), "--device", "cpu", *options])
    bare, film, torn = rows_of(output)
    said = ("manufacturer", "device_model", "patient_position", "window_center", "window_width", "view", "age")
    assert [film[name] for name in said] == ["ACME, INC.", "X1", "ERECT", "128.0", "200.0", "AP", "34.0"]
    assert not any(bare[name] for name in said) and float(bare["sharpness"]) > 0
    assert torn["error"] and not any(torn[name] for name in DETAIL_COLUMNS)


def test_predict_without_details_writes_the_columns_of_the_contract(
    tiny_run: Path, films_folder: Path, tmp_path: Path
):
    output = tmp_path / "preds.csv"
    film = next((films_folder / "test" / "NORMAL").iterdir())
    main(["predict", "--model", str(tiny_run), "--device", "cpu", str(film), "--output", str(output)])
    assert tuple(rows_of(output)[0]) == PREDICTION_COLUMNS
    assert tuple(rows_of(tiny_run / "report" / "predictions_validation.csv")[0]) == PREDICTION_COLUMNS


def section(page: Path, title: str) -> str:
    return page.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_command_of_the_manual_runs(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The shipped model is `runs/mine`, and films of the official test the weeks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(SHIPPED)
    shutil.copytree(tiny_run, tmp_path / "runs" / "older")
    (tmp_path / "runs" / "older" / "report" / "details_validation.csv").unlink()
    archived = write_films(tmp_path / "archived", {"train": (2, 2), "test": (25, 25)})
    shutil.make_archive(str(tmp_path / "chest_xray"), "zip", archived)
    for number, content in enumerate(public_films(75)):
        week = tmp_path / "films" / f"week_{number % 3 + 1:02d}"
        week.mkdir(parents=True, exist_ok=True)
        (week / f"{number}.jpeg").write_bytes(content)
    main(["predict", "--model", "runs/mine", "--details", "films/week_03", "--output", "week_03.csv"])
    (tmp_path / "week_03.csv").rename(tmp_path / "later.csv")  # not of the first commands' weeks
    blocks = re.findall(
        r"```\n(python .*?)```", section(ROOT / "docs" / "evaluation.md", "Watch it in use"), re.DOTALL
    )
    commands, watched = "".join(blocks).splitlines(), []
    assert len(commands) == 7
    for command in commands:
        arguments = shlex.split(command)[3:]
        if "week_03.csv" in arguments:
            shutil.copy(tmp_path / "later.csv", tmp_path / "week_03.csv")
        try:
            main([file for text in arguments for file in (sorted(glob(text)) if "*" in text else [text])])
        except SystemExit as stop:
            assert stop.code == 3, command
        if "monitor" in arguments:
            watched.append(json.loads((tmp_path / "watched" / "monitor.json").read_text()))
    assert [(one["reference"], one["films"], one["batches"][-1]["films"]) for one in watched] == [
        ("runs/mine", 608, 25),
        ("calm.csv", 50, 25),
        ("reports/older", 50, 25),
    ]
    films, missing = read_reference(Path("reports/older"))
    assert not missing and np.isfinite(films["sharpness"]).all() and len(films[SCORE]) == 50
    lines = [line for line in capsys.readouterr().out.splitlines() if ", 25 films: " in line]
    assert [line.partition(",")[0] for line in lines] == ["week_02", "week_03", "week_03"]


def test_the_figures_of_the_manual_are_those_of_the_benchmark() -> None:
    parts = json.loads((ROOT / "benchmarks" / "results" / "monitoring.json").read_text())["parts"]
    assert parts["false_alarms"]["weeks"] == 1000
    text = section(ROOT / "docs" / "evaluation.md", "Watch it in use")
    measured = [
        (row["stated"], name, row[name])
        for row in parts["false_alarms"]["rows"]
        for name in row.keys() - {"stated", "weeks"}
        if (row["stated"], name) != (0.05, "validation_itself")
    ]
    assert len(measured) == 4
    for stated, name, rate in measured:
        assert f"| {100 * rate:.1f} % |" in text, name
        assert rate == pytest.approx(stated, abs=0.02 if name == "new_weeks" else 0.01), name
    shifts = {row["shift"]: row for row in parts["shifts"]["rows"]}
    streams = parts["shifts"]["streams"]
    assert {*CORRUPTIONS, "window", "adults", "prevalence"} == shifts.keys() and parts["shifts"]["films_a_week"] == 200
    for name, row in shifts.items():
        fourth = row["alarm_by_week"][-1]
        assert fourth == streams, name
        first, alone = row["alarm_by_week"][0], row["scores_and_flags_alone"]["alarm_by_week"][-1]
        assert re.search(rf"\| {first} \| {fourth} \| {alone} \|", text), name
        rest = row["without_blockiness"]["alarm_by_week"]
        assert rest[-1] == streams and (name != "jpeg" or f"(JPEG: {rest[0]} in the first)" in " ".join(text.split()))
    assert all(f"| {name} |" in text for name in CORRUPTIONS)


@pytest.mark.shared
@pytest.mark.parametrize("kind", [None, "downscaling", "blur"])
def test_the_shipped_model_is_watched(kind: str | None, shared: Path, tmp_path: Path) -> None:
    """A subset of benchmarks/monitoring.py: one week of films of its validation, of whole patients."""
    archive = shared / "data" / "chest_xray_224.zip"
    rows = rows_of(SHIPPED / "report" / "predictions_validation.csv")
    drawn = np.random.default_rng(0).permutation(sorted({row["patient_id"] for row in rows}))[:70]
    chosen = [row["path"] for row in rows if row["patient_id"] in drawn]
    folder = tmp_path / "films"
    folder.mkdir()
    with zipfile.ZipFile(archive) as films:
        names = {name.partition("/")[2]: name for name in films.namelist()}
        for path in chosen:
            with films.open(names.get(path) or path) as file:
                pixels = torch.from_numpy(np.array(Image.open(file).convert("L")))[None, None]
            pixels = corrupt(pixels, kind, 3) if kind else pixels
            Image.fromarray(pixels[0, 0].numpy()).save(folder / f"{Path(path).stem}.png")
    output = tmp_path / "week.csv"
    main(["predict", "--model", str(SHIPPED), "--device", "cpu", "--details", str(folder), "--output", str(output)])
    assert 80 < len(read_films(output)[SCORE]) < 250
    assert monitor([output], SHIPPED)["alarm"] == bool(kind)


def test_of_films_that_all_have_one_patient_id_few_count_and_it_says_so(reference: Path, tmp_path: Path) -> None:
    """As of DICOM files whose PatientID was overwritten with one word."""
    films = hospital(200, seed=1)
    week = write_week(tmp_path / "week.csv", films | {PATIENT: np.full(200, "ANONYMOUS")})
    found = monitor([week], reference)
    assert (found["batches"][-1]["films"], found["batches"][-1]["counted"]) == (200, MOST_FILMS)
    assert f"of {week} 5 films count, at most 5 of each patient_id" in found["message"]
    usual = monitor([write_week(tmp_path / "usual.csv", films)], reference)
    assert usual["batches"][-1]["counted"] == 200 and "count" not in usual["message"]

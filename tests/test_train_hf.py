"""The main job through its command: every file of the contract, the pipeline's scores, a kill, bad input."""

import csv
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from pydicom.uid import RLELossless
from transformers import pipeline

from pneumo_hf import Predictor, load_data, load_xray
from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.reporting.names import METRIC_NAMES
from pneumo_hf.training.models import load_model
from tests.conftest import as_options, make_film, write_films
from tests.data.test_pixels import add_bad_films
from tests.imaging.test_dicom import dicom
from train_hf import main

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "chest_xray_sample"
CHECKPOINT_FILES = {
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "chest_detector.safetensors",
    "README.md",
    "recipe.yaml",
    "rejected.csv",
}
REPORT_FILES = {
    "metrics.json",
    "metrics_validation.json",
    "predictions_test.csv",
    "predictions_validation.csv",
    "threshold_curve.csv",
    "checklist.md",
    "history.csv",
    "held_out.npy",
    "details_test.csv",
    "details_validation.csv",
    "index.html",
}
FIGURES = {
    "decision_curve",
    "roc",
    "pr",
    "reliability",
    "confusion_matrix",
    "training_curves",
    "thresholds",
    "predictive_values",
    "risk_coverage",
    "heatmaps",
}


def read_csv(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open()))


def run(*arguments: str, module: str = "train_hf.py") -> subprocess.CompletedProcess:
    command = [sys.executable, *module.split(), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_file_of_the_contract(tiny_run: Path) -> None:
    report = tiny_run / "report"
    written = {path.name for path in tiny_run.iterdir()}
    assert written == CHECKPOINT_FILES | {"report"}
    reported = {path.name for path in report.iterdir()} - {"mistakes.png", "abstained.png"}  # where there are any
    assert reported == REPORT_FILES | {f"{name}.png" for name in FIGURES}
    config = json.loads((tiny_run / "config.json").read_text())
    assert {"decision_threshold", "operating_points", "abstention", "preprocessing", "training_data"} <= set(config)
    for name in ("metrics.json", "metrics_validation.json"):
        metrics = json.loads((tiny_run / "report" / name).read_text())
        assert set(metrics["metrics"]) == set(METRIC_NAMES)
        assert metrics["decision_threshold"]["value"] == config["decision_threshold"]
        assert sum(metrics["confusion_matrix"].values()) == metrics["n"]
    assert metrics["split"] == "validation"


def test_it_learns_and_the_card_and_page_say_what_was_measured(tiny_run: Path) -> None:
    metrics = json.loads((tiny_run / "report" / "metrics.json").read_text())
    area = metrics["metrics"]["roc_auc"]
    assert area["value"] > 0.9
    card = ModelCard.load(tiny_run / "README.md")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured == {name: metric["value"] for name, metric in metrics["metrics"].items()}
    row = f"| ROC AUC | {area['value']:.3f} | {area['ci95'][0]:.3f} to {area['ci95'][1]:.3f} |"
    assert row in card.text
    page = (tiny_run / "report" / "index.html").read_text()
    assert f"{area['value']:.3f}" in page
    figures = {path.name for path in (tiny_run / "report").glob("*.png")}
    assert page.count("data:image/png;base64,") == len(figures - {"mistakes.png"})  # these it shows one by one
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing from outside
    for text in (card.text, page):
        assert "not a diagnosis" in text
        assert str(tiny_run.parent) not in text


def test_the_recipe_written_runs_again(tiny_run: Path, tiny_recipe: list[str]) -> None:
    again = parse_args(["--config", str(tiny_run / "recipe.yaml"), "--output_dir", "x"])[2]
    first = parse_args([*tiny_recipe, "--output_dir", "x"])[2]
    for name in ("num_train_epochs", "learning_rate", "layer_lr_decay", "probe_epochs", "seed", "lr_scheduler_type"):
        assert vars(again)[name] == vars(first)[name]


def assert_pipeline_agrees(checkpoint: Path, data: Path, count: int) -> None:
    """The stock pipeline's PNEUMONIA score of test films is the report's, within 1e-5."""
    report = {row["path"]: float(row["probability"]) for row in read_csv(checkpoint / "report/predictions_test.csv")}
    films = list(load_data(data)["test"])[-count:]
    classify = pipeline("image-classification", model=str(checkpoint))
    answers = classify([load_xray(read_film(film["image"])).convert("RGB") for film in films], batch_size=16)
    scores = [{part["label"]: part["score"] for part in answer}["PNEUMONIA"] for answer in answers]
    np.testing.assert_allclose(scores, [report[film["file_name"]] for film in films], atol=1e-5)
    assert len(scores) == min(count, len(report))


def test_pipeline_and_predictor_give_the_reports_scores(tiny_run: Path, films_folder: Path) -> None:
    assert_pipeline_agrees(tiny_run, films_folder, 200)
    rows = read_csv(tiny_run / "report" / "predictions_test.csv")
    answers = Predictor(tiny_run, device="cpu")([films_folder / row["path"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert answer["probability"] == pytest.approx(float(row["probability"]), abs=1e-6)
        assert (answer["prediction"], answer["flag"]) == (row["prediction"], row["flag"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "count", "size"),
    [
        ("baseline-cnn", 100, 224),
        ("efficientnet-lite0", 40, 128),  # films resized: a third of the time
        ("shared:resnet-50", 40, 128),
        pytest.param("shared:mobilenet-v2", 40, 128, marks=pytest.mark.long),
    ],
)
def test_every_backbone_serves_what_it_measured_on_real_films(
    backbone: str, count: int, size: int, tmp_path: Path, cache_dir: Path, request: pytest.FixtureRequest
) -> None:
    """More with the smallest than with those that take half a minute for 40."""
    if backbone.startswith("shared:"):
        backbone = str(request.getfixturevalue("shared") / "checkpoints" / backbone.removeprefix("shared:"))
    data = small_sample(tmp_path / "films", {"train": 40, "test": count})
    # augmented: without, logits of 50 after a few films round by more than what is asserted
    options = as_options(augmentation="strong", probe_epochs=2, num_train_epochs=1, per_device_train_batch_size=16)
    paths = ("--dataset", str(data), "--output_dir", str(tmp_path / "run"), "--cache_dir", str(cache_dir))
    main(["--model_name_or_path", backbone, "--image_size", str(size), *options, *paths, "--use_cpu", "true"])
    assert_pipeline_agrees(tmp_path / "run", data, count)


def small_sample(folder: Path, counts: dict[str, int]) -> Path:
    """So many films of each split of the embedded sample, as files."""
    for split, films in load_data(SAMPLE).items():
        step = len(films) // counts[split]
        for film in films.select(range(0, step * counts[split], step)):
            path = folder / film["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read_film(film["image"]))
    return folder


@pytest.mark.shared
def test_full_resolution_films_score_as_in_the_pipeline(tiny_run: Path, shared: Path) -> None:
    films = [load_xray(read_film(row["image"])) for row in list_films(shared / "data/chest_xray_fullres_sample.zip")]
    assert max(film.width for film in films) > 1000
    classify = pipeline("image-classification", model=str(tiny_run))
    answers = classify([film.convert("RGB") for film in films[:40]])
    scores = [{part["label"]: part["score"] for part in answer}["PNEUMONIA"] for answer in answers]
    ours = [row["probability"] for row in Predictor(tiny_run, device="cpu")(films[:40])]
    np.testing.assert_allclose(ours, scores, atol=1e-5)


def test_killed_in_stage_two_and_resumed_it_ends_as_if_it_had_not_been(
    tiny_run: Path, tiny_recipe: list[str], command: Callable, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    begun = [sys.executable, "train_hf.py", *tiny_recipe, "--output_dir", str(killed)]
    process = subprocess.Popen(begun, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    states = killed.glob("checkpoints/checkpoint-*/trainer_state.json")
    while not any(path.read_text().rstrip().endswith("}") for path in states) and time.time() < deadline:
        time.sleep(0.01)
        states = killed.glob("checkpoints/checkpoint-*/trainer_state.json")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(killed.glob("checkpoints/checkpoint-*"))
    assert not (killed / "report").exists()
    shutil.copytree(max(killed.glob("checkpoints/checkpoint-*")), killed / "checkpoints" / "checkpoint-9999")
    (killed / "checkpoints" / "checkpoint-9999" / "trainer_state.json").write_text('{"epoch": ')  # cut while written
    again = ["train_hf.py", *tiny_recipe, "--output_dir", killed]
    code, said = command(*again)  # the flag forgotten: nothing is lost
    assert code == 2 and "--resume_from_checkpoint resumes it" in said
    code, said = command(*again, "--resume_from_checkpoint", "--learning_rate", "0.5")
    assert code == 2 and "was begun with learning_rate" in said
    result = run(*tiny_recipe, "--output_dir", killed, "--resume_from_checkpoint")
    assert result.returncode == 0, result.stderr
    assert "stage 1" not in result.stderr
    first, again = (read_csv(folder / "report" / "history.csv") for folder in (tiny_run, killed))
    assert [(row["stage"], row["epoch"], row["step"]) for row in first] == [
        (row["stage"], row["epoch"], row["step"]) for row in again
    ]
    np.testing.assert_allclose(
        [float(row["probability"]) for row in read_csv(killed / "report" / "predictions_test.csv")],
        [float(row["probability"]) for row in read_csv(tiny_run / "report" / "predictions_test.csv")],
        atol=1e-4,
    )


def test_a_folder_with_bad_films_trains_and_predicts(
    tiny_run: Path, tiny_recipe: list[str], command: Callable, tmp_path: Path
) -> None:
    folder = write_films(tmp_path / "films", {"train": (24, 24), "test": (8, 8)})
    add_bad_films(folder / "train" / "NORMAL")
    run_dir = tmp_path / "run"
    main([*tiny_recipe, "--dataset", str(folder), "--output_dir", str(run_dir), "--num_train_epochs", "1"])
    rejected = read_csv(run_dir / "rejected.csv")
    assert sorted(row["path"] for row in rejected) == [
        f"train/NORMAL/{name}" for name in ("cut.jpeg", "empty.png", "text.png")
    ]
    assert all(row["reason"] for row in rejected)
    assert command("predict", "--model", tiny_run, folder / "train", "--output", tmp_path / "p.csv")[0] == 0
    rows = {Path(row["path"]).name: row for row in read_csv(tmp_path / "p.csv")}
    assert len(rows) == 52
    assert {name for name, row in rows.items() if row["error"]} == {"cut.jpeg", "empty.png", "text.png"}
    assert 0 <= float(rows["deep.png"]["probability"]) <= 1


def test_a_folder_of_dicom_with_a_labels_csv_trains_and_serves(
    tiny_recipe: list[str], command: Callable, tmp_path: Path
) -> None:
    """16-bit MONOCHROME1 films, two of a patient, whose names are nowhere in what is written."""
    folder, lines = tmp_path / "dicom", ["file,finding"]
    folder.mkdir()
    for number in range(120):
        pneumonia, patient = number % 4 > 1, number // 4 * 2 + number % 4 // 2
        stored = (255 - make_film(number, pneumonia)).astype(np.uint16) * 257
        tags = {"PatientName": f"Secret^{patient}", "PatientID": f"MRN-{patient}", "Modality": "DX"}
        (folder / f"{number}.dcm").write_bytes(dicom(stored, "MONOCHROME1", RLELossless, **tags))
        lines.append(f"{number}.dcm,{'Infiltrate' if pneumonia else 'No Finding'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    data = ["--dataset", str(folder), "--label_map", "Infiltrate=PNEUMONIA,No Finding=NORMAL"]
    code, said = command("train_hf.py", *tiny_recipe, *data, "--num_train_epochs", 2, "--output_dir", tmp_path / "run")
    assert code == 0 and "ROC AUC" in said
    metrics = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    assert metrics["n"] == 2 * metrics["n_patients"] == 24
    run_files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in run_files if b"MRN-" in path.read_bytes() or b"Secret" in path.read_bytes()]
    assert "Secret" not in said
    scored = Predictor(tmp_path / "run")([folder / "0.dcm", folder / "2.dcm"])
    assert all(row["error"] == "" for row in scored)


def test_evaluate_gives_the_figures_of_the_run(
    tiny_run: Path, films_folder: Path, command: Callable, tmp_path: Path
) -> None:
    options = ("--model", tiny_run, "--data", films_folder, "--output_dir", tmp_path, "--cache_dir", tmp_path / "c")
    assert command("evaluate", *options)[0] == 0
    ours = json.loads((tmp_path / "metrics.json").read_text())
    run_s = json.loads((tiny_run / "report" / "metrics.json").read_text())
    for name, metric in run_s["metrics"].items():
        assert ours["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-6)
    assert (tmp_path / "index.html").exists()
    assert ours["shortcut_floors"].keys() == run_s["shortcut_floors"].keys() != set()
    assert len(read_csv(tmp_path / "predictions_test.csv")) == ours["n"]


@pytest.mark.parametrize("case", ["missing", "empty", "single class", "unknown key", "model", "resume"])
def test_bad_input_is_one_line_and_exit_code_2(
    case: str, films_folder: Path, tiny_recipe: list[str], command: Callable, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(films_folder / "train" / "NORMAL", tmp_path / "single" / "train" / "NORMAL")
    (tmp_path / "recipe.yaml").write_text("lerning_rate: 1e-4\n")
    arguments, message = {
        "missing": (["--dataset", tmp_path / "nowhere"], "no such data"),
        "empty": (["--dataset", tmp_path / "empty"], "no films in"),
        "single class": (["--dataset", tmp_path / "single"], "has no PNEUMONIA films"),
        "unknown key": (["--config", tmp_path / "recipe.yaml"], "did you mean learning_rate?"),
        "model": (["--model_name_or_path", "no/such"], "efficientnet-lite0"),
        "resume": (["--resume_from_checkpoint", "--output_dir", tmp_path / "none"], "nothing to resume"),
    }[case]
    code, said = command("train_hf.py", *tiny_recipe, "--output_dir", tmp_path / "run", *arguments)
    last = said.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ")
    assert message in last
    assert "Traceback" not in said


def test_an_output_that_cannot_be_written_is_one_line(
    tiny_run: Path, films_folder: Path, command: Callable, tmp_path: Path
) -> None:
    code, said = command("predict", "--model", tiny_run, films_folder / "test", "--output", tmp_path)
    assert (code, said.strip().splitlines()[-1]) == (2, f"error: Is a directory: {tmp_path}")


def test_accelerate_launches_it_and_trackio_gets_the_log_of_either_stage(
    tiny_recipe: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "logs"))
    launch = "-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 --dynamo_backend no"
    arguments = [*tiny_recipe, "--num_train_epochs", "1", "--report_to", "trackio", "--output_dir", tmp_path / "mine"]
    result = run("--mixed_precision", "no", "train_hf.py", *arguments, module=launch)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mine" / "report" / "metrics.json").exists()
    with closing(sqlite3.connect(tmp_path / "logs" / "huggingface.db")) as logs:
        rows = logs.execute("SELECT run_name, metrics FROM metrics").fetchall()
    for stage in ("mine stage1", "mine stage2"):
        assert any(name == stage and "eval/roc_auc" in json.loads(row) for name, row in rows)


def test_help_teaches() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "--augmentation_kwargs" in result.stdout
    assert "--adam_beta1" not in result.stdout
    assert "TrainingArguments" in result.stdout


def test_the_embedded_backbone_is_what_the_quickstart_trains(cache_dir: Path) -> None:
    model_args, data_args, _ = parse_args(["--config", str(ROOT / "configs" / "quickstart.yaml")])
    model, processor = load_model(model_args, cache_dir)
    assert model.config.model_type == "efficientnet"
    assert processor.image_mean == pytest.approx([127 / 255] * 3)
    assert (ROOT / data_args.dataset[0]).is_dir()

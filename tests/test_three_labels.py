"""Three labels from the folders' names, through every command: one binary decision, and a probability for each."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from scipy.special import logit

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from pneumo_hf.data.predictions import write_csv
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.ensembles import load_predictor
from tests.app.conftest import serving
from tests.conftest import as_options, make_film
from tests.hub import reach, running_hub

NAMES = ("NORMAL", "PNEUMONIA", "COVID19")
COLUMNS = [f"probability_{name}" for name in NAMES]


def write(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Films of three labels: those of COVID19 have a bright bar at the bottom."""
    for split, count in counts.items():
        for name in NAMES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for _ in range(count):
                film = make_film(seed, name == "PNEUMONIA", (48, 48))
                if name == "COVID19":
                    film[36:44, 8:40] = 255
                Image.fromarray(film).save(folder / f"{seed}.png")
                seed += 1
    return root


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("three"), {"train": 40, "test": 12})


@pytest.fixture(scope="module")
def recipe(films: Path, cache_dir: Path) -> list[str]:
    return as_options(
        model_name_or_path="baseline-cnn",
        dataset=films,
        cache_dir=cache_dir,
        image_size=48,
        per_device_train_batch_size=8,
        probe_epochs=2,
        num_train_epochs=6,
        learning_rate="5e-3",
        layer_lr_decay=1,
        use_cpu="true",
    )


@pytest.fixture(scope="module")
def run(recipe: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train_hf import main as train

    run = tmp_path_factory.mktemp("runs") / "three"
    train([*recipe, "--output_dir", str(run)])
    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_has_every_label_and_one_decision(run: Path) -> None:
    config, metrics = (json.loads((run / name).read_text()) for name in ("config.json", "report/metrics.json"))
    assert config["task"] == {"labels": list(NAMES), "positive": "ABNORMAL"}
    assert metrics["labels"]["labels"] == list(NAMES)
    assert np.array(metrics["labels"]["confusion_matrix"]).sum(axis=1).tolist() == [12, 12, 12]
    assert metrics["labels"]["metrics"]["macro_roc_auc"]["value"] > 0.8
    assert metrics["prevalence"] == pytest.approx(2 / 3) and sum(metrics["confusion_matrix"].values()) == 36
    for row in rows_of(run / "report" / "predictions_test.csv"):
        shares = [float(row[column]) for column in COLUMNS]
        assert sum(shares) == pytest.approx(1) and float(row["probability"]) == pytest.approx(1 - shares[0])
        called = float(row["probability"]) >= metrics["decision_threshold"]["value"]
        assert row["prediction"] == ("ABNORMAL" if called else "NORMAL") and row["label"] in NAMES
    card = (run / "README.md").read_text()
    assert "ROC AUC of COVID19 against the rest" in card and '1 - scores["NORMAL"] >=' in card
    assert "pneumonia" not in card.split("## Results")[1].split("## Operating points")[0]
    assert (run / "report" / "labels.png").exists() and "Macro F1" in (run / "report" / "index.html").read_text()
    assert "labels: NORMAL,PNEUMONIA,COVID19" in (run / "recipe.yaml").read_text()


def test_the_stock_pipeline_gives_three_scores_those_of_the_report(run: Path, films: Path) -> None:
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(run))
    for row in rows_of(run / "report" / "predictions_test.csv")[::5]:
        answers = {answer["label"]: answer["score"] for answer in classify(str(films / row["path"]))}
        assert set(answers) == set(NAMES)
        for name, column in zip(NAMES, COLUMNS, strict=True):
            assert answers[name] == pytest.approx(float(row[column]), abs=1e-5)


def test_evaluate_and_predict_give_the_reports_scores(run: Path, films: Path, cache_dir: Path, tmp_path: Path) -> None:
    reported = {row["path"]: row for row in rows_of(run / "report" / "predictions_test.csv")}
    data = ["--data", str(films), "--cache_dir", str(cache_dir)]
    main(["evaluate", "--model", str(run), *data, "--output_dir", str(tmp_path / "again")])
    again = {row["path"]: row for row in rows_of(tmp_path / "again" / "predictions_test.csv")}
    assert again == reported
    output = tmp_path / "preds.csv"
    main(["predict", "--model", str(run), str(films / "test"), "--output", str(output)])
    scored = rows_of(output)
    assert len(scored) == 36 and {row["label"] for row in scored} == set(NAMES)
    for row in scored:
        name = str(Path(row["path"]).relative_to(films))
        for column in ("probability", *COLUMNS):
            assert float(row[column]) == pytest.approx(float(reported[name][column]), abs=1e-5)
    rescaled = tmp_path / "rare.csv"
    given = [str(films / "test"), "--prevalence", "0.1", "--output", str(rescaled)]
    main(["predict", "--model", str(run), *given])
    for row in rows_of(rescaled):
        shares = [float(row[column]) for column in COLUMNS]
        assert sum(shares) == pytest.approx(1) and shares[0] == pytest.approx(1 - float(row["probability"]))


def test_films_of_two_labels_are_measured_by_the_decision_alone(run, films_folder, cache_dir, tmp_path) -> None:
    data = ["--data", str(films_folder), "--cache_dir", str(cache_dir)]
    main(["evaluate", "--model", str(run), *data, "--output_dir", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "labels" not in metrics and metrics["n"] == 40 and metrics["metrics"]["roc_auc"]["value"] > 0.5
    scored = Predictor(run)([films_folder / row["path"] for row in rows_of(tmp_path / "predictions_test.csv")])
    for row, expected in zip(rows_of(tmp_path / "predictions_test.csv"), scored, strict=True):
        assert row["label"] in ("NORMAL", "ABNORMAL")
        assert [float(row[column]) for column in COLUMNS] == pytest.approx([expected[c] for c in COLUMNS], abs=1e-5)


def test_ensembles_and_teachers_know_the_labels(run, recipe, tiny_run, films, tmp_path: Path) -> None:
    from train_hf import main as train

    turned = tmp_path / "turned"  # the same network with its labels in another order
    network = Predictor(run)
    order = [2, 0, 1]
    final = network.model.classifier[-1]
    final.weight.data, final.bias.data = final.weight.data[order], final.bias.data[order]
    network.model.config.id2label = {number: NAMES[label] for number, label in enumerate(order)}
    network.model.config.label2id = {NAMES[label]: number for number, label in enumerate(order)}
    network.model.save_pretrained(turned)
    network.image_processor.save_pretrained(turned)
    pictures = sorted((films / "test").rglob("*.png"))[::4]
    alone, both = Predictor(run)(pictures), load_predictor([run, turned])(pictures)
    temperature = load_predictor([run, turned]).settings.temperature or 1.0
    assert temperature == 1.0  # the turned one has no report
    report = turned / "report"
    report.mkdir()
    lines = rows_of(run / "report" / "predictions_validation.csv")
    kept = [*list(lines[0])[:7], *(f"probability_{NAMES[label]}" for label in order)]
    write_csv(report / "predictions_validation.csv", kept, lines)
    validated = load_predictor([run, turned]).settings
    assert validated.operating_points and validated.threshold == pytest.approx(
        Predictor(run).settings.threshold, abs=0.02
    )
    for one, two in zip(alone, both, strict=True):
        assert [two[column] for column in COLUMNS] == pytest.approx([one[column] for column in COLUMNS], abs=1e-6)
    with pytest.raises(InputError, match="has the labels NORMAL, PNEUMONIA, not NORMAL, PNEUMONIA, COVID19"):
        load_predictor([run, tiny_run])
    student = tmp_path / "student"
    train([*recipe, "--output_dir", str(student), "--teachers", str(run), "--num_train_epochs", "1"])
    assert json.loads((student / "config.json").read_text())["id2label"]["2"] == "COVID19"


def test_it_is_exported_and_pushed(
    run: Path, films: Path, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(films), "--cache_dir", str(cache_dir), "--output_dir", str(tmp_path)]
    main(["export", "--model", str(run), *options])
    pictures = sorted((films / "test").rglob("*.png"))[:6]
    for ours, theirs in zip(Predictor(run)(pictures), Predictor(tmp_path, backend="onnx")(pictures), strict=True):
        assert [theirs[column] for column in COLUMNS] == pytest.approx([ours[column] for column in COLUMNS], abs=1e-4)
    with running_hub() as (hub, address):
        reach(address, monkeypatch)
        main(["push", "--model", str(run), "--repo_id", "tester/three"])
        pushed = hub.files["model", "tester/three"]
    assert json.loads(pushed["config.json"])["task"]["labels"] == list(NAMES)


def test_an_audit_of_four_labels_draws_them_all(films: Path, tmp_path: Path) -> None:
    four = tmp_path / "four"
    shutil.copytree(films, four)
    for split in ("train", "test"):
        shutil.copytree(four / split / "COVID19", four / split / "TUBERCULOSIS")
    main(["audit", str(four), "--output_dir", str(tmp_path / "audit")])
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert audit["counts"]["test"] == dict.fromkeys([*NAMES, "TUBERCULOSIS"], 12)
    assert (tmp_path / "audit" / "counts.png").exists()


def test_the_app_shows_every_label(run: Path, films: Path) -> None:
    film = next((films / "test" / "COVID19").glob("*.png"))
    with serving(run, PATH=os.environ["PATH"]) as (address, _):
        client = Client(address, verbose=False)
        answer = client.predict(handle_file(film), "", api_name="/predict")
        table = client.predict([handle_file(film)], api_name="/predict_batch")[0]
        page = client.predict(handle_file(film), 0.5, api_name="/case_report")
    expected = Predictor(run)([film])[0]
    for column in ("probability", *COLUMNS):
        assert answer[column] == pytest.approx(expected[column], abs=1e-5)
    assert table["headers"][-3:] == COLUMNS and table["data"][0][-1] == round(expected[COLUMNS[2]], 4)
    assert '<th scope="row">COVID19</th>' in Path(page).read_text()


def test_recalibration_moves_normal_against_all_others_and_these_not_among_themselves(
    run: Path, cache_dir: Path, tmp_path: Path
) -> None:
    local, ours = write(tmp_path / "local", {"test": 24}, seed=70_000), tmp_path / "ours"
    command = ["recalibrate", "--model", str(run), "--data", str(local), "--output_dir", str(ours)]
    main([*command, "--device", "cpu", "--cache_dir", str(cache_dir)])
    found = json.loads((ours / "report" / "recalibration.json").read_text())
    assert found["films"] == {"NORMAL": 24, "ABNORMAL": 48} and found["slope"] == 1
    films = sorted(local.rglob("*.png"))
    before, after = (Predictor(checkpoint, device="cpu")(films) for checkpoint in (run, ours))
    for old, new in zip(before, after, strict=True):
        assert logit(new["probability"]) == pytest.approx(logit(old["probability"]) + found["offset"], abs=1e-4)
        assert new[COLUMNS[1]] / new[COLUMNS[2]] == pytest.approx(old[COLUMNS[1]] / old[COLUMNS[2]], rel=1e-3)
    assert found["metrics"]["roc_auc"]["before"] == found["metrics"]["roc_auc"]["after"]

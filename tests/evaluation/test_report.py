"""What `evaluate` writes, and the parts of the report."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.abstention import abstention_summary, risk_coverage
from pneumo_hf.evaluation.calibration import at_prevalence
from pneumo_hf.evaluation.ensembles import validation_scores
from pneumo_hf.evaluation.evaluate import evaluate_films
from pneumo_hf.evaluation.external import _words
from pneumo_hf.evaluation.metrics import metrics_with_intervals
from tests.conftest import write_films


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of another size, and names that tell no subtype."""
    root = write_films(tmp_path_factory.mktemp("elsewhere"), {"test": (21, 30)}, size=(120, 90))
    for path in root.rglob("*.jpeg"):
        path.rename(path.with_name(f"film{path.stem[-4:].replace('_', '')}{path.parent.name[0]}.jpeg"))
    return root


def test_evaluate_away_from_home_says_what_was_lost(tiny_run: Path, elsewhere: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    options = ["--output_dir", str(tmp_path / "there"), "--cache_dir", str(tmp_path / "cache")]
    main(["evaluate", "--model", str(tiny_run), "--data", str(elsewhere), "--robustness", *options])
    metrics = json.loads((tmp_path / "there" / "metrics.json").read_text())
    home = json.loads((tiny_run / "report" / "metrics.json").read_text())
    row = metrics["external"]["metrics"]["roc_auc"]
    assert row["home"] == home["metrics"]["roc_auc"]["value"] and row["here"] == metrics["metrics"]["roc_auc"]["value"]
    assert row["change"] == pytest.approx(row["here"] - row["home"])
    assert any("would have needed a threshold" in sentence for sentence in metrics["external"]["words"])
    assert "ROC AUC" in caplog.text
    page = (tmp_path / "there" / "index.html").read_text()
    for heading in ("Away from home", "Where pneumonia is rarer", "Without an answer", "Checklist", "Calibration"):
        assert heading in page
    robust = metrics["robustness"]
    assert [point["severity"] for point in robust["noise"]] == [0, 1, 2, 3, 4, 5]
    assert robust["noise"][0]["roc_auc"] == pytest.approx(metrics["metrics"]["roc_auc"]["value"])
    assert {"inverted", "central box", "border"} <= set(robust)
    assert robust["border"][1]["roc_auc"] < row["here"]  # the patch lies in a lung
    assert (tmp_path / "there" / "robustness.png").exists()


def test_another_operating_point_decides(
    tiny_run: Path, films_folder: Path, cache_dir: Path, tmp_path: Path, caplog
) -> None:
    points = {point["name"]: point["threshold"] for point in Predictor(tiny_run).operating_points}
    options = ["--data", str(films_folder), "--output_dir", str(tmp_path), "--cache_dir", str(cache_dir)]
    main(["evaluate", "--model", str(tiny_run), "--operating_point", "specificity@0.95", *options])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["decision_threshold"]["value"] == points["specificity@0.95"]
    assert metrics["decision_threshold"]["method"] == "specificity@0.95"
    assert metrics["confusion_matrix"] == metrics["confusion_matrices"]["specificity@0.95"]
    assert "external" not in metrics and "learnt these films" not in caplog.text  # its own test


def test_of_a_few_films_it_is_said_that_they_are_few(tiny_run: Path, tmp_path: Path, caplog) -> None:
    films = write_films(tmp_path / "films", {"train": (2, 2)})
    options = ["--split", "train", "--output_dir", str(tmp_path)]
    main(["evaluate", "--model", str(tiny_run), "--data", str(films), *options])
    assert "2 patients are few" in caplog.text and "may have learnt these films" in caplog.text
    assert "2 are few, and the intervals too narrow" in (tmp_path / "index.html").read_text()


def test_it_is_not_said_that_a_figure_is_outside_an_interval_that_is_none() -> None:
    area = {"home": 0.98, "here": 1.0, "change": 0.02, "ci95": [1.0, 1.0]}
    metrics = {"decision_threshold": {"value": 0.5}, "calibration": {"slope": np.nan}}
    needed = [{"name": "sensitivity@0.95", "threshold": 0.4, "specificity": 1.0}]
    text = " ".join(_words(metrics, {"roc_auc": area}, needed, kermany=False))
    assert "too few for an interval" in text and "outside" not in text


def test_predict_for_another_prevalence_keeps_the_decisions(
    tiny_run: Path, films_folder: Path, tmp_path: Path, capsys, caplog
) -> None:
    caplog.set_level("INFO")

    def run(*options: str) -> list[dict]:
        main(
            [
                "predict",
                "--model",
                str(tiny_run),
                str(films_folder / "test"),
                "--output",
                str(tmp_path / "p.csv"),
                *options,
            ]
        )
        return list(csv.DictReader((tmp_path / "p.csv").open()))

    plain, rare = run(), run("--prevalence", "0.02")
    assert [row["prediction"] for row in plain] == [row["prediction"] for row in rare]
    before, after = (np.array([float(row["probability"]) for row in rows]) for rows in (plain, rare))
    assert np.all(before >= after) and np.mean(before > after) > 0.5
    told = float(re.findall(r"review is from probability (\S+) on", caplog.text)[-1])  # as the CSV has it
    called = np.array([row["prediction"] == "PNEUMONIA" for row in rare])
    assert 0 < called.sum() < len(called) and told < 0.5
    assert after[called].min() >= told * 0.999 and after[~called].max() <= told * 1.001  # it has four digits
    isotonic = [float(row["probability"]) for row in run("--calibration", "isotonic")]
    assert np.all(np.diff(np.array(isotonic)[np.argsort([float(row["probability"]) for row in plain])]) >= 0)
    both = [float(row["probability"]) for row in run("--calibration", "isotonic", "--prevalence", "0.1")]
    labels = validation_scores(Predictor(tiny_run, device="cpu"))[0]
    np.testing.assert_allclose(both, at_prevalence(np.array(isotonic), labels.mean(), 0.1), atol=1e-9)
    wrong = (("--prevalence", "1.5"), "between 0 and 1"), (("--operating_point", "x"), "no operating point x")
    for options, message in wrong:
        with pytest.raises(SystemExit, match="2"):
            run(*options)
        assert message in capsys.readouterr().err


def test_subgroups_are_the_figures_of_their_films(tiny_run: Path, films_folder: Path, cache_dir: Path) -> None:
    table = load_data(films_folder)["test"]
    count = len(table)
    columns = {"sex": ["F"] * (count // 2) + ["M"] * (count - count // 2), "age": [3.0] * 30 + [50.0] * (count - 30)}
    for name, values in columns.items():
        table = table.remove_columns(name).add_column(name, values)
    predictor = Predictor(tiny_run, device="cpu")
    films, _ = decode_films(table, predictor.image_processor, cache_dir)
    metrics, rows = evaluate_films(predictor, [films], "m", "d", "test")
    probs, groups = np.array([row["probability"] for row in rows]), metrics["subgroups"]
    assert groups["age 40 to 64"] == {"n": count - 30, "note": "fewer than 20 films"}
    women = np.array(films.table["sex"]) == "F"
    expected = metrics_with_intervals(
        films.labels[women], probs[women], predictor.settings.threshold, films.patient_ids[women]
    )
    for name in ("roc_auc", "sensitivity", "specificity"):
        if name in groups["sex F"]:
            assert groups["sex F"][name] == expected[name]
    assert "specificity" in groups["sex F"] and "specificity" not in groups.get("bacteria", {})
    assert not [name for name in groups if name.startswith("shorter side")]  # films of one size are no groups


def test_answers_counted_and_their_errors() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    rows = [
        {"flag": flag, "prediction": "PNEUMONIA" if p >= 0.5 else "NORMAL", "probability": p}
        for flag, p in (("", 0.1), ("review", 0.9), ("abstain", 0.4), ("review", 0.95), ("not_chest_xray", 0.2))
    ]
    summary = abstention_summary(labels, rows, {"error_rate": 0.1, "normal_up_to": 0.3, "pneumonia_from": 0.6})
    assert (summary["answered"], summary["abstained"], summary["not_chest_xray"]) == (0.6, 1, 1)
    assert summary["of_the_answered"] == {"accuracy": pytest.approx(2 / 3), "sensitivity": 1, "specificity": 0.5}
    assert summary["label_possible"] == {"NORMAL": 0.5, "PNEUMONIA": pytest.approx(1 / 3)}


def test_risk_falls_with_coverage_when_scores_mean_something() -> None:
    labels, probs = np.array([1, 1, 0, 0, 1]), np.array([0.99, 0.8, 0.05, 0.3, 0.4])
    coverage, risk = risk_coverage(labels, probs, 0.5)
    np.testing.assert_allclose(coverage, [0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_allclose(risk, [0, 0, 0, 0, 0.2])

"""What `evaluate` writes: metrics, figures and the page."""

import json
from pathlib import Path

import pytest

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from tests.conftest import write_films


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of another size, and names without a subtype."""
    root = write_films(tmp_path_factory.mktemp("elsewhere"), {"test": (21, 30)}, size=(120, 90))
    for path in root.rglob("*.jpeg"):
        path.rename(path.with_name(f"film{path.stem[-4:].replace('_', '')}{path.parent.name[0]}.jpeg"))
    return root


def test_external_validation_says_what_was_lost(tiny_run: Path, elsewhere: Path, tmp_path: Path, caplog) -> None:
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
    for heading in (
        "External validation",
        "Where pneumonia is rarer",
        "Without an answer",
        "Checklists",
        "Calibration",
    ):
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
    points = {point["name"]: point["threshold"] for point in Predictor(tiny_run).settings.operating_points}
    options = ["--data", str(films_folder), "--output_dir", str(tmp_path), "--cache_dir", str(cache_dir)]
    main(["evaluate", "--model", str(tiny_run), "--operating_point", "specificity@0.95", "--docx", *options])
    assert (tmp_path / "checklist.docx").read_bytes().startswith(b"PK")  # a zip, as Word's files are
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["decision_threshold"]["value"] == points["specificity@0.95"]
    assert metrics["decision_threshold"]["method"] == "specificity@0.95"
    assert metrics["confusion_matrix"] == metrics["confusion_matrices"]["specificity@0.95"]
    assert "external" not in metrics and "trained on" not in caplog.text  # its own test


def test_of_a_few_films_it_is_said_that_they_are_few(tiny_run: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    films = write_films(tmp_path / "films", {"train": (2, 2)})
    options = ["--split", "train", "--output_dir", str(tmp_path)]
    main(["evaluate", "--model", str(tiny_run), "--data", str(films), *options])
    assert "2 patients are few" in caplog.text
    assert "may have been trained on" not in caplog.text  # their names are the public set's, and no more
    assert "2 patients are few: the intervals are too narrow" in (tmp_path / "index.html").read_text()

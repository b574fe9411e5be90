"""One evaluation: figures of subgroups, and what it is worth not to answer."""

from pathlib import Path

import numpy as np
import pytest

from pneumo_hf import Predictor
from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.abstention import abstention_summary, risk_coverage
from pneumo_hf.evaluation.evaluate import evaluate_films
from pneumo_hf.evaluation.metrics import metrics_with_intervals
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom


def test_subgroups_are_the_figures_of_their_films(tiny_run: Path, films_folder: Path, cache_dir: Path) -> None:
    table = load_data(films_folder)["test"]
    count = len(table)
    columns = {"sex": ["F"] * (count // 2) + ["M"] * (count - count // 2), "age": [3.0] * 30 + [50.0] * (count - 30)}
    columns["patient_id"] = [f"p{number}" for number in range(count)]
    for name, values in columns.items():
        table = table.remove_columns(name).add_column(name, values)
    predictor = Predictor(tiny_run, device="cpu")
    films, _ = decode_films(table, predictor.image_processor, cache_dir)
    evaluation = evaluate_films(predictor, [films], "m", "d", "test")
    probs, groups = evaluation.probs, evaluation.metrics["subgroups"]
    assert groups["age 40 to 64"] == {"n": count - 30, "note": "fewer than 20 films"}
    assert evaluation.metrics["gaps"] == {}  # fewer than 20 patients of a label in either
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


def test_manufacturers_of_dicom_headers_are_groups_with_a_gap(tiny_run: Path, tmp_path: Path) -> None:
    for number in range(100):
        label, maker = number % 2, ("Fuji", "AGFA")[number // 50]
        film = make_film(number, bool(label) and number < 65)  # what the second shows is often no pneumonia
        folder = tmp_path / "films" / "test" / ("NORMAL", "PNEUMONIA")[label]
        folder.mkdir(parents=True, exist_ok=True)
        tags = {"Manufacturer": maker, "PatientPosition": "HFS", "PatientID": str(number)}
        (folder / f"{number}.dcm").write_bytes(dicom(film, **tags))
    predictor = Predictor(tiny_run, device="cpu")
    films, _ = decode_films(load_data(tmp_path / "films")["test"], predictor.image_processor, tmp_path / "cache")
    metrics = evaluate_films(predictor, [films], "m", "d", "test", explain=False).metrics
    by_maker = [metrics["subgroups"][f"manufacturer {maker}"] for maker in ("FUJI", "AGFA")]
    assert [group["n"] for group in by_maker] == [50, 50]
    assert not [name for name in metrics["subgroups"] if name.startswith("patient position")]  # of one kind all
    found = metrics["gaps"]["manufacturer"]["sensitivity"]
    low, high = found["ci95"]
    assert found["value"] == pytest.approx(by_maker[0]["sensitivity"]["value"] - by_maker[1]["sensitivity"]["value"])
    assert (found["largest"], found["least"], found["groups"]) == ("FUJI", "AGFA", 2)
    assert 0 < low < found["value"] < high and 0.1 < found["detectable"] < 0.6

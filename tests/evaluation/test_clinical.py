"""Age, sex and view beside the score: what is known to be there is found, and what leaks is refused."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit
from scipy.stats import norm

from pneumo_hf import Predictor
from pneumo_hf.__main__ import main
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.clinical import assert_usable, fit_clinical, fuse
from pneumo_hf.evaluation.ensembles import load_predictor
from pneumo_hf.evaluation.metrics import areas
from pneumo_hf.inference.clinical import CLINICAL, load_clinical
from tests.conftest import as_options, make_film

BY_FILM, BY_AGE = 1.6, 0.9  # how many standard deviations apart pneumonia lies


def simulated(films: int, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, list]]:
    """Labels, scores calibrated on the film alone, and ages whose mean differs by label."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, films)
    evidence = random.standard_normal(films) + BY_FILM * labels
    ages = 50 + 15 * (random.standard_normal(films) + BY_AGE * labels)
    sex = random.choice(["F", "M"], films)
    table = {"age": ages.tolist(), "sex": sex.tolist()}
    return labels, expit(BY_FILM * (evidence - BY_FILM / 2)), table


def area(labels: np.ndarray, probs: np.ndarray) -> float:
    return float(areas(labels, probs, np.ones((1, len(labels))))[0][0])


def test_the_roc_area_rises_by_what_the_age_is_worth() -> None:
    model = fit_clinical(*simulated(4000, 0)[:2], simulated(4000, 0)[2], ["age", "sex"])
    labels, probs, table = simulated(40_000, 1)
    alone, both = norm.cdf(BY_FILM / np.sqrt(2)), norm.cdf(np.hypot(BY_FILM, BY_AGE) / np.sqrt(2))
    assert area(labels, probs) == pytest.approx(alone, abs=0.005)
    assert area(labels, fuse(model, probs, table)) == pytest.approx(both, abs=0.005)
    assert model.weight == pytest.approx(1, abs=0.1) and model.columns["age"]["per_year"] == pytest.approx(
        0.06, abs=0.01
    )
    assert abs(model.columns["sex"]["M"] - model.columns["sex"]["F"]) < 0.2  # which says nothing here


def test_what_is_not_known_adds_nothing() -> None:
    labels, probs, table = simulated(4000, 2)
    half = {**table, "age": [None if number % 2 else age for number, age in enumerate(table["age"])]}
    model = fit_clinical(labels, probs, half, ["age", "sex"])
    fused = fuse(model, probs, half)
    assert area(labels, probs) < area(labels, fused) < area(labels, fuse(model, probs, table))
    rare = labels * (np.arange(len(labels)) % 9 == 0) + (1 - labels)  # scores made for another share of pneumonia
    few = np.flatnonzero(rare)
    noise = {"age": [None if i % 2 else float(i * 37 % 90) for i in range(len(few))]}
    useless = fuse(fit_clinical(labels[few], probs[few], noise, ["age"]), probs[few], noise)
    assert area(labels[few], useless) == pytest.approx(area(labels[few], probs[few]), abs=0.004)
    assert model.probability(0.3, {"age": None, "sex": None}) is None
    at_mean = model.probability(0.3, {"age": model.columns["age"]["mean"], "sex": None})
    assert at_mean == pytest.approx(model.probability(0.3, {"age": model.columns["age"]["mean"], "sex": "X"}))
    assert model.probability(0.3, {"age": 90.0}) > at_mean > model.probability(0.3, {"age": 10.0})


@pytest.fixture(scope="module")
def aged_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films beside a CSV of ages: of pneumonia somewhat older, half of the test's unknown; `leak` tells all."""
    folder, random, lines = tmp_path_factory.mktemp("aged"), np.random.default_rng(0), []
    for number in range(240):
        label = number % 2
        Image.fromarray(make_film(number, bool(label), (48, 48))).save(folder / f"{number}.png")
        age = "" if number >= 200 else str(round(50 + 14 * random.standard_normal() + 12 * label))
        split = "train" if number < 160 else "test"
        lines.append(
            (
                f"{number}.png",
                ("NORMAL", "PNEUMONIA")[label],
                split,
                age,
                "FM"[random.integers(2)],
                "AP" if label else "PA",
            )
        )
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split", "age", "sex", "view"), *lines])
    return folder


@pytest.fixture(scope="module")
def clinical_run(aged_films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train_hf import main as train

    run = tmp_path_factory.mktemp("runs") / "clinical"
    train([*recipe(aged_films, run), "--clinical_columns", "age", "sex"])
    return run


def recipe(films: Path, run: Path) -> list[str]:
    return as_options(
        model_name_or_path="baseline-cnn",
        dataset=films,
        cache_dir=run.parent / "cache",
        output_dir=run,
        image_size=48,
        per_device_train_batch_size=8,
        probe_epochs=2,
        num_train_epochs=2,
        learning_rate="5e-3",
        use_cpu="true",
    )


def test_a_training_says_what_the_columns_add_and_leaves_the_checkpoint_stock(clinical_run: Path, tmp_path) -> None:
    from transformers import pipeline

    metrics = json.loads((clinical_run / "report" / "metrics.json").read_text())
    found = metrics["clinical"]
    assert found["known"] == {"age": 0.5, "sex": 1.0}
    low, high = found["difference"]["ci95"]
    assert low <= found["difference"]["value"] <= high and 0 <= found["delong"]["p"] <= 1
    assert "With age, sex" in (clinical_run / "README.md").read_text()
    with (clinical_run / "report" / "predictions_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["probability_clinical"] for row in rows)
    film = tmp_path / "film.png"
    Image.fromarray(make_film(161, True, (48, 48))).save(film)  # of the test
    answers = pipeline("image-classification", model=str(clinical_run))(str(film))
    stock = next(answer["score"] for answer in answers if answer["label"] == "PNEUMONIA")
    own = next(row for row in rows if row["path"].endswith("161.png"))
    assert float(own["probability"]) == pytest.approx(stock, abs=1e-5) != float(own["probability_clinical"])


def test_predict_takes_a_table_and_the_header_of_dicom(clinical_run: Path, tmp_path: Path) -> None:
    from tests.imaging.test_dicom import dicom

    films = tmp_path / "films"
    films.mkdir()
    for name in ("a", "b"):
        Image.fromarray(make_film(7, True, (48, 48))).save(films / f"{name}.png")
    (films / "c.dcm").write_bytes(dicom(make_film(7, True, (48, 48)), PatientAge="071Y", PatientSex="F"))
    (tmp_path / "known.csv").write_text("image,patient age,sex\na.png,20,M\n")
    output = tmp_path / "preds.csv"
    given = ["--clinical", str(tmp_path / "known.csv"), "--output", str(output)]
    main(["predict", "--model", str(clinical_run), str(films), *given])
    with output.open(newline="") as file:
        a, b, c = csv.DictReader(file)
    model = load_clinical(clinical_run)
    assert float(a["probability_clinical"]) == pytest.approx(
        model.probability(float(a["probability"]), {"age": 20, "sex": "M"})
    )
    assert b["probability_clinical"] == b["prediction_clinical"] == ""  # nothing is known of it
    assert b["prediction"] in ("NORMAL", "PNEUMONIA")
    assert float(c["probability_clinical"]) == pytest.approx(
        model.probability(float(c["probability"]), {"age": 71, "sex": "F"})
    )


def test_a_column_that_tells_the_label_is_refused(aged_films: Path, tmp_path: Path) -> None:
    from train_hf import main as train

    with pytest.raises(InputError, match=r"view alone gives away the labels of the films \(ROC AUC 1.00"):
        train([*recipe(aged_films, tmp_path / "run"), "--clinical_columns", "view"])


def test_a_column_that_is_known_of_one_label_or_tells_it_where_it_is_known_is_refused() -> None:
    random, labels = np.random.default_rng(0), np.arange(400) % 2
    for values, what in (
        ([float(random.integers(90)) if label and i % 3 == 0 else None for i, label in enumerate(labels)], "is known"),
        ([("AP" if label else "PA") if i % 3 == 0 else None for i, label in enumerate(labels)], "view alone"),
    ):
        name = "age" if what == "is known" else "view"
        films = SimpleNamespace(endpoint=labels, table={name: values})
        with pytest.raises(InputError, match=f"{what}.* the labels of"):
            assert_usable({"train": films, "validation": films}, [name])


def test_a_run_with_columns_is_still_a_member_of_an_ensemble(clinical_run: Path, aged_films: Path, tmp_path) -> None:
    both = load_predictor([clinical_run, clinical_run])
    assert both.settings.operating_points
    output = ["--calibration", "isotonic", "--output", str(tmp_path / "preds.csv")]
    main(["predict", "--model", str(clinical_run), str(aged_films / "1.png"), *output])
    assert "probability_clinical" not in (tmp_path / "preds.csv").read_text()


def test_a_film_without_an_age_is_answered_in_the_app_and_one_with_it_better(clinical_run: Path, tmp_path) -> None:
    from pneumo_hf.app.reader import Reader
    from tests.imaging.test_dicom import dicom

    reader = Reader(Predictor(clinical_run), None)
    Image.fromarray(make_film(7, True, (80, 80))).save(tmp_path / "film.png")
    (tmp_path / "film.dcm").write_bytes(dicom(make_film(7, True, (80, 80)), PatientAge="071Y", PatientSex="F"))
    png, dcm = (str(tmp_path / name) for name in ("film.png", "film.dcm"))
    found = reader.read(png)
    _, _, *known = reader.show(found, png)
    assert known == [None, None, None]
    page, _ = reader.decide(found, png, 0.5, *known)
    assert "Probability of pneumonia" in page and "Nothing is known beside the film" in page
    assert "With age 0" in reader.decide(found, png, 0.5, 0, "", "")[0]  # a newborn
    other = reader.read(dcm)
    _, _, *known = reader.show(other, dcm)
    expected = load_clinical(clinical_run).probability(other["result"]["probability"], {"age": 71.0, "sex": "F"})
    page, _ = reader.decide(other, dcm, 0.5, *known)
    assert known[:2] == [71.0, "F"] and f"With age 71, sex F: {expected:.1%}" in page
    late, _ = reader.decide(found, dcm, 0.5, *known)  # of a film that is no longer chosen
    assert "Reading" in late and "%" not in late and reader.show(found, dcm)[:2] == ("", "")


@pytest.mark.parametrize(
    ("columns", "message"),
    [("weight", "weight is none of age, sex, view"), ("sex", r"too few train films say their sex \(0, 5 needed\)")],
)
def test_a_column_that_is_not_there_is_refused(films_folder: Path, tmp_path: Path, columns, message) -> None:
    from train_hf import main as train

    with pytest.raises(InputError, match=message):
        train([*recipe(films_folder, tmp_path / "run"), "--clinical_columns", columns])


@pytest.mark.parametrize(
    "change",
    [{"weight": float("nan")}, {"columns": {"age": {"mean": 3}}}, {"columns": {"shoe": {"a": 1}}}, {"more": 1}],
)
def test_a_damaged_file_is_one_line(clinical_run: Path, tmp_path: Path, change) -> None:
    values = json.loads((clinical_run / CLINICAL).read_text())
    (tmp_path / CLINICAL).write_text(json.dumps(values | change))
    with pytest.raises(InputError, match=f"{CLINICAL} of .* is damaged"):
        load_clinical(tmp_path)

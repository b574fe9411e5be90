"""The model in models/: what its card says is what anyone measures."""

import csv
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torch import nn
from transformers import pipeline

from pneumo_hf import Predictor, load_xray
from pneumo_hf.__main__ import main
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.hub.scan import LOCAL_PATH
from pneumo_hf.inference.conformal import conformal_limits
from tests.conftest import make_film
from tests.imaging.test_dicom import dicom

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "models" / "pneumo-efficientnet"
SAMPLE = ROOT / "data" / "chest_xray_sample"


def test_it_is_folded_and_neither_scores_nor_distances_move() -> None:
    predictor = Predictor(SHIPPED, device="cpu")
    assert isinstance(predictor.network.efficientnet.embeddings.padding, nn.Identity)
    slow = [type(module).__name__ for module in predictor.network.modules()]
    assert "BatchNorm2d" not in slow and "EfficientNetSqueezeExciteLayer" not in slow
    assert "BatchNorm2d" in [type(module).__name__ for module in predictor.model.modules()]
    of_network, of_model = (
        {module.inplace for module in part.modules() if isinstance(module, nn.ReLU6)}
        for part in (predictor.network, predictor.model)
    )
    assert (of_network, of_model) == ({True}, {False})  # Grad-CAM reads what a ReLU would write over
    pixels = torch.from_numpy(
        np.stack([predictor.resize(load_xray(make_film(number, True)))[0] for number in range(4)])
    )
    quick = predictor.predict_with_outliers(pixels)
    predictor.network = predictor.model
    for ours, theirs in zip(quick, predictor.predict_with_outliers(pixels), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("measured")
    options = ["--output_dir", str(folder), "--cache_dir", str(folder / "cache"), "--device", "cpu"]
    main(["evaluate", "--model", str(SHIPPED), "--data", str(SAMPLE), *options])
    return json.loads((folder / "metrics.json").read_text())


def test_its_figures_are_reproduced_on_the_embedded_films(measured: dict) -> None:
    stated = json.loads((SHIPPED / "report" / "metrics.json").read_text())
    assert (measured["n"], measured["n_patients"]) == (stated["n"], stated["n_patients"]) and stated["n"] == 624
    assert measured["decision_threshold"] == stated["decision_threshold"]
    for name, metric in stated["metrics"].items():
        assert measured["metrics"][name]["value"] == pytest.approx(metric["value"], abs=0.004), name
    card = (SHIPPED / "README.md").read_text()
    assert f"| ROC AUC | {stated['metrics']['roc_auc']['value']:.3f} |" in card and "diagnos" in card
    assert measured["abstention"]["not_chest_xray"] <= 0.02 * stated["n"]
    assert "external" not in measured  # the same test by another name


def test_it_is_small_and_speaks_of_itself_alone() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size < 12e6
    for path in SHIPPED.rglob("*"):
        if path.suffix in {".json", ".yaml", ".md", ".csv", ".html"}:
            text = path.read_text()
            assert not LOCAL_PATH.search(re.sub(r"base64,[\w+/=]+", "", text)), path
    assert not list(SHIPPED.rglob("*.bin")) and not list(SHIPPED.rglob("*.pt"))


def test_the_stock_pipeline_gives_the_predictors_scores() -> None:
    films = [
        load_xray(read_film(row["image"])) for row in list(list_films(SAMPLE / "test-00000-of-00001.parquet"))[::100]
    ]
    classify = pipeline("image-classification", model=str(SHIPPED), device="cpu")
    answers = classify([film.convert("RGB") for film in films])
    stock = [next(score["score"] for score in answer if score["label"] == "PNEUMONIA") for answer in answers]
    ours = [answer["probability"] for answer in Predictor(SHIPPED, device="cpu")(films)]
    np.testing.assert_allclose(stock, ours, atol=1e-5)


def test_the_readmes_first_lines_run_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    section = (ROOT / "README.md").read_text().split("## Use the shipped model")[1]
    found: dict = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], found)
    answer = Predictor(SHIPPED, device="cpu")(["docs/film.jpeg"])[0]
    assert found["scores"]["PNEUMONIA"] == pytest.approx(answer["probability"], abs=1e-5)
    assert found["flagged"] and answer["flag"] == "review"
    sample = {read_film(row["image"]) for row in list_films(SAMPLE / "test-00000-of-00001.parquet")}
    assert (ROOT / "docs" / "film.jpeg").read_bytes() in sample


def test_conformal_limits_hold_on_folds_of_its_validation_films() -> None:
    with (SHIPPED / "report" / "predictions_validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([row["label"] == "PNEUMONIA" for row in rows]).astype(int)
    probs = np.array([float(row["probability"]) for row in rows])
    possible = {0: [], 1: []}
    for fit, held_out in StratifiedKFold(10, shuffle=True, random_state=0).split(probs, labels):
        limits = conformal_limits(labels[fit], probs[fit])
        possible[0] += list(probs[held_out][labels[held_out] == 0] <= limits["normal_up_to"])
        possible[1] += list(probs[held_out][labels[held_out] == 1] >= limits["pneumonia_from"])
    for label in (0, 1):
        assert np.mean(possible[label]) == pytest.approx(0.95, abs=0.02)


def test_a_lateral_film_gets_no_answer_and_the_reason() -> None:
    film = np.asarray(load_xray(ROOT / "docs" / "film.jpeg"))
    frontal, lateral = Predictor(SHIPPED, device="cpu")([dicom(film, ViewPosition=view) for view in ("AP", "LL")])
    assert (frontal["flag"], frontal["error"]) == ("review", "")
    assert (lateral["flag"], lateral["error"]) == ("abstain", "a lateral view: frontal films alone are read")
    assert lateral["probability"] == frontal["probability"]


@pytest.mark.shared
def test_photographs_and_bones_are_no_chest_films(shared: Path) -> None:
    with zipfile.ZipFile(shared / "data" / "ood_sample.zip") as archive:
        pictures = [archive.read(name) for name in archive.namelist() if name.endswith(".jpg")]
    predictor = Predictor(SHIPPED, device="cpu")
    flagged = [answer["flag"] == "not_chest_xray" for answer in predictor(pictures)]
    assert sum(flagged) >= 9
    grey = [np.asarray(load_xray(picture)) for picture in pictures]  # what no colour gives away
    assert sum(answer["flag"] == "not_chest_xray" for answer in predictor(grey)) >= 9

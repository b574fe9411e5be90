import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pneumo_hf import Predictor, load_xray
from pneumo_hf.__main__ import main
from pneumo_hf.data.files import read_film
from pneumo_hf.data.listing import list_films
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.ensembles import load_predictor
from pneumo_hf.imaging.quality import quality_issue
from pneumo_hf.inference.conformal import conformal_limits, undecided
from pneumo_hf.inference.outliers import fit_detector, synthetic_outliers
from tests.conftest import ROOT, make_film


def photograph(seed: int, coloured: bool = False) -> np.ndarray:
    """No chest: a few bright squares and lines on a dark ground."""
    random = np.random.default_rng(seed)
    picture = np.zeros((96, 96, 3), np.uint8)
    for _ in range(12):
        x, y = random.integers(0, 80, 2)
        picture[y : y + 16, x : x + 16] = random.integers(0, 256, 3) if coloured else random.integers(0, 256)
    return picture


def test_each_label_is_left_out_as_often_as_was_stated() -> None:
    random, left_out = np.random.default_rng(0), {0: [], 1: []}
    for _ in range(300):
        labels = (random.random(400) < 0.7).astype(int)
        probs = 1 / (1 + np.exp(-(2.5 * (2 * labels - 1) + 1.5 * random.standard_normal(400))))
        limits = conformal_limits(labels[:200], probs[:200], 0.1)
        labels, probs = labels[200:], probs[200:]
        left_out[0].append(np.mean(probs[labels == 0] > limits["normal_up_to"]))
        left_out[1].append(np.mean(probs[labels == 1] < limits["pneumonia_from"]))
    assert 0.08 <= np.mean(left_out[0]) <= 0.1 and 0.08 <= np.mean(left_out[1]) <= 0.1


def test_the_middle_is_undecided_and_few_films_leave_no_label_out() -> None:
    between = {"normal_up_to": 0.3, "pneumonia_from": 0.8}  # neither label there
    assert undecided(np.array([0.1, 0.3, 0.5, 0.8, 0.9]), between).tolist() == [False, False, True, False, False]
    both = {"normal_up_to": 0.8, "pneumonia_from": 0.3}
    assert undecided(np.array([0.1, 0.3, 0.5, 0.8, 0.9]), both).tolist() == [False, True, True, True, False]
    assert conformal_limits(np.array([0, 1, 1]), np.array([0.2, 0.7, 0.9]), 0.05) is None


def test_the_detector_passes_what_is_like_training_and_not_the_rest() -> None:
    random = np.random.default_rng(0)
    mixing = random.standard_normal((6, 40))
    draw = lambda n: random.standard_normal((n, 6)) @ mixing + 0.1 * random.standard_normal((n, 40)) + 3  # noqa: E731
    detector = fit_detector(draw(400), draw(200), made=draw(100) + 2 * random.standard_normal((100, 40)))
    assert np.mean(detector.distances(draw(500)) > 1) < 0.02
    assert np.mean(detector.distances(draw(100) + 4 * random.standard_normal((100, 40))) > 1) > 0.98


def test_pictures_made_to_fail_keep_the_films_pixels_but_not_their_places() -> None:
    films = torch.from_numpy(np.stack([make_film(seed, False, (64, 64)) for seed in range(6)]))[:, None]
    made = synthetic_outliers(films)
    assert made.shape == films.shape and made.dtype == torch.uint8
    for number in range(3):
        assert torch.equal(made[number], films[2 * number].rot90(1, (1, 2)))
        assert torch.equal(made[3 + number].sort().values.sum(), films[2 * number + 1].sum())
        assert not torch.equal(made[3 + number], films[2 * number + 1])


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (make_film(1, True), ""),
        (np.full((90, 90), 70, np.uint8), "blank"),
        (photograph(3, coloured=True), "a colour picture"),
        (make_film(1, True, (40, 90)), "smaller than 64 pixels"),
        (np.stack([make_film(1, True)] * 3, axis=-1) // np.array([1, 1, 2], np.uint8), ""),  # a tint is no colour
    ],
)
def test_shortcomings(picture: np.ndarray, reason: str) -> None:
    assert quality_issue(load_xray(picture)) == reason


@pytest.mark.shared
def test_a_negative_is_told(shared: Path) -> None:
    film = load_xray(read_film(next(iter(list_films(shared / "data" / "chest_xray_fullres_sample.zip")))["image"]))
    assert quality_issue(film) == ""
    assert quality_issue(Image.fromarray(255 - np.asarray(film))).startswith("a negative")


def test_cropped_films_are_told_and_whole_ones_are_not() -> None:
    shards = ROOT / "data" / "chest_xray_sample"
    films = [load_xray(read_film(row["image"])) for row in list_films(*sorted(shards.glob("train-*")))][::10]
    assert len(films) > 30
    parts = [film.crop((0, 0, film.width // 2, film.height)) for film in films]
    told = [quality_issue(part).startswith("not laid out like a chest") for part in parts]
    assert np.mean(told) > 0.4 and np.mean([quality_issue(film) != "" for film in films]) < 0.03


def test_flags_and_their_reasons(tiny_run: Path, films_folder: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    films = sorted((films_folder / "test").rglob("*.jpeg"))
    answers = predictor(films)
    assert np.mean([answer["flag"] == "not_chest_xray" for answer in answers]) < 0.1
    predictor.settings.conformal_limits = {"normal_up_to": 0.2, "pneumonia_from": 0.9}
    for answer in predictor(films):
        assert (answer["flag"] == "abstain") == (0.2 < answer["probability"] < 0.9) or answer["error"]
    pictures = predictor([photograph(seed) for seed in range(10)])
    assert np.mean([picture["flag"] == "not_chest_xray" for picture in pictures]) > 0.8
    assert "times the limit" in next(picture["error"] for picture in pictures if picture["flag"] == "not_chest_xray")
    coloured = predictor([photograph(1, coloured=True)])[0]
    assert (coloured["flag"], coloured["error"]) == ("not_chest_xray", "a colour picture")
    assert coloured["probability"] is not None


def test_operating_points_by_name(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    thresholds = {point["name"]: point["threshold"] for point in predictor.settings.operating_points}
    assert {"youden", "sensitivity@0.95", "specificity@0.95", "f1", "cost@5"} <= set(thresholds)
    predictor.settings.use("specificity@0.95")
    assert (predictor.settings.threshold, predictor.settings.method) == (
        thresholds["specificity@0.95"],
        "specificity@0.95",
    )
    with pytest.raises(InputError, match="no operating point sensitivity@0.5, only youden, "):
        predictor.settings.use("sensitivity@0.5")


@pytest.mark.parametrize(
    ("normal_up_to", "pneumonia_from", "also_above"), [(0.2, 0.6, False), (0.6, 0.2, False), (0.2, 0.8, True)]
)
def test_predict_tells_between_which_scores_it_abstains(
    normal_up_to: float,
    pneumonia_from: float,
    also_above: bool,
    tiny_run: Path,
    films_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    unsure = shutil.copytree(tiny_run, tmp_path / "unsure")
    settings = json.loads((unsure / "config.json").read_text())
    limits = {"error_rate": 0.05, "normal_up_to": normal_up_to, "pneumonia_from": pneumonia_from}
    (unsure / "config.json").write_text(json.dumps(settings | {"abstention": limits, "decision_threshold": 0.7}))
    command = ["predict", "--model", str(unsure), str(films_folder / "test"), "--output", str(tmp_path / "p.csv")]
    for options in [], ["--operating_point", "specificity@0.95"], ["--prevalence", "0.02"]:
        caplog.clear()
        main([*command, *options])
        lower, upper = map(float, re.findall(r"between (\S+) and (\S+) no label is sure", caplog.text)[0])
        with (tmp_path / "p.csv").open() as file:
            flags = {float(row["probability"]): row["flag"] for row in csv.DictReader(file) if not row["error"]}
        between = [flag for score, flag in flags.items() if lower * 1.001 < score < upper * 0.999]  # of four digits
        assert between and set(between) == {"abstain"}
        if not options or options[0] == "--prevalence":  # at the threshold of .7
            assert ("abstained, also above the threshold" in caplog.text) == also_above
        beside = {flag for score, flag in flags.items() if not lower * 0.999 <= score <= upper * 1.001}
        assert beside and "abstain" not in beside
    (unsure / "config.json").write_text(json.dumps(settings | {"abstention": None}))
    caplog.clear()
    main(command)
    assert "no label is sure" not in caplog.text


def test_what_can_only_be_pneumonia_does_not_leave_as_normal(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    predictor.settings.conformal_limits, predictor.settings.threshold = (
        {"normal_up_to": 0.3, "pneumonia_from": 0.5},
        0.6,
    )
    assert [predictor.settings.decide(p)["flag"] for p in (0.2, 0.4, 0.55, 0.7)] == [
        "",
        "abstain",
        "abstain",
        "review",
    ]


def test_a_damaged_detector_is_named(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "chest_detector.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="chest_detector.safetensors of .* is damaged"):
        Predictor(tmp_path / "run")


def test_an_ensembles_members_without_a_detector_do_not_blind_the_others(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "blind")
    (tmp_path / "blind" / "chest_detector.safetensors").unlink()
    ensemble = load_predictor([tiny_run, tmp_path / "blind"], device="cpu")
    alone = Predictor(tiny_run, device="cpu")
    pictures = [photograph(seed) for seed in range(6)]
    flags = [[answer["flag"] for answer in model(pictures)] for model in (ensemble, alone)]
    assert flags[0] == flags[1] and "not_chest_xray" in flags[0]
    ensemble.use("sensitivity@0.95")
    assert ensemble.method == "sensitivity@0.95"

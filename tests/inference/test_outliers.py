"""Pictures that are no chest films are found by their distance from the films of training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pneumo_hf import Predictor
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.ensembles import load_predictor
from pneumo_hf.inference.outliers import fit_detector, synthetic_outliers
from tests.conftest import make_film, make_photograph


def test_the_detector_passes_what_is_like_training_and_not_the_rest() -> None:
    random = np.random.default_rng(0)
    mixing = random.standard_normal((4, 40))
    draw = lambda n: random.standard_normal((n, 4)) @ mixing + 0.1 * random.standard_normal((n, 40)) + 3  # noqa: E731
    detector = fit_detector(draw(400), draw(200), outliers=draw(100) + 2 * random.standard_normal((100, 40)))
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


def test_flags_and_their_reasons(tiny_run: Path, films_folder: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    films = sorted((films_folder / "test").rglob("*.jpeg"))
    answers = predictor(films)
    assert np.mean([answer["flag"] == "not_chest_xray" for answer in answers]) < 0.1
    predictor.settings.conformal_limits = {"normal_up_to": 0.2, "pneumonia_from": 0.9}
    predictor.settings.threshold = 0.5  # a threshold below both limits abstains from nothing
    for answer in predictor(films):
        assert (answer["flag"] == "abstain") == (0.2 < answer["probability"] < 0.9) or answer["error"]
    pictures = predictor([make_photograph(seed) for seed in range(10)])
    assert np.mean([picture["flag"] == "not_chest_xray" for picture in pictures]) > 0.8
    assert "times the limit" in next(picture["error"] for picture in pictures if picture["flag"] == "not_chest_xray")
    coloured = predictor([make_photograph(1, coloured=True)])[0]
    assert (coloured["flag"], coloured["error"]) == ("not_chest_xray", "a colour picture")
    assert coloured["probability"] is not None


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
    pictures = [make_photograph(seed) for seed in range(6)]
    flags = [[answer["flag"] for answer in model(pictures)] for model in (ensemble, alone)]
    assert flags[0] == flags[1] and "not_chest_xray" in flags[0]
    ensemble.settings.use("sensitivity@0.95")
    assert ensemble.settings.method == "sensitivity@0.95"

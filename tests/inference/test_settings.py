"""What `config.json` carries beside the weights, and how it decides."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import ResNetConfig

from pneumo_hf import Predictor
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.quality import ATYPICAL_LAYOUT, QUALITY_ISSUES
from pneumo_hf.inference.settings import CheckpointSettings, is_positive

POINTS = [{"name": "youden", "threshold": 0.4}, {"name": "sensitivity@0.95", "threshold": 0.2}]
LIMITS = {"error_rate": 0.05, "normal_up_to": 0.3, "pneumonia_from": 0.5}
SETTINGS = CheckpointSettings(
    threshold=0.4,
    method="youden",
    operating_points=POINTS,
    conformal_limits=LIMITS,
    temperature=1.7,
    preprocessing={"size": [224, 224], "clahe": False},
    training_data={"dataset": "films", "kermany": True, "prevalence_of_scores": 0.6},
)
PLAIN = {"prediction": "NORMAL", "flag": "", "error": ""}


@pytest.mark.parametrize("settings", [SETTINGS, CheckpointSettings()])
def test_what_is_written_is_what_is_read(settings: CheckpointSettings) -> None:
    assert CheckpointSettings.from_config(settings.to_config()) == settings
    assert CheckpointSettings.from_config(json.loads(json.dumps(settings.to_config()))) == settings


def test_a_stock_config_carries_them_through_a_file(tmp_path) -> None:
    config = ResNetConfig()
    for key, value in SETTINGS.to_config().items():
        setattr(config, key, value)
    config.save_pretrained(tmp_path)
    assert CheckpointSettings.from_config(ResNetConfig.from_pretrained(tmp_path).to_dict()) == SETTINGS


def test_a_strangers_checkpoint_has_nothing_chosen() -> None:
    settings = CheckpointSettings.from_config(ResNetConfig().to_dict())
    assert settings == CheckpointSettings()
    assert (settings.threshold, settings.is_calibrated) == (0.5, False)
    assert settings.chosen_on.startswith("nothing")
    assert settings.abstention_band() is None
    assert settings.prevalence_of_scores is None and not settings.trained_on_kermany
    assert settings.decide(0.5)["flag"] == "review"


@pytest.mark.parametrize("value", ["LIDC-IDRI", ["a", "b"], None, 3])
def test_a_strangers_training_data_may_be_anything(value: object) -> None:
    settings = CheckpointSettings.from_config({"training_data": value})
    assert settings.training_data == {} and settings.prevalence_of_scores is None


@pytest.mark.parametrize(
    "value",
    [
        {"decision_threshold": "high"},
        {"decision_threshold": [0.5]},
        {"operating_points": "none"},
        {"abstention": True},
        {"preprocessing": "imagenet"},
    ],
)
def test_a_strangers_keys_of_the_same_names_mean_nothing_here(value: dict) -> None:
    settings = CheckpointSettings.from_config(value)
    assert settings == CheckpointSettings()
    assert settings.decide(0.7)["flag"] == "review"


def test_a_threshold_without_a_method_is_of_version_0_1() -> None:
    settings = CheckpointSettings.from_config({"decision_threshold": 0.3, "abstention": None})
    assert (settings.threshold, settings.method, settings.chosen_on) == (0.3, "youden", "validation")
    assert CheckpointSettings.from_config({"decision_threshold": 1}).threshold == 1.0


def test_the_threshold_itself_is_positive() -> None:
    assert is_positive(0.4, 0.4) and not is_positive(0.4 - 1e-9, 0.4)
    assert is_positive(np.array([0.3, 0.4, 0.5]), 0.4).tolist() == [False, True, True]


def test_another_operating_point_decides_from_then_on() -> None:
    settings = CheckpointSettings.from_config(SETTINGS.to_config())
    assert list(settings.thresholds) == ["youden", "sensitivity@0.95"]
    settings.conformal_limits = None
    assert settings.decide(0.3) == PLAIN
    settings.use("sensitivity@0.95")
    assert settings.decide(0.3) == {"prediction": "PNEUMONIA", "flag": "review", "error": ""}
    assert settings.decide(0.3, threshold=0.4) == PLAIN
    assert settings.thresholds == {"sensitivity@0.95": 0.2, "youden": 0.4}
    with pytest.raises(InputError, match="no operating point f1, only youden, sensitivity@0.95"):
        settings.use("f1")
    with pytest.raises(InputError, match="only none"):
        CheckpointSettings().use("f1")


def test_the_quality_of_a_film_comes_before_its_score() -> None:
    settings = CheckpointSettings(threshold=0.4, method="youden")
    for issue, flag in QUALITY_ISSUES.items():
        assert settings.decide(0.9, 0.5, issue) == {"prediction": "PNEUMONIA", "flag": flag, "error": issue}
    far = settings.decide(0.9, 1.5, ATYPICAL_LAYOUT)
    assert far["flag"] == "not_chest_xray" and "1.50 times the limit" in far["error"]
    assert settings.decide(0.1, 1.0) == PLAIN  # at the limit it is still like the films of training


def test_the_band_is_where_it_abstains() -> None:
    for limits in (LIMITS, {**LIMITS, "normal_up_to": 0.7}):
        for threshold in (0.2, 0.4, 0.6, 0.9):
            settings = CheckpointSettings(threshold=threshold, method="youden", conformal_limits=limits)
            low, high = settings.abstention_band() or (1, 0)
            assert (low == 1) == (threshold < min(limits["normal_up_to"], limits["pneumonia_from"]))
            scores = np.linspace(0.005, 0.995, 100)
            abstained = [settings.decide(score)["flag"] == "abstain" for score in scores]
            assert abstained == ((scores > low) & (scores < high)).tolist()


def test_no_score_gets_a_weaker_answer_than_a_lower_one() -> None:
    for limits in (LIMITS, {**LIMITS, "normal_up_to": 0.7}):
        for threshold in (0.02, 0.2, 0.4, 0.6, 0.9):
            settings = CheckpointSettings(threshold=threshold, method="youden", conformal_limits=limits)
            flags = [settings.decide(score)["flag"] for score in np.linspace(0.005, 0.995, 100)]
            assert flags == sorted(flags, key=["", "abstain", "review"].index)


def test_a_run_carries_its_operating_points(tiny_run: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu")
    thresholds = {point["name"]: point["threshold"] for point in predictor.settings.operating_points}
    assert {"youden", "sensitivity@0.95", "specificity@0.95", "f1", "cost@5"} <= set(thresholds)
    predictor.settings.use("specificity@0.95")
    assert predictor.settings.threshold == thresholds["specificity@0.95"]
    assert predictor.settings.method == "specificity@0.95"
    with pytest.raises(InputError, match="no operating point sensitivity@0.5, only youden, "):
        predictor.settings.use("sensitivity@0.5")


def test_what_can_only_be_pneumonia_does_not_leave_as_normal(tiny_run: Path) -> None:
    settings = Predictor(tiny_run, device="cpu").settings
    settings.conformal_limits = {"normal_up_to": 0.3, "pneumonia_from": 0.5}
    settings.threshold = 0.6
    flags = [settings.decide(probability)["flag"] for probability in (0.2, 0.4, 0.55, 0.7)]
    assert flags == ["", "abstain", "abstain", "review"]

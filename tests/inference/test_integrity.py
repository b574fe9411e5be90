"""A checkpoint that is not whole, or whose numbers are none, is refused in one line that names file and key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pneumo_hf import Predictor
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.ensembles import load_predictor
from pneumo_hf.inference.settings import CheckpointSettings
from pneumo_hf.training.distillation import Teachers
from pneumo_hf.training.models import load_backbone

NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "run")


def poisoned(path: Path, change: Callable[[dict], object]) -> None:
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    else:
        value = load_file(path)
        change(value)
        save_file(value, path, metadata={"format": "pt"})


def refused(run: Path, load: Callable = lambda run: Predictor(run, device="cpu")) -> str:
    with pytest.raises(InputError) as error:
        load(run)
    assert "\n" not in str(error.value) and "run" in str(error.value)
    return str(error.value)


WAYS = {
    "one": lambda run: Predictor(run, device="cpu"),
    "an ensemble": lambda run: load_predictor([run, run], "cpu"),
    "a teacher": lambda run: Teachers([str(run)], clahe=False, autocast=None),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_of_another_architecture_are_refused(way: str, run: Path) -> None:
    weights = run / "model.safetensors"
    poisoned(weights, lambda values: values.update({"classifier.2.weight": torch.ones(2)}))
    assert "1 tensors have no place in it, classifier.2.weight among them" in refused(run, WAYS[way])
    poisoned(weights, lambda values: values.pop("classifier.2.weight"))
    poisoned(weights, lambda values: values.update({"classifier.1.weight": torch.ones(2, 5)}))
    assert "classifier.1.weight is [2, 5], and should be [2, 128]" in refused(run, WAYS[way])


def test_counters_of_older_checkpoints_are_harmless(run: Path, films_folder: Path) -> None:
    film = next((films_folder / "test").rglob("*.jpeg"))
    expected = Predictor(run, device="cpu")([film])
    counters = {"embeddings.position_ids": torch.arange(5), "resnet.extra.num_batches_tracked": torch.tensor(3)}
    poisoned(run / "model.safetensors", lambda values: values.update(counters))
    assert Predictor(run, device="cpu")([film]) == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_weights_that_are_no_numbers_are_refused(value: float, way: str, run: Path) -> None:
    poisoned(run / "model.safetensors", lambda values: values["classifier.1.bias"].fill_(value))
    assert "classifier.1.bias has values that are not finite numbers" in refused(run, WAYS[way])


def test_training_does_not_start_from_weights_that_are_no_numbers(run: Path) -> None:
    poisoned(run / "model.safetensors", lambda values: values["classifier.1.bias"].fill_(NAN))
    names = {"id2label": {0: "NORMAL", 1: "PNEUMONIA"}, "label2id": {"NORMAL": 0, "PNEUMONIA": 1}}
    assert "classifier.1.bias" in refused(run, lambda run: load_backbone(str(run), 48, names))


@pytest.mark.parametrize("value", [NAN, INFINITE, -0.1, 7, "high", [0.5], True])
def test_a_threshold_that_is_none_is_refused(value: object, run: Path) -> None:
    poisoned(run / "config.json", lambda config: config.update(decision_threshold=value))
    assert f"run/config.json: decision_threshold is {value}, and should be a number from 0 to 1" in refused(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("calibration_temperature", NAN),
        ("calibration_temperature", 0),
        ("calibration_temperature", "1.7"),
        ("operating_points", "none"),
        ("operating_points[0]", {"name": "youden", "threshold": NAN}),
        ("operating_points[0]", {"name": "youden"}),
        ("operating_points[0]", 3),
        ("abstention", [0.1, 0.2]),
        ("abstention.normal_up_to", NAN),
        ("abstention.pneumonia_from", "0.5"),
        ("training_data.prevalence_of_scores", NAN),
    ],
)
def test_what_a_checkpoint_decides_by_must_be_numbers(key: str, value: object, run: Path) -> None:
    def change(config: dict) -> None:
        if key.endswith("[0]"):
            config["operating_points"] = [value]
        elif "." in key:
            name, part = key.split(".")
            config[name] = {"normal_up_to": 0.3, "pneumonia_from": 0.5} if name == "abstention" else {}
            config[name][part] = value
        else:
            config[key] = value

    poisoned(run / "config.json", change)
    assert f"run/config.json: {key} is {value}, and should be " in refused(run)


def test_limits_that_are_missing_are_refused() -> None:
    config = CheckpointSettings(conformal_limits={"normal_up_to": 0.3}).to_config()
    with pytest.raises(InputError, match=r"config.json: abstention.pneumonia_from is missing"):
        CheckpointSettings.from_config(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_mean", [NAN, 0.5, 0.5]),
        ("image_mean", ["a", "b", "c"]),
        ("image_mean", [0.5, 0.5]),
        ("image_std", [0.5, INFINITE, 0.5]),
        ("image_std", [0.5, 0, 0.5]),
        ("rescale_factor", NAN),
        ("rescale_factor", "1/255"),
    ],
)
def test_means_and_deviations_must_be_numbers(key: str, value: object, run: Path) -> None:
    poisoned(run / "preprocessor_config.json", lambda config: config.update({key: value}))
    assert key in refused(run) and "run/preprocessor_config.json" in refused(run)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("mean", lambda values: values * NAN),
        ("scale", lambda values: values * 0),
        ("components", lambda values: values[:, 1:].contiguous()),
        ("components", lambda values: values * INFINITE),
        ("variances", lambda values: values[1:].clone()),
        ("variances", lambda values: -values),
        ("noise", lambda values: values.repeat(2)),
        ("limit", lambda values: values * NAN),
        ("limit", lambda values: values.to(torch.int32)),
    ],
)
def test_a_detector_must_be_of_one_piece(key: str, change: Callable, run: Path) -> None:
    poisoned(run / "chest_detector.safetensors", lambda values: values.update({key: change(values[key])}))
    assert "chest_detector.safetensors of" in refused(run)


def test_a_detector_of_another_network_is_said(run: Path) -> None:
    poisoned(
        run / "chest_detector.safetensors",
        lambda values: values.update(
            mean=values["mean"][1:].clone(),
            scale=values["scale"][1:].clone(),
            components=values["components"][:, 1:].contiguous(),
        ),
    )
    predictor = Predictor(run, device="cpu")
    with pytest.raises(InputError, match=r"chest_detector.safetensors is of another network: it has \d+ channels"):
        predictor([np.zeros((80, 80), np.uint8) + np.arange(80, dtype=np.uint8)])


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_scores_of_validation_that_are_none_are_named(value: str, run: Path) -> None:
    path = run / "report" / "predictions_validation.csv"
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    path.write_text("\n".join([lines[0], ",".join([*cells[:3], value, *cells[4:]]), *lines[2:]]))
    assert "predictions_validation.csv is no predictions file" in refused(run, WAYS["an ensemble"])


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07" * 100])
def test_a_damaged_export_is_named(content: bytes, run: Path) -> None:
    pytest.importorskip("onnxruntime")
    (run / "onnx").mkdir()
    (run / "onnx" / "model.onnx").write_bytes(content)
    assert "onnx/model.onnx of" in refused(run, lambda run: Predictor(run, backend="onnx"))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(hidden_sizes="none"),
        lambda config: config.update(depths=[1, 1]),
        lambda config: config.update(hidden_act="nothing"),
        lambda config: config.update(id2label=3),
        lambda config: config.pop("model_type"),
    ],
)
def test_a_config_that_describes_no_network_is_one_line(change: Callable, run: Path) -> None:
    poisoned(run / "config.json", change)
    assert refused(run)


@pytest.mark.parametrize("depths", [[2**63, 1, 1, 1], [1, [1, 1e308], 1, 1], 2000])
def test_more_layers_than_there_are_weights_are_refused_at_once(depths: object, run: Path) -> None:
    poisoned(run / "config.json", lambda config: config.update(depths=depths))
    assert "config.json: depths is" in refused(run) and "tensors in all" in refused(run)
    assert "config.json: depths is" in refused(run, lambda run: load_backbone(str(run), 48, {}))

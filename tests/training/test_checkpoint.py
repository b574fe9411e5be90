"""The trained model becomes a checkpoint that loads anywhere, and a damaged one is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from pneumo_hf import Predictor, load_xray
from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.calibration import fit_temperature
from pneumo_hf.evaluation.robustness import score_randomly_corrupted
from pneumo_hf.training.checkpoint import save_calibrated
from pneumo_hf.training.models import load_model
from tests.conftest import SHARED, make_film
from tests.training.common import decoded
from train_hf import main


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe)


def test_half_precision_weights_are_half_as_large_and_serve_the_same_scores(tiny_recipe, tmp_path: Path) -> None:
    main([*tiny_recipe, "--save_dtype", "float16", "--output_dir", str(tmp_path)])
    weights = load_file(tmp_path / "model.safetensors")
    assert {values.dtype for values in weights.values() if values.ndim == 4} == {torch.float16}
    metrics = json.loads((tmp_path / "report" / "metrics_validation.json").read_text())
    assert (
        metrics["decision_threshold"]["value"]
        == json.loads((tmp_path / "config.json").read_text())["decision_threshold"]
    )
    film = load_xray(make_film(7, True))
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    assert classify.model.dtype == torch.float32
    answer = {row["label"]: row["score"] for row in classify(film.convert("RGB"))}
    assert answer["PNEUMONIA"] == pytest.approx(Predictor(tmp_path, device="cpu")([film])[0]["probability"], abs=1e-5)


@pytest.mark.shared
def test_a_hidden_head_loads_by_its_own_code_anywhere(tiny_recipe, shared: Path, tmp_path: Path) -> None:
    """Trained on frozen features, undersampled; the checkpoint carries the code that reads it."""
    options = ["--model_name_or_path", str(SHARED / "checkpoints" / "resnet-50"), "--head_size", "16"]
    options += ["--num_train_epochs", "0", "--sampler", "undersample", "--dropout", "0.5", "--probe_epochs", "5"]
    run = tmp_path / "run"
    main([*tiny_recipe, *options, "--output_dir", str(run)])
    frozen = load_file(SHARED / "checkpoints" / "resnet-50" / "model.safetensors")
    weights = load_file(run / "model.safetensors")
    assert weights["classifier.1.weight"].shape == (16, 2048) and weights["classifier.4.weight"].shape == (2, 16)
    name = "resnet.encoder.stages.3.layers.2.layer.2.convolution.weight"
    assert torch.equal(frozen[name].float(), weights[name])
    assert "trust_remote_code=True" in (run / "README.md").read_text()
    load_xray(make_film(7, True)).convert("RGB").save(tmp_path / "film.png")
    code = (
        "import sys; from transformers import pipeline\n"
        f"p = pipeline('image-classification', model={str(run)!r}, trust_remote_code=True, device='cpu')\n"
        f"print({{r['label']: r['score'] for r in p({str(tmp_path / 'film.png')!r})}}['PNEUMONIA'])\n"
        "assert not any(name.startswith('pneumo_hf') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = Predictor(run, device="cpu")([tmp_path / "film.png"])[0]["probability"]
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-5)


def test_no_checkpoints_own_code_is_run(tiny_run: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(tiny_run, evil)
    config = json.loads((evil / "config.json").read_text()) | {"model_type": "evil"}
    names = {"AutoConfig": "evil.EvilConfig", "AutoModelForImageClassification": "evil.Evil"}
    (evil / "config.json").write_text(json.dumps(config | {"auto_map": names}))
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="code of its own"):
        Predictor(evil)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_named(tiny_run: Path, tmp_path: Path) -> None:
    pointer = tmp_path / "pointer"
    shutil.copytree(tiny_run, pointer)
    (pointer / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="LFS pointer"):
        Predictor(pointer)


def test_what_is_missing_of_a_folder_is_named(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors missing"):
        Predictor(tmp_path / "run")


@pytest.mark.parametrize("device", ["meta", "hpu", "a toaster"])
def test_a_device_that_is_not_there_is_named(device: str, tiny_run: Path) -> None:
    with pytest.raises(InputError, match=f"device {device} cannot be used here"):
        Predictor(tiny_run, device=device)


def test_figures_of_former_weights_are_not_kept(tiny_run: Path, films, tiny_recipe, tmp_path: Path) -> None:
    former = [tmp_path / "report" / "external_elsewhere.json", tmp_path / "onnx" / "model.onnx"]
    for path in former:
        path.parent.mkdir()
        path.write_text("{}")
    again = Predictor(tiny_run, device="cpu")
    save_calibrated(
        again.model, again.image_processor, films, parse_args([*tiny_recipe, "--output_dir", str(tmp_path)])
    )
    assert not any(path.exists() for path in former)


def test_a_hidden_head_is_for_a_resnet(tiny_recipe) -> None:
    with pytest.raises(InputError, match="head_size"):
        load_model(
            parse_args([*tiny_recipe, "--model_name_or_path", "efficientnet-lite0", "--head_size", "8"])[0],
            "~/.cache/pneumo_hf",
        )


def test_clahe_is_in_training_in_the_predictor_and_said_to_the_pipeline(tiny_recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*tiny_recipe, "--clahe", "true", "--output_dir", str(run)])
    assert json.loads((run / "config.json").read_text())["preprocessing"]["clahe"] is True
    assert "clahe=True" in (run / "README.md").read_text()
    film = make_film(7, True)
    equalised = load_xray(film, clahe=True)
    assert (
        np.abs(np.diff(np.asarray(equalised).astype(float))).mean() > 1.3 * np.abs(np.diff(film.astype(float))).mean()
    )
    classify = pipeline("image-classification", model=str(run), device="cpu")
    score = {row["label"]: row["score"] for row in classify(equalised.convert("RGB"))}["PNEUMONIA"]
    plain = {row["label"]: row["score"] for row in classify(load_xray(film).convert("RGB"))}["PNEUMONIA"]
    own = Predictor(run, device="cpu")([film])[0]["probability"]
    assert score == pytest.approx(own, abs=1e-5) and abs(plain - own) > 1e-4


def test_a_film_too_small_to_equalise_is_read_as_it_is(tiny_run: Path, tmp_path: Path) -> None:
    equalising = tmp_path / "equalising"
    shutil.copytree(tiny_run, equalising)
    settings = json.loads((equalising / "preprocessor_config.json").read_text()) | {"clahe": True}
    (equalising / "preprocessor_config.json").write_text(json.dumps(settings))
    tiny, good = Predictor(equalising, device="cpu")([np.zeros((6, 6), np.uint8), make_film(1, True)])
    plain = Predictor(tiny_run, device="cpu")([np.zeros((6, 6), np.uint8)])[0]["probability"]
    assert tiny["probability"] == pytest.approx(plain, abs=1e-6)
    assert good["probability"] is not None


def test_tensorboard_gets_the_log_of_either_stage(tiny_recipe, tmp_path: Path) -> None:
    options = ["--report_to", "tensorboard", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]
    main([*tiny_recipe, *options])
    for stage in ("stage1", "stage2"):
        assert list((tmp_path / "run" / "tensorboard" / stage).glob("events.out.tfevents.*"))
    with pytest.raises(InputError, match="report_to nowhere: nowhere is not supported"):
        main([*tiny_recipe, "--report_to", "nowhere", "--output_dir", str(tmp_path / "other")])


def test_the_temperature_can_be_fitted_on_corrupted_films_too(
    tiny_run: Path, films, tiny_recipe, tmp_path: Path
) -> None:
    predictor, validation, found = Predictor(tiny_run, device="cpu"), films["validation"], {}
    clean = predictor.predict_dataset(validation)[0]
    corrupted = score_randomly_corrupted(predictor, validation)
    assert corrupted.shape == clean.shape and np.mean(np.abs(corrupted - clean) > 0.1) > 0.3
    np.testing.assert_array_equal(corrupted, score_randomly_corrupted(predictor, validation))  # the same at every call
    for calibration in ("validation", "corrupted"):
        folder = tmp_path / calibration
        arguments = parse_args([*tiny_recipe, "--calibration_data", calibration, "--output_dir", str(folder)])
        again = Predictor(tiny_run, device="cpu")
        save_calibrated(again.model, again.image_processor, films, arguments)
        found[calibration] = json.loads((folder / "config.json").read_text())["calibration_temperature"]
    expected = fit_temperature(np.concatenate([clean, corrupted]), np.tile(validation.labels, 2))
    assert found["corrupted"] == pytest.approx(expected, rel=1e-3) != pytest.approx(found["validation"], rel=1e-3)

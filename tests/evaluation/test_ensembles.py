import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pneumo_hf import Predictor, load_xray
from pneumo_hf.__main__ import main
from pneumo_hf.app.answers import Answers
from pneumo_hf.app.films import read_film_file, report_film_file
from pneumo_hf.app.interface import build_app
from pneumo_hf.app.verdict import verdict_html
from pneumo_hf.evaluation.calibration import fit_temperature
from pneumo_hf.evaluation.ensembles import load_predictor
from pneumo_hf.inference.explain import GradCam, insertion_and_deletion
from pneumo_hf.training.head import final_linear
from tests.conftest import make_film
from train_hf import main as train

FILMS = [make_film(seed, pneumonia=bool(seed % 2)) for seed in range(5)]


@pytest.fixture(scope="module")
def second_run(tiny_recipe, tmp_path_factory) -> Path:
    """Another seed on the split of the first, and films of another size."""
    run = tmp_path_factory.mktemp("runs") / "second"
    train([*tiny_recipe, "--seed", "7", "--split_seed", "42", "--image_size", "64", "--output_dir", str(run)])
    return run


@pytest.fixture(scope="module")
def stranger(tiny_recipe, tmp_path_factory) -> Path:
    """Another seed, and so another split."""
    run = tmp_path_factory.mktemp("runs") / "stranger"
    train([*tiny_recipe, "--seed", "7", "--num_train_epochs", "1", "--output_dir", str(run)])
    return run


def read_csv(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def log_odds(rows: list[dict]) -> np.ndarray:
    probs = np.clip(np.array([row["probability"] for row in rows], dtype=float), 1e-12, 1 - 1e-12)
    return np.log(probs / (1 - probs))


def test_its_heatmap_is_the_mean_of_its_members(tiny_run: Path, second_run: Path) -> None:
    ensemble = load_predictor([tiny_run, second_run], device="cpu")
    small, large = (
        torch.from_numpy(np.stack(part))
        for part in zip(*(ensemble.resize(load_xray(film)) for film in FILMS), strict=True)
    )
    maps = GradCam(ensemble)(small, large)
    assert maps.shape == (5, 48, 48) and maps.max() == pytest.approx(1)
    parts = []
    for member, pixels in zip(ensemble.members, (small, large), strict=True):
        pixel_values = member.normalize(pixels)
        seen = []  # the last map before pooling: with one linear layer behind it, its weights are the gradient
        hook = member.model.resnet.pooler.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # noqa: B023
        member.model(pixel_values=pixel_values)
        hook.remove()
        weights = final_linear(member.model).weight
        signs = torch.tensor([-1.0, 1.0]) if member.order == [0, 1] else torch.tensor([1.0, -1.0])
        evidence = torch.einsum("bchw,c->bhw", seen[0], signs @ weights).clamp_min(0)[:, None]
        parts.append(torch.nn.functional.interpolate(evidence, (48, 48), mode="bilinear")[:, 0].detach().numpy())
    expected = (parts[0] + parts[1]) / 2
    largest = expected.max(axis=(1, 2), keepdims=True)
    assert np.count_nonzero(largest) >= 2  # a film without evidence has a map of zeros
    np.testing.assert_allclose(maps, expected / np.where(largest, largest, 1), atol=1e-4)
    alone = GradCam(Predictor(tiny_run, device="cpu"))(small)
    assert not np.allclose(maps, alone, atol=0.05)
    twice = load_predictor([tiny_run, tiny_run], device="cpu")
    np.testing.assert_allclose(GradCam(twice)(small, small), alone, atol=1e-6)
    inserted, deleted = insertion_and_deletion(ensemble, maps, small, large)
    assert inserted[-1] == pytest.approx(deleted[0]) == np.mean([row["probability"] for row in ensemble(FILMS)])


def odds(predictor: Predictor, films: list[np.ndarray]) -> np.ndarray:
    parts = zip(*(predictor.resize(load_xray(film)) for film in films), strict=True)
    logits = predictor.logits(*(torch.from_numpy(np.stack(part)) for part in parts))
    return logits[:, 1] - logits[:, 0]


def test_the_mean_of_the_logits_with_a_temperature_of_its_own(tiny_run: Path, second_run: Path) -> None:
    ensemble = load_predictor([tiny_run, second_run], device="cpu")
    mean = (
        log_odds(Predictor(tiny_run, device="cpu")(FILMS)) + log_odds(Predictor(second_run, device="cpu")(FILMS))
    ) / 2
    tables = [read_csv(run / "report" / "predictions_validation.csv") for run in (tiny_run, second_run)]
    assert [row["path"] for row in tables[0]] == [row["path"] for row in tables[1]]
    labels = np.array([row["label"] == "PNEUMONIA" for row in tables[0]]).astype(int)
    validation = (log_odds(tables[0]) + log_odds(tables[1])) / 2
    temperature = fit_temperature(np.stack([np.zeros_like(validation), validation], axis=1), labels)
    np.testing.assert_allclose(odds(ensemble, FILMS), mean / temperature, rtol=1e-4, atol=1e-4)
    assert ensemble.settings.temperature == pytest.approx(temperature)
    assert temperature != pytest.approx(1, abs=1e-3)
    assert {"youden", "sensitivity@0.95"} <= {point["name"] for point in ensemble.settings.operating_points}


def test_evaluate_and_predict_take_several_models(
    tiny_run: Path, second_run: Path, films_folder: Path, tmp_path
) -> None:
    models = ["--model", str(tiny_run), "--model", str(second_run), "--device", "cpu"]
    cache = ["--cache_dir", str(tmp_path / "cache")]
    main(["evaluate", *models, "--data", str(films_folder), *cache, "--output_dir", str(tmp_path / "report")])
    main(["predict", *models, str(films_folder / "test"), "--output", str(tmp_path / "preds.csv")])
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["model"] == f"{tiny_run.name} + {second_run.name}"
    assert metrics["decision_threshold"]["chosen_on"] == "validation"
    evaluated = {Path(row["path"]).name: row for row in read_csv(tmp_path / "report" / "predictions_test.csv")}
    for row in read_csv(tmp_path / "preds.csv"):
        other = evaluated[Path(row["path"]).name]
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
        assert row["prediction"] == other["prediction"]


def test_without_common_validation_films_nothing_is_claimed(tiny_run: Path, stranger: Path, caplog) -> None:
    ensemble = load_predictor([tiny_run, stranger], device="cpu")
    assert "split_seed" in caplog.text
    assert (ensemble.settings.threshold, ensemble.settings.is_calibrated) == (0.5, False)


def test_a_mirrored_film_has_the_same_score_with_flip(tiny_run: Path) -> None:
    plain, flip = Predictor(tiny_run, device="cpu"), load_predictor([tiny_run], device="cpu", flip=True)
    mirrored = [np.ascontiguousarray(film[:, ::-1]) for film in FILMS]
    both = (odds(plain, FILMS) + odds(plain, mirrored)) / 2
    np.testing.assert_allclose(odds(flip, FILMS), both, rtol=1e-3, atol=1e-3)
    assert np.abs(odds(plain, FILMS) - odds(plain, mirrored)).max() > 1e-2
    assert (plain.chosen_on, flip.chosen_on) == ("validation", "validation, without mirroring")


def test_several_models_are_served_by_the_app(tiny_run: Path, second_run: Path) -> None:
    ensemble = load_predictor([tiny_run, second_run], device="cpu")
    build_app(ensemble, Path("nowhere"), Answers(ensemble))
    path = tiny_run.parent / "film.png"
    load_xray(FILMS[0]).save(path)
    result, _ = read_film_file(ensemble, str(path))
    assert f"{ensemble([path])[0]['probability']:.1%}" in verdict_html(ensemble, result, ensemble.settings.threshold)
    assert "Grad-CAM" in Path(report_film_file(ensemble, str(path), ensemble.settings.threshold)).read_text()

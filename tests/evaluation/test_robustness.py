import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from pneumo_hf.data.pixels import decode_films
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.robustness import CORRUPTIONS, SEVERITIES, corrupt, score_corrupted
from pneumo_hf.inference.predictor import Predictor
from tests.conftest import make_film

FILMS = torch.from_numpy(np.stack([make_film(seed, seed % 2 == 0, (96, 96)) for seed in range(4)]))[:, None]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_changes_more_at_each_severity_and_repeats_itself(kind: str) -> None:
    losses = []
    for severity in SEVERITIES:
        corrupted = corrupt(FILMS, kind, severity)
        assert corrupted.shape == FILMS.shape and corrupted.dtype == torch.uint8
        assert torch.equal(corrupted, corrupt(FILMS, kind, severity))
        losses.append(float((corrupted.float() - FILMS.float()).square().mean()))
    assert losses[0] > 0 and losses == sorted(losses)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_small_film_is_corrupted_as_before_it_was_shrunk(kind: str) -> None:
    large = torch.from_numpy(np.stack([make_film(seed, seed % 2 == 0, (224, 224)) for seed in range(4)]))[:, None]
    small = avg_pool2d(large.float(), 2)
    changed = avg_pool2d(corrupt(large, kind, 4).float(), 2) - corrupt(small.round().to(torch.uint8), kind, 4)
    assert changed.abs().mean() < 0.35 * (small - avg_pool2d(corrupt(large, kind, 4).float(), 2)).abs().mean()


def test_noise_does_not_depend_on_how_many_films_a_predictor_takes_at_once(tiny_run, films_folder, cache_dir) -> None:
    predictors = [Predictor(tiny_run, device="cpu", batch_size=size) for size in (8, 32)]
    data = load_data(films_folder)["train"]
    films, _ = decode_films(data, predictors[0].image_processor, cache_dir)
    ways = [{kind: logits for kind, _, logits in score_corrupted(each, films, (3,))} for each in predictors]
    assert len(films) > 40
    np.testing.assert_allclose(ways[0]["noise"], ways[1]["noise"], atol=1e-5)


def test_every_corruption_of_a_split_is_scored(tiny_run, films_folder, cache_dir) -> None:
    predictor = Predictor(tiny_run, device="cpu", batch_size=16)
    films, _ = decode_films(load_data(films_folder)["test"], predictor.image_processor, cache_dir)
    scored = {(kind, severity): logits for kind, severity, logits in score_corrupted(predictor, films, (1, 5))}
    assert len(scored) == 2 * len(CORRUPTIONS)
    assert {logits.shape for logits in scored.values()} == {(len(films), 2)}
    corrupted = predictor.logits(corrupt(films.__getitems__(range(16))["pixel_values"], "blur", 5))
    np.testing.assert_allclose(scored["blur", 5][:16], corrupted, atol=1e-5)

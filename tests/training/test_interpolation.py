"""Weights between those before and those after fine-tuning (WiSE-FT)."""

from pathlib import Path

import pytest
import torch

from pneumo_hf import Predictor
from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.training.head import final_linear
from pneumo_hf.training.models import load_model
from pneumo_hf.training.train import train_stages
from tests.training.common import decoded, trained


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe)


def test_weights_at_one_half_are_the_mean(films, tiny_recipe, tmp_path: Path) -> None:
    weights = [
        trained(films, tiny_recipe, tmp_path / share, "--num_train_epochs", "1", "--wise_ft_alpha", share)[0]
        for share in ("0", "0.5", "1")
    ]
    probed, half, tuned = (final_linear(model).weight.detach() for model in weights)
    assert not torch.allclose(probed, tuned)
    torch.testing.assert_close(half, (probed + tuned) / 2, atol=1e-5, rtol=1e-4)


def test_without_a_probe_they_start_from_the_checkpoint(films, tiny_recipe, tiny_run, tmp_path: Path) -> None:
    options = ["--model_name_or_path", str(tiny_run), "--probe_epochs", "0", "--num_train_epochs", "1"]
    tuned, half = (
        final_linear(trained(films, tiny_recipe, tmp_path / share, *options, "--wise_ft_alpha", share)[0]).weight
        for share in ("1", "0.5")
    )
    began = final_linear(Predictor(tiny_run, device="cpu").model).weight
    assert not torch.allclose(began, tuned)
    torch.testing.assert_close(half, (began + tuned) / 2, atol=1e-5, rtol=1e-4)


def test_a_resumed_run_finds_the_weights_before_stage_two(films, tiny_recipe, tmp_path: Path) -> None:
    options = ["--num_train_epochs", "2", "--save_total_limit", "9", "--wise_ft_alpha", "0.5"]
    whole, _ = trained(films, tiny_recipe, tmp_path, *options)
    model_args, data_args, training_args = parse_args([*tiny_recipe, *options, "--output_dir", str(tmp_path)])
    resumed, processor = load_model(model_args, data_args.cache_dir)
    first = min((tmp_path / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    train_stages(resumed, processor, films, training_args, first)
    torch.testing.assert_close(final_linear(resumed).weight, final_linear(whole).weight, atol=1e-5, rtol=1e-4)

"""A training whose loss or scores are no numbers ends at once, and leaves the last good epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.training.divergence import DivergedError
from pneumo_hf.training.finetune import fine_tuner
from pneumo_hf.training.train import train_stages
from tests.training.common import decoded, fresh, trained


class Poison(TrainerCallback):
    """Makes the weights infinite from a step on, as a step that is too large does."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, model, **_) -> None:
        if state.global_step == self.step:
            torch.nn.init.constant_(next(model.parameters()), float("inf"))


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe)


def diverged(films: dict[str, FilmDataset], recipe: list[str], folder: Path, step: int) -> tuple[str, int, int]:
    """The message, the step it was said at, and the steps of an epoch."""
    model, processor = fresh(recipe)
    arguments = parse_args([*recipe, "--output_dir", str(folder)]).training
    trainer = fine_tuner(model, processor, films, arguments, resumed=None)
    trainer.add_callback(Poison(step))
    with pytest.raises(DivergedError) as error:
        trainer.train()
    assert isinstance(error.value, InputError) and "\n" not in str(error.value)
    return str(error.value), trainer.state.global_step, -(-len(films["train"]) // 8)


def test_a_loss_that_is_no_number_stops_at_the_next_step(films, tiny_recipe, tmp_path: Path) -> None:
    message, reached, _ = diverged(films, tiny_recipe, tmp_path, step=3)
    assert reached == 3 and "diverged in epoch 1: the loss is not a finite number" in message
    assert "no epoch was finished before" in message and "learning_rate" in message


def test_the_last_good_epoch_is_kept(films, tiny_recipe, tmp_path: Path) -> None:
    steps = -(-len(films["train"]) // 8)
    message, reached, _ = diverged(films, tiny_recipe, tmp_path, step=steps + 2)
    kept = tmp_path / "checkpoints" / f"checkpoint-{steps}"
    assert reached == steps + 2 and f"the last good epoch is kept in {kept}" in message
    assert all(torch.isfinite(values).all() for values in load_file(kept / "model.safetensors").values())
    model, _ = fresh([*tiny_recipe, "--model_name_or_path", str(kept)])  # from which another training starts
    assert torch.equal(model.classifier[-1].weight, load_file(kept / "model.safetensors")["classifier.1.weight"])


def test_scores_of_validation_that_are_no_numbers_are_not_saved(films, tiny_recipe, tmp_path: Path) -> None:
    steps = -(-len(films["train"]) // 8)
    message, _, _ = diverged(films, tiny_recipe, tmp_path, step=2 * steps)  # the last of an epoch: no loss shows it
    assert "a score of validation is not a finite number" in message
    assert f"kept in {tmp_path / 'checkpoints' / f'checkpoint-{steps}'}" in message
    assert not (tmp_path / "checkpoints" / f"checkpoint-{2 * steps}").exists()


def test_the_probe_stops_too(films, tiny_recipe, tmp_path: Path) -> None:
    model, processor = fresh(tiny_recipe)
    torch.nn.init.constant_(next(model.parameters()), float("inf"))
    arguments = parse_args([*tiny_recipe, "--output_dir", str(tmp_path)]).training
    with pytest.raises(DivergedError, match="in epoch 1: the loss is not a finite number; no epoch"):
        train_stages(model, processor, films, arguments)


def test_watching_changes_no_weight(films, tiny_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, _ = trained(films, [*tiny_recipe, "--num_train_epochs", "1"], tmp_path / "watched")
    monkeypatch.setattr("pneumo_hf.training.divergence.Divergence.watch", lambda self, loss: None)
    alone, _ = trained(films, [*tiny_recipe, "--num_train_epochs", "1"], tmp_path / "alone")
    for ours, theirs in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())

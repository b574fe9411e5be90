"""What is trained, what is frozen, what is run twice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.processor import Normalize
from pneumo_hf.training import probe
from pneumo_hf.training.finetune import fine_tuner
from pneumo_hf.training.head import final_linear
from pneumo_hf.training.layers import checkpoint_blocks, freeze_below, freeze_statistics
from pneumo_hf.training.losses import class_weights
from pneumo_hf.training.models import load_model
from tests.conftest import make_trainer
from tests.training.common import decoded, pixels, trained


@pytest.fixture(scope="module")
def films(tiny_recipe: list[str]) -> dict[str, FilmDataset]:
    return decoded(tiny_recipe)


def test_checkpointed_blocks_keep_less_and_give_the_same_gradients(tiny_recipe) -> None:
    model_args, data_args, _ = parse_args(tiny_recipe)
    kept, gradients = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model, processor = load_model(model_args, data_args.cache_dir)
        nn.init.normal_(final_linear(model).weight)
        freeze_statistics(model)
        if checkpointed:
            checkpoint_blocks(model)
        model.classifier.eval()  # no dropout
        seen = []

        def pack(values: torch.Tensor, seen=seen) -> torch.Tensor:
            seen.append(values.nbytes)
            return values

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
            loss = model.train()(pixel_values=Normalize(processor)(pixels() * 255)).logits[:, 1].sum()
        kept.append(sum(seen))
        torch.manual_seed(1)
        loss.backward()
        gradients.append(model.resnet.embedder.embedder.convolution.weight.grad.clone())
    assert kept[1] < 0.7 * kept[0]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_activation_checkpointing_wants_frozen_statistics(films, tiny_recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="freeze_batch_norm"):
        parse_args([*tiny_recipe, "--activation_checkpointing", "true"])
    options = ("--freeze_batch_norm", "true", "--num_train_epochs", "1", "--dropout", "0")
    plain, _ = trained(films, tiny_recipe, tmp_path / "plain", *options)
    saving, _ = trained(films, tiny_recipe, tmp_path / "saving", *options, "--activation_checkpointing", "true")
    torch.testing.assert_close(final_linear(saving).weight, final_linear(plain).weight, atol=1e-4, rtol=1e-3)


def test_the_stage_on_cached_features_gives_the_weights_of_the_plain_one(films, tiny_recipe, tmp_path: Path) -> None:
    recipe = [*tiny_recipe, "--dropout", "0", "--probe_epochs", "3", "--probe_learning_rate", "1e-2"]
    model_args, data_args, arguments = parse_args([*recipe, "--output_dir", str(tmp_path)])
    models = []
    for cached in (True, False):
        torch.manual_seed(0)
        model, processor = load_model(model_args, data_args.cache_dir)
        if cached:
            probe.train_probe(model, processor, films, arguments)
        else:
            freeze_below(model, "head")
            plain = parse_args([*recipe, "--num_train_epochs", "3", "--learning_rate", "1e-2"])[2]
            plain.output_dir, plain.save_strategy, plain.load_best_model_at_end = str(tmp_path), "no", False
            make_trainer(model, processor, plain, films, class_weights=class_weights(films["train"].labels)).train()
        models.append(model)
    cached, plain = (final_linear(model).weight for model in models)
    assert plain.abs().max() > 1e-2
    torch.testing.assert_close(cached, plain, atol=1e-4, rtol=0)


def test_stage_two_trains_the_layers_asked_for_and_the_probe_the_films_asked_for(
    films, tiny_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_and_last(model: nn.Module) -> list[torch.Tensor]:
        return [model.resnet.embedder.embedder.convolution.weight.detach(), final_linear(model).weight.detach()]

    options = ("--probe_epochs", "0", "--num_train_epochs", "1")
    untrained, _ = trained(films, tiny_recipe, tmp_path / "a", "--probe_epochs", "0", "--num_train_epochs", "0")
    top, _ = trained(films, tiny_recipe, tmp_path / "b", *options, "--trainable_layers", "1")
    whole, _ = trained(films, tiny_recipe, tmp_path / "c", *options)
    start, frozen, free = map(first_and_last, (untrained, top, whole))
    assert torch.equal(start[0], frozen[0]) and not torch.equal(start[0], free[0])
    assert not torch.equal(start[1], frozen[1])
    assert top.resnet.embedder.embedder.convolution.weight.is_contiguous(memory_format=torch.channels_last)

    head, _ = trained(films, tiny_recipe, tmp_path / "e", *options, "--trainable_layers", "head")
    assert torch.equal(start[0], first_and_last(head)[0]) and not torch.equal(start[1], first_and_last(head)[1])

    probed, extract = [], probe.extract_features
    monkeypatch.setattr(
        probe, "extract_features", lambda model, part, *rest: probed.append(part) or extract(model, part, *rest)
    )
    few = ("--probe_epochs", "1", "--num_train_epochs", "0", "--label_smoothing_factor", "0.1")
    trained(films, tiny_recipe, tmp_path / "d", *few, "--sampler", "undersample")
    assert np.bincount(probed[0].labels).tolist() == [np.bincount(films["train"].labels).min()] * 2


@pytest.mark.parametrize("option", [("loss", "focal"), ("label_smoothing_factor", "0.2")])
def test_what_the_loss_is_asked_for_moves_it(option: tuple[str, str], films, tiny_recipe, tmp_path: Path) -> None:
    def loss_with(*options: str) -> float:
        recipe = [*tiny_recipe, "--dropout", "0", "--freeze_batch_norm", "true", "--augmentation", "none", *options]
        model_args, data_args, arguments = parse_args([*recipe, "--output_dir", str(tmp_path)])
        torch.manual_seed(0)
        model, processor = load_model(model_args, data_args.cache_dir)
        nn.init.normal_(final_linear(model).weight)
        trainer = fine_tuner(model, processor, films, arguments, resumed=None)
        torch.manual_seed(1)
        return trainer.compute_loss(model.train(), films["train"].__getitems__(range(16))).item()

    name, value = option
    plain = loss_with()
    assert loss_with() == plain
    assert abs(loss_with(f"--{name}", value) - plain) > 1e-3

"""The classifier on top of a backbone: found by what it does, replaced, and calibrated."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.functional import dropout
from transformers import PreTrainedModel, ResNetForImageClassification

from pneumo_hf.errors import InputError
from pneumo_hf.inference.folding import final_linear
from pneumo_hf.inference.hidden_head import HiddenHeadResNet, HiddenHeadResNetConfig


def classifier_head(model: PreTrainedModel) -> nn.Module:
    """Find what stage one trains, and turns features `[B, F]` into logits: the last linear layer.

    Of the one architecture of our own it is the whole classifier, hidden layer and all.
    """
    return model.classifier if isinstance(model, HiddenHeadResNet) else final_linear(model)


@contextmanager
def catch_features(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collect what enters the classifier, `[B, F]` a batch, whatever the architecture."""
    caught: list[torch.Tensor] = []
    head = classifier_head(model)
    hook = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].flatten(1)), prepend=True)
    try:
        yield caught
    finally:
        hook.remove()


def check_head(model: PreTrainedModel, image_size: int) -> None:
    """Make sure that the scores are the output of `final_linear` for one row of features a film.

    Raises:
        InputError: they are not: then neither stage one nor the calibration would be what they claim to be.
    """
    answers: list[torch.Tensor] = []
    linear = final_linear(model)
    before = linear.weight.detach().clone()
    nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(0))  # a fresh one may be of zeros
    hook = linear.register_forward_hook(lambda _, __, output: answers.append(output))
    logits = _answer(model, image_size)
    hook.remove()
    with torch.no_grad():
        linear.weight.copy_(before)
    same = len(answers) == 1 and answers[0].shape == logits.shape
    if not same or not torch.allclose(answers[0], logits, equal_nan=True):
        raise InputError(f"{type(model).__name__} is not supported: its scores are not those of one linear classifier")


def set_dropout(model: PreTrainedModel, probability: float, image_size: int) -> None:
    """Drop features out ahead of the classifier, in training; modules and keys stay those of the stock model.

    Dropout that the architecture has there itself is turned off.
    """
    outputs: list[tuple[nn.Dropout, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
        for module in model.modules()
        if isinstance(module, nn.Dropout)
    ]
    with catch_features(model) as features:
        _answer(model, image_size)
    for hook in hooks:
        hook.remove()
    for module, output in outputs:
        if output.data_ptr() == features[0].data_ptr():  # outside of training it hands on what it was given
            module.p = 0.0
    final_linear(model).register_forward_pre_hook(partial(_drop, probability))


def _drop(probability: float, linear: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return dropout(inputs[0], probability, linear.training)


@torch.no_grad()
def _answer(model: PreTrainedModel, image_size: int) -> torch.Tensor:
    training = model.training
    noise = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    logits = model.eval()(pixel_values=noise).logits
    model.train(training)
    return logits


def with_hidden_head(model: PreTrainedModel, size: int, dropout: float) -> HiddenHeadResNet:
    """Give a backbone a hidden layer before the classifier: the one head that is not stock."""
    if not isinstance(model, ResNetForImageClassification):
        raise InputError(f"head_size is for a ResNet, and this is {model.config.model_type}: leave it out")
    values = {
        key: value for key, value in model.config.to_dict().items() if key not in ("model_type", "architectures")
    }
    config = HiddenHeadResNetConfig(**values, head_size=size, head_dropout=dropout)
    larger = HiddenHeadResNet(config)
    larger.resnet = model.resnet
    return larger


def fold_temperature(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits by a temperature inside the last linear layer: exact, and the model stays stock."""
    with torch.no_grad():
        for values in final_linear(model).parameters():
            values /= temperature


def reset_classifier(model: PreTrainedModel) -> None:
    """Start the last linear layer from zeros: then the probe is convex, and its result depends on no draw."""
    for values in final_linear(model).parameters():
        nn.init.zeros_(values)

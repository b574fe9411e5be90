"""Layers in their order, from the input to the classifier: what is trained, what is frozen, what is run twice."""

from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pneumo_hf.training.head import classifier_head


def weight_layers(model: PreTrainedModel) -> list[list[nn.Module]]:
    """List the layers from the input to the classifier: a convolution or linear layer each, and what comes with it.

    Whatever else has parameters (norms, embeddings, layer scale, the tokens of a transformer) belongs to the layer
    before it in the module tree, at the very input to the first. Of each module the parameters are meant that are its
    own, not its children's: every parameter is in exactly one layer.
    """
    layers: list[list[nn.Module]] = [[]]
    for module in model.modules():
        if not isinstance(module, _BatchNorm) and next(module.parameters(recurse=False), None) is None:
            continue
        if isinstance(module, _ConvNd | nn.Linear) and any(isinstance(m, _ConvNd | nn.Linear) for m in layers[-1]):
            layers.append([])
        layers[-1].append(module)
    return layers


def decays(module: nn.Module, name: str, values: nn.Parameter) -> bool:
    """Return whether a module's own parameter is a weight, and no bias, norm, embedding, token or layer scale."""
    if isinstance(module, _ConvNd | nn.Linear):
        return name == "weight"
    return name.endswith("weight") and values.squeeze().ndim > 1 and not isinstance(module, nn.Embedding)


def freeze_below(model: PreTrainedModel, trainable: str) -> None:
    """Freeze all but the top layers, the BatchNorm statistics too.

    Args:
        trainable: "all", "head" (the classifier alone), or the number of layers with weights from the top.
    """
    layers = weight_layers(model)
    if trainable == "head":
        within = set(classifier_head(model).modules())
        count = sum(not within.isdisjoint(layer) for layer in layers)
    else:
        count = len(layers) if trainable == "all" else int(trainable)
    for layer in layers[: max(0, len(layers) - count)]:
        for module in layer:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            if isinstance(module, _BatchNorm):
                freeze_statistics(module)


def freeze_unused(model: PreTrainedModel, image_size: int) -> None:
    """Freeze what no score depends on, such as the token for masked patches, or a pooling layer that is passed over.

    Several processes would wait for its gradients for ever.
    """
    training, device = model.training, next(model.parameters()).device
    noise = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    model.eval()(pixel_values=noise.to(device)).logits.sum().backward()
    for values in model.parameters():
        if values.grad is None:
            values.requires_grad_(False)
    model.zero_grad()
    model.train(training)


def freeze_statistics(model: nn.Module) -> None:
    """Keep the running statistics of every BatchNorm as they are, in training too; its scale and shift may learn."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, KeepsStatistics):
            kind = type(module)
            module.__class__ = type(f"Frozen{kind.__name__}", (KeepsStatistics, kind), {})


class KeepsStatistics(nn.Module):
    """Keeps its running statistics: Trainer calls `model.train()` at every step, so `.eval()` once would not last."""

    def train(self, mode: bool = True) -> "KeepsStatistics":
        return super().train(False)


def checkpoint_blocks(model: PreTrainedModel) -> None:
    """Keep only the inputs of the blocks for the backward pass and run them again there: less memory, more time.

    By transformers where the architecture has blocks made for it (some say that it is supported, and have none);
    elsewhere each element of the innermost lists of modules.
    """
    if any(isinstance(module, GradientCheckpointingLayer) for module in model.modules()):
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for blocks in lists:
        if any(isinstance(inner, nn.ModuleList) for block in blocks for inner in block.modules()):
            continue  # its blocks are checkpointed themselves
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

"""Layers in their order, from the input to the classifier: what is trained, what is frozen, what is run twice."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


def weight_layers(model: PreTrainedModel) -> list[list[nn.Module]]:
    """List the layers with weights from the input to the classifier, each with the normalisation that follows it."""
    layers = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.append([module])
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1].append(module)
    return layers


def freeze_below(model: PreTrainedModel, trainable: str) -> None:
    """Freeze all but the top layers, the BatchNorm statistics too.

    Args:
        trainable: "all", "head" (the classifier alone), or the number of layers with weights from the top.
    """
    layers = weight_layers(model)
    if trainable == "head":
        within = set(model.classifier.modules())
        count = sum(layer[0] in within for layer in layers)
    else:
        count = len(layers) if trainable == "all" else int(trainable)
    for layer in layers[: max(0, len(layers) - count)]:
        for module in layer:
            module.requires_grad_(False)
            freeze_statistics(module)


def freeze_statistics(model: nn.Module) -> None:
    """Keep the running statistics of every BatchNorm as they are, in training too; its scale and shift may learn."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = FrozenBatchNorm2d


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Keeps its running statistics: Trainer calls `model.train()` at every step, so `.eval()` once would not last."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)


def checkpoint_blocks(model: PreTrainedModel) -> None:
    """Keep only the inputs of the blocks for the backward pass and run them again there: less memory, more time.

    These architectures do not support transformers' own gradient checkpointing.
    """
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

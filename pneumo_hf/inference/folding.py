"""What is folded into weights: BatchNorm, padding and constant gates, for the same scores in less time; and, into the
last linear layer, what recalibration does to the scores."""

import copy
import logging
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import PreTrainedModel

from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)

AGREEMENT = 1e-4  # the largest difference, of a logit and in parts of the largest feature; rounding makes one of 1e-5


def folded(model: PreTrainedModel, example: torch.Tensor, padding: bool) -> PreTrainedModel:
    """Copy a network so that it scores faster with the same features; itself, where nothing can be folded.

    Args:
        model: in evaluation mode.
        example: pixel values `[B, 3, H, W]`, on which the copy must agree; it does not
            where a BatchNorm stands elsewhere than behind the convolution listed before it, or where what an
            activation takes is also a shortcut. padding: whether to fold that, too; of use on a CPU.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    with torch.no_grad():
        faster = fold_batch_norm(fold_constant_gates(copy.deepcopy(model)))
        if padding:
            fold_padding(faster)
        activate_in_place(faster)
        ours, expected = (network(pixel_values=example, output_hidden_states=True) for network in (faster, model))
    if torch.allclose(ours.logits, expected.logits, rtol=0, atol=AGREEMENT) and all(
        torch.allclose(one, other, rtol=0, atol=AGREEMENT * float(other.abs().max()))
        for one, other in zip(ours.hidden_states or (), expected.hidden_states or (), strict=True)
    ):
        return faster
    logger.info("the network stays as it is: folded, it would give other scores or features")
    return model


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Merge every BatchNorm that follows a convolution of as many channels into its weights. In place."""
    before = ("", None)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = name, module
        elif isinstance(module, nn.BatchNorm2d) and before[1] and before[1].out_channels == module.num_features:
            model.set_submodule(before[0], fuse_conv_bn_eval(before[1], module))
            model.set_submodule(name, nn.Identity())
            before = ("", None)
    return model


def fold_padding(model: nn.Module) -> nn.Module:
    """Turn zeros on two sides ahead of a convolution, which cost a copy of every film, into zeros of its kernel.

    A kernel of 3 x 3 behind a row and a column of zeros is one of 4 x 4, its first row and column zero, padded evenly.
    Measured on a CPU alone (`benchmarks/scaling.py scoring`). In place.
    """
    for parent in model.modules():
        for (name, padding), (_, convolution) in pairwise(parent.named_children()):
            if not isinstance(padding, nn.ZeroPad2d) or not isinstance(convolution, nn.Conv2d):
                continue
            unpadded = convolution.padding in ("valid", (0, 0)) and convolution.padding_mode == "zeros"
            if unpadded and convolution.dilation == (1, 1) and min(padding.padding) >= 0:
                most = max(padding.padding)
                kernel = pad(convolution.weight, [most - side for side in padding.padding])
                convolution.weight, convolution.padding = nn.Parameter(kernel), (most, most)
                convolution.kernel_size = tuple(kernel.shape[2:])
                parent.set_submodule(name, nn.Identity())
    return model


def activate_in_place(model: nn.Module) -> None:
    """Let ReLU and its like write over their input: memory costs more than arithmetic here."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = True


def fold_constant_gates(model: nn.Module) -> nn.Module:
    """Merge squeeze-excite gates of a bias alone, the same for every film, into the next convolution.

    EfficientNet-Lite0 inside the stock EfficientNet has no others (`training/backbones.py`). In place.
    """
    for block in model.modules():
        gate = getattr(block, "squeeze_excite", None)
        if gate is not None and not gate.expand.weight.any():
            block.projection.project_conv.weight.mul_(gate.expand.bias.sigmoid()[:, None, None])
            block.squeeze_excite = nn.Identity()
    return model


def final_linear(model: PreTrainedModel) -> nn.Linear:
    """Find the last linear layer with as many outputs as there are labels: calibration is folded into it.

    Raises:
        InputError: there is none.
    """
    count = model.config.num_labels
    found = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == count]
    if not found:
        raise InputError(f"{type(model).__name__} has no linear classifier of {count} labels")
    return found[-1]


def fold_recalibration(
    model: PreTrainedModel, offset: float, slope: float, normal: int, example: torch.Tensor
) -> None:
    """Fold offset and slope of the log odds of not being NORMAL into the last linear layer. In place.

    The slope multiplies all logits and the offset is taken off NORMAL's, so that of two labels the log odds become
    `offset + slope * odds`. Of more labels only an offset does that, with a slope of 1.

    Args:
        model: in evaluation mode.
        normal: the number of NORMAL among the logits.
        example: pixel values `[B, 3, H, W]`, on which it is made sure of.

    Raises:
        InputError: the layer has no bias, or the logits are not its output.
    """
    linear = final_linear(model)
    if linear.bias is None:
        raise InputError(f"{type(model).__name__} has no bias in its classifier: an offset has no place there")
    with torch.no_grad():
        expected = model(pixel_values=example).logits * slope
        expected[:, normal] -= offset
        for values in linear.parameters():
            values *= slope
        linear.bias[normal] -= offset
        found = model(pixel_values=example).logits
    if not torch.allclose(found, expected, rtol=1e-4, atol=AGREEMENT):
        raise InputError(f"{type(model).__name__} is not supported: its scores are not those of one linear classifier")

"""The classifier on top of a backbone: found, replaced, and calibrated."""

import torch
from torch import nn
from transformers import PreTrainedModel

from pneumo_hf.errors import InputError
from pneumo_hf.inference.hidden_head import HiddenHeadResNet, HiddenHeadResNetConfig


def set_dropout(model: PreTrainedModel, probability: float) -> None:
    """Set the dropout before the classifier; a ResNet's keys stay those of the stock model."""
    if model.config.model_type == "resnet":
        model.classifier[0] = nn.Sequential(nn.Flatten(), nn.Dropout(probability))
    elif model.config.model_type == "efficientnet":
        model.config.dropout_rate = model.dropout.p = probability
    elif model.config.model_type == "mobilenet_v2":
        model.config.classifier_dropout_prob = model.dropout.p = probability
    else:
        raise InputError(
            f"{model.config.model_type} is not supported: a resnet, efficientnet or mobilenet_v2 checkpoint is"
        )


def with_hidden_head(model: PreTrainedModel, size: int, dropout: float) -> HiddenHeadResNet:
    """Give a backbone a hidden layer before the classifier: the one head that is not stock."""
    if model.config.model_type != "resnet":
        raise InputError(f"head_size is for a ResNet, and this is {model.config.model_type}: leave it out")
    values = {
        key: value for key, value in model.config.to_dict().items() if key not in ("model_type", "architectures")
    }
    config = HiddenHeadResNetConfig(**values, head_size=size, head_dropout=dropout)
    larger = HiddenHeadResNet(config)
    larger.resnet = model.resnet
    return larger


def classifier_head(model: PreTrainedModel) -> nn.Module:
    """Find what turns pooled features `[B, F]` into logits, dropout and all: the very modules of the model."""
    if isinstance(model.classifier, nn.Linear):
        return nn.Sequential(model.dropout, model.classifier)
    return model.classifier


def final_linear(model: PreTrainedModel) -> nn.Linear:
    """Find the last linear layer: what stage one trains, and what the temperature is folded into."""
    return [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]


def fold_temperature(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits by a temperature inside the last linear layer: exact, and the model stays stock."""
    linear = final_linear(model)
    with torch.no_grad():
        linear.weight /= temperature
        linear.bias /= temperature


def reset_classifier(model: PreTrainedModel) -> None:
    """Start the last linear layer from zeros: then the probe is convex, and its result depends on no draw."""
    linear = final_linear(model)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)

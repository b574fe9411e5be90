"""A checkpoint becomes a two-label classifier that trains right, and stays one that the stock pipeline loads."""

import logging
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging as transformers_logging

from pneumo_hf.config import LABELS, InputError, ModelArguments
from pneumo_hf.data.files import is_missing
from pneumo_hf.imaging.processor import make_image_processor
from pneumo_hf.inference.hidden_head import HiddenHeadResNet, HiddenHeadResNetConfig
from pneumo_hf.inference.predictor import why_not_loaded
from pneumo_hf.training.backbones import EMBEDDED, embedded_checkpoint

logger = logging.getLogger(__name__)

BASELINE = "baseline-cnn"
BATCH_NORM_MOMENTUM = 0.1


def load_model(arguments: ModelArguments, cache_dir: str | Path) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The model with a two-label head, and the image processor that it will be saved with.

    The head starts from zeros: then the probe is convex, and its result depends on no draw. That of a stock checkpoint
    which tells these very labels, in this order, stays, and training goes on from it.

    Raises:
        InputError: the checkpoint is neither embedded, nor a local folder, nor to be had from the Hub.
    """
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: number for number, label in enumerate(LABELS)}}
    goes_on = False
    if arguments.model_name_or_path == BASELINE:
        config = ResNetConfig(
            layer_type="basic", embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], **names
        )
        model = ResNetForImageClassification(config)
        image_processor = make_image_processor(None, arguments.image_size, arguments.clahe)
    else:
        checkpoint = arguments.model_name_or_path
        if checkpoint == EMBEDDED:
            checkpoint = str(embedded_checkpoint(cache_dir))
        if is_missing(Path(checkpoint)):
            raise InputError(
                f"there is no checkpoint {checkpoint}; the embedded backbone is --model_name_or_path {EMBEDDED}"
            )
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # else it tells at length that the head is a new one
        try:
            labels = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).id2label
            model, loaded = AutoModelForImageClassification.from_pretrained(
                checkpoint,
                num_labels=len(LABELS),
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                **names,
            )
            goes_on = labels == names["id2label"] and not loaded["missing_keys"] and not loaded["mismatched_keys"]
            image_processor = make_image_processor(checkpoint, arguments.image_size, arguments.clahe)
        except (OSError, ValueError, SafetensorError) as error:
            why = why_not_loaded(checkpoint, error)
            raise InputError(f"{why}; the embedded backbone is --model_name_or_path {EMBEDDED}") from error
        finally:
            transformers_logging.set_verbosity(verbosity)
    if arguments.head_size:
        model = with_hidden_head(model, arguments.head_size, arguments.dropout)
    else:
        set_dropout(model, arguments.dropout)
    if goes_on and not arguments.head_size:
        logger.info("the classifier of %s goes on: it tells %s", arguments.model_name_or_path, " and ".join(LABELS))
    else:
        _fresh_classifier(model)
    mend(model)
    return model, image_processor


def mend(model: PreTrainedModel) -> None:
    """Undo two habits that spoil fine-tuning.

    Keras's BatchNorm momentum (.99) read as torch's makes the running statistics those of the last batch. And these
    models' `forward(**kwargs)` lets Trainer believe that the loss is already divided by the accumulation steps.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    if model.config.model_type == "efficientnet":
        model.config.batch_norm_momentum = BATCH_NORM_MOMENTUM  # for whoever fine-tunes the saved checkpoint
    model.accepts_loss_kwargs = False


def set_dropout(model: PreTrainedModel, probability: float) -> None:
    """Dropout before the classifier, where each architecture has it; a ResNet's keys stay those of the stock model."""
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
    """The same backbone with a hidden layer before the classifier: the one head that is not stock."""
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
    """What turns pooled features `[B, F]` into logits, dropout and all: the very modules of the model."""
    if isinstance(model.classifier, nn.Linear):
        return nn.Sequential(model.dropout, model.classifier)
    return model.classifier


def final_linear(model: PreTrainedModel) -> nn.Linear:
    """The last linear layer: what stage one trains, and what the temperature is folded into."""
    return [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]


def resize_head(model: PreTrainedModel, outputs: int) -> None:
    """Give the classifier more outputs, which start from zero, or take the last ones away; the first ones stay."""
    linear = final_linear(model)
    for name in ("weight", "bias"):
        old = getattr(linear, name)
        new = old.new_zeros(outputs, *old.shape[1:])
        new[: len(old)] = old.detach()[:outputs]
        setattr(linear, name, nn.Parameter(new))
    linear.out_features = outputs


def weight_layers(model: PreTrainedModel) -> list[list[nn.Module]]:
    """The layers with weights from the input to the classifier, each with the normalisation that follows it."""
    layers = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.append([module])
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1].append(module)
    return layers


def freeze_below(model: PreTrainedModel, top_layers: int) -> None:
    """Leave the top layers trainable and freeze the rest, the BatchNorm statistics too; -1 leaves all trainable."""
    layers = weight_layers(model)
    for layer in layers[: max(0, len(layers) - top_layers)] if top_layers >= 0 else []:
        for module in layer:
            module.requires_grad_(False)
            freeze_statistics(module)


def layers_of_blocks(model: PreTrainedModel, top_blocks: int) -> int:
    """How many layers with weights the top blocks have, with what lies above them up to the classifier.

    Blocks are the parts of a backbone's `nn.ModuleList`: a ResNet's four stages, an EfficientNet's or MobileNet's
    inverted residuals.

    Raises:
        InputError: the model has fewer blocks.
    """
    blocks = [block for parts in model.modules() if isinstance(parts, nn.ModuleList) for block in parts]
    if top_blocks > len(blocks):
        raise InputError(f"unfreeze_blocks is {top_blocks}, but the model has {len(blocks)} blocks")
    layers, within = weight_layers(model), set(blocks[-top_blocks].modules())
    return len(layers) - next(number for number, layer in enumerate(layers) if layer[0] in within)


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


def fold_temperature(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits by a temperature inside the last linear layer: exact, and the model stays stock."""
    linear = final_linear(model)
    with torch.no_grad():
        linear.weight /= temperature
        linear.bias /= temperature


def _fresh_classifier(model: PreTrainedModel) -> None:
    linear = final_linear(model)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)

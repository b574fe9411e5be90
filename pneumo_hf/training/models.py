"""A checkpoint becomes a two-label classifier that trains right, and stays one that the stock pipeline loads."""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging as transformers_logging

from pneumo_hf.config.arguments import ModelArguments
from pneumo_hf.data.files import is_missing
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.processor import make_image_processor
from pneumo_hf.inference.predictor import why_not_loaded
from pneumo_hf.labels import LABELS
from pneumo_hf.training.backbones import EMBEDDED, embedded_checkpoint
from pneumo_hf.training.head import reset_classifier, set_dropout, with_hidden_head

logger = logging.getLogger(__name__)

BASELINE = "baseline-cnn"
BATCH_NORM_MOMENTUM = 0.1


def load_model(arguments: ModelArguments, cache_dir: str | Path) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load the model with a two-label head, and the image processor that it will be saved with.

    The head starts from zeros. That of a stock checkpoint with these very labels, in this order, is kept, and training
    continues from it.

    Raises:
        InputError: the checkpoint is neither embedded, nor a local folder, nor to be had from the Hub.
    """
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: number for number, label in enumerate(LABELS)}}
    keep_head = False
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
        transformers_logging.set_verbosity_error()  # else it reports at length that the head is a new one
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
            keep_head = labels == names["id2label"] and not loaded["missing_keys"] and not loaded["mismatched_keys"]
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
    if keep_head and not arguments.head_size:
        logger.info(
            "training continues from the classifier of %s, which has these labels", arguments.model_name_or_path
        )
    else:
        reset_classifier(model)
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

"""A checkpoint becomes a classifier of these labels that trains right, and stays one that the stock pipeline loads."""

import difflib
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging as transformers_logging

from pneumo_hf.config.arguments import Kwargs, ModelArguments
from pneumo_hf.data.files import is_missing
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.processor import make_image_processor
from pneumo_hf.inference.integrity import assert_buildable, assert_finite_weights
from pneumo_hf.inference.predictor import why_not_loaded
from pneumo_hf.labels import LABELS
from pneumo_hf.training.backbones import EMBEDDED, embedded_checkpoint
from pneumo_hf.training.head import check_head, final_linear, reset_classifier, set_dropout, with_hidden_head

logger = logging.getLogger(__name__)

BASELINE = "baseline-cnn"
BATCH_NORM_MOMENTUM = 0.1


def load_model(
    arguments: ModelArguments, cache_dir: str | Path, labels: Sequence[str] = LABELS
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load the model with a head of these labels, and the image processor that it will be saved with.

    The head starts from zeros. That of a stock checkpoint with these very labels, in this order, is kept, and training
    continues from it.

    Raises:
        InputError: the checkpoint is neither embedded, nor a local folder, nor to be had from the Hub.
    """
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    keep_head = False
    if arguments.model_name_or_path == BASELINE:
        if arguments.config_overrides:
            raise InputError(f"config_overrides changes the config of a checkpoint: {BASELINE} has none")
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
            model, keep_head = load_backbone(checkpoint, arguments.image_size, names, arguments.config_overrides)
            image_processor = make_image_processor(checkpoint, arguments.image_size, arguments.clahe)
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            why = why_not_loaded(checkpoint, error)
            raise InputError(f"{why}; the embedded backbone is --model_name_or_path {EMBEDDED}") from error
        except (RuntimeError, TypeError, IndexError, StrictDataclassError) as error:
            why = str(error).strip().splitlines()[0]
            raise InputError(
                f"{checkpoint} cannot be used with films of {arguments.image_size} pixels: {why}"
            ) from error
        finally:
            transformers_logging.set_verbosity(verbosity)
    if arguments.head_size:
        model = with_hidden_head(model, arguments.head_size, arguments.dropout)
    else:
        set_dropout(model, arguments.dropout, arguments.image_size)
    if keep_head and not arguments.head_size:
        logger.info(
            "training continues from the classifier of %s, which has these labels", arguments.model_name_or_path
        )
    else:
        reset_classifier(model)
    mend(model)
    return model, image_processor


def load_backbone(
    checkpoint: str, image_size: int, names: dict, overrides: Kwargs = None
) -> tuple[PreTrainedModel, bool]:
    """Load a checkpoint of any architecture with a head of these labels, for films of this size.

    Returns:
        The model, and whether its head is the checkpoint's own, of the same labels.

    Raises:
        InputError: the checkpoint has no weights for some of the backbone, or more than one linear classifier, or its
            config has no such value to override.
    """
    assert_buildable(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    for key, value in overrides.items() if isinstance(overrides, dict) else ():
        if not hasattr(config, key):
            near = difflib.get_close_matches(key, config.to_dict(), n=1, cutoff=0)[0]
            raise InputError(f"config_overrides: the config of {checkpoint} has no {key}; did you mean {near}?")
        setattr(config, key, value)
    labels, config.num_labels = config.id2label, len(names["id2label"])
    config.id2label, config.label2id, config.problem_type = *names.values(), None
    for part in (config, getattr(config, "vision_config", None)):
        given = getattr(part, "image_size", None)
        if part is not None and given:
            # by which a transformer's table of positions is made
            part.image_size = [image_size] * len(given) if isinstance(given, list | tuple) else image_size
        patch = getattr(part, "patch_size", None)
        if isinstance(patch, int) and image_size % patch:
            below = image_size // patch * patch
            raise InputError(
                f"image_size is {image_size}, and {checkpoint} divides films into patches of {patch} pixels, which "
                f"would leave out their edge: {below} or {below + patch}"
            )
    load = partial(AutoModelForImageClassification.from_pretrained, checkpoint, dtype=torch.float32)
    load = partial(load, trust_remote_code=False, ignore_mismatched_sizes=True)
    model, loaded = load(config=config, output_loading_info=True)
    check_head(model, image_size)
    of_head = {id(values) for values in final_linear(model).parameters()}
    head = {name for name, values in model.named_parameters() if id(values) in of_head}
    mismatched = {key for key, *_ in loaded["mismatched_keys"]}
    missing = {key for key in loaded["missing_keys"] - head if not key.endswith("num_batches_tracked")}
    if missing:
        raise InputError(
            f"{checkpoint} has no weights for {len(missing)} tensors of the backbone, {min(missing)} among them"
        )
    if mismatched - head:
        resize_positions(model, load(num_labels=config.num_labels).state_dict(), mismatched - head)
    assert_finite_weights(checkpoint, model)  # last: what is not loaded may be anything until then
    return model, labels == names["id2label"] and head.isdisjoint(mismatched | loaded["missing_keys"])


@torch.no_grad()
def resize_positions(model: PreTrainedModel, trained: dict[str, torch.Tensor], keys: set[str]) -> None:
    """Interpolate a transformer's tables of positions, in place, from those it was trained with at another film size.

    Bicubic on the grid of patches (Dosovitskiy et al. 2021, ViT); entries that are of no patch stay as they are.

    Raises:
        InputError: what differs in size is no table of positions.
    """
    for key in keys:
        old, new = trained[key], model.state_dict()[key]
        (side, others), (new_side, new_others) = (_grid(len(table.flatten(0, -2))) for table in (old, new))
        if others != new_others or old.shape[-1] != new.shape[-1] or "position" not in key:
            raise InputError(
                f"{key} of the checkpoint is made for films of another size, and cannot be interpolated: give "
                "--image_size as it was trained"
            )
        rows = old.flatten(0, -2)
        parts = list(rows.split([others, side**2]))
        if "relative" in key:  # BEiT's tables have theirs at the end
            parts = list(rows.split([side**2, others]))[::-1]
        grid = parts[1].T.reshape(1, -1, side, side)
        grid = interpolate(grid, (new_side, new_side), mode="bicubic", align_corners=False)
        parts[1] = grid.flatten(2)[0].T
        new.copy_(torch.cat(parts[::-1] if "relative" in key else parts).view_as(new))


def _grid(entries: int) -> tuple[int, int]:
    """The side of the grid in a table of so many entries, and how many are of no patch: class tokens and the like."""
    side = math.isqrt(entries)
    return side, entries - side**2


def mend(model: PreTrainedModel) -> None:
    """Undo two habits that spoil fine-tuning.

    Keras's BatchNorm momentum (.99) read as torch's makes the running statistics those of the last batch. And these
    models' `forward(**kwargs)` lets Trainer believe that the loss is already divided by the accumulation steps.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = BATCH_NORM_MOMENTUM
    if hasattr(model.config, "batch_norm_momentum"):
        model.config.batch_norm_momentum = BATCH_NORM_MOMENTUM  # for whoever fine-tunes the saved checkpoint
    model.accepts_loss_kwargs = False

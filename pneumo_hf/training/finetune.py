"""Stage two: all layers or the top ones, on augmented films."""

import logging
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerState
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer import TRAINER_STATE_NAME

from pneumo_hf.config.augmentation import POLICIES, make_policy
from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.imaging.processor import Normalize, uses_clahe
from pneumo_hf.training.augmentation import XrayAugment
from pneumo_hf.training.distillation import Teachers
from pneumo_hf.training.ema import WeightAverage
from pneumo_hf.training.layers import checkpoint_blocks, freeze_below, freeze_statistics, freeze_unused
from pneumo_hf.training.lora import add_adapters
from pneumo_hf.training.optimizer import make_optimizer
from pneumo_hf.training.sharding import shards_weights, whole_afterwards
from pneumo_hf.training.stage import label_weights, memory_format, of_stage
from pneumo_hf.training.trainer import XrayTrainer

logger = logging.getLogger(__name__)


def fine_tune(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    resumed: Path | None,
) -> list[dict]:
    """Train all or the top layers, with layer-wise decaying rates and augmentation; returns the log."""
    logger.info("stage 2: fine-tuning, at most %g epochs%s", arguments.num_train_epochs, " (resumed)" * bool(resumed))
    freeze_unused(model, image_processor.size["height"])
    adapters = add_adapters(model, arguments.lora_rank) if arguments.lora_rank else None
    if shards_weights() and (adapters or arguments.ema_decay):
        raise InputError("lora_rank and ema_decay want whole weights: train them without FSDP")
    with whole_afterwards(model) as lent:
        trainer = fine_tuner(lent, image_processor, films, arguments, resumed)
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if adapters:
        adapters.merge_and_unload()
    return trainer.state.log_history


def fine_tuner(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    resumed: Path | None,
) -> XrayTrainer:
    """Make the trainer of stage two, the model prepared for it in place."""
    if not arguments.lora_rank:
        freeze_unused(model, image_processor.size["height"])
        freeze_below(model, arguments.trainable_layers)
    if arguments.freeze_batch_norm:
        freeze_statistics(model)
    if arguments.activation_checkpointing:
        checkpoint_blocks(model)
    teachers = _teachers(films["train"].label_names, image_processor, arguments)
    policy = make_policy(arguments.augmentation, arguments.augmentation_kwargs)
    size = (image_processor.size["height"], image_processor.size["width"])
    shown = films["train"].for_teachers()
    cropped = shown.pixels.shape[-2:]
    callbacks, epochs = [], arguments.num_train_epochs
    if patience := arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(patience))
        if resumed:
            state = TrainerState.load_from_json(str(resumed / TRAINER_STATE_NAME))
            if "EarlyStoppingCallback" not in state.stateful_callbacks:  # without which Trainer cannot save the next
                raise InputError(
                    f"{resumed} was trained without early stopping: resume it without, or train from the start"
                )
            waited = state.stateful_callbacks["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"]
            callbacks[0].early_stopping_patience_counter = waited
            epochs = state.epoch if waited >= patience else epochs  # it had stopped: only the best is loaded
    if arguments.ema_decay:
        callbacks.append(WeightAverage(arguments.ema_decay, resumed))
    return XrayTrainer(
        model=model,
        args=of_stage(
            "stage2",
            arguments,
            num_train_epochs=epochs,
            activation_checkpointing=False,  # ours, above
        ),
        train_dataset=shown,
        eval_dataset=films["validation"],
        callbacks=callbacks,
        prepare=Normalize(image_processor, memory_format(arguments)),
        augment=None if policy == POLICIES["none"] and cropped == size else XrayAugment(policy, size, cropped),
        class_weights=None if teachers else label_weights(films, arguments),  # who are calibrated
        teachers=teachers,
        make_optimizer=make_optimizer,
        stage="stage2",
        processing_class=image_processor,  # beside the weights: an epoch's checkpoint can be started from
    )


def _teachers(
    labels: list[str], image_processor: BaseImageProcessor, arguments: XrayTrainingArguments
) -> Teachers | None:
    if not arguments.teachers:
        return None
    autocast = torch.bfloat16 if arguments.bf16 else None
    return Teachers(arguments.teachers, uses_clahe(image_processor), autocast, str(arguments.device), labels)

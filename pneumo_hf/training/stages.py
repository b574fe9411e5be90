"""The two stages: the classifier alone on features computed once, then the network end to end."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerState
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer import TRAINER_STATE_NAME

from pneumo_hf.config import LABELS, InputError, XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.imaging.processor import Normalize, uses_clahe
from pneumo_hf.inference.parts import own_part
from pneumo_hf.training.augmentation import XrayAugment
from pneumo_hf.training.distillation import Teachers
from pneumo_hf.training.ema import WeightAverage
from pneumo_hf.training.losses import class_weights
from pneumo_hf.training.models import (
    checkpoint_blocks,
    classifier_head,
    freeze_below,
    freeze_statistics,
    layers_of_blocks,
    resize_head,
)
from pneumo_hf.training.optimizer import make_optimizer
from pneumo_hf.training.run_folder import CHECKPOINTS, keep_history, read_kept_history
from pneumo_hf.training.trainer import XrayTrainer

logger = logging.getLogger(__name__)


def train(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    resumed: Path | None = None,
) -> list[dict]:
    """Probe, then fine-tune, in place: afterwards the model holds the weights of the best validation epoch.

    A linear probe first keeps the features from being torn by a random head (LP-FT, Kumar et al. 2022).

    Args:
        resumed: the checkpoint of `find_checkpoint` to go on from.

    Returns:
        The log: a dictionary for each logged step and each evaluation, with `stage`.
    """
    if arguments.unfreeze_blocks:
        layers_of_blocks(model, arguments.unfreeze_blocks)  # refuses too many before the probe
    films = prepare(model, films, arguments)
    (Path(arguments.output_dir) / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    history = []
    if arguments.probe_epochs and not resumed:
        history += [{"stage": 1, **row} for row in train_probe(model, image_processor, films, arguments)]
        keep_history(history, arguments)
    elif resumed:
        history += read_kept_history(arguments)
    before = _weights_before(model, arguments, resumed)
    if arguments.num_train_epochs > 0:
        history += [{"stage": 2, **row} for row in fine_tune(model, image_processor, films, arguments, resumed)]
    if before:
        interpolate_weights(model, before, arguments.fine_tuned_share)
    return history


def prepare(
    model: PreTrainedModel, films: dict[str, FilmDataset], arguments: XrayTrainingArguments
) -> dict[str, FilmDataset]:
    """The films that both stages take, checked, and the model in their memory layout (in place)."""
    if arguments.subtype_weight and not (films["train"].viral >= 0).any():
        raise InputError("subtype_weight needs films whose names tell bacteria or virus: none of train's does")
    if arguments.channels_last:
        model.to(memory_format=torch.channels_last)
    if arguments.sampling != "undersample":
        return films
    return {**films, "train": undersample(films["train"], arguments.seed)}


def train_probe(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
) -> list[dict]:
    """Stage one: the backbone is frozen and the films are not augmented, so its features are computed once."""
    logger.info("stage 1: the classifier on frozen features, %d epochs", arguments.probe_epochs)
    model.to(arguments.device)
    normalize = Normalize(image_processor, _memory_format(arguments)).to(arguments.device)
    features = {
        split: FeatureDataset(films[split], extract_features(model, films[split], normalize, arguments))
        for split in ("train", "validation")
    }
    trainer = XrayTrainer(
        model=ProbeModel(model),
        args=_of_stage(
            "stage1",
            arguments,
            num_train_epochs=arguments.probe_epochs,
            learning_rate=arguments.probe_learning_rate,
            save_strategy="no",
            load_best_model_at_end=False,
            gradient_accumulation_steps=1,
            bf16=False,
            torch_compile=False,
            activation_checkpointing=False,
            mixup=0.0,
            washed_out=0.0,
            step_epochs=0,
            max_steps=-1,
        ),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        prepare=nn.Identity(),
        augment=None,
        class_weights=_weights(films, arguments),
        stage="stage1",
    )
    trainer.train()
    return trainer.state.log_history


def fine_tune(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    resumed: Path | None,
) -> list[dict]:
    """Stage two: all or the top layers, with layer-wise decaying rates and strong augmentation."""
    logger.info("stage 2: fine-tuning, at most %g epochs%s", arguments.num_train_epochs, " (resumed)" * bool(resumed))
    trainer = fine_tuner(model, image_processor, films, arguments, resumed)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    resize_head(model, len(LABELS))
    return trainer.state.log_history


def fine_tuner(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    resumed: Path | None,
) -> XrayTrainer:
    """The trainer of stage two, the model prepared for it in place."""
    if arguments.subtype_weight:
        resize_head(model, len(LABELS) + 1)
    blocks = arguments.unfreeze_blocks
    freeze_below(model, layers_of_blocks(model, blocks) if blocks else arguments.unfreeze_layers)
    if arguments.freeze_batch_norm:
        freeze_statistics(model)
    if arguments.activation_checkpointing:
        checkpoint_blocks(model)
    teachers = _teachers(image_processor, arguments)
    size = (image_processor.size["height"], image_processor.size["width"])
    callbacks, epochs = [], arguments.num_train_epochs
    if patience := arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(patience))
        if resumed:
            state = TrainerState.load_from_json(str(resumed / TRAINER_STATE_NAME))
            if "EarlyStoppingCallback" not in state.stateful_callbacks:  # without which Trainer cannot save the next
                raise InputError(
                    f"{resumed} was trained without early stopping: resume it so, or train from the start"
                )
            waited = state.stateful_callbacks["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"]
            callbacks[0].early_stopping_patience_counter = waited
            epochs = state.epoch if waited >= patience else epochs  # it had stopped: only the best is loaded
    if arguments.ema_decay:
        callbacks.append(WeightAverage(arguments.ema_decay, resumed))
    return XrayTrainer(
        model=model,
        args=_of_stage(
            "stage2",
            arguments,
            num_train_epochs=epochs,
            activation_checkpointing=False,  # ours, above
        ),
        train_dataset=films["train"],
        eval_dataset=films["validation"],
        callbacks=callbacks,
        prepare=Normalize(image_processor, _memory_format(arguments)),
        augment=XrayAugment(arguments, size),
        class_weights=None if teachers else _weights(films, arguments),  # who are calibrated
        teachers=teachers,
        make_optimizer=make_optimizer,
        stage="stage2",
    )


def interpolate_weights(model: PreTrainedModel, before: dict[str, torch.Tensor], share: float) -> None:
    """Set the weights to `share` of the way from those before stage two to the model's own.

    Half-way weights keep more of what was known before, of other pictures or of films as they are (WiSE-FT, Wortsman
    et al. 2022).
    """
    state = model.state_dict()
    for name, values in state.items():
        if values.is_floating_point():
            values.copy_(torch.lerp(before[name].to(values), values, share))


def undersample(films: FilmDataset, seed: int) -> FilmDataset:
    """As many films of each label as of the rarest, drawn at random."""
    random, rarest = np.random.default_rng(seed), np.bincount(films.labels).min()
    of_label = [np.flatnonzero(films.labels == label) for label in np.unique(films.labels)]
    return films.select(np.sort(np.concatenate([random.permutation(rows)[:rarest] for rows in of_label])))


class ProbeModel(nn.Module):
    """The model's head, the very modules, on features `[B, F]`."""

    accepts_loss_kwargs = False

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.head = classifier_head(model)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.head(pixel_values))


class FeatureDataset(torch.utils.data.Dataset):
    """Features `[N, F]` in the place of pixels."""

    def __init__(self, films: FilmDataset, features: torch.Tensor):
        self.features, self.labels = features, torch.from_numpy(films.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.features[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.features[indices], "labels": self.labels[indices]}


@torch.inference_mode()
def extract_features(
    model: PreTrainedModel, films: FilmDataset, normalize: Normalize, arguments: XrayTrainingArguments
) -> torch.Tensor:
    """What the backbone makes of every film, in evaluation mode: `[N, F]` float32 on the CPU.

    Every process that accelerate launched does a part, and has all of them afterwards.
    """
    model.eval()
    batch_size, features = arguments.per_device_eval_batch_size, []
    mine = own_part(len(films), batch_size)
    hidden = arguments.process_index > 0
    for start in tqdm(mine[::batch_size], desc="Extracting features", unit="batch", disable=hidden):
        batch = films.__getitems__(range(start, min(start + batch_size, mine.stop)))
        pooled = model.base_model(normalize(batch["pixel_values"].to(arguments.device))).pooler_output
        features.append(pooled.flatten(1).float().cpu())
    return torch.cat(gather_object(features)).clone()


def _memory_format(arguments: XrayTrainingArguments) -> torch.memory_format:
    return torch.channels_last if arguments.channels_last else torch.contiguous_format


def _teachers(image_processor: BaseImageProcessor, arguments: XrayTrainingArguments) -> Teachers | None:
    if not arguments.teachers:
        return None
    autocast = torch.bfloat16 if arguments.bf16 else None
    return Teachers(arguments.teachers, uses_clahe(image_processor), autocast, str(arguments.device))


def _weights(films: dict[str, FilmDataset], arguments: XrayTrainingArguments) -> torch.Tensor | None:
    wanted = arguments.class_weights and arguments.sampling != "balanced"  # which weights the labels already
    return class_weights(films["train"].labels) if wanted else None


def _of_stage(stage: str, arguments: XrayTrainingArguments, **changed: object) -> XrayTrainingArguments:
    """What Trainer takes for a stage: a folder for its checkpoints, and a name for its log where that shows one."""
    run = Path(arguments.output_dir)
    name = f"{arguments.run_name or run.absolute().name} {stage}"
    return replace(arguments, output_dir=str(run / CHECKPOINTS), run_name=name, resume_from_checkpoint=None, **changed)


def _weights_before(
    model: PreTrainedModel, arguments: XrayTrainingArguments, resumed: Path | None
) -> dict[str, torch.Tensor] | None:
    """A copy of the weights before stage two, kept on disk for a killed run; None where it will not be needed."""
    if arguments.fine_tuned_share == 1:
        return None
    path = (resumed.parent if resumed else Path(arguments.output_dir) / CHECKPOINTS) / "before.pt"
    if resumed and not path.exists():
        raise InputError(f"fine_tuned_share needs the weights of before, and {path} is missing: train from the start")
    if not resumed:
        with arguments.main_process_first():
            if arguments.process_index == 0:
                torch.save(model.state_dict(), path)
    return torch.load(path, map_location="cpu", weights_only=True)

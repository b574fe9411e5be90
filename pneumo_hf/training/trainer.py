"""Trainer with this project's loss: films are normalised (and augmented) on the device, labels are weighted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback
from transformers.utils import ModelOutput

from pneumo_hf.config import LABELS, XrayTrainingArguments
from pneumo_hf.evaluation.metrics import ranking_metrics
from pneumo_hf.inference.predictor import probability_of
from pneumo_hf.training.augmentation import XrayAugment, wash_out
from pneumo_hf.training.losses import mix, soft_targets, subtype_loss, weighted_loss
from pneumo_hf.training.optimizer import step_schedule


class XrayTrainer(Trainer):
    """Takes batches of `{"pixel_values", "labels"}` as the data set gathers them.

    Args:
        prepare: what happens to `pixel_values` on the device before the model sees them.
        augment: what happens before that, in training only.
        class_weights: `[C]`, or None for an unweighted loss.
        teachers: what gives the targets of films in place of their labels, in training only: framed as the student
            sees them, and not yet spoilt.
        make_optimizer: of the model and the arguments; Trainer's own without it.
        stage: the name of its folder below the run's `tensorboard`, or TENSORBOARD_LOGGING_DIR.
    """

    def __init__(
        self,
        *args,
        prepare: nn.Module,
        augment: XrayAugment | None,
        class_weights: torch.Tensor | None,
        teachers: nn.Module | None = None,
        make_optimizer: Callable[[nn.Module, XrayTrainingArguments], torch.optim.Optimizer] | None = None,
        stage: str = "",
        **kwargs,
    ):
        super().__init__(*args, data_collator=_as_gathered, compute_metrics=_validation_metrics, **kwargs)
        self.add_callback(SeedOfRank())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):  # by itself it writes below the checkpoints, which go
                folder = callback.logging_dir or Path(self.args.output_dir).parent / "tensorboard"
                callback.logging_dir = str(Path(folder) / stage)
        device, self.make_optimizer = self.args.device, make_optimizer
        self.prepare = prepare.to(device)
        self.augment = augment.to(device) if augment is not None else None
        self.teachers = teachers.to(device) if teachers is not None else None
        self.class_weights = class_weights.to(device) if class_weights is not None else None
        weights = torch.ones(len(LABELS), device=device) if class_weights is None else self.class_weights
        self.even_chances = 1 / weights / (1 / weights).sum()  # what the weighted loss answers with a half

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        pixels, viral, arguments = inputs["pixel_values"], inputs.get("viral"), self.args
        targets = soft_targets(inputs["labels"], len(LABELS), arguments.label_smoothing_factor * model.training)
        if model.training:
            framed = self.augment.frame(pixels) if self.augment else pixels
            pixels = self.augment.spoil(framed) if self.augment else pixels
            if arguments.mixup:  # the teachers' films as the student's
                both, targets = mix(torch.cat([framed, pixels], dim=1), targets, arguments.mixup)
                framed, pixels = both.chunk(2, dim=1)
            if self.teachers:
                targets = self.teachers(framed)
            if arguments.washed_out:
                pixels, washed = wash_out(pixels.float(), arguments.washed_out)
                targets = torch.where(washed[:, None], self.even_chances, targets)
                viral = torch.where(washed, -1, viral)
        outputs = model(pixel_values=self.prepare(pixels))
        logits = outputs.logits.float()
        outputs.logits = logits[:, : len(LABELS)]  # the auxiliary one is for training alone
        gamma = arguments.focal_gamma if arguments.loss == "focal" else 0.0
        loss = weighted_loss(outputs.logits, targets, self.class_weights, gamma)
        if model.training and logits.shape[1] > len(LABELS):
            loss = loss + arguments.subtype_weight * subtype_loss(logits[:, -1], viral)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.make_optimizer is not None:
            self.optimizer = self.make_optimizer(self.model, self.args)
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None and self.args.step_epochs:
            self.lr_scheduler = step_schedule(optimizer or self.optimizer, len(self.train_dataset), self.args)
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: torch.utils.data.Dataset | None = None) -> Sampler | None:
        if self.args.sampling != "balanced":
            return super()._get_train_sampler(train_dataset)
        films = train_dataset if train_dataset is not None else self.train_dataset
        return BalancedSampler(films.labels, self.args.seed if self.args.data_seed is None else self.args.data_seed)


class SeedOfRank(TrainerCallback):
    """Each process augments and drops out by numbers of its own; the order of films, set before, is common to all."""

    def on_train_begin(self, args: XrayTrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        if args.world_size > 1:
            torch.manual_seed(args.seed + args.process_index)


class BalancedSampler(Sampler):
    """As many draws as there are films, with return, each label as often; an epoch's draws are the same when resumed.

    Args:
        labels: `[N]`.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        self.chances = torch.from_numpy(1 / np.bincount(labels)[labels])
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.chances)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.multinomial(self.chances, len(self), replacement=True, generator=generator).tolist())


def _as_gathered(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch  # the data sets gather whole batches themselves


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return ranking_metrics(prediction.label_ids, probability_of(prediction.predictions))

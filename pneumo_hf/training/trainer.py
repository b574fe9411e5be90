"""Trainer with this project's loss: films are normalised (and augmented) on the device, labels are weighted."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback
from transformers.utils import ModelOutput

from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.training.augmentation import XrayAugment, expose_outliers
from pneumo_hf.training.console import EpochLine
from pneumo_hf.training.divergence import Divergence
from pneumo_hf.training.losses import soft_targets, weighted_loss
from pneumo_hf.training.optimizer import step_schedule


class XrayTrainer(Trainer):
    """Takes batches of `{"pixel_values", "labels"}` as the data set gathers them.

    Args:
        prepare: what happens to `pixel_values` on the device before the model sees them.
        augment: what happens before that, in training only.
        class_weights: `[C]`, or None for an unweighted loss.
        teachers: what gives the targets of films in place of their labels, in training only: cropped as the student
            sees them, at their full quality.
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
        self.divergence = Divergence()
        super().__init__(*args, data_collator=_as_gathered, compute_metrics=self.divergence.metrics, **kwargs)
        self.remove_callback(PrinterCallback)  # prints dictionaries
        self.add_callback(self.divergence)
        self.add_callback(EpochLine(stage))
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
        self.classes = classes = int(self.train_dataset.labels.max()) + 1  # train has films of every label
        half = torch.full((classes,), 0.5 / (classes - 1), device=device)  # P(NORMAL) and all others together
        half[0] = 0.5
        target = half if self.class_weights is None else half / self.class_weights
        self.uninformative_target = target / target.sum()  # the weighted loss answers it with a half

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        pixels, augment = inputs["pixel_values"], self.augment
        targets = soft_targets(inputs["labels"], self.classes, self.args.label_smoothing_factor * model.training)
        if model.training:
            cropped = augment.geometric(pixels) if augment else pixels
            pixels = augment.photometric(cropped) if augment else pixels
            if self.teachers:
                targets = self.teachers(cropped.float())
            if augment and augment.policy.outlier_exposure_prob:
                pixels, blank = expose_outliers(pixels.float(), augment.policy.outlier_exposure_prob)
                targets = torch.where(blank[:, None], self.uninformative_target, targets)
        outputs = model(pixel_values=self.prepare(pixels))
        outputs.logits = outputs.logits.float()
        gamma = self.args.focal_gamma if self.args.loss == "focal" else 0.0
        loss = weighted_loss(outputs.logits, targets, self.class_weights, gamma)
        if model.training:
            self.divergence.watch(loss)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.make_optimizer is not None:  # type: ignore[has-type]
            self.optimizer = self.make_optimizer(self.model, self.args)
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None and self.args.lr_scheduler_type == "step":  # type: ignore[has-type]
            self.lr_scheduler = step_schedule(optimizer or self.optimizer, len(self.train_dataset), self.args)
        return super().create_scheduler(num_training_steps, optimizer)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the names that the weights have in memory.

        Trainer resumes and loads the best epoch by these alone, while `save_pretrained` by itself writes those that an
        architecture had in earlier versions of transformers: then neither would load a thing, with no more than a
        warning.
        """
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model.save_pretrained = partial(type(model).save_pretrained, model, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.save_pretrained

    def _get_train_sampler(self, train_dataset: torch.utils.data.Dataset | None = None) -> Sampler | None:
        if self.args.sampler != "balanced":
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

"""A training whose loss is no number ends at once: what it would write from then on is of no use."""

import math
from pathlib import Path

import numpy as np
import torch
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState

from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.metrics import epoch_metrics
from pneumo_hf.inference.scorer import probability_of


class DivergedError(InputError):
    """The loss or the validation scores are not finite numbers."""


class Divergence(TrainerCallback):
    """Watches the loss of every batch and the scores of every validation, which comes before a checkpoint is saved."""

    def __init__(self) -> None:
        self.loss: torch.Tensor | None = None
        self.args: XrayTrainingArguments | None = None  # until the training begins

    def on_train_begin(self, args: XrayTrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        self.args, self.state, self.loss = args, state, None

    def watch(self, loss: torch.Tensor) -> None:
        """Stop if the loss, or on a GPU that of the batch before, which need not be waited for, is no number.

        Raises:
            DivergedError: it is not. In float16 a batch may overflow, and its step is left out: validation decides.
        """
        watched, self.loss = loss.detach() if loss.device.type == "cpu" else self.loss, loss.detach()
        if self.args is not None and watched is not None and not self.args.fp16 and not math.isfinite(watched.item()):
            self.stop("the loss")

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Measure a validation.

        Raises:
            DivergedError: its scores are no numbers.
        """
        if not np.isfinite(prediction.predictions).all():
            self.stop("a score of validation")
        labels: np.ndarray = prediction.label_ids
        return epoch_metrics((labels > 0).astype(labels.dtype), probability_of(prediction.predictions))

    def stop(self, what: str) -> None:
        """Say where it happened, what is left, and what helps."""
        folder = Path(self.args.output_dir if self.args else ".")
        whole = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
        kept = f"the last good epoch is kept in {whole[-1].parent}" if whole else "no epoch was finished before"
        raise DivergedError(
            f"the training diverged in epoch {math.floor(self.state.epoch or 0) + 1}: {what} is not a finite number; "
            f"{kept}. A lower learning_rate or a max_grad_norm of 1 helps"
        )

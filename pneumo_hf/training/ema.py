"""A running average of the weights, which is validated, kept as the best epoch, and saved."""

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

RAW_WEIGHTS = "weights_before_averaging.pt"


class WeightAverage(TrainerCallback):
    """Averages weights and BatchNorm statistics at every step (Polyak and Juditsky 1992, exponentially weighted).

    From the end of an epoch to the start of the next the model holds the average, so that the validation and the
    checkpoint in between are the average's; the weights that training continues with are kept beside the checkpoint.
    Early in a training the decay is (1 + step) / (10 + step), so that the first weights are soon outweighed.
    """

    def __init__(self, decay: float, resumed: Path | None = None):
        self.decay, self.step, self.resumed = decay, 0, resumed
        self.raw: dict | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_
    ) -> None:
        self.raw = None  # of an earlier training with the same callback, as in a search
        self.average = copy.deepcopy(model)
        self.step, self.is_empty = state.global_step, True  # the first step's weights are the first average
        # Listed once: on a GPU, walking the modules for them takes longer than the arithmetic, at every step.
        pairs = list(zip(_tensors(self.average), _tensors(model), strict=True))
        self.floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        if self.resumed and (self.resumed / RAW_WEIGHTS).exists():  # the checkpoint's own weights are the average
            self.is_empty = False
            model.load_state_dict(torch.load(self.resumed / RAW_WEIGHTS, map_location="cpu", weights_only=True))

    def on_epoch_begin(self, *_, model: nn.Module, **__) -> None:
        if self.raw is not None:
            model.load_state_dict(self.raw)
            self.raw = None

    @torch.no_grad()
    def on_step_end(self, *_, **__) -> None:
        self.step += 1
        decay = 0.0 if self.is_empty else min(self.decay, (1 + self.step) / (10 + self.step))
        averages, weights = zip(*self.floats, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, count in self.counts:  # of batches that BatchNorm saw
            average.copy_(count)
        self.is_empty = False

    def on_epoch_end(self, *_, model: nn.Module, **__) -> None:
        self.raw = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.average.state_dict())

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, *_, **__) -> None:
        """Before Trainer saves the rest: what has its state, written last, is then whole whatever kills the run."""
        if self.raw is not None and state.is_world_process_zero and args.save_strategy != "no":
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            folder.mkdir(exist_ok=True)
            torch.save(self.raw, folder / RAW_WEIGHTS)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]

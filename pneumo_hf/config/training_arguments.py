"""`transformers.TrainingArguments` with this project's options and defaults."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import str_to_bool
from transformers import TrainingArguments

from pneumo_hf.config.arguments import (
    AugmentationArguments,
    DataArguments,
    DecisionArguments,
    ModelArguments,
    StageArguments,
)
from pneumo_hf.config.augmentation import make_policy
from pneumo_hf.errors import InputError


@dataclass
class XrayTrainingArguments(StageArguments, AugmentationArguments, DecisionArguments, TrainingArguments):
    """What both stages take. Any field of `transformers.TrainingArguments` is accepted too."""

    eval_strategy: str = field(default="epoch")
    save_strategy: str = field(default="epoch")
    save_total_limit: int | None = field(default=1)
    logging_steps: float = field(default=10)
    load_best_model_at_end: bool = field(default=True)
    remove_unused_columns: bool = field(default=False)
    use_cpu: bool = field(default=not torch.accelerator.is_available())  # bf16 on a CPU asks for it
    dataloader_pin_memory: bool = field(default=torch.accelerator.is_available())  # of no use without a GPU
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    ddp_find_unused_parameters: bool | None = field(default=False)
    ddp_timeout: int = field(default=30 * 24 * 3600)  # one process decodes and reports while the others wait
    disable_tqdm: bool | None = field(default=True)  # a line an epoch says more
    logging_nan_inf_filter: bool = field(default=False)  # hides what it filters, and waits for the GPU at every step

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "augmentation_kwargs"]

    def __post_init__(self) -> None:
        if self.use_cpu or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "no")):  # where it is not passed on
            PartialState(cpu=True, timeout=timedelta(seconds=self.ddp_timeout))
        larger = self.metric_for_best_model == "roc_auc"
        if self.greater_is_better not in (None, larger):
            raise InputError(f"greater_is_better follows from metric_for_best_model {self.metric_for_best_model}")
        steps = self.lr_scheduler_type == "step"  # ours: transformers has no such schedule
        self.lr_scheduler_type = "constant" if steps else self.lr_scheduler_type
        super().__post_init__()
        if steps:
            self.lr_scheduler_type = "step"
            self._check_steps()
        elif self.lr_scheduler_type == "reduce_lr_on_plateau":  # which else takes a rising ROC AUC for a worse one
            given: Any = self.lr_scheduler_kwargs or {}  # a mapping by now
            self.lr_scheduler_kwargs = {**given, "mode": "max" if larger else "min"}
        if self.lora_rank and find_spec("peft") is None:  # before stage one, which takes its time
            raise InputError("lora_rank needs peft: pip install 'pneumo-hf[peft]'")
        make_policy(self.augmentation, self.augmentation_kwargs)  # refuses what it does not know

    def _check_steps(self) -> None:
        options: Any = self.lr_scheduler_kwargs or {}
        if unknown := options.keys() - {"step_size", "gamma"}:
            raise InputError(f"lr_scheduler_kwargs of step are step_size (epochs) and gamma, not {sorted(unknown)[0]}")
        if not isinstance(size := options.get("step_size", 1), int) or size < 1:
            raise InputError(f"lr_scheduler_kwargs: step_size is {size}, but is a number of epochs from 1")


class Arguments(NamedTuple):
    """A parsed recipe."""

    model: ModelArguments
    data: DataArguments
    training: XrayTrainingArguments

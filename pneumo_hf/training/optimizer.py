"""Learning rates by layer, and the step schedule that transformers does not have."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import get_parameter_names

from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.training.layers import weight_layers


def make_optimizer(model: PreTrainedModel, arguments: XrayTrainingArguments) -> torch.optim.Optimizer:
    """Make AdamW with a rate that falls from the classifier to the input by `layer_lr_decay` a layer with weights."""
    decayed = set(get_parameter_names(model, [nn.BatchNorm2d], [r"bias"]))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = []
    for depth, layer in enumerate(reversed(weight_layers(model))):
        trained = [p for module in layer for p in module.parameters(recurse=False) if p.requires_grad]
        rate = arguments.learning_rate * arguments.layer_lr_decay**depth
        for chosen, weight_decay in ((True, arguments.weight_decay), (False, 0.0)):
            parameters = [p for p in trained if (names[p] in decayed) == chosen]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay})
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return torch.optim.AdamW(groups, betas=betas, eps=arguments.adam_epsilon, fused=True)  # a third of foreach's time


def step_schedule(
    optimizer: torch.optim.Optimizer, films: int, arguments: XrayTrainingArguments
) -> torch.optim.lr_scheduler.LRScheduler:
    """Multiply the rate by `gamma` after every `step_size` epochs of so many films."""
    options: Any = arguments.lr_scheduler_kwargs or {}
    films_a_step = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    steps = options.get("step_size", 1) * math.ceil(films / films_a_step)
    return torch.optim.lr_scheduler.StepLR(optimizer, steps, gamma=options.get("gamma", 0.1))

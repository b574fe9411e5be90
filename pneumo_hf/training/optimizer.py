"""Rates by layer, and the step schedule that transformers lacks."""

import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import get_parameter_names

from pneumo_hf.config import XrayTrainingArguments
from pneumo_hf.training.models import weight_layers


def make_optimizer(model: PreTrainedModel, arguments: XrayTrainingArguments) -> torch.optim.Optimizer:
    """AdamW with a rate that falls from the classifier to the input by `layer_decay` a layer with weights."""
    decayed = set(get_parameter_names(model, [nn.BatchNorm2d], [r"bias"]))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = []
    for depth, layer in enumerate(reversed(weight_layers(model))):
        trained = [p for module in layer for p in module.parameters(recurse=False) if p.requires_grad]
        rate = arguments.learning_rate * arguments.layer_decay**depth
        for chosen, weight_decay in ((True, arguments.weight_decay), (False, 0.0)):
            parameters = [p for p in trained if (names[p] in decayed) == chosen]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay})
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return torch.optim.AdamW(groups, betas=betas, eps=arguments.adam_epsilon, fused=True)  # a third of foreach's time


def step_schedule(
    optimizer: torch.optim.Optimizer, films: int, arguments: XrayTrainingArguments
) -> torch.optim.lr_scheduler.LRScheduler:
    """A tenth of the rate after every `step_epochs` epochs of so many films."""
    films_a_step = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    steps = arguments.step_epochs * math.ceil(films / films_a_step)
    return torch.optim.lr_scheduler.StepLR(optimizer, steps, gamma=0.1)

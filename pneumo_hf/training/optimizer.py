"""Learning rates by layer, and the step schedule that transformers does not have."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.training.layers import decays, weight_layers


def make_optimizer(model: PreTrainedModel, arguments: XrayTrainingArguments) -> torch.optim.Optimizer:
    """Make AdamW with a rate that falls from the classifier to the input by `layer_lr_decay` a layer with weights.

    Low-rank adapters all have one rate.
    """
    decay = 1.0 if arguments.lora_rank else arguments.layer_lr_decay  # adapters would count as layers, too
    by_rates: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for depth, layer in enumerate(reversed(weight_layers(model))):
        rate = arguments.learning_rate * decay**depth
        for module in layer:
            for name, values in module.named_parameters(recurse=False):
                if values.requires_grad and values not in seen:  # two modules may share one
                    seen.add(values)
                    weight_decay = arguments.weight_decay if decays(module, name, values) else 0.0
                    by_rates.setdefault((rate, weight_decay), []).append(values)
    forgotten = {name for name, values in model.named_parameters() if values.requires_grad and values not in seen}
    assert not forgotten, f"never trained: {forgotten}"
    groups = [{"params": params, "lr": lr, "weight_decay": share} for (lr, share), params in by_rates.items()]
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

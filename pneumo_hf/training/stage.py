"""What both stages share: their films, layout, loss weights, and the arguments that Trainer takes for each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.training.losses import class_weights
from pneumo_hf.training.run_folder import CHECKPOINTS
from pneumo_hf.training.sharding import shards_weights


def prepare(
    model: PreTrainedModel, films: dict[str, FilmDataset], arguments: XrayTrainingArguments
) -> dict[str, FilmDataset]:
    """Select the films that both stages take, and bring the model into their memory layout (in place)."""
    model.to(memory_format=memory_format(arguments))
    if arguments.sampler != "undersample":
        return films
    return {**films, "train": undersample(films["train"], arguments.seed)}


def undersample(films: FilmDataset, seed: int) -> FilmDataset:
    """Keep as many films of each label as of the rarest, drawn at random."""
    random, rarest = np.random.default_rng(seed), np.bincount(films.labels).min()
    of_label = [np.flatnonzero(films.labels == label) for label in np.unique(films.labels)]
    return films.select(np.sort(np.concatenate([random.permutation(rows)[:rarest] for rows in of_label])))


def memory_format(arguments: XrayTrainingArguments) -> torch.memory_format:
    """Return the layout of convolutions: weights that are sharded must be contiguous."""
    return torch.channels_last if arguments.channels_last and not shards_weights() else torch.contiguous_format


def label_weights(films: dict[str, FilmDataset], arguments: XrayTrainingArguments) -> torch.Tensor | None:
    """Compute the weights `[C]` of the labels in the loss; None for an unweighted loss."""
    wanted = arguments.class_weights and arguments.sampler != "balanced"  # which weights the labels already
    return class_weights(films["train"].labels) if wanted else None


def of_stage(stage: str, arguments: XrayTrainingArguments, **changed: Any) -> XrayTrainingArguments:
    """Make the arguments of a stage: a folder for its checkpoints, a name for its log, and what differs."""
    run = Path(arguments.output_dir)
    name = f"{arguments.run_name or run.absolute().name} {stage}"
    changed |= {"output_dir": str(run / CHECKPOINTS), "run_name": name, "resume_from_checkpoint": None}
    return replace(arguments, **changed)

"""What the tests of training share."""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config.parse import parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.splits import decode_splits
from pneumo_hf.training.models import load_model
from pneumo_hf.training.train import train_stages
from tests.conftest import make_film


def decoded(recipe: list[str], seed: int = 0) -> dict[str, FilmDataset]:
    """The films of a recipe, by split."""
    model_args, data_args, _ = parse_args(recipe)
    processor = load_model(model_args, data_args.cache_dir)[1]
    return decode_splits(load_data(data_args.dataset[0]), processor, data_args, seed)[0]


def fresh(recipe: list[str]) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The model of a recipe from one draw of weights, and its image processor."""
    model_args, data_args, _ = parse_args(recipe)
    torch.manual_seed(0)
    return load_model(model_args, data_args.cache_dir)


def trained(films: dict[str, FilmDataset], recipe: list[str], folder: Path, *options: str):
    """A model trained in both stages from one draw of weights, and its log."""
    arguments = parse_args([*recipe, *options, "--output_dir", str(folder)])
    model, processor = fresh([*recipe, *options])
    return model, train_stages(model, processor, films, arguments.training)


def pixels(count: int = 8, size: int = 48) -> torch.Tensor:
    """Films `[N, 1, H, W]` in 0..1."""
    films = [make_film(seed, seed % 2 == 0, (size, size)) for seed in range(count)]
    return torch.from_numpy(np.stack(films)).float()[:, None] / 255

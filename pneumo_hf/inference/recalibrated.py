"""A recalibrated checkpoint is written: stock as before, the weights of its backbone bit for bit the same."""

import copy
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import cached_file

from pneumo_hf.errors import InputError
from pneumo_hf.inference.folding import fold_recalibration
from pneumo_hf.inference.outliers import DETECTOR
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.settings import KEYS, CheckpointSettings

WEIGHTS = "model.safetensors"
COPIED = ("preprocessor_config.json", DETECTOR, "recipe.yaml", "report/held_out.npy")  # true of the new one, too


def write_recalibrated(
    predictor: Predictor, offset: float, slope: float, settings: CheckpointSettings, folder: Path
) -> None:
    """Write a checkpoint whose log odds of not being NORMAL are `offset + slope * odds` of the given one's.

    What is of the scores as they were is left out: reports, ONNX files and `clinical.json`.

    Raises:
        InputError: the architecture has no place for them, or the folder holds this checkpoint or another.
    """
    _assert_no_other_checkpoint(folder, predictor.name)
    model = copy.deepcopy(predictor.model).to("cpu", memory_format=torch.contiguous_format).eval()
    size = predictor.image_processor.size
    noise = torch.rand(2, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0))
    fold_recalibration(model, offset, slope, predictor.order[0], noise)
    for key, value in settings.to_config().items():
        setattr(model.config, key, value)
    for pattern in ("onnx/*.onnx", "clinical.json", "report/details_*.csv"):  # of an earlier one here
        for stale in folder.glob(pattern):
            stale.unlink()
    model.save_pretrained(folder)
    _keep_unchanged(predictor.name, folder / WEIGHTS)
    for name in COPIED:
        if source := cached_file(predictor.name, name, _raise_exceptions_for_missing_entries=False):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(source, folder / name)


def _assert_no_other_checkpoint(folder: Path, checkpoint: str) -> None:
    """Refuse to write over the checkpoint that is recalibrated, or over one that is not a recalibrated one."""
    config = folder / "config.json"
    if folder.resolve() == Path(checkpoint).resolve():
        raise InputError(f"{folder} holds the checkpoint that is recalibrated: choose another --output_dir")
    if config.exists() and f'"{KEYS["recalibration"]}"' not in config.read_text():
        raise InputError(f"{folder} holds another checkpoint: choose another --output_dir")


def _keep_unchanged(checkpoint: str, path: Path) -> None:
    """Write tensors that are as they were as they were stored: a checkpoint may keep some in half precision."""
    source = cached_file(checkpoint, WEIGHTS, _raise_exceptions_for_missing_entries=False)
    if source is None:
        return
    before, weights = load_file(source), load_file(path)
    kept = {
        name: before[name] if name in before and _same(before[name], values) else values
        for name, values in weights.items()
    }
    save_file(kept, path, metadata={"format": "pt"})


def _same(stored: torch.Tensor, values: torch.Tensor) -> bool:
    return np.array_equal(stored.float().numpy(), values.float().numpy())

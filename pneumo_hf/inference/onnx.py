"""An exported checkpoint, run by ONNX Runtime."""

import hashlib
from pathlib import Path

import numpy as np
from torch import nn
from transformers.utils import cached_file

from pneumo_hf.config import InputError

FILE = "onnx/model.onnx"  # where transformers.js looks
INSTALL = "pip install onnx onnxscript onnxruntime"


WEIGHTS = "weights"  # of which weights an export was made, among its metadata


def weights_digest(model: nn.Module) -> str:
    """The same for the same weights."""
    digest = hashlib.blake2b(digest_size=12)
    for values in model.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class OnnxModel:
    """Pixel values `[B, 3, H, W]` float32 -> logits `[B, 2]` and the detector's features `[B, D]`, on the CPU.

    Args:
        checkpoint: a folder or Hub id with `onnx/model.onnx`, as `python -m pneumo_hf export` writes it.
        model: the checkpoint's own, whose weights it must be.

    Raises:
        InputError: there is no such file, it is of other weights, or there is no ONNX Runtime.
    """

    def __init__(self, checkpoint: str | Path, model: nn.Module):
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"the onnx backend needs ONNX Runtime: {INSTALL}") from error
        try:
            path = cached_file(str(checkpoint), FILE)
        except OSError as error:
            raise InputError(f"{checkpoint} has no {FILE}: python -m pneumo_hf export makes it") from error
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        if self.session.get_modelmeta().custom_metadata_map.get(WEIGHTS) != weights_digest(model):
            raise InputError(
                f"the {FILE} of {checkpoint} is of other weights: python -m pneumo_hf export makes it anew"
            )

    def __call__(self, pixel_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self.session.run(["logits", "features"], {"pixel_values": pixel_values}))

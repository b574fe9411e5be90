"""An exported checkpoint, run by ONNX Runtime."""

from pathlib import Path

import numpy as np
from transformers.utils import cached_file

from pneumo_hf.config import InputError

FILE = "onnx/model.onnx"  # where transformers.js looks
INSTALL = "pip install onnx onnxscript onnxruntime"


class OnnxModel:
    """Pixel values `[B, 3, H, W]` float32 -> logits `[B, 2]` and the detector's features `[B, D]`, on the CPU.

    Args:
        checkpoint: a folder or Hub id with `onnx/model.onnx`, as `python -m pneumo_hf export` writes it.

    Raises:
        InputError: there is no such file, or no ONNX Runtime.
    """

    def __init__(self, checkpoint: str | Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"the onnx backend needs ONNX Runtime: {INSTALL}") from error
        try:
            path = cached_file(str(checkpoint), FILE)
        except OSError as error:
            raise InputError(f"{checkpoint} has no {FILE}: python -m pneumo_hf export makes it") from error
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, pixel_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self.session.run(["logits", "features"], {"pixel_values": pixel_values}))

"""An exported checkpoint, run by ONNX Runtime."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import cached_file

from pneumo_hf.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE = "onnx/model.onnx"  # where transformers.js looks
INSTALL = "pip install onnx onnxscript onnxruntime"
AGREEMENT = 1e-4  # the largest difference of a probability that an export may have

WEIGHTS = "weights"  # of which weights an export was made, among its metadata


def weights_digest(model: nn.Module) -> str:
    """Hash weights: the same for the same weights."""
    digest = hashlib.blake2b(digest_size=12)
    for values in model.state_dict().values():
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def exported_file(checkpoint: str | Path) -> Path | None:
    """Find what `python -m pneumo_hf export` wrote beside a checkpoint, a folder or Hub id; None without it."""
    try:
        path = cached_file(str(checkpoint), FILE, _raise_exceptions_for_missing_entries=False)
    except OSError:  # a Hub that is out of reach
        return None
    return Path(path) if path else None


def open_session(path: str | Path) -> "InferenceSession":
    """Open an ONNX file on the CPU, with as many threads as torch has.

    Raises:
        InputError: there is no ONNX Runtime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"the onnx backend needs ONNX Runtime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # the cores that there are, or OMP_NUM_THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # what decodes beside it wants the cores
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """Resized films `[B, 1, H, W]` uint8 -> logits `[B, C]` and the detector's features `[B, D]` or None, on the CPU.

    Without torch on the way: its threads wait for more by spinning, and on few cores take them from ONNX Runtime's.

    Args:
        path: of the file, as `python -m pneumo_hf export` writes it.
        checkpoint: a folder or Hub id, for messages.
        model: the checkpoint's own, whose weights it must be.
        image_processor: the one that normalises for it.

    Raises:
        InputError: the file is damaged or of other weights, or there is no ONNX Runtime.
    """

    def __init__(self, path: Path, checkpoint: str | Path, model: nn.Module, image_processor: BaseImageProcessor):
        try:
            self.session = open_session(path)
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's have no class in common
            why = " ".join(str(error).split())[:100]
            raise InputError(
                f"the {FILE} of {checkpoint} is damaged: {why}: python -m pneumo_hf export writes it again"
            ) from error
        if self.session.get_modelmeta().custom_metadata_map.get(WEIGHTS) != weights_digest(model):
            raise InputError(
                f"the {FILE} of {checkpoint} is of other weights: python -m pneumo_hf export writes it again"
            )

        import onnxruntime

        self.logits_alone = onnxruntime.RunOptions()
        self.logits_alone.only_execute_path_to_fetches = True
        self.rescale_factor = np.float32(image_processor.rescale_factor)
        self.mean, self.std = (
            np.array(values, np.float32).reshape(1, 3, 1, 1)
            for values in (image_processor.image_mean, image_processor.image_std)
        )

    def __call__(self, pixels: np.ndarray, with_features: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        pixel_values = pixels * self.rescale_factor - self.mean
        pixel_values /= self.std  # in place: fresh memory for a film costs more than the arithmetic
        inputs = {"pixel_values": pixel_values}
        if with_features:
            return tuple(self.session.run(["logits", "features"], inputs))
        return self.session.run(["logits"], inputs, self.logits_alone)[0], None

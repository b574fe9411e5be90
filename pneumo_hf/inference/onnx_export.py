"""A network written as ONNX: by `export` beside its checkpoint, and into a cache where none lies there."""

import copy
import hashlib
import logging
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from filelock import FileLock
from torch import nn
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf import __version__
from pneumo_hf.config.arguments import DataArguments
from pneumo_hf.errors import InputError
from pneumo_hf.inference.folding import fold_constant_gates
from pneumo_hf.inference.onnx import AGREEMENT, INSTALL, WEIGHTS, open_session, weights_digest

logger = logging.getLogger(__name__)

OPSET = 18


def kept_export(model: PreTrainedModel, image_processor: BaseImageProcessor) -> Path:
    """Return the export of a network in the user's cache, written at its first use.

    The file is called by its weights, configuration and this version. It is kept only if it gives the network's
    probabilities to 1e-4; `export` compares on films, this on noise.

    Raises:
        InputError: it does not agree, the tools are not installed, or the cache cannot be written.
    """
    about = f"{weights_digest(model)} {model.config.to_json_string()} {image_processor.size} {__version__} {OPSET}"
    name = hashlib.blake2b(about.encode(), digest_size=12).hexdigest()
    folder = Path(DataArguments.cache_dir).expanduser() / "onnx"
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")), TemporaryDirectory(dir=folder) as trial:
            if not path.exists():  # another process may have had the lock
                logger.info("exporting the network to ONNX, once: %s", path)
                whole = Path(trial) / path.name
                write_onnx(model, image_processor, whole)
                _assert_agrees(model, image_processor, whole)
                os.replace(whole, path)
    except OSError as error:
        raise InputError(f"the export to ONNX cannot be kept in {folder}: {error.strerror or error}") from error
    return path


def _assert_agrees(model: PreTrainedModel, image_processor: BaseImageProcessor, path: Path) -> None:
    size, random = image_processor.size, np.random.default_rng(0)
    pixel_values = random.normal(size=(3, 3, size["height"], size["width"])).astype(np.float32)
    with torch.inference_mode():
        expected = model.eval()(pixel_values=torch.from_numpy(pixel_values)).logits.softmax(dim=1).numpy()
    logits = open_session(path).run(["logits"], {"pixel_values": pixel_values})[0]
    difference = float(np.abs(torch.from_numpy(logits).softmax(dim=1).numpy() - expected).max())
    if not difference <= AGREEMENT:
        raise InputError(f"the export to ONNX differs by up to {difference:.1e} in its probabilities: not kept")


def write_onnx(model: PreTrainedModel, image_processor: BaseImageProcessor, path: Path) -> None:
    """Write the network in float32: `pixel_values` `[B, 3, H, W]` -> `logits` `[B, C]`, `features` `[B, D]`.

    Raises:
        InputError: the tools are not installed.
    """
    try:
        import onnxscript  # noqa: F401 - the exporter's own need
    except ImportError as error:
        raise InputError(f"export needs {INSTALL.removeprefix('pip install ')}: {INSTALL}") from error
    size, weights = image_processor.size, weights_digest(model)
    example = torch.zeros(2, 3, size["height"], size["width"])
    model = copy.deepcopy(model).to("cpu", memory_format=torch.contiguous_format)
    model.set_attn_implementation("eager")  # written out: the exporter cannot lay out every fused attention
    with torch.no_grad():
        network = _Network(fold_constant_gates(model)).eval()
    noisy = {name: logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    levels = {name: logger.level for name, logger in noisy.items()}
    for logger in noisy.values():
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                input_names=["pixel_values"],
                output_names=["logits", "features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    finally:
        for name, logger in noisy.items():
            logger.setLevel(levels[name])
    for part in (program.model.graph, *program.model.graph.all_nodes()):
        part.metadata_props.clear()  # stack traces, with the paths of this machine
        part.doc_string = None
    program.model.metadata_props[WEIGHTS] = weights
    program.save(path, external_data=False)


class _Network(nn.Module):
    """A tensor in, tensors out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(pixel_values=pixel_values, output_hidden_states=True)
        # `pooled_stages`; of maps by the operator that ONNX Runtime runs in the layout of its convolutions
        means = [
            nn.functional.avg_pool2d(stage, stage.shape[2:]).flatten(1) if stage.ndim == 4 else stage.mean(dim=1)
            for stage in output.hidden_states
        ]
        return output.logits, torch.cat(means, dim=1)

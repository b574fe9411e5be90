"""A checkpoint becomes an ONNX file, or is refused: the file must give the checkpoint's own probabilities."""

import copy
import logging
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn
from transformers.utils import cached_file

from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.sources import load_data, split_of
from pneumo_hf.errors import InputError
from pneumo_hf.inference.clinical import CLINICAL
from pneumo_hf.inference.folding import fold_constant_gates
from pneumo_hf.inference.onnx import FILE, INSTALL, WEIGHTS, weights_digest
from pneumo_hf.inference.outliers import DETECTOR
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import probability_of

OPSET = 18
AGREEMENT = 1e-4  # the largest difference of a probability
SAME_DISTANCE = 1e-3  # the largest relative difference of the detector's distances
BESIDE = ("config.json", "model.safetensors", "preprocessor_config.json", DETECTOR, CLINICAL)


def export_and_check(
    checkpoint: str | Path, folder: Path, data: str, split: str, cache_dir: str | Path
) -> tuple[float, int]:
    """Export a checkpoint, comparing it on a split of a data set (see `export`).

    Returns:
        The largest difference of P(PNEUMONIA), and the number of films.
    """
    image_processor = Predictor(checkpoint, device="cpu").image_processor  # refuses what is no checkpoint, early
    table = split_of(load_data(data, labels=None), split, data)
    films, _ = decode_films(table, image_processor, cache_dir)
    return export(checkpoint, films, folder), len(films)


def export(checkpoint: str | Path, films: FilmDataset, folder: Path) -> float:
    """Write `folder/onnx/model.onnx` with the checkpoint's files beside it: a folder for `Predictor(backend="onnx")`.

    Returns:
        The largest difference of P(PNEUMONIA) between checkpoint and export on the films.

    Raises:
        InputError: the tools are not installed, or the difference is above 1e-4; then the folder is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as name:  # what is not whole, or not right, never stands in the folder
        trial = Path(name)
        (trial / FILE).parent.mkdir()
        write_onnx(Predictor(checkpoint, device="cpu"), trial / FILE)
        for file in BESIDE:
            if source := cached_file(str(checkpoint), file, _raise_exceptions_for_missing_entries=False):
                shutil.copy(source, trial / file)
        predictors = Predictor(checkpoint, device="cpu"), Predictor(trial, device="cpu", backend="onnx")
        (ours, distances), (theirs, their_distances) = (one.predict_dataset(films) for one in predictors)
        difference = float(np.abs(probability_of(ours) - probability_of(theirs)).max())
        if not difference <= AGREEMENT or not np.allclose(
            distances, their_distances, rtol=SAME_DISTANCE, equal_nan=True
        ):
            raise InputError(
                f"the export of {checkpoint} differs by up to {difference:.1e} in its probabilities, or in what it "
                "counts as a chest film: not kept"
            )
        (folder / FILE).parent.mkdir(exist_ok=True)
        for file in (*BESIDE, FILE):
            if (trial / file).exists():
                (trial / file).replace(folder / file)
    return difference


def write_onnx(predictor: Predictor, path: Path) -> None:
    """Write the network in float32: `pixel_values` `[B, 3, H, W]` -> `logits` `[B, C]`, `features` `[B, D]`."""
    try:
        import onnxscript  # noqa: F401 - the exporter's own need
    except ImportError as error:
        raise InputError(f"export needs {INSTALL.removeprefix('pip install ')}: {INSTALL}") from error
    size = predictor.image_processor.size
    example = torch.zeros(2, 3, size["height"], size["width"])
    model = copy.deepcopy(predictor.model).to("cpu", memory_format=torch.contiguous_format)
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
    program.model.metadata_props[WEIGHTS] = weights_digest(predictor.model)
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

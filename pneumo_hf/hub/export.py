"""A checkpoint becomes an ONNX file, or is refused: the file must give the checkpoint's own probabilities."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from transformers.utils import cached_file

from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.data.sources import load_data, split_of
from pneumo_hf.errors import InputError
from pneumo_hf.inference.clinical import CLINICAL
from pneumo_hf.inference.onnx import AGREEMENT, FILE
from pneumo_hf.inference.onnx_export import write_onnx
from pneumo_hf.inference.outliers import DETECTOR
from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import probability_of

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
        predictor = Predictor(checkpoint, device="cpu")
        write_onnx(predictor.model, predictor.image_processor, trial / FILE)
        for file in BESIDE:
            if source := cached_file(str(checkpoint), file, _raise_exceptions_for_missing_entries=False):
                shutil.copy(source, trial / file)
        predictors = predictor, Predictor(trial, device="cpu", backend="onnx")
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

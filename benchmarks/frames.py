"""How far a network leans on a film's rim: python benchmarks/frames.py RUN ... --dataset chest_xray.zip.

Each validation film of configs/flagship_efficientnet.yaml keeps its middle and gets the rim of another one, of the
same label or of the other. What looks at the lungs alone would read nearly the same; what learnt the rim, which tells
the label in one period of acquisition and not in the next (docs/DATA.md), is turned over. A wide rim holds some lung.
The runs must have held out the films of that recipe. The test is never scored.
Writes benchmarks/results/frames.json, where rows of other runs stay.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, ROOT, write_result
from datasets import DatasetDict
from sklearn.metrics import roc_auc_score

from pneumo_hf import Predictor
from pneumo_hf.config import DataArguments, one_line_errors, parse_args
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.splits import decode_splits
from pneumo_hf.data.sources import load_data
from pneumo_hf.inference.scorer import probability_of

WIDTHS = (0.05, 0.1, 0.15)  # of the rim, as shares of the side
BATCH = 32


def given_runs(description: str) -> tuple[list[str], DatasetDict, DataArguments, int]:
    """The command line's runs and data, and how configs/flagship_efficientnet.yaml splits it, with what seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders; their names are the rows'")
    parser.add_argument("--dataset", required=True, help="Kaggle's zip or folder, whole")
    arguments, given = parser.parse_known_args()
    recipe = ROOT / "configs" / "flagship_efficientnet.yaml"
    _, data_args, training_args = parse_args(["--config", str(recipe), "--dataset", arguments.dataset, *given])
    return arguments.runs, load_data(arguments.dataset), data_args, training_args.seed


def main() -> None:
    runs, data, data_args, seed = given_runs(__doc__)
    path = RESULTS / "frames.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    for run in runs:
        predictor = Predictor(run)
        films, _ = decode_splits(data, predictor.image_processor, data_args, seed)
        rows[Path(run).name] = measure(predictor, films["validation"])
    write_result("frames", {}, rows)


def measure(predictor: Predictor, films: FilmDataset) -> dict:
    """ROC AUC, sensitivity and specificity at the carried threshold: of whole films, and by the width of a rim."""
    labels, random = films.labels, np.random.default_rng(0)
    givers = {
        "same label": [random.choice(np.flatnonzero(labels == label)) for label in labels],
        "other label": [random.choice(np.flatnonzero(labels != label)) for label in labels],
    }
    row = {"whole": figures(predictor, films, np.arange(len(films)), 0.0)}
    for kind, rows in givers.items():
        row[kind] = {str(width): figures(predictor, films, np.array(rows), width) for width in WIDTHS}
    return row


def figures(predictor: Predictor, films: FilmDataset, givers: np.ndarray, width: float) -> dict[str, float]:
    probs, labels = score_with_rims(predictor, films, givers, width), films.labels
    return {
        "roc_auc": float(roc_auc_score(labels, probs)),
        "sensitivity": float((probs[labels == 1] >= predictor.threshold).mean()),
        "specificity": float((probs[labels == 0] < predictor.threshold).mean()),
    }


def score_with_rims(predictor: Predictor, films: FilmDataset, givers: np.ndarray, width: float) -> np.ndarray:
    """Probabilities `[N]` of films whose rim, `width` of the side, is that of the films `givers`, `[N]` rows."""
    parts = []
    for rows in np.array_split(np.arange(len(films)), range(BATCH, len(films), BATCH)):
        pixels, shown = (films.__getitems__(r)["pixel_values"] for r in (rows, givers[rows]))
        height, wide = pixels.shape[-2:]
        top, left = round(height * width), round(wide * width)
        inside = torch.zeros((height, wide), dtype=torch.bool)
        inside[top : height - top, left : wide - left] = True
        parts.append(predictor.logits(torch.where(inside, pixels, shown)))
    return probability_of(np.concatenate(parts))


if __name__ == "__main__":
    with one_line_errors():
        main()

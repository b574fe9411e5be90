"""Students side by side, on validation alone: python benchmarks/students.py RUN ... --dataset chest_xray.zip.

Which one is shipped is decided here: each scores the validation films of configs/flagship_efficientnet.yaml, as they
are and spoilt in eight ways, as the ablations do, and is compared with the last: clean films by DeLong's test, all of
them together by a bootstrap over patients. The test is never scored.
Writes benchmarks/results/students.json.
"""

import argparse
from pathlib import Path

import numpy as np
from ablations import SEVERITY, figures, score_ways
from common import ROOT, write_result
from datasets import DatasetDict

from pneumo_hf import Predictor
from pneumo_hf.config import DataArguments, InputError, one_line_errors, parse_args
from pneumo_hf.data.pixels import FilmDataset, decode_splits
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.compare import delong
from pneumo_hf.evaluation.metrics import RESAMPLES, bootstrap_weights, weighted_metrics


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
    predictors = {Path(run).name: Predictor(run) for run in runs}
    first = next(iter(predictors.values()))
    if any(one.image_processor.size != first.image_processor.size for one in predictors.values()):
        raise InputError("the runs read films of different sizes")
    films, _ = decode_splits(data, first.image_processor, data_args, seed)
    validation = films["validation"]
    probs = {name: score_ways(predictor, validation, spoilt=True) for name, predictor in predictors.items()}
    rows = {name: figures(validation.labels, probs[name], predictors[name].threshold) for name in probs}
    last = list(probs)[-1]
    areas = {name: pooled_areas(validation, scores) for name, scores in probs.items()}
    for name in list(probs)[:-1]:
        test = delong(validation.labels, probs[name]["clean"], probs[last]["clean"])
        change = np.quantile(areas[last] - areas[name], (0.025, 0.975))
        rows[name]["to_the_last"] = {"clean_delong": test, "pooled_change_ci95": change.tolist()}
    write_result("students", {}, rows, severity=SEVERITY)


def pooled_areas(films: FilmDataset, probs: dict[str, np.ndarray]) -> np.ndarray:
    """ROC areas `[R]` of clean and spoilt films together, in resamples of patients, the same for every run."""
    labels, pooled = np.tile(films.labels, len(probs)), np.concatenate(list(probs.values()))
    return np.concatenate(
        [
            weighted_metrics(labels, pooled, 0.5, np.tile(weights, len(probs)))["roc_auc"]
            for weights in bootstrap_weights(films.patient_ids, RESAMPLES, seed=0)
        ]
    )


if __name__ == "__main__":
    with one_line_errors():
        main()

"""Students, or flagships, side by side on validation: python benchmarks/students.py RUN ... --dataset chest_xray.zip.

Which student is shipped, and how far a flagship goes on, is decided here: each scores the validation films of
configs/flagship_efficientnet.yaml, as they are, spoilt in eight ways as the ablations do, and with the rims of others
drawn at random, and is compared with the last: clean films by DeLong's test, all of them together by a bootstrap over
patients. What it says of normal films without detail, and whether its heatmaps show what it uses, is measured besides.
The test is never scored. Writes benchmarks/results/students.json, and of ResNets flagships.json.
"""

from pathlib import Path

import numpy as np
import torch
from ablations import SEVERITY, figures, score_ways
from common import write_result
from frames import BATCH, given_runs, score_with_rims

from pneumo_hf import Predictor
from pneumo_hf.config import InputError, one_line_errors
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.splits import decode_splits
from pneumo_hf.evaluation.compare import delong
from pneumo_hf.evaluation.metrics import RESAMPLES, bootstrap_weights, weighted_metrics
from pneumo_hf.inference.explain import GradCam, blurred_away, insertion_and_deletion
from pneumo_hf.inference.scorer import probability_of

RIM = 0.1  # of the side
EXPLAINED = 4  # one in so many films of pneumonia


def main() -> None:
    runs, data, data_args, seed = given_runs(__doc__)
    predictors = {Path(run).name: Predictor(run) for run in runs}
    first = next(iter(predictors.values()))
    if any(one.image_processor.size != first.image_processor.size for one in predictors.values()):
        raise InputError("the runs read films of different sizes")
    films, _ = decode_splits(data, first.image_processor, data_args, seed)
    validation = films["validation"]
    givers = np.random.default_rng(0).permutation(len(validation))
    probs = {
        name: score_ways(predictor, validation, spoilt=True)
        | {"rim": score_with_rims(predictor, validation, givers, RIM)}
        for name, predictor in predictors.items()
    }
    normals = validation.select(np.flatnonzero(validation.labels == 0))
    pneumonia = validation.select(np.flatnonzero(validation.labels == 1)[::EXPLAINED])
    rows = {name: figures(validation.labels, probs[name], predictors[name].threshold) for name in probs}
    for name, predictor in predictors.items():
        rows[name]["normals_blurred_away"] = score_blurred_away(predictor, normals)
        rows[name]["heatmaps"] = measure_heatmaps(predictor, pneumonia)
    last = list(probs)[-1]
    areas = {name: pooled_areas(validation, scores) for name, scores in probs.items()}
    for name in list(probs)[:-1]:
        test = delong(validation.labels, probs[name]["clean"], probs[last]["clean"])
        change = np.quantile(areas[last] - areas[name], (0.025, 0.975))
        rows[name]["to_the_last"] = {"clean_delong": test, "pooled_change_ci95": change.tolist()}
    write_result("flagships" if first.model.config.model_type == "resnet" else "students", {}, rows, severity=SEVERITY)


def score_blurred_away(predictor: Predictor, films: FilmDataset) -> float:
    """The mean probability of pneumonia where no detail is left."""
    blurred = blurred_away(films.__getitems__(range(len(films)))["pixel_values"]).round().to(torch.uint8)
    return float(np.concatenate([probability_of(predictor.logits(part)) for part in blurred.split(BATCH)]).mean())


def measure_heatmaps(predictor: Predictor, films: FilmDataset) -> dict:
    """Scores as the hottest or the coldest pixels of Grad-CAM are put into a blurred film: mean, and after a tenth."""
    cam, pixels = GradCam(predictor), films.__getitems__(range(len(films)))["pixel_values"]
    maps = np.concatenate([cam(part) for part in pixels.split(8)])
    hottest, deleted = insertion_and_deletion(predictor, maps, pixels)
    curves = {"hottest": hottest, "coldest": deleted[::-1]}  # what is left without the hottest are the coldest
    return {"films": len(films)} | {
        name: {"mean": float(curve.mean()), "tenth": float(curve[1])} for name, curve in curves.items()
    }


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

"""What each idea does for the flagship, on validation alone: python benchmarks/ablations.py --dataset chest_xray.zip.

Every row is one training of the base recipe with one thing changed, scored on the validation films as they are and
spoilt in eight ways (`pneumo_hf.evaluation.robustness`), which stand in for films of another time and machine. With
`--unseen_series NORMAL2` the normals of that series are taken out of train and validate, beside the block's pneumonia:
a shift between acquisitions that is real, where a block of the same series has next to none. The test is never scored.
Rows are kept as they come: a killed run goes on with the next idea.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from pneumo_hf.training.stages import train
from sklearn.metrics import log_loss, roc_auc_score, roc_curve
from transformers import set_seed

from pneumo_hf.config import InputError, one_line_errors, parse_args
from pneumo_hf.data.duplicates import assert_no_leaks
from pneumo_hf.data.pixels import SEEN, FilmDataset, decode_splits
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.robustness import score_corrupted
from pneumo_hf.inference.predictor import Predictor, probability_of
from pneumo_hf.training.checkpoint import recipe_values, save_calibrated, training_facts
from pneumo_hf.training.models import load_model
from pneumo_hf.training.run_folder import start_run

ROOT = Path(__file__).parents[1]
SMALL = ["--image_size", "112", "--num_train_epochs", "2"]  # so that there can be many
SEVERITY = 3
SENSITIVITY = 0.97  # at which specificity is compared
IDEAS = {
    "base": [],
    "not mirrored": ["--horizontal_flip", "0"],
    "strong crops, jitter and blur, not mirrored": [
        *("--crop_scale", "0.3", "--jitter", "0.3", "--blur", "0.2", "--horizontal_flip", "0")
    ],
    "no probe, one rate": ["--probe_epochs", "0", "--layer_lr_decay", "1"],
    "BatchNorm statistics learnt": ["--freeze_batch_norm", "false"],
    "no averaged weights": ["--ema_decay", "0"],
    "grain, styles mixed, coarsened": ["--noise", "0.5", "--style_mix", "0.5", "--coarsen", "0.5"],
    "half-way to the probe": ["--wise_ft_alpha", "0.5"],
    "auxiliary target virus or bacteria": ["--subtype_weight", "0.5"],
    "all layers": ["--trainable_layers", "-1"],
    "exposure jitter": ["--jitter", "0.3"],
    "crops down to .3": ["--crop_scale", "0.3"],
    "grain": ["--noise", "0.5"],
    "styles mixed": ["--style_mix", "0.5"],
    "frames mixed": ["--frame_mix", "0.5"],
    "coarsened": ["--coarsen", "0.5"],
    "mixup": ["--mixup", "0.2"],
    "smoothed labels": ["--label_smoothing_factor", "0.05"],
    "a quarter of the learning rate": ["--learning_rate", "5e-5"],
    "no class weights": ["--class_weights", "false"],
    "another seed": ["--seed", "7"],  # what chance does
    "160 pixels": ["--image_size", "160"],
    "four epochs": ["--num_train_epochs", "4"],
    "crops down to .3, exposure jitter, coarsened": ["--crop_scale", "0.3", "--jitter", "0.3", "--coarsen", "0.5"],
    "random validation": ["--validation_split", "random"],  # other films: not to be set against the base
}


def hold_out_series(train: FilmDataset, validation: FilmDataset, series: str) -> dict[str, FilmDataset]:
    """Validate on all normals whose names begin with `series`; pneumonia, which has no series, stays where it is.

    Raises:
        InputError: a patient or a film of the series is in another, too.
    """
    table = concatenate_datasets([train.table, validation.table])
    seen = [np.concatenate([getattr(train, name), getattr(validation, name)]) for name in ("rows", *SEEN)]
    films = FilmDataset(table, train.pixels, *seen)  # both are of one pixel cache
    names = np.array([Path(name).name for name in table["file_name"]])
    block = (np.arange(len(films)) >= len(train)) & (films.labels == 1)
    held_out = np.char.startswith(names, series) | block
    splits = np.where(held_out, "validation", "train")
    assert_no_leaks(splits, films.patient_ids, films.contents, films.thumbnails, names)
    return {"train": films.select(np.flatnonzero(~held_out)), "validation": films.select(np.flatnonzero(held_out))}


def measure(recipe: list[str], series: str | None) -> dict:
    """Train one variant and score its validation films, clean and, unless they are of an unseen series, spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = parse_args([*recipe, "--output_dir", folder])
        model_args, data_args, training_args = arguments
        start_run(training_args)
        set_seed(training_args.seed)
        model, image_processor = load_model(model_args, data_args.cache_dir)
        films, _ = decode_splits(load_data(data_args.dataset[0]), image_processor, data_args, training_args.seed)
        del films["test"]
        if series:
            films = hold_out_series(films["train"], films["validation"], series)
        start = time.monotonic()
        train(model, image_processor, films, training_args)
        facts = training_facts(training_args, time.monotonic() - start)
        predictor = save_calibrated(model, image_processor, films, arguments)
        validation = films["validation"]
        probs = score_ways(predictor, validation, spoilt=not series)
    return {**facts, **figures(validation.labels, probs, predictor.threshold)}


def score_ways(predictor: Predictor, films: FilmDataset, spoilt: bool) -> dict[str, np.ndarray]:
    """Probabilities `[N]` of films as they are, and perhaps of each kind of spoilt ones."""
    corrupted = score_corrupted(predictor, films, (SEVERITY,) if spoilt else ())
    spoilt_probs = {kind: probability_of(logits) for kind, _, logits in corrupted}
    return {"clean": probability_of(predictor.score_films(films)), **spoilt_probs}


def figures(labels: np.ndarray, probs: dict[str, np.ndarray], threshold: float) -> dict:
    """Of films as they are and spoilt, each kind for itself and all together."""
    row = {"films": len(labels)}
    row["roc_auc"] = {kind: float(roc_auc_score(labels, scores)) for kind, scores in probs.items()}
    if len(probs) > 1:
        row["roc_auc_spoilt"] = float(np.mean([area for kind, area in row["roc_auc"].items() if kind != "clean"]))
    every_label, pooled = np.tile(labels, len(probs)), np.concatenate(list(probs.values()))
    fpr, tpr, _ = roc_curve(every_label, pooled, drop_intermediate=False)
    row["pooled"] = {  # one threshold for all of them, as for films that come unannounced
        "roc_auc": float(roc_auc_score(every_label, pooled)),
        "specificity": float(1 - fpr[np.argmax(tpr >= SENSITIVITY)]),
        "log_loss": float(log_loss(every_label, pooled)),
    }
    row["specificity_at_threshold"] = {
        kind: float((scores[labels == 0] < threshold).mean()) for kind, scores in probs.items()
    }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Kaggle's zip or folder, whole")
    parser.add_argument("--only", nargs="*", choices=IDEAS, help="these ideas alone")
    parser.add_argument("--config", default=str(ROOT / "configs" / "flagship.yaml"), help="the base recipe")
    parser.add_argument(
        "--unseen_series", choices=("IM", "NORMAL2"), help="validate on normals of a series not trained on"
    )
    arguments, given = parser.parse_known_args()
    kind = f"unseen_{arguments.unseen_series}" if arguments.unseen_series else "ablations"
    output = ROOT / "benchmarks" / "results" / f"{kind}_{Path(arguments.config).stem}.json"
    result = json.loads(output.read_text()) if output.exists() else {"ratios": {}, "rows": {}}
    start = ["--config", arguments.config, *SMALL, "--dataset", arguments.dataset, *given]
    base = json.loads(json.dumps(recipe_values(parse_args(start))))
    defaults = json.loads(json.dumps(recipe_values(parse_args([]))))  # an older file lacks newer keys
    result["recipe"] = {**defaults, **result.get("recipe", base)}
    if result["recipe"] != {**defaults, **base}:
        raise InputError(f"{output} is of another base recipe: remove it, or give the same options")
    rows, ratios = result["rows"], result["ratios"]
    for idea in arguments.only or IDEAS:
        if idea in rows:
            continue
        rows[idea] = {"overrides": " ".join(IDEAS[idea]), **measure([*start, *IDEAS[idea]], arguments.unseen_series)}
        if "base" in rows and idea != "random validation":
            ratios[idea] = (1 - rows[idea]["pooled"]["roc_auc"]) / (1 - rows["base"]["pooled"]["roc_auc"])
        output.write_text(json.dumps(result, indent=2) + "\n")
        print(f"{idea}: pooled ROC AUC {rows[idea]['pooled']['roc_auc']:.4f}", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()

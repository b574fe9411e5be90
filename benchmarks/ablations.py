"""What each idea does for the flagship, on validation alone: python benchmarks/ablations.py --dataset chest_xray.zip.

Every row is one training of the base recipe with one thing changed, scored on the validation films as they are and
spoilt in eight ways (`pneumo_hf.evaluation.robustness`), which stand in for films of another time and machine. The
test is never scored. Rows are kept as they come: a killed run goes on with the next idea.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score, roc_curve
from transformers import set_seed

from pneumo_hf.config import one_line_errors, parse_args
from pneumo_hf.data.pixels import decode_splits
from pneumo_hf.data.sources import load_data
from pneumo_hf.evaluation.robustness import score_corrupted
from pneumo_hf.inference.predictor import probability_of
from pneumo_hf.training.checkpoint import save_calibrated, training_facts
from pneumo_hf.training.models import load_model
from pneumo_hf.training.stages import start_run, train

ROOT = Path(__file__).parents[1]
BASE = [
    "--config",
    str(ROOT / "configs" / "flagship_efficientnet.yaml"),
    "--image_size",
    "112",
    "--num_train_epochs",
    "3",
]
SEVERITY = 3
SENSITIVITY = 0.97  # at which specificity is compared
IDEAS = {
    "base": [],
    "grain": ["--noise", "0.5"],
    "styles mixed": ["--style_mix", "0.5"],
    "coarsened": ["--coarsen", "0.5"],
    "grain, styles mixed, coarsened": ["--noise", "0.5", "--style_mix", "0.5", "--coarsen", "0.5"],
    "half-way to the probe": ["--fine_tuned_share", "0.5"],
    "auxiliary target virus or bacteria": ["--subtype_weight", "0.5"],
    "no averaged weights": ["--ema_decay", "0"],
    "no probe": ["--probe_epochs", "0"],
    "crops down to .3": ["--crop_scale", "0.3"],
    "crops down to .8": ["--crop_scale", "0.8"],
    "crops down to .06": ["--crop_scale", "0.06"],
    "stronger exposure jitter": ["--jitter", "0.6"],
    "no exposure jitter": ["--jitter", "0"],
    "mirrored": ["--horizontal_flip", "0.5"],
    "mixup": ["--mixup", "0.2"],
    "smoothed labels": ["--label_smoothing_factor", "0.05"],
    "BatchNorm statistics learnt": ["--freeze_batch_norm", "false"],
    "no class weights": ["--class_weights", "false"],
    "random validation": ["--validation", "random"],
}


def measure(overrides: list[str], given: list[str]) -> dict:
    """Train one variant and score its validation films, clean and spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = parse_args([*BASE, *overrides, *given, "--output_dir", folder])
        model_args, data_args, training_args = arguments
        start_run(training_args)
        set_seed(training_args.seed)
        model, image_processor = load_model(model_args, data_args.cache_dir)
        films, _ = decode_splits(load_data(data_args.dataset[0]), image_processor, data_args, training_args.seed)
        del films["test"]
        start = time.monotonic()
        train(model, image_processor, films, training_args)
        facts = training_facts(training_args, time.monotonic() - start)
        predictor = save_calibrated(model, image_processor, films, arguments)
        validation = films["validation"]
        spoilt = {kind: logits for kind, _, logits in score_corrupted(predictor, validation, (SEVERITY,))}
        logits = {"clean": predictor.score_films(validation), **spoilt}
    row = {"overrides": overrides, **facts, "films": len(validation)}
    row["roc_auc"] = {kind: float(roc_auc_score(validation.labels, probability_of(x))) for kind, x in logits.items()}
    row["roc_auc_spoilt"] = float(np.mean([row["roc_auc"][kind] for kind in spoilt]))
    labels, probs = np.tile(validation.labels, len(logits)), probability_of(np.concatenate(list(logits.values())))
    fpr, tpr, _ = roc_curve(labels, probs, drop_intermediate=False)
    row["pooled"] = {  # one threshold for all of them, as for films that come unannounced
        "roc_auc": float(roc_auc_score(labels, probs)),
        "specificity": float(1 - fpr[np.argmax(tpr >= SENSITIVITY)]),
        "log_loss": float(log_loss(labels, probs)),
    }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Kaggle's zip or folder, whole")
    parser.add_argument("--only", nargs="*", choices=IDEAS, help="these ideas alone")
    parser.add_argument("--output", default=str(ROOT / "benchmarks" / "results" / "ablations.json"))
    arguments, given = parser.parse_known_args()
    output = Path(arguments.output)
    result = json.loads(output.read_text()) if output.exists() else {"ratios": {}, "rows": {}}
    for idea in arguments.only or IDEAS:
        if idea not in result["rows"]:
            result["rows"][idea] = measure(IDEAS[idea], ["--dataset", arguments.dataset, *given])
            base = result["rows"].get("base", result["rows"][idea])
            result["ratios"][idea] = (1 - result["rows"][idea]["roc_auc_spoilt"]) / (1 - base["roc_auc_spoilt"])
            output.write_text(json.dumps(result, indent=2) + "\n")
            print(idea, json.dumps(result["rows"][idea]["pooled"]), result["rows"][idea]["roc_auc_spoilt"], flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()

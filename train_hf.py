"""Fine-tune a classifier on chest X-rays: python train_hf.py --config configs/quickstart.yaml [--field value]."""

import logging
import os
import sys
import time
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:  # before torch: how long its threads spin for one that has lost its core
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from transformers import set_seed

from pneumo_hf.config import Arguments, one_line_errors, parse_args, write_csv
from pneumo_hf.data.columns import parse_label_map
from pneumo_hf.data.merge import load_sources
from pneumo_hf.data.pixels import decode_splits
from pneumo_hf.data.shortcuts import shortcut_floors
from pneumo_hf.evaluation.gallery import explain_films
from pneumo_hf.evaluation.plots import save_training_curves
from pneumo_hf.evaluation.report import evaluate_films, write_report, write_split
from pneumo_hf.hub.card import write_card
from pneumo_hf.inference.memory import keep_freed_memory
from pneumo_hf.training.checkpoint import job_values, save_calibrated, training_facts, write_recipe
from pneumo_hf.training.distillation import assert_saw_no_more
from pneumo_hf.training.models import load_model
from pneumo_hf.training.run_folder import end_processes, find_checkpoint, remove_checkpoints, start_run, write_history
from pneumo_hf.training.stages import train

logger = logging.getLogger(__name__)


def main(arguments: Arguments) -> None:
    start = time.monotonic()
    model_args, data_args, training_args = arguments
    run, report = Path(training_args.output_dir), Path(training_args.output_dir) / "report"
    keep_freed_memory()
    start_run(training_args)
    set_seed(training_args.seed)

    data, copies = load_sources(data_args.dataset, label_map=parse_label_map(data_args.label_map))
    model, image_processor = load_model(model_args, data_args.cache_dir)
    resumed = find_checkpoint(training_args, job_values(arguments))
    with training_args.main_process_first():
        films, rejected = decode_splits(data, image_processor, data_args, training_args.seed)
    assert_saw_no_more(model_args, training_args, films)
    history = train(model, image_processor, films, training_args, resumed)
    facts = training_facts(training_args, time.monotonic() - start)

    if training_args.process_index == 0:
        predictor = save_calibrated(model, image_processor, films, arguments)
        write_recipe(arguments, run / "recipe.yaml")
        write_csv(run / "rejected.csv", ("path", "reason"), rejected + copies)
        validation, rows = evaluate_films(predictor, [films["validation"]], run.name, data_args.name, "validation")
        write_split(report, validation, rows, suffix="_validation")
        floors = shortcut_floors(films["train"], films["test"])
        metrics, rows = evaluate_films(predictor, [films["test"]], run.name, data_args.name, "test", floors)
        metrics |= {"explanation": explain_films(report, predictor, [films["test"]], metrics, rows), "training": facts}
        write_split(report, metrics, rows)
        write_history(history, report / "history.csv")
        save_training_curves(report / "training_curves.png", history)
        write_report(report, metrics, rows, rejected, validation, predictor.model.config.to_dict())
        write_card(run, Path(__file__).parent / "model_card.md")
        remove_checkpoints(training_args)
        auc = metrics["metrics"]["roc_auc"]
        logger.info("test ROC AUC %.4f [%.4f, %.4f]; %s", auc["value"], *auc["ci95"], report / "index.html")
    end_processes()


if __name__ == "__main__":
    with one_line_errors():
        main(parse_args(sys.argv[1:]))

"""A recipe becomes a run folder: films, the two stages, calibration, evaluation, report."""

import logging
import time
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config.parse import as_arguments, parse_args
from pneumo_hf.config.training_arguments import Arguments, XrayTrainingArguments
from pneumo_hf.data.files import is_missing
from pneumo_hf.data.labels import parse_label_map, parse_labels
from pneumo_hf.data.leakage import assert_held_out
from pneumo_hf.data.merge import labels_of, load_sources
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.predictions import write_csv
from pneumo_hf.data.shortcuts import shortcut_baselines
from pneumo_hf.data.splits import decode_splits, leave_out_patients
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.clinical import assert_usable, fit_clinical
from pneumo_hf.evaluation.evaluate import Evaluation, evaluate_films
from pneumo_hf.labels import LABELS, NEGATIVE
from pneumo_hf.reporting.plots import save_training_curves
from pneumo_hf.reporting.report import write_report, write_split
from pneumo_hf.training.backbones import EMBEDDED
from pneumo_hf.training.checkpoint import save_calibrated
from pneumo_hf.training.console import summary
from pneumo_hf.training.distillation import finest_processor
from pneumo_hf.training.finetune import fine_tune
from pneumo_hf.training.interpolation import interpolate_weights, weights_before
from pneumo_hf.training.models import BASELINE, load_model
from pneumo_hf.training.probe import train_probe
from pneumo_hf.training.recipe import job_values, training_facts, write_recipe
from pneumo_hf.training.run_folder import (
    CHECKPOINTS,
    find_checkpoint,
    keep_history,
    read_kept_history,
    remove_checkpoints,
    start_run,
    write_history,
    writing_alone,
)
from pneumo_hf.training.stage import prepare

logger = logging.getLogger(__name__)


def train(recipe: Arguments | str | Path | None = None, **options: Any) -> Path:
    """Fine-tune a recipe and write its run folder: checkpoint, report, recipe. `hub.card.write_card` adds the card.

    Epoch, temperature and threshold are chosen on validation films; the test is read once.

    Args:
        recipe: a YAML file, or parsed arguments.
        options: override it, as on the command line of train_hf.py.

    Returns:
        The run folder, `output_dir`.

    Raises:
        InputError: a bad option, no such data or checkpoint, or films that leak between splits.
        TypeError: options beside parsed arguments, which they would not reach.

    >>> run = train("configs/quickstart.yaml", output_dir="runs/mine", num_train_epochs=1)  # doctest: +SKIP
    """
    if not isinstance(recipe, Arguments):
        argv = ["--config", str(recipe)] if recipe else []
        for key, value in options.items():
            argv += [f"--{key}", *as_arguments(value)] if value is not None else []
        recipe = parse_args(argv)
    elif options:
        raise TypeError(f"{', '.join(options)}: options override a recipe file, not parsed arguments")
    start_run(recipe.training)
    with writing_alone(recipe.training):
        return _train(recipe)


def _train(recipe: Arguments) -> Path:
    started = time.monotonic()
    _, data_args, training_args = recipe
    run = Path(training_args.output_dir)
    set_seed(training_args.seed)
    resumed = find_checkpoint(training_args, job_values(recipe))
    model, image_processor, films, rejected = load(recipe)
    history = train_stages(model, image_processor, films, training_args, resumed)
    facts = training_facts(training_args, time.monotonic() - started)
    if training_args.process_index == 0:
        scorer = save_calibrated(model, image_processor, films, recipe)
        write_recipe(recipe, run / "recipe.yaml")
        write_csv(run / "rejected.csv", ("path", "reason"), rejected)
        validation = evaluate_films(
            scorer, [films["validation"]], run.name, data_args.name, "validation", explain=False
        )
        if columns := data_args.clinical_columns:
            method = training_args.operating_point
            table = films["validation"].table
            scorer.clinical = fit_clinical(validation.labels, validation.probs, table, columns, method)
            scorer.clinical.save(run)
            for row, film in zip(validation.rows, table, strict=True):
                row |= scorer.clinical.answer(row["probability"], film, (NEGATIVE, scorer.task.positive))
        write_split(run / "report", validation, suffix="_validation")
        baselines = shortcut_baselines(films["train"], films["test"])
        test = evaluate_films(scorer, [films["test"]], run.name, data_args.name, "test", baselines)
        test.rejected = rejected
        test.metrics["training"] = facts
        finish(run, test, validation, history)
        remove_checkpoints(training_args)
    return run


def load(
    recipe: Arguments,
) -> tuple[PreTrainedModel, BaseImageProcessor, dict[str, FilmDataset], list[dict[str, str]]]:
    """Load model and films, and make sure that no held-out film was seen before.

    Returns:
        The model, its image processor, the films by split, and `{"path", "reason"}` of those left out.
    """
    model_args, data_args, training_args = recipe
    for teacher in training_args.teachers or ():
        if is_missing(Path(teacher)):
            raise InputError(f"there is no checkpoint {teacher}, which teachers names")
    labels, label_map = parse_labels(data_args.labels), parse_label_map(data_args.label_map)
    data, copies = load_sources(data_args.dataset, labels, label_map)
    found = labels_of(data)
    if labels or found != list(LABELS):
        data_args.labels = ",".join(found)  # in the recipe of the run
    model, image_processor = load_model(model_args, data_args.cache_dir, found)
    with training_args.main_process_first():
        finer = finest_processor(training_args.teachers or (), image_processor)
        films, rejected = decode_splits(data, image_processor, data_args, training_args.seed, finer)
    if data_args.hold_out:
        films = leave_out_patients(films, load_sources([data_args.hold_out], labels, label_map)[0])
    assert_usable(films, data_args.clinical_columns or ())
    checkpoints = dict.fromkeys([model_args.model_name_or_path, *(training_args.teachers or ())])
    assert_held_out([name for name in checkpoints if name not in (EMBEDDED, BASELINE)], films)
    return model, image_processor, films, rejected + copies


def train_stages(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    resumed: Path | None = None,
) -> list[dict]:
    """Train the probe, then fine-tune, in place: afterwards the model holds the weights of the best epoch.

    A linear probe first keeps the features from being torn by a random head (LP-FT, Kumar et al. 2022).

    Args:
        resumed: the checkpoint of `find_checkpoint` to resume from.

    Returns:
        The log: a dictionary for each logged step and each evaluation, with `stage`.
    """
    films = prepare(model, films, arguments)
    (Path(arguments.output_dir) / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    history = []
    if arguments.probe_epochs and not resumed:
        history += [{"stage": 1, **row} for row in train_probe(model, image_processor, films, arguments)]
        keep_history(history, arguments)
    elif resumed:
        history += read_kept_history(arguments)
    before = weights_before(model, arguments, resumed)
    if arguments.num_train_epochs > 0:
        history += [{"stage": 2, **row} for row in fine_tune(model, image_processor, films, arguments, resumed)]
    if before:
        interpolate_weights(model, before, arguments.wise_ft_alpha)
    return history


def finish(run: Path, test: Evaluation, validation: Evaluation, history: list[dict]) -> None:
    """Write the report of a run and print its summary."""
    report = run / "report"
    report.mkdir(parents=True, exist_ok=True)
    write_history(history, report / "history.csv")
    save_training_curves(report / "training_curves.png", history)
    write_report(report, test, validation)
    logger.info("%s", summary(run, test))

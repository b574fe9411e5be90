"""The learning rate, searched on validation: Trainer's hyperparameter search with optuna."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, set_seed
from transformers.image_processing_utils import BaseImageProcessor
from transformers.integrations import is_optuna_available

from pneumo_hf.config.parse import parse_args
from pneumo_hf.config.training_arguments import XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError
from pneumo_hf.training.divergence import DivergedError
from pneumo_hf.training.finetune import fine_tuner
from pneumo_hf.training.probe import train_probe
from pneumo_hf.training.recipe import recipe_values
from pneumo_hf.training.run_folder import start_run
from pneumo_hf.training.stage import prepare
from pneumo_hf.training.train import load

logger = logging.getLogger(__name__)

RATES = (1e-5, 3e-3)  # searched on a logarithmic scale


def tune(argv: Sequence[str], trials: int) -> dict:
    """Search the learning rate of a recipe, given as to train_hf.py; see `search_learning_rate`."""
    recipe = parse_args(argv)
    arguments = recipe.training
    start_run(arguments)
    set_seed(arguments.seed)
    model, image_processor, films, _ = load(recipe)
    values = recipe_values(recipe)
    values.pop("learning_rate")
    name = hashlib.blake2b(json.dumps(values, default=str).encode(), digest_size=6).hexdigest()
    result, metric = (
        search_learning_rate(model, image_processor, films, arguments, trials, name),
        arguments.metric_for_best_model,
    )
    for trial in sorted(result["trials"], key=lambda trial: trial[metric], reverse=arguments.greater_is_better):
        logger.info("learning rate %.2e: validation %s %.4f", trial["learning_rate"], metric, trial[metric])
    logger.info("use it: train_hf.py ... --learning_rate %.2e", result["best"]["learning_rate"])
    return result


def search_learning_rate(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    trials: int,
    name: str,
) -> dict:
    """Fine-tune from the same probe at several rates, and report which gave validation's best `metric_for_best_model`.

    The study lies in `output_dir/tune.db` under a name of its own for every recipe and data set: called again, it
    continues until it has that many finished trials.

    Returns:
        What it writes to `tune.json`: `{"best": {"learning_rate", "roc_auc"}, "trials": [...]}`; in place of
        `"roc_auc"` the recipe's metric.

    Raises:
        InputError: optuna is not installed, the recipe has no such second stage, or every rate diverges.
    """
    _assert_searchable(arguments, trials)
    import optuna

    folder, metric = Path(arguments.output_dir), arguments.metric_for_best_model
    best, direction = (max, "maximize") if arguments.greater_is_better else (min, "minimize")
    films = prepare(model, films, arguments)
    if arguments.probe_epochs:
        train_probe(model, image_processor, films, arguments)
    arguments = replace(arguments, load_best_model_at_end=False, save_strategy="no", early_stopping_patience=0)
    trainer = fine_tuner(model, image_processor, films, arguments, resumed=None)
    start = {name: values.clone() for name, values in model.state_dict().items()}

    def from_the_probe(trial: object = None) -> PreTrainedModel:
        model.load_state_dict(start)
        return model

    trainer.model_init = from_the_probe
    settings = {"storage": f"sqlite:///{folder / 'tune.db'}", "study_name": name, "load_if_exists": True}
    settings |= {"direction": direction, "pruner": optuna.pruners.NopPruner()}
    study = optuna.create_study(**settings)
    if finished := len(_finished(study)):
        logger.info("continuing with %d finished trials in %s", finished, folder / "tune.db")
    if finished < trials:
        try:
            trainer.hyperparameter_search(
                hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", *RATES, log=True)},
                compute_objective=lambda metrics: metrics[f"eval_{metric}"],
                n_trials=trials - finished,
                catch=(DivergedError,),  # a rate that is too high is no answer, and not the end
                sampler=optuna.samplers.TPESampler(seed=arguments.seed + finished),
                **settings,
            )
        except ValueError as error:  # of a best trial, when there is none
            if _finished(study):
                raise
            raise InputError("the training diverged at every rate that was tried: give more --trials") from error
    rows = [{"learning_rate": trial.params["learning_rate"], metric: trial.value} for trial in _finished(study)]
    result = {"best": best(rows, key=lambda row: row[metric]), "trials": rows}
    (folder / "tune.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _finished(study) -> list:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _assert_searchable(arguments: XrayTrainingArguments, trials: int) -> None:
    if not is_optuna_available():
        raise InputError("tune needs optuna: pip install optuna")
    if arguments.num_train_epochs <= 0:
        raise InputError("tune searches the rate of stage two, and num_train_epochs is 0")
    if arguments.lora_rank:
        raise InputError("tune searches the rate of fine-tuning: give it --lora_rank 0")
    if arguments.wise_ft_alpha < 1:
        raise InputError("tune scores the weights after stage two: give it --wise_ft_alpha 1")
    if trials < 1:
        raise InputError("tune needs one trial or more")

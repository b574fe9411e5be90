"""The learning rate, searched on validation: Trainer's hyperparameter search with optuna."""

import json
import logging
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.integrations import is_optuna_available

from pneumo_hf.config import InputError, XrayTrainingArguments
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.training.stages import fine_tuner, prepare, train_probe

logger = logging.getLogger(__name__)

RATES = (1e-5, 3e-3)  # searched on a logarithmic scale


def search_learning_rate(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    trials: int,
    name: str,
) -> dict:
    """Fine-tune from the same probe at several rates, and tell which gave validation's best `metric_for_best_model`.

    The study lies in `output_dir/tune.db` under a name of its own for every recipe and data set: called again, it goes
    on until it has so many finished trials.

    Returns:
        What it writes to `tune.json`: `{"best": {"learning_rate", "roc_auc"}, "trials": [...]}`; in place of
        `"roc_auc"` the metric that the recipe goes by.

    Raises:
        InputError: optuna is not installed, the recipe has no second stage or keeps a part of its way, or no trial is
            asked for.
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
    finished = len(_finished(study))
    if finished:
        logger.info("going on with %d finished trials in %s", finished, folder / "tune.db")
    if finished < trials:
        trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", *RATES, log=True)},
            compute_objective=lambda metrics: metrics[f"eval_{metric}"],
            n_trials=trials - finished,
            sampler=optuna.samplers.TPESampler(seed=arguments.seed + finished),
            **settings,
        )
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
    if arguments.fine_tuned_share < 1:
        raise InputError("tune scores the whole way of stage two: give it --fine_tuned_share 1")
    if trials < 1:
        raise InputError("tune needs one trial or more")

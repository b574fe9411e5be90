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
from pneumo_hf.training.stages import fine_tuner, train_probe

logger = logging.getLogger(__name__)

RATES = (1e-5, 3e-3)  # searched on a logarithmic scale


def search_learning_rate(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    films: dict[str, FilmDataset],
    arguments: XrayTrainingArguments,
    trials: int,
) -> dict:
    """Fine-tune from the same probe at several rates, and tell which gave the best validation ROC AUC.

    The study lies in `output_dir/tune.db`: called again, it goes on until it has so many finished trials.

    Returns:
        What it writes to `tune.json`: `{"best": {"learning_rate", "roc_auc"}, "trials": [...]}`.

    Raises:
        InputError: optuna is not installed, or the recipe has no second stage.
    """
    if not is_optuna_available():
        raise InputError("tune needs optuna: pip install optuna")
    if arguments.num_train_epochs <= 0:
        raise InputError("tune searches the rate of stage two, and num_train_epochs is 0")
    import optuna

    folder = Path(arguments.output_dir)
    if arguments.probe_epochs:
        train_probe(model, image_processor, films, arguments)
    start = {name: values.clone() for name, values in model.state_dict().items()}

    def from_the_probe(trial: object = None) -> PreTrainedModel:
        model.load_state_dict(start)
        return model

    arguments = replace(arguments, load_best_model_at_end=False, save_strategy="no", early_stopping_patience=0)
    trainer = fine_tuner(model, image_processor, films, arguments, resumed=None)
    trainer.model_init = from_the_probe
    storage, name = f"sqlite:///{folder / 'tune.db'}", "learning_rate"
    study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True, direction="maximize")
    finished = len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))
    if finished:
        logger.info("going on with %d finished trials in %s", finished, folder / "tune.db")
    if finished < trials:
        trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", *RATES, log=True)},
            compute_objective=lambda metrics: metrics["eval_roc_auc"],
            n_trials=trials - finished,
            direction="maximize",
            study_name=name,
            storage=storage,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=arguments.seed + finished),
        )
    study = optuna.load_study(study_name=name, storage=storage)
    done = [trial for trial in study.trials if trial.value is not None]
    rows = [{"learning_rate": trial.params["learning_rate"], "roc_auc": trial.value} for trial in done]
    result = {"best": max(rows, key=lambda row: row["roc_auc"]), "trials": rows}
    (folder / "tune.json").write_text(json.dumps(result, indent=2) + "\n")
    return result

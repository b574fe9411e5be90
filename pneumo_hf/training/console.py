"""What a training prints: a line an epoch, why it stopped, and a summary at the end."""

import logging
import math
import time
from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pneumo_hf.evaluation.evaluate import Evaluation
from pneumo_hf.evaluation.labels import MACRO

logger = logging.getLogger(__name__)

NAMES = {"roc_auc": "ROC AUC", "log_loss": "log loss"}


class EpochLine(TrainerCallback):
    """Prints one line an epoch: loss, validation figures, learning rate and the time left; and why training stopped.
    On a terminal a bar shows how far the epoch is.

    Sensitivity and specificity are at a threshold of .5: the decision threshold is chosen when training is over.
    """

    def __init__(self, stage: str):
        self.stage = stage.replace("stage", "stage ")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        self.started, self.first = time.monotonic(), state.epoch or 0.0

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        title = f"{self.stage}  epoch {math.floor(state.epoch or 0) + 1}"
        steps = math.ceil(state.max_steps / max(args.num_train_epochs, 1e-9))
        hidden = None if state.is_world_process_zero else True  # None: shown on a terminal, not in a file
        self.bar = tqdm(total=steps, desc=title, unit="step", leave=False, disable=hidden)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        self.bar.update()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        self.bar.close()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict, **_
    ) -> None:
        logs = [row for row in state.log_history if "loss" in row and row["epoch"] > (state.epoch or 0) - 1]
        done = (state.epoch or 0) - self.first
        left = (
            (time.monotonic() - self.started) / max(done, 1e-9) * max(0.0, args.num_train_epochs - (state.epoch or 0))
        )
        loss = f"{sum(row['loss'] for row in logs) / len(logs):.4f}" if logs else "-"
        rate = f"{logs[-1]['learning_rate']:.1e}" if logs else "-"
        logger.info(
            "%s  epoch %g/%g  loss %s  validation: ROC AUC %.4f  sensitivity %.3f  specificity %.3f  rate %s  %s left",
            self.stage,
            round(state.epoch or 0, 2),
            args.num_train_epochs,
            loss,
            metrics.get("eval_roc_auc", float("nan")),
            metrics.get("eval_sensitivity", float("nan")),
            metrics.get("eval_specificity", float("nan")),
            rate,
            duration(left),
        )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_) -> None:
        if not args.load_best_model_at_end or state.best_metric is None:
            return
        name = NAMES.get(args.metric_for_best_model or "", args.metric_for_best_model)
        stopped = (state.epoch or 0) < args.num_train_epochs and state.global_step < state.max_steps
        if stopped:
            logger.info("stopped early: no better %s on validation for %d epochs", name, args.early_stopping_patience)
        logger.info("%s: the epoch with the best %s on validation (%.4f) is kept", self.stage, name, state.best_metric)


def duration(seconds: float) -> str:
    """Format a time as people read it.

    >>> duration(45), duration(600), duration(7500)
    ('45 s', '10 min', '2 h 05 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def summary(run: Path, test: Evaluation) -> str:
    """Summarise a finished run: the test figures with intervals, the threshold, where things are, what comes next."""
    metrics, point = test.metrics["metrics"], test.metrics["decision_threshold"]

    def figure(name: str) -> str:
        value = metrics[name]
        return "{value:.3f} [{0:.3f}, {1:.3f}]".format(*value["ci95"], **value)

    of_labels = test.metrics.get("labels", {"labels": (), "metrics": {}})
    more = [
        "  {0}: {value:.3f} [{1:.3f}, {2:.3f}]".format(name.replace("_", " "), *value["ci95"], **value)
        for name, value in of_labels["metrics"].items()
        if name in MACRO
    ]
    return "\n".join(
        (
            f"test: {test.metrics['n']} films of {test.metrics['n_patients']} patients, 95 % intervals",
            f"  ROC AUC      {figure('roc_auc')}",
            f"  sensitivity  {figure('sensitivity')}",
            f"  specificity  {figure('specificity')}",
            *([f"of {len(of_labels['labels'])} labels, a film called by its likeliest:", *more] if more else []),
            f"decision threshold {point['value']:.3f} ({point['method']}, chosen on {point['chosen_on']})",
            f"report:     {run / 'report' / 'index.html'}",
            f"checkpoint: {run}",
            f"next:       python app.py --model {run}",
        )
    )

"""What a training prints."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from pneumo_hf.training.console import EpochLine, summary

ARGUMENTS = SimpleNamespace(
    num_train_epochs=6, load_best_model_at_end=True, metric_for_best_model="roc_auc", early_stopping_patience=2
)
METRICS = {"eval_roc_auc": 0.98765, "eval_sensitivity": 0.9, "eval_specificity": 0.85}


@pytest.fixture
def line(caplog: pytest.LogCaptureFixture) -> EpochLine:
    caplog.set_level(logging.INFO)
    printer = EpochLine("stage2")
    printer.on_train_begin(ARGUMENTS, state(None), None)
    return printer


def state(epoch: float | None, **values: object) -> SimpleNamespace:
    losses = [{"loss": 0.5, "learning_rate": 1e-3, "epoch": 0.5}, {"loss": 0.3, "learning_rate": 5e-4, "epoch": 1.0}]
    return SimpleNamespace(epoch=epoch, log_history=losses, **values)


def test_an_epoch_is_one_line(line: EpochLine, caplog: pytest.LogCaptureFixture) -> None:
    line.on_evaluate(ARGUMENTS, state(1.0), None, METRICS)
    (text,) = caplog.messages
    assert text.startswith("stage 2  epoch 1/6  loss 0.4000  validation: ROC AUC 0.9877  ")
    assert "sensitivity 0.900  specificity 0.850  rate 5.0e-04" in text and text.endswith("s left")


def test_the_loss_is_of_the_last_epoch_alone(line: EpochLine, caplog: pytest.LogCaptureFixture) -> None:
    line.on_evaluate(ARGUMENTS, state(1.75), None, METRICS)
    line.on_evaluate(ARGUMENTS, state(9.0), None, {})
    assert "epoch 1.75/6  loss 0.3000" in caplog.messages[0]
    assert "loss -  validation: ROC AUC nan" in caplog.messages[1]  # nothing was logged since


def test_why_it_stopped_and_which_epoch_is_kept(line: EpochLine, caplog: pytest.LogCaptureFixture) -> None:
    line.on_train_end(ARGUMENTS, state(4.0, best_metric=0.99, global_step=40, max_steps=60), None)
    assert caplog.messages == [
        "stopped early: no better ROC AUC on validation for 2 epochs",
        "stage 2: the epoch with the best ROC AUC on validation (0.9900) is kept",
    ]
    caplog.clear()
    line.on_train_end(ARGUMENTS, state(6.0, best_metric=0.99, global_step=60, max_steps=60), None)
    assert len(caplog.messages) == 1 and "is kept" in caplog.text
    caplog.clear()
    line.on_train_end(ARGUMENTS, state(6.0, best_metric=None, global_step=60, max_steps=60), None)
    assert not caplog.messages


def test_the_summary_is_eight_lines() -> None:
    figure = {"value": 0.98765, "ci95": [0.975, 0.995]}
    metrics = {
        "n": 624,
        "n_patients": 400,
        "metrics": dict.fromkeys(("roc_auc", "sensitivity", "specificity"), figure),
        "decision_threshold": {"value": 0.4321, "method": "youden", "chosen_on": "validation"},
    }
    lines = summary(Path("runs/mine"), SimpleNamespace(metrics=metrics)).splitlines()
    assert len(lines) == 8
    assert lines[0] == "test: 624 films of 400 patients, 95 % intervals"
    assert [text.split() for text in lines[1:4]] == [
        [*name.split(), "0.988", "[0.975,", "0.995]"] for name in ("ROC AUC", "sensitivity", "specificity")
    ]
    assert lines[4] == "decision threshold 0.432 (youden, chosen on validation)"
    assert lines[5].endswith("runs/mine/report/index.html") and lines[7].endswith("python app.py --model runs/mine")

"""Figures of several labels against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as reference

from pneumo_hf.evaluation.labels import label_metrics
from pneumo_hf.inference.scorer import probabilities, probability_of

NAMES = ("NORMAL", "BACTERIA", "VIRUS")
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, 400)
LOGITS = RANDOM.standard_normal((400, 3)) + 1.5 * np.eye(3)[LABELS]
PATIENTS = np.array([f"p{number // 2}" for number in range(400)])


def test_every_figure_is_scikit_learns() -> None:
    probs = probabilities(LOGITS)
    found, called = label_metrics(NAMES, LABELS, probs, PATIENTS), probs.argmax(axis=1)
    assert found["confusion_matrix"] == reference.confusion_matrix(LABELS, called).tolist()
    expected = {
        "accuracy": reference.accuracy_score(LABELS, called),
        "macro_sensitivity": reference.balanced_accuracy_score(LABELS, called),
        "macro_f1": reference.f1_score(LABELS, called, average="macro"),
        "macro_roc_auc": reference.roc_auc_score(LABELS, probs, multi_class="ovr", average="macro"),
        "roc_auc_VIRUS": reference.roc_auc_score(LABELS == 2, probs[:, 2]),
        "sensitivity_BACTERIA": reference.recall_score(LABELS == 1, called == 1),
    }
    for name, value in expected.items():
        low, high = found["metrics"][name]["ci95"]
        assert found["metrics"][name]["value"] == pytest.approx(value, abs=1e-12)
        assert low < value < high and high - low < 0.15


def test_a_label_without_films_leaves_its_figures_undefined() -> None:
    some = LABELS < 2
    found = label_metrics(NAMES, LABELS[some], probabilities(LOGITS[some]), PATIENTS[some])["metrics"]
    assert np.isnan([found[name]["value"] for name in ("macro_roc_auc", "roc_auc_VIRUS", "sensitivity_VIRUS")]).all()
    assert 0.5 < found["accuracy"]["value"] < 1


def test_the_decision_is_on_one_minus_normal() -> None:
    assert probability_of(LOGITS) == pytest.approx(1 - probabilities(LOGITS)[:, 0], abs=1e-12)
    assert probability_of(np.array([[0.0, -800.0, 800.0], [800.0, 0.0, 0.0]])).tolist() == [1.0, 0.0]

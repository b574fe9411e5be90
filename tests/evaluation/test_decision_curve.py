"""Decision curves: dcurves' values, the useless model, and intervals over patients."""

import json
from pathlib import Path

import numpy as np
import pytest

from pneumo_hf.evaluation.decision_curve import THRESHOLDS, decision_curve, net_benefit

ORACLE = json.loads((Path(__file__).parent / "oracles" / "dcurves.json").read_text())


def simulated(films: int = 400, seed: int = 0, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that are probabilities."""
    random = np.random.default_rng(seed)
    labels = (random.random(films) < 0.3).astype(int)
    evidence = random.standard_normal(films) + apart * labels
    return labels, 1 / (1 + np.exp(-(apart * (evidence - apart / 2) + np.log(0.3 / 0.7))))


def test_the_curve_is_that_of_dcurves() -> None:
    labels, probs = np.array(ORACLE["labels"]), np.array(ORACLE["probs"])
    np.testing.assert_allclose(THRESHOLDS, ORACLE["thresholds"], atol=1e-15)
    for scores, name in ((probs, "model"), (np.ones(len(labels)), "all")):
        np.testing.assert_allclose(net_benefit(labels, scores, np.ones((1, len(labels))))[0], ORACLE[name], atol=1e-9)
    curve = decision_curve(labels, probs, np.arange(len(labels)))
    np.testing.assert_allclose(curve["model"], ORACLE["model"], atol=1e-6)
    np.testing.assert_allclose(curve["treat_all"], ORACLE["all"], atol=1e-6)
    assert not any(ORACLE["none"])


def test_the_useless_model_is_treating_all_below_its_score_and_none_above() -> None:
    labels, _ = simulated()
    prevalence = float(labels.mean())
    curve = decision_curve(labels, np.full(len(labels), prevalence), np.arange(len(labels)))
    model, treat_all = np.array(curve["model"]), np.array(curve["treat_all"])
    below = prevalence >= THRESHOLDS
    assert 10 < below.sum() < 90
    np.testing.assert_allclose(model[below], treat_all[below], atol=1e-12)  # rounded alike
    assert not model[~below].any() and not np.array(curve["gain"]).any()
    assert curve["useful"] is None


@pytest.mark.parametrize("prevalence", [0.1, 0.3])
@pytest.mark.parametrize("scores", ["about the prevalence", "uniform", "of patients with five films"])
def test_scores_without_information_are_seldom_called_useful(
    scores: str, prevalence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one threshold or other of the 99 they seem to be worth something in every sample."""
    monkeypatch.setattr("pneumo_hf.evaluation.decision_curve.RESAMPLES", 200)
    called = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        patients = np.arange(300) // (5 if "patients" in scores else 1)
        labels = (random.random(300) < prevalence).astype(int)[patients]
        odds = np.log(prevalence / (1 - prevalence)) + 0.5 * random.standard_normal(300)[patients]
        probs = random.random(300) if scores == "uniform" else 1 / (1 + np.exp(-odds))
        called += decision_curve(labels, probs, patients)["useful"] is not None
    assert called <= 3  # 2.5 % of 40, and at most three by chance in 98 of 100 tests


def test_a_good_model_is_worth_using_and_one_that_is_too_sure_is_worth_less() -> None:
    low, high = decision_curve(*simulated(300, apart=3.0), np.arange(300))["useful"]
    assert low < 0.1 and high > 0.9
    labels, probs = simulated(2000)
    patients = np.arange(2000)
    curve = decision_curve(labels, probs, patients)
    low, high = curve["useful"]
    assert low < 0.05 and high > 0.8
    inside = (low <= THRESHOLDS) & (high >= THRESHOLDS)
    assert (np.array(curve["gain_ci95"])[inside, 0] > 0).all()
    too_sure = 1 / (1 + ((1 - probs) / probs) ** 4)
    assert np.sum(decision_curve(labels, too_sure, patients)["gain"]) < np.sum(curve["gain"])


def test_weights_count_films_and_intervals_widen_where_patients_have_several() -> None:
    labels, probs = simulated(100)
    counts = np.random.default_rng(1).integers(0, 4, 100)
    weighted = net_benefit(labels, probs, counts[None].astype(float))[0]
    repeated = net_benefit(np.repeat(labels, counts), np.repeat(probs, counts), np.ones((1, counts.sum())))[0]
    np.testing.assert_allclose(weighted, repeated, atol=1e-12)
    wide, narrow = (
        decision_curve(np.repeat(labels, 4), np.repeat(probs, 4), patients)["ci95"]
        for patients in (np.repeat(np.arange(100), 4), np.arange(400))
    )
    ratio = np.diff(wide, axis=1)[:60].mean() / np.diff(narrow, axis=1)[:60].mean()
    assert ratio == pytest.approx(2, abs=0.2)

import numpy as np
import pytest
from scipy.special import softmax

from pneumo_hf.evaluation.calibration import (
    at_prevalence,
    fit_isotonic,
    fit_temperature,
    prevalence_of_scores,
    slope_and_intercept,
)
from pneumo_hf.evaluation.operating_points import choose_thresholds, operating_points, predictive_values


def test_named_thresholds_by_brute_force() -> None:
    random = np.random.default_rng(4)
    labels = (random.random(400) < 0.6).astype(int)
    probs = np.clip(0.5 + 0.2 * (2 * labels - 1) + 0.2 * random.standard_normal(400), 0.001, 0.999)
    thresholds = choose_thresholds(labels, probs)
    sensitivity = {t: np.mean(probs[labels == 1] >= t) for t in np.unique(probs)}
    specificity = {t: np.mean(probs[labels == 0] < t) for t in np.unique(probs)}
    points = {point["name"]: point for point in operating_points(labels, probs, thresholds)}
    youden = points["youden"]["sensitivity"] + points["youden"]["specificity"]
    assert youden == pytest.approx(max(sensitivity[t] + specificity[t] for t in sensitivity))
    highest = max(t for t in sensitivity if sensitivity[t] >= 0.95)
    assert points["sensitivity@0.95"]["sensitivity"] == sensitivity[highest]
    lowest = min(t for t in specificity if specificity[t] >= 0.95)
    assert points["specificity@0.95"]["specificity"] == specificity[lowest]
    f1 = {t: 2 * np.sum((probs >= t) & (labels == 1)) / (np.sum(probs >= t) + labels.sum()) for t in np.unique(probs)}
    at = probs >= thresholds["f1"]
    assert 2 * np.sum(at & (labels == 1)) / (at.sum() + labels.sum()) == pytest.approx(max(f1.values()))
    cost = {
        t: 5 * np.sum((probs < t) & (labels == 1)) + np.sum((probs >= t) & (labels == 0)) for t in np.unique(probs)
    }
    at = probs >= thresholds["cost@5"]
    assert 5 * np.sum(~at & (labels == 1)) + np.sum(at & (labels == 0)) == min(cost.values())
    assert not set(thresholds.values()) & set(probs)  # between scores, never on one


def test_separable_scores_have_a_threshold_between_the_labels() -> None:
    labels, probs = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.9])
    assert choose_thresholds(labels, probs)["youden"] == pytest.approx(0.45)
    assert choose_thresholds(labels, probs)["specificity@0.95"] == pytest.approx(0.45)


def test_the_temperature_that_made_the_logits_is_found() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((20_000, 2)) * 2
    labels = (random.random(20_000) < softmax(logits, axis=1)[:, 1]).astype(int)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(np.array([[2.0, -2.0], [-2.0, 2.0]]), np.array([0, 1])) >= 0.05  # separable


def test_predictive_values_by_counting_films() -> None:
    ppv, npv = predictive_values(0.9, 0.8, np.array([0.25]))  # of 400 films 100 with pneumonia: 90 tp, 60 fp, 240 tn
    assert (ppv[0], npv[0]) == pytest.approx((90 / 150, 240 / 250))


def test_scores_for_another_prevalence_are_calibrated_there() -> None:
    random = np.random.default_rng(0)

    def films(share: float, count: int = 400_000) -> tuple[np.ndarray, np.ndarray]:
        labels = (random.random(count) < share).astype(int)
        return labels, 1.5 * labels + random.standard_normal(count)

    labels, marks = films(0.1)
    fitted = 1 / (1 + np.exp(-(1.5 * marks - 1.125 + np.log(0.7 / 0.3))))  # Bayes, where 70 % have pneumonia
    assert slope_and_intercept(labels, fitted)["intercept"] < -2
    there = slope_and_intercept(labels, at_prevalence(fitted, 0.7, 0.1))
    assert (there["slope"], there["intercept"]) == pytest.approx((1, 0), abs=0.05)
    assert slope_and_intercept(labels, 1 / (1 + np.exp(-2 * (1.5 * marks - 1.125))))["slope"] == pytest.approx(
        0.5, abs=0.02
    )


def test_isotonic_scores_keep_the_order_and_meet_the_labels() -> None:
    random = np.random.default_rng(1)
    truth = random.random(5000)
    labels, scores = (random.random(5000) < truth).astype(int), truth**3
    mapped = fit_isotonic(labels, scores)(scores)
    assert np.all(np.diff(mapped[np.argsort(scores)]) >= 0)
    assert np.abs(mapped - truth).mean() < 0.05 < np.abs(scores - truth).mean()


def test_the_prevalence_that_weighted_training_put_into_the_scores_is_found() -> None:
    """Scores as of a balanced loss, on films of which three quarters have pneumonia."""
    random = np.random.default_rng(3)
    labels = (random.random(100_000) < 0.75).astype(int)
    balanced = 1 / (1 + np.exp(-(1.5 * (1.5 * labels + random.standard_normal(100_000)) - 1.125)))
    assert prevalence_of_scores(labels, balanced) == pytest.approx(0.5, abs=0.01)
    assert slope_and_intercept(labels, balanced)["intercept"] == pytest.approx(np.log(3), abs=0.05)
    separated = slope_and_intercept(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.7, 0.9]))
    assert np.isnan(separated["slope"])

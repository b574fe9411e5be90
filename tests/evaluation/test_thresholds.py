import numpy as np
import pytest
from scipy.special import softmax

from pneumo_hf.evaluation.calibration import fit_temperature
from pneumo_hf.evaluation.thresholds import choose_thresholds, operating_points


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

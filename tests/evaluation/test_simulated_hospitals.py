"""Recalibrated on films of simulated hospitals, whose truth is known, again and again."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from pneumo_hf.evaluation.metrics import calibration_error
from pneumo_hf.evaluation.operating_points import choose_thresholds
from pneumo_hf.evaluation.recalibration import fit_recalibration
from pneumo_hf.evaluation.sample_size import coverage_interval

RUNS, FILMS = 500, 300
HOSPITALS = {  # offset and slope that the scores need there, the share of pneumonia, and how far apart the labels lie
    "level shift": (-1.5, 1.0, 0.5, 2.2),
    "slope": (0.0, 0.5, 0.5, 2.2),
    "another prevalence": (-1.4, 1.0, 0.2, 2.2),
    "corrupted films": (0.5, 0.4, 0.5, 1.3),
}


def films_of(hospital: str, films: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the log odds that a checkpoint gives there, `[N]` each."""
    offset, slope, prevalence, apart = HOSPITALS[hospital]
    labels = (random.random(films) < prevalence).astype(int)
    evidence = random.standard_normal(films) + apart * labels
    right = apart * (evidence - apart / 2) + logit(prevalence)
    return labels, (right - offset) / slope


def true_sensitivity(hospital: str, odds: float) -> float:
    """Of all films of a hospital, at a threshold of the log odds that the checkpoint gives there."""
    offset, slope, prevalence, apart = HOSPITALS[hospital]
    return float(norm.sf((offset + slope * odds - logit(prevalence)) / apart - apart / 2))


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_simulated_hospitals(hospital: str) -> None:
    """What is covered is the sensitivity that a threshold keeps, chosen on films of as many patients.

    It hangs on the order of films alone, which stays: any offset and slope above 0 would cover as well. Whether these
    are right, the calibration error and the mean of the fits say. Of several films a patient, see test_sample_size.py.
    """
    random, patients, ones = np.random.default_rng(3), np.arange(FILMS), np.ones((1, FILMS))
    errors, covered, fitted = [], 0, []
    for _ in range(RUNS):
        labels, odds = films_of(hospital, FILMS, random)
        offset, slope = fit_recalibration(labels, odds, patients)
        probs = expit(offset + slope * odds)
        cut = choose_thresholds(labels, probs, ["sensitivity@0.95"])["sensitivity@0.95"]
        passed = (probs >= cut)[labels == 1]
        low, high = coverage_interval(passed.sum(), len(passed))
        covered += low <= true_sensitivity(hospital, (logit(cut) - offset) / slope) <= high
        fitted.append((offset, slope))
        labels, odds = films_of(hospital, FILMS, random)  # others
        scores = {"before": expit(odds), "after": expit(offset + slope * odds)}
        chance = random.random(FILMS) < scores["after"]
        errors.append([calibration_error(labels, one, ones)[0] for one in scores.values()])
        errors[-1].append(calibration_error(chance, scores["after"], ones)[0])
    before, after, by_chance = np.mean(errors, axis=0)
    assert 0.93 <= covered / RUNS <= 0.97
    assert before > 1.4 * by_chance and after < 1.2 * by_chance
    assert np.mean(fitted, axis=0) == pytest.approx(HOSPITALS[hospital][:2], abs=0.1)

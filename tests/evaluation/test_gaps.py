"""Gaps between groups: fairlearn's values, and intervals that hold what they promise."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from pneumo_hf.evaluation.gaps import effective_patients, gap_between, gap_of, group_gaps, measure_of, shares
from pneumo_hf.evaluation.metrics import bootstrap_weights, metrics_with_intervals

ORACLE = json.loads((Path(__file__).parent / "oracles" / "fairlearn.json").read_text())
RUNS, RESAMPLES = 500, 300


def test_the_gaps_are_those_of_fairlearn() -> None:
    labels, probs, groups = (np.array(ORACLE[name]) for name in ("labels", "probs", "groups"))
    found = group_gaps(labels, probs, ORACLE["threshold"], np.arange(len(labels)), {"group": groups})["group"]
    for metric in ("sensitivity", "specificity"):
        assert found[metric]["value"] == pytest.approx(ORACLE["difference"][metric], abs=1e-12)
        by_group = ORACLE["by_group"][metric]
        assert by_group[found[metric]["largest"]] == max(by_group.values())
        assert by_group[found[metric]["least"]] == min(by_group.values())
    errors = [
        metrics_with_intervals(labels[part], probs[part], 0.5, np.arange(part.sum()))["ece"]["value"]
        for part in (groups == name for name in "ABC")
    ]
    assert found["ece"]["value"] == pytest.approx(max(errors) - min(errors), abs=1e-12)


def simulated(true: tuple[float, ...], seed: int, a_patient: int = 1, runs: int = RUNS) -> list[dict]:
    """The gaps of simulated sets of 120 patients a group, whose films are right with a chance of `true`.

    All sets have the same patients, so that they share the weights of the resamples.
    """
    random, group = np.random.default_rng(seed), np.repeat(np.arange(len(true)), 120)
    patient_ids = np.repeat(np.arange(len(group)), a_patient)
    (weights,) = bootstrap_weights(patient_ids, RESAMPLES, 0)
    one_hot = np.repeat(np.eye(len(true))[group], a_patient, axis=0)
    once, found = np.ones((1, len(patient_ids))), []
    for _ in range(runs):
        right = np.repeat(random.random(len(group)) < np.array(true)[group], a_patient)
        values, resampled = (shares(right, one_hot, rows) for rows in (once, weights))
        found.append(gap_of(values[0], resampled, one_hot.sum(axis=0)))
    return found


def coverage(found: list[dict], gap: float) -> float:
    return float(np.mean([low - 1e-9 <= gap <= high + 1e-9 for low, high in (one["ci95"] for one in found)]))


def share_shown(found: list[dict]) -> float:
    return float(np.mean([one["ci95"][0] > 0 for one in found]))


@pytest.mark.parametrize("true", [(0.9, 0.75), (0.95, 0.9), (0.9, 0.85, 0.75), (0.9, 0.8, 0.8)], ids=str)
def test_a_gap_of_known_size_is_in_95_of_100_intervals(true: tuple[float, ...]) -> None:
    assert 0.93 <= coverage(simulated(true, seed=1), max(true) - min(true)) <= 0.97


def test_so_it_is_where_patients_have_several_films() -> None:
    assert 0.93 <= coverage(simulated((0.9, 0.75), seed=1, a_patient=2), 0.15) <= 0.97


def test_equal_groups_seem_to_differ_in_5_of_100_and_the_stated_gap_is_shown_in_80() -> None:
    assert 0.03 <= share_shown(simulated((0.8, 0.8, 0.8), seed=2)) <= 0.07
    gap = simulated((0.85, 0.85), seed=3, runs=1)[0]["detectable"]
    assert 0.72 <= share_shown(simulated((0.85 + gap / 2, 0.85 - gap / 2), seed=4)) <= 0.88


@pytest.mark.parametrize("shifts", [(0.0, -1.0), (-0.5, -1.5)], ids=str)
def test_a_gap_of_calibration_errors_is_covered(shifts: tuple[float, float]) -> None:
    """Scores of two groups whose log odds are too high by a known shift, or by none."""
    random, hits = np.random.default_rng(0), 0
    group, many = np.repeat([0, 1], 200), random.uniform(0.02, 0.98, 400_000)
    (weights,) = bootstrap_weights(np.arange(400), RESAMPLES, 0)
    true = [(np.abs(many - expit(logit(many) + shift))).mean() for shift in shifts]  # of one sign in every bin
    for _ in range(RUNS):
        probs = random.uniform(0.02, 0.98, 400)
        labels = (random.random(400) < expit(logit(probs) + np.array(shifts)[group])).astype(int)
        measure = measure_of("ece", labels, probs, 0.5, np.eye(2)[group])
        low, high = gap_between(measure(np.ones((1, 400)))[:, 0], measure(weights), np.full(2, 200))["ci95"]
        hits += low <= abs(true[0] - true[1]) <= high
    assert 0.93 <= hits / RUNS <= 0.97


def test_groups_that_are_too_small_or_unknown_are_left_out() -> None:
    random = np.random.default_rng(0)
    labels, probs = random.integers(0, 2, 300), random.random(300)
    groups = {
        "sex": np.where(np.arange(300) < 150, "F", "M"),
        "view": np.where(np.arange(300) < 9, "AP", np.where(np.arange(300) < 150, "PA", "")),
        "source": np.full(300, "one"),
    }
    found = group_gaps(labels, probs, 0.5, np.arange(300), groups)
    assert set(found) == {"sex"} and set(found["sex"]) == {"sensitivity", "specificity", "ece"}
    low, high = found["sex"]["ece"]["ci95"]
    assert low == 0 and high < 0.3 and found["sex"]["ece"]["groups"] == 2
    all_right = group_gaps(labels, labels.astype(float), 0.5, np.arange(300), groups)["sex"]["sensitivity"]
    assert all_right["value"] == 0 and all_right["ci95"][0] == 0 and 0.01 < all_right["ci95"][1] < 0.1


def test_a_group_of_few_patients_with_many_films_is_left_out() -> None:
    """Films of one child are alike: thirty of five children would seem to differ in a third of samples."""
    random = np.random.default_rng(0)
    labels, probs = np.ones(230, int), random.random(230)
    patients = np.concatenate([np.arange(200), 1000 + np.arange(30) % 5])
    groups = {"sex": np.where(np.arange(230) < 100, "F", "M"), "view": np.where(np.arange(230) < 200, "PA", "AP")}
    found = group_gaps(labels, probs, 0.5, patients, groups)
    assert set(found) == {"sex"} and found["sex"]["sensitivity"]["groups"] == 2
    assert effective_patients(np.ones((31, 1)), np.array([0] * 30 + [1]))[0] < 1.1

"""What a threshold keeps of its sensitivity, and how many films that takes: against the truth of many hospitals."""

import numpy as np
import pytest
from scipy.stats import beta, norm

from pneumo_hf.evaluation.operating_points import choose_thresholds
from pneumo_hf.evaluation.sample_size import SIZES, coverage_interval, design_effect, films_needed

RUNS = 500


def covered(patients: int, films_each: int, alike: float, by_patient: bool) -> float:
    """The share of hospitals whose true sensitivity lies in the interval of the threshold that was chosen there."""
    random, found = np.random.default_rng(1), 0
    ids, labels = np.repeat(np.arange(patients), films_each), np.repeat(np.arange(patients) % 2, films_each)
    for _ in range(RUNS):
        own, shared = random.standard_normal(len(ids)), random.standard_normal(patients)[ids]
        scores = norm.cdf((2 * labels + np.sqrt(alike) * shared + np.sqrt(1 - alike) * own - 1) / 3)
        cut = choose_thresholds(labels, scores, ["sensitivity@0.95"])["sensitivity@0.95"]
        passed = (scores >= cut)[labels == 1]
        effect = design_effect(passed, ids[labels == 1]) if by_patient else 1.0
        low, high = coverage_interval(passed.sum(), len(passed), effect)
        found += low <= norm.sf(3 * norm.ppf(cut) + 1 - 2) <= high
    return found / RUNS


def test_the_interval_of_a_chosen_threshold_is_of_95_percent() -> None:
    assert 0.93 <= covered(200, 1, 0.0, by_patient=True) <= 0.97


def test_films_of_one_patient_count_for_less() -> None:
    assert covered(200, 2, 0.9, by_patient=False) < 0.91
    assert 0.93 <= covered(200, 2, 0.9, by_patient=True) <= 0.97


def test_a_design_effect_is_the_ratio_of_variances() -> None:
    passed = np.array([True, True, False, False])
    assert design_effect(passed, np.array(["a", "a", "b", "b"])) == 4.0  # two patients for four films, n / (n - 1)
    assert design_effect(passed, np.array(["a", "b", "a", "b"])) == 1.0
    assert design_effect(np.ones(4, bool), np.array(["a", "a", "b", "b"])) == 1.0


def test_how_many_films_it_takes() -> None:
    need = films_needed(0.25, 0.95, 0.8)
    assert [row["films"] for row in need["sizes"]] == [*SIZES]
    low, high = beta.ppf([0.025, 0.975], 0.95 * 50 + 0.5, 0.05 * 50 + 0.5)
    assert need["sizes"][2]["sensitivity"] == pytest.approx(high - low)  # 200 films, 50 with pneumonia
    sizes = need["for_margin"]
    assert sizes["both"] == max(sizes["sensitivity"], sizes["specificity"])
    for name, share, value in (("sensitivity", 0.25, 0.95), ("specificity", 0.75, 0.8)):
        reach = []
        for films in (sizes[name] - 1, sizes[name]):
            cases = share * films
            low, high = beta.ppf([0.025, 0.975], value * cases + 0.5, (1 - value) * cases + 0.5)
            reach.append(max(high - value, value - low))
        assert reach[0] > 0.05 >= reach[1]
    doubled = films_needed(0.25, 0.95, 0.8, effects=(2.0, 2.0))["for_margin"]["both"]
    assert doubled == pytest.approx(2 * sizes["both"], abs=2)
    rare = films_needed(0.0005, 0.95, 0.8)["for_margin"]
    assert rare["sensitivity"] is rare["both"] is None and rare["specificity"] < 300

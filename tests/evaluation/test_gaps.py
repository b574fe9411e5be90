"""Gaps between groups: fairlearn's values, and intervals that hold what they promise."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from pneumo_hf.evaluation.gaps import CALIBRATION, cluster_robust_means, effective_patients, gap_of, group_gaps
from pneumo_hf.evaluation.metrics import calibration_error

ORACLE = json.loads((Path(__file__).parent / "oracles" / "fairlearn.json").read_text())
RUNS = 400
SEVERAL = 0  # films a patient: one to eight of each
RIGHT, SCORED = (0.0, 1.0), (-0.5, 0.5)  # what the two added patients of a group count


def test_the_gaps_are_those_of_fairlearn() -> None:
    labels, probs, groups = (np.array(ORACLE[name]) for name in ("labels", "probs", "groups"))
    found = group_gaps(labels, probs, ORACLE["threshold"], np.arange(len(labels)), {"group": groups})["group"]
    for metric in ("sensitivity", "specificity"):
        assert found[metric]["value"] == pytest.approx(ORACLE["difference"][metric], abs=1e-12)
        by_group = ORACLE["by_group"][metric]
        assert by_group[found[metric]["largest"]] == max(by_group.values())
        assert by_group[found[metric]["least"]] == min(by_group.values())
    gap = found[CALIBRATION]
    of_largest, of_least = ((probs - labels)[groups == gap[name]].mean() for name in ("largest", "least"))
    assert gap["value"] == pytest.approx(of_largest - of_least, abs=1e-12) and gap["value"] > 0
    error = found["ece"]
    of_each = {name: errors(labels[groups == name], probs[groups == name]) for name in set(groups)}
    assert error["value"] == pytest.approx(of_each[error["largest"]] - of_each[error["least"]], abs=1e-12)
    assert error["value"] == pytest.approx(np.ptp(list(of_each.values())), abs=1e-12)
    assert error["ci95"] == [None, None] and error["detectable"] is None


def errors(labels: np.ndarray, probs: np.ndarray) -> float:
    return calibration_error(labels, probs, np.ones((1, len(labels))))[0]


def test_the_error_of_a_mean_is_that_of_its_patients_with_two_more() -> None:
    """Of a film a patient it is the textbook's; a copy of every film changes nothing."""
    values, group = np.random.default_rng(0).random(90), np.repeat([0, 1], [30, 60])
    once = cluster_robust_means(values, np.eye(2)[group], np.arange(90), RIGHT)
    for number in (0, 1):
        more = np.append(values[group == number], RIGHT)
        assert once[0][number] == pytest.approx(more.mean())
        assert once[1][number, number] == pytest.approx(more.var(ddof=1) / len(more))
    twice = cluster_robust_means(np.tile(values, 2), np.eye(2)[np.tile(group, 2)], np.tile(np.arange(90), 2), RIGHT)
    for ours, theirs in zip(once, twice, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-12)
    assert once[1][0, 1] == 0 and once[2].tolist() == [29, 59]


def simulated(
    patients: tuple[int, ...], true: tuple[float, ...], films: int, alike: float, runs: int = RUNS, seed: int = 0
) -> list[dict]:
    """Gaps of simulated sets: a film is right by a chance of its patient, Beta distributed around that of the group.

    Args:
        films: of a patient. alike: the correlation of two films of a patient.
    """
    random, found = np.random.default_rng(seed), []
    group = np.repeat(np.arange(len(patients)), patients)
    chance, pairs = np.array(true)[group], len(true) * (len(true) - 1) / 2
    for _ in range(runs):
        sizes = random.integers(1, 9, len(group)) if films == SEVERAL else np.full(len(group), films)
        own = random.beta(chance * (1 / alike - 1), (1 - chance) * (1 / alike - 1)) if alike else chance
        patient_ids = np.repeat(np.arange(len(group)), sizes)
        right = (random.random(len(patient_ids)) < own[patient_ids]).astype(float)
        inside = np.eye(len(true))[group[patient_ids]]
        found.append(gap_of(right, inside, patient_ids, RIGHT, error=0.05 / pairs))
    return found


def missed(found: list[dict], gap: float) -> int:
    return sum(not low - 1e-9 <= gap <= high + 1e-9 for low, high in (one["ci95"] for one in found))


def shown(found: list[dict]) -> int:
    return sum(one["ci95"][0] > 0 for one in found)


def stated(runs: int = RUNS) -> tuple[int, int]:
    """How often intervals of 95 % miss but by chance, in 99.9 % of such tests on either side."""
    return tuple(int(end) for end in binom.ppf([0.001, 0.999], runs, 0.05))


FILMS = [(1, 0.0), (SEVERAL, 0.0), (SEVERAL, 0.5), (SEVERAL, 0.9), (8, 0.9)]


@pytest.mark.parametrize(("films", "alike"), FILMS)
@pytest.mark.parametrize("patients", [(20, 20), (20, 300), (100, 40)], ids=str)
def test_95_of_100_intervals_hold_however_few_the_patients_and_many_their_films(
    patients: tuple[int, int], films: int, alike: float
) -> None:
    for true in ((0.8, 0.8), (0.9, 0.9), (0.97, 0.97), (0.95, 0.8), (0.8, 0.95)):
        found = simulated(patients, true, films, alike, runs=RUNS // 4)
        assert missed(found, abs(true[0] - true[1])) <= stated(RUNS // 4)[1], true
        assert all(low <= one["value"] <= high for one in found for low, high in [one["ci95"]])


@pytest.mark.parametrize(("films", "alike"), FILMS[:1] + FILMS[2:4])
def test_of_many_patients_the_intervals_are_not_wider_than_stated(films: int, alike: float) -> None:
    for true in ((0.85, 0.85), (0.9, 0.75)):
        least, most = stated()
        assert least <= missed(simulated((300, 300), true, films, alike), true[0] - true[1]) <= most


def test_of_three_groups_the_choice_of_the_largest_difference_costs_no_coverage() -> None:
    for true in ((0.85, 0.85, 0.85), (0.9, 0.8, 0.8), (0.95, 0.85, 0.75)):
        assert missed(simulated((100, 60, 200), true, SEVERAL, 0.5), max(true) - min(true)) <= stated()[1]


def test_a_large_gap_is_shown_and_films_count_where_they_are_not_alike() -> None:
    runs = 100
    assert shown(simulated((20, 20), (0.97, 0.5), 1, 0.0, runs)) >= 90
    assert shown(simulated((100, 100), (0.95, 0.75), 1, 0.0, runs)) >= 90
    assert shown(simulated((100, 100), (0.95, 0.75), SEVERAL, 0.5, runs)) >= 90
    assert (
        shown(simulated((40, 40), (0.95, 0.8), 1, 0.0, runs))
        <= 60
        < 90
        <= shown(simulated((40, 40), (0.95, 0.8), 8, 0.0, runs))
    )


@pytest.mark.parametrize(("films", "alike"), [(1, 0.0), (SEVERAL, 0.5)])
def test_the_stated_gap_is_shown_in_80_of_100(films: int, alike: float) -> None:
    gap = np.mean([one["detectable"] for one in simulated((120, 120), (0.85, 0.85), films, alike, runs=50)])
    found = simulated((120, 120), (0.85 + gap / 2, 0.85 - gap / 2), films, alike)
    assert 0.73 <= shown(found) / RUNS <= 0.87


def reports(runs: int, shift: float, seed: int) -> list[dict]:
    """Gaps by three columns of simulated reports: 160 patients, one to eight films each, in groups by chance.

    The log odds of women are too high by `shift`. Sharp scores: half the films are all but sure.
    """
    random, found = np.random.default_rng(seed), []
    for _ in range(runs):
        patient_ids = np.repeat(np.arange(160), random.integers(1, 9, 160))
        sex, source, view = random.random(160) < 0.5, random.integers(0, 3, 160), random.random(len(patient_ids)) < 0.5
        odds = (2 * random.normal(size=160))[patient_ids] + 2 * random.normal(size=len(patient_ids))
        drawn = np.where(random.random(len(odds)) < 0.7, random.random(160)[patient_ids], random.random(len(odds)))
        labels = (drawn < expit(odds)).astype(int)
        probs = expit(odds + shift * sex[patient_ids])
        groups = {"sex": sex[patient_ids], "source": source[patient_ids], "view": view}  # views of one patient differ
        groups = {name: values.astype(int).astype(str) for name, values in groups.items()}
        found.append(group_gaps(labels, probs, 0.5, patient_ids, groups))
    return found


def test_of_equal_groups_at_most_5_of_100_reports_show_any_gap() -> None:
    found = reports(RUNS // 2, shift=0.0, seed=0)
    assert all(len(gaps) == 4 for one in found for gaps in one.values()) and len(found[0]) == 3
    alarms = sum(any((gap["ci95"][0] or 0) > 0 for gaps in one.values() for gap in gaps.values()) for one in found)
    assert alarms <= stated(RUNS // 2)[1]


def test_a_gap_of_calibration_is_covered_and_shown() -> None:
    random = np.random.default_rng(9)
    odds = 2 * random.normal(size=400_000) + 2 * random.normal(size=400_000)
    true, found = (expit(odds + 1.5) - expit(odds)).mean(), [one["sex"][CALIBRATION] for one in reports(100, 1.5, 1)]
    assert missed(found, true) <= stated(100)[1] and shown(found) >= 75
    assert all((one["largest"], one["least"]) == ("1", "0") for one in found)  # scores of women are too high


def test_groups_that_are_too_small_or_unknown_are_left_out() -> None:
    random = np.random.default_rng(0)
    labels, probs = random.integers(0, 2, 300), random.random(300)
    groups = {
        "sex": np.where(np.arange(300) < 150, "F", "M"),
        "view": np.where(np.arange(300) < 9, "AP", np.where(np.arange(300) < 150, "PA", "")),
        "source": np.full(300, "one"),
    }
    found = group_gaps(labels, probs, 0.5, np.arange(300), groups)
    assert set(found) == {"sex"} and set(found["sex"]) == {"sensitivity", "specificity", CALIBRATION, "ece"}
    low, high = found["sex"][CALIBRATION]["ci95"]
    assert low == 0 and high < 0.3 and found["sex"][CALIBRATION]["groups"] == 2
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


def test_a_group_of_one_patient_is_left_out() -> None:
    random = np.random.default_rng(0)
    labels, probs = np.append(random.integers(0, 2, 200), np.repeat([1, 0], 30)), random.random(260)
    groups = {"source": np.where(np.arange(260) < 200, "many", "one patient")}
    assert "source" in group_gaps(labels, probs, 0.5, np.arange(260), groups)
    assert group_gaps(labels, probs, 0.5, np.minimum(np.arange(260), 200), groups) == {}


def test_calibration_asks_for_patients_of_either_label() -> None:
    random = np.random.default_rng(0)
    labels, probs = np.append(random.integers(0, 2, 200), np.ones(60, int)), random.random(260)
    groups = {"source": np.where(np.arange(260) < 200, "both", "ill")}
    assert set(group_gaps(labels, probs, 0.5, np.arange(260), groups)["source"]) == {"sensitivity"}

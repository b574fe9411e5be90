"""The statistics against oracles, and how often calm films pass their limits."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from pneumo_hf.evaluation.drift import (
    FLAG,
    MOST_FILMS,
    PATIENT,
    SCORE,
    WINDOW,
    Grid,
    Pool,
    compare_with,
    counted,
    draw,
    find_limits,
    join,
    number_patients,
    simulate,
)

WEEKS, SIZE = 1000, 200


def hospital(
    films: int, seed: int, prevalence: float = 0.4, sharpness: float = 0.0, scanner: str = "A", most: int = 5
) -> dict[str, np.ndarray]:
    """Films as `read_films` gives them: scores of two kinds of patients, who have one to `most` alike films each."""
    random = np.random.default_rng(seed)
    patients = np.repeat(np.arange(films), random.integers(1, most + 1, films))[:films]
    ill = (random.random(films) < prevalence)[patients]
    own = random.normal(size=(2, films))[:, patients]
    logit = np.where(ill, 2.0, -2.0) + own[0] + random.normal(size=films)
    score = 1 / (1 + np.exp(-logit))
    flag = np.where(score >= 0.6, "review", np.where(score > 0.3, "abstain", ""))
    return {
        SCORE: score,
        FLAG: flag,
        PATIENT: np.array([f"p{number}" for number in patients]),
        "sharpness": own[1] + 0.5 * random.normal(size=films) + sharpness,
        "age": np.round(random.uniform(1, 5, films)),  # many ties
        "width": np.full(films, 224.0),  # constant
        "manufacturer": np.where(random.random(films) < 0.3, "B", scanner),
    }


REFERENCE = hospital(600, seed=0)
GRID = Grid.of(REFERENCE, list(REFERENCE))


def largest(limits, alone: dict, together: dict) -> np.ndarray:
    ratios = [values / limits.batch[name] for name, values in alone.items()]
    return np.max(ratios + [values / limits.window[name] for name, values in together.items()], axis=0)


def test_the_statistics_are_those_of_their_definitions() -> None:
    batch = hospital(150, seed=1, prevalence=0.6, scanner="C")
    batch["sharpness"][:20] = np.nan
    found = compare_with(REFERENCE, batch, GRID)
    for name in ("sharpness", "age", "width", SCORE):
        values = batch[name][np.isfinite(batch[name])]
        assert found[name, "ks"] == pytest.approx(ks_2samp(values, REFERENCE[name]).statistic, abs=1e-6), name
    edges = [-np.inf, *GRID.edges, np.inf]
    psi = 0.0
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [((part[SCORE] >= low) & (part[SCORE] < high)).sum() + 0.5 for part in (batch, REFERENCE)]
        ours, theirs = inside[0] / (150 + 5), inside[1] / (600 + 5)
        psi += (ours - theirs) * np.log(ours / theirs)
    assert found[SCORE, "psi"] ** 2 == pytest.approx(psi, rel=1e-5)
    shares = [(part[FLAG] == "abstain").mean() for part in (batch, REFERENCE)]
    assert found["abstain", "share"] == pytest.approx(abs(np.diff(np.arcsin(np.sqrt(shares))))[0], abs=1e-6)
    assert found["manufacturer", "new"] == pytest.approx(np.arcsin(np.sqrt((batch["manufacturer"] == "C").mean())))


def test_a_resampled_batch_has_the_statistics_of_its_films() -> None:
    """Counts are only another way to write films down."""
    patients = number_patients(REFERENCE[PATIENT])
    counts = draw(patients, SIZE, 3, np.random.default_rng(0))
    whole = Pool(REFERENCE, GRID).statistics(counts, np.ones_like(counts))
    for number, row in enumerate(counts):
        films = {name: np.repeat(values, row.astype(int)) for name, values in REFERENCE.items()}
        assert all(len({*row[patients == patient]}) == 1 for patient in np.unique(patients))  # whole patients
        for name, value in compare_with(REFERENCE, films, GRID).items():
            assert whole[name][number] == pytest.approx(value, abs=1e-5), name
    assert counts.sum(axis=1).mean() == pytest.approx(SIZE, rel=0.1)


def test_unknown_patients_are_several() -> None:
    assert len({*number_patients(np.array(["", "a", "", "a"])).tolist()}) == 3


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_false_alarms_over_1000_weeks_are_as_often_as_stated(rate: float) -> None:
    limits = find_limits(REFERENCE, GRID, [SIZE] * WINDOW, rate)
    weeks = [largest(limits, *part) for part in simulate(REFERENCE, GRID, [SIZE] * WINDOW, WEEKS, seed=7)]
    assert np.mean(np.concatenate(weeks) > 1) == pytest.approx(rate, abs=0.01)


def test_a_stream_of_1000_weeks_against_one_reference_alarms_no_more_often() -> None:
    """Each week is judged with the three before it, as `monitor` does."""
    limits = find_limits(REFERENCE, GRID, [SIZE] * WINDOW, 0.01)
    pool = Pool(REFERENCE, GRID)
    weeks = draw(number_patients(REFERENCE[PATIENT]), SIZE, WEEKS + WINDOW - 1, np.random.default_rng(3))
    windows = sum(weeks[start : start + WEEKS] for start in range(WINDOW))
    ones = np.ones((WEEKS, len(REFERENCE[SCORE])), np.float32)
    alarms = largest(limits, pool.statistics(weeks[WINDOW - 1 :], ones), pool.statistics(windows, ones)) > 1
    assert alarms.mean() <= 0.02


def test_new_films_of_the_same_hospital_are_calm_although_the_reference_is_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a resample of the reference alone would hide: limits from it would be passed several times as often."""
    monkeypatch.setattr("pneumo_hf.evaluation.drift.SIMULATIONS", 1000)
    alarms = []
    for seed in range(30):
        reference = hospital(400, seed=100 + seed)
        grid = Grid.of(reference, list(reference))
        limits = find_limits(reference, grid, [SIZE], 0.05)
        for week in range(20):
            found = compare_with(reference, hospital(SIZE, seed=1000 * seed + 500 + week), grid)
            alarms.append(max(value / limits.batch[name] for name, value in found.items()) > 1)
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.035)  # 600 weeks, 20 of each reference


@pytest.mark.parametrize(
    ("change", "named"),
    [({"prevalence": 0.8}, SCORE), ({"sharpness": 0.8}, "sharpness"), ({"scanner": "C"}, "manufacturer")],
    ids=["doubled prevalence", "sharper films", "another scanner"],
)
def test_a_change_is_raised_by_what_changed(change: dict, named: str) -> None:
    limits = find_limits(REFERENCE, GRID, [SIZE], 0.01)
    found = compare_with(REFERENCE, hospital(SIZE, seed=5, **change), GRID)
    ratios = {name: value / limits.batch[name] for name, value in found.items()}
    assert ratios[max((name for name in ratios if name[0] == named), key=ratios.get)] > 1
    assert all(ratio < 1 for (name, _), ratio in ratios.items() if name in ("age", "width", "unreadable"))


def test_from_a_tenth_to_a_fifth_with_pneumonia_it_takes_at_most_four_weeks() -> None:
    reference = hospital(744, seed=0, prevalence=0.1, most=1)
    grid = Grid.of(reference, list(reference))
    limits = [find_limits(reference, grid, [SIZE] * weeks, 0.01) for weeks in range(1, WINDOW + 1)]
    by_week = np.zeros((WINDOW, 12), bool)
    for stream in range(12):
        weeks = [hospital(SIZE, seed=1000 + 10 * stream + week, prevalence=0.2, most=1) for week in range(WINDOW)]
        for week, limit in enumerate(limits):
            alone = compare_with(reference, weeks[week], grid)
            together = compare_with(reference, join(weeks[: week + 1], list(reference)), grid) if week else {}
            by_week[week:, stream] |= largest(limit, alone, together) > 1
    assert by_week[3].all() and not by_week[0].all()


def test_one_odd_film_is_no_alarm_and_several_are() -> None:
    """Of a flag that the reference never had."""
    limits = find_limits(REFERENCE, GRID, [SIZE], 0.01)
    limit = limits.batch["not_chest_xray", "share"]
    for films, raised in ((1, False), (8, True)):
        batch = hospital(SIZE, seed=6)
        batch[FLAG] = batch[FLAG].astype("U20")
        batch[FLAG][:films] = "not_chest_xray"
        assert (compare_with(REFERENCE, batch, GRID)["not_chest_xray", "share"] > limit) == raised


def test_a_patient_with_many_films_moves_no_share() -> None:
    """Where all of thirty films counted, the limits would allow for a week with that patient and one without."""
    films = hospital(400, seed=11, most=1)
    many = {name: np.concatenate([values, np.repeat(values[:1], 29, axis=0)]) for name, values in films.items()}
    limits = {}
    for name, part in (("one of many", many), ("counted", counted(many)), ("each one", films)):
        limits[name] = find_limits(part, Grid.of(part, list(part)), [SIZE], 0.01).batch["review", "share"]
    assert len(counted(many)[FLAG]) == len(films[FLAG]) + MOST_FILMS - 1
    assert limits["counted"] < 1.1 * limits["each one"] and limits["one of many"] > 1.2 * limits["each one"]

import numpy as np
import pytest

from pneumo_hf.config import InputError
from pneumo_hf.data.patients import parse_file_name, patient_group, split_by_patient


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/PNEUMONIA/person62_bacteria_300.jpeg", ("person62_bacteria", "bacteria")),
        ("person62_virus_117.jpeg", ("person62_virus", "virus")),
        ("IM-0115-0001.jpeg", ("IM-0115", "normal")),
        ("NORMAL2-IM-0995-0001-0002.jpeg", ("NORMAL2-IM-0995", "normal")),
        ("BACTERIA-1008087-0001.jpeg", ("BACTERIA-1008087", "bacteria")),
        ("somebody.else.png", ("somebody.else", "")),
    ],
)
def test_patient_ids_from_file_names(name: str, expected: tuple[str, str]) -> None:
    assert parse_file_name(name) == expected


def films(patients: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ids, labels = [], []
    for number in range(patients):
        kind = ("NORMAL2-IM-{:04d}", "person{}_bacteria", "person{}_virus")[number % 3]
        count = random.integers(1, 5)
        ids += [kind.format(number // 3)] * count
        labels += [int(number % 3 > 0)] * count
    return np.array(ids), np.array(labels)


@pytest.mark.parametrize("method", ["random", "block"])
@pytest.mark.parametrize("seed", range(8))
def test_no_patient_on_both_sides_and_both_labels_on_each(method: str, seed: int) -> None:
    ids, labels = films(seed=seed)
    rest, held_out = split_by_patient(ids, labels, 0.2, seed, method)
    assert sorted([*rest, *held_out]) == list(range(len(ids)))
    groups = np.array([patient_group(patient) for patient in ids])
    assert not set(groups[rest]) & set(groups[held_out])  # one number in both subtypes stays together as well
    assert set(labels[rest]) == set(labels[held_out]) == {0, 1}
    assert 0.1 < len(held_out) / len(ids) < 0.32


def test_the_split_is_seeded_and_a_block_is_contiguous() -> None:
    ids, labels = films()
    for method in ("random", "block"):
        first, again, other = (split_by_patient(ids, labels, 0.2, seed, method)[1] for seed in (1, 1, 2))
        assert list(first) == list(again) != list(other)
    held_out = split_by_patient(ids, labels, 0.2, 3, "block")[1]
    numbers = sorted({int(patient[-4:]) for patient in ids[held_out] if patient.startswith("NORMAL2")})
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="too few patients"):
        split_by_patient(["a", "a", "b", "c"], [0, 0, 1, 1], 0.2, 0)

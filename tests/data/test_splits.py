"""Train, validation and test: no patient is in two of them."""

from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ViTImageProcessorPil

from pneumo_hf.config.arguments import DataArguments
from pneumo_hf.data.patients import parse_file_name, patient_group
from pneumo_hf.data.sources import load_data
from pneumo_hf.data.splits import decode_splits, leave_out_patients, split_by_patient
from pneumo_hf.errors import InputError
from tests.conftest import write_films

PROCESSOR = ViTImageProcessorPil(size={"height": 48, "width": 48})


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


patients_of_a_label = st.lists(st.integers(1, 5), min_size=10, max_size=40)  # how many films each has


@st.composite
def named_films(draw) -> tuple[list[str], list[int], list[tuple[int, int]]]:
    """File names of any known scheme, or of none, with their labels, and some films that are copies."""
    names, labels, number = [], [], draw(st.integers(0, 5000))
    for label, schemes in (
        (0, ("IM-{0:04d}-{1:04d}.jpeg", "NORMAL2-IM-{0:04d}-0001-{1:04d}.jpeg", "NORMAL-{0}-{1:04d}.jpeg")),
        (1, ("person{0}_bacteria_{1}.jpeg", "person{0}_virus_{1}.jpeg", "VIRUS-{0}-{1:04d}.jpeg", "a {0}_{1}.png")),
    ):
        for films in draw(patients_of_a_label):
            scheme, number = draw(st.sampled_from(schemes)), number + draw(st.integers(1, 20))
            names += [scheme.format(number, film) for film in range(films)]
            labels += [label] * films
    order = draw(st.permutations(range(len(names))))
    of_label = [[i for i in range(len(names)) if labels[order[i]] == label] for label in (0, 1)]
    copies = draw(
        st.lists(st.sampled_from(of_label).flatmap(lambda of: st.tuples(*[st.sampled_from(of)] * 2)), max_size=3)
    )
    return [names[i] for i in order], [labels[i] for i in order], copies


@settings(max_examples=150, deadline=None)
@given(named_films(), st.integers(0, 2**16), st.sampled_from(["random", "block"]), st.integers(0, 4))
def test_whatever_the_names_no_patient_is_in_two_splits_and_both_classes_in_each(films, seed, method, fold) -> None:
    names, labels, copies = films
    ids = [parse_file_name(name)[0] for name in names]
    rest, held_out = split_by_patient(ids, labels, 0.2, seed, method, fold, copies)
    assert sorted([*rest, *held_out]) == list(range(len(names)))
    for group_of in (str, patient_group):
        assert not {group_of(ids[i]) for i in rest} & {group_of(ids[i]) for i in held_out}
    assert {labels[i] for i in rest} == {labels[i] for i in held_out} == {0, 1}
    side = np.isin(np.arange(len(names)), held_out)
    assert all(side[i] == side[j] for i, j in copies)


@pytest.mark.parametrize("method", ["random", "block"])
def test_the_folds_of_a_cross_validation_hold_out_every_film_once(method: str) -> None:
    ids, labels = films(patients=90, seed=3)
    parts = [split_by_patient(ids, labels, 0.2, 7, method, fold)[1] for fold in range(5)]
    assert sorted(np.concatenate(parts)) == list(range(len(ids)))


def test_a_missing_test_split_is_held_out_and_a_missing_train_split_refused(tmp_path: Path) -> None:
    arguments = DataArguments(dataset=[str(tmp_path)], cache_dir=str(tmp_path / "cache"))
    films, _ = decode_splits(load_data(write_films(tmp_path / "a", {"train": (40, 40)})), PROCESSOR, arguments, seed=0)
    assert {split: round(len(part) / 80, 1) for split, part in films.items()} == {
        "train": 0.6,
        "test": 0.2,
        "validation": 0.2,
    }
    with pytest.raises(InputError, match="has no train split"):
        decode_splits(load_data(write_films(tmp_path / "b", {"test": (4, 4)})), PROCESSOR, arguments, seed=0)


def test_a_patient_in_train_and_test_stops_the_run(tmp_path: Path) -> None:
    folder = write_films(tmp_path / "films", {"train": (20, 20), "test": (4, 4)})
    source = next((folder / "test" / "PNEUMONIA").iterdir())
    (folder / "train" / "PNEUMONIA" / source.name).write_bytes(source.read_bytes())
    arguments = DataArguments(dataset=[str(folder)], cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError, match="leakage: 1 patients"):
        decode_splits(load_data(folder), PROCESSOR, arguments, seed=0)


def test_patients_of_other_films_are_held_out_and_the_others_stay_where_they_were(films_folder: Path) -> None:
    data = load_data(str(films_folder))
    parts, _ = decode_splits(data, PROCESSOR, DataArguments(str(films_folder)), 0)
    chosen = data["train"].select([0, 7])
    left = leave_out_patients(parts, DatasetDict({"train": chosen}))
    patients = set(chosen["patient_id"])
    for split, films in parts.items():
        stay = [
            name
            for name, patient in zip(films.table["file_name"], films.patient_ids, strict=True)
            if split == "test" or patient not in patients
        ]
        assert list(left[split].table["file_name"]) == stay
    assert sum(map(len, left.values())) < sum(map(len, parts.values()))
    with pytest.raises(InputError, match="no film of train is of a patient of these films"):
        leave_out_patients(parts, DatasetDict({"train": data["test"]}))

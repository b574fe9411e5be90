"""Who is on a film: file names, and keyed hashes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumo_hf.data import patients
from pneumo_hf.data.patients import keyed_hash, parse_file_name, patient_group
from pneumo_hf.errors import InputError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/PNEUMONIA/person62_bacteria_300.jpeg", ("person62_bacteria", "bacteria")),
        ("person62_virus_117.jpeg", ("person62_virus", "virus")),
        ("IM-0115-0001.jpeg", ("IM-0115", "normal")),
        ("NORMAL2-IM-0995-0001-0002.jpeg", ("NORMAL2-IM-0995", "normal")),
        ("person447_virus_921_1.jpeg", ("person447_virus", "virus")),  # the one film of the set that is named so
        ("BACTERIA-1008087-0001.jpeg", ("BACTERIA-1008087", "bacteria")),
        ("somebody.else.png", ("somebody.else", "")),
    ],
)
def test_patient_ids_from_file_names(name: str, expected: tuple[str, str]) -> None:
    assert parse_file_name(name) == expected


@given(st.text(max_size=40))
def test_any_file_name_has_a_patient(name: str) -> None:
    patient, subtype = parse_file_name(name)
    assert subtype in ("", "normal", "bacteria", "virus")
    assert patient_group(patient) in (patient, patient.rsplit("_", 1)[0])


def test_a_keyed_hash_is_the_same_on_this_machine_and_another_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "a")
    here = keyed_hash("MRN-0042")
    assert here == keyed_hash("MRN-0042") != keyed_hash("MRN-0043")
    assert (tmp_path / "a" / ".cache" / "pneumo_hf" / "patient.key").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "b")
    assert keyed_hash("MRN-0042") != here


def test_the_key_is_one_though_many_ask_at_once(tmp_path: Path) -> None:
    for number in range(20):
        with ThreadPoolExecutor(8) as pool:
            keys = list(pool.map(patients._key.__wrapped__, [tmp_path / str(number)] * 8))
        assert len(set(keys)) == 1
        assert len(keys[0]) == 32
    (tmp_path / "0" / ".cache" / "pneumo_hf" / "patient.key").write_bytes(b"")
    with pytest.raises(InputError, match="patient.key is damaged"):
        patients._key.__wrapped__(tmp_path / "0")

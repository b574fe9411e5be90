"""Who is on a film: patient ids from file names, and their keyed hashes."""

import hashlib
import os
import re
import secrets
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

from pneumo_hf.errors import InputError

KAGGLE_PNEUMONIA = re.compile(r"^(person\d+)_(bacteria|virus)_\d+(?:_\d+)?$")
KAGGLE_NORMAL = re.compile(r"^((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?$")
MENDELEY = re.compile(r"^((BACTERIA|VIRUS|NORMAL)-\d+)-\d+$")
KAGGLE_PATIENT = re.compile(r"^(person\d+_(bacteria|virus)|(NORMAL2-)?IM-\d+)$")
MENDELEY_PATIENT = re.compile(r"^(BACTERIA|VIRUS|NORMAL)-\d+$")
FOLDER = re.compile(r"^(?:patient\d{5}|p\d{8})$", re.IGNORECASE)  # of CheXpert and MIMIC-CXR
NIH = re.compile(r"^(\d{8})_\d{3}$")
RSNA_OR_VINDR = re.compile(
    r"^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})$"
)  # a film each
PUBLIC_PATIENT = re.compile(rf"{FOLDER.pattern}|^\d{{8}}$|{RSNA_OR_VINDR.pattern}", re.IGNORECASE)
KEY_BYTES = 32
HASHED = re.compile(r"^[0-9a-f]{16}$")


def parse_file_name(file_name: str) -> tuple[str, str]:
    """Parse `(patient_id, subtype)` from the name of a film of a public set.

    In the Kermany set, Kaggle's or Mendeley's, the number in `personN_bacteria_K` counts per subtype, so the subtype
    is part of the id; in `NORMAL2-IM-n-0001-0002` the prefix is, and the last numbers are further films of one child.
    CheXpert and MIMIC-CXR have a folder for each patient, `patient00001/` and `p10000032/`. NIH's `00001323_001` is a
    patient's film, RSNA's and VinDr-CXR's ids have one film each. Any other film is a patient of its own, called by
    its whole name, folders too. Without a subtype, it is "".
    """
    path = PurePosixPath(file_name)
    stem = path.stem
    if match := KAGGLE_PNEUMONIA.match(stem):
        return f"{match[1]}_{match[2]}", match[2]
    if match := KAGGLE_NORMAL.match(stem):
        return match[1], "normal"
    if match := MENDELEY.match(stem):
        return match[1], match[2].lower()
    return _public_patient(path) or _whole_name(file_name), ""


def names_patient(file_name: str) -> bool:
    """Return whether a film's name is of a known scheme that says who is on it."""
    return parse_file_name(file_name)[0] != _whole_name(file_name) or bool(_public_patient(PurePosixPath(file_name)))


def is_unknown(patient_id: str, file_name: str) -> bool:
    """Return whether an id only stands for a film of which nobody says whose it is."""
    return not names_patient(file_name) and _whole_name(file_name) in (patient_id, patient_id.partition("/")[2])


def _public_patient(path: PurePosixPath) -> str:
    folders = [part for part in path.parts[-4:-1] if FOLDER.match(part)]
    if folders or RSNA_OR_VINDR.match(path.stem.lower()):
        return (folders[-1] if folders else path.stem).lower()
    match = NIH.match(path.stem)
    return match[1] if match else ""


def _whole_name(file_name: str) -> str:
    return str(PurePosixPath(file_name).with_suffix("")) if PurePosixPath(file_name).stem else file_name


def patient_group(patient_id: str) -> str:
    """Drop the subtype of an id: a superset of the patient, in case one number should mean one child after all."""
    return re.sub(r"^(person\d+)_(bacteria|virus)$", r"\1", patient_id)


def keyed_hash(name: str) -> str:
    """Hash a name to 16 hexadecimal digits of keyed BLAKE2b.

    The key is drawn once and kept in `~/.cache/pneumo_hf/patient.key`, so that one patient has one id on this machine,
    and nobody without the key can try names until one fits.
    """
    return hashlib.blake2b(name.encode(), digest_size=8, key=_key(Path.home())).hexdigest()


@cache
def _key(home: Path) -> bytes:
    path = home / ".cache" / "pneumo_hf" / "patient.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        file, drawn = tempfile.mkstemp(dir=path.parent)  # readable by the owner alone
        with os.fdopen(file, "wb") as opened:
            opened.write(secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):  # another process was first: its key counts
            os.link(drawn, path)
        os.unlink(drawn)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InputError(f"{path} is damaged: remove it, and a new key is drawn")
    return key


def qualify(patient_id: str, source: str) -> str:
    """Qualify an id in a merged set: two hospitals' patient 7 are two patients, one of a public set is one."""
    known = (KAGGLE_PATIENT, MENDELEY_PATIENT, HASHED, PUBLIC_PATIENT)
    return patient_id if any(pattern.match(patient_id) for pattern in known) else f"{source}/{patient_id}"

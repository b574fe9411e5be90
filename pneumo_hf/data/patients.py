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
KEY_BYTES = 32
HASHED = re.compile(r"^[0-9a-f]{16}$")


def parse_file_name(file_name: str) -> tuple[str, str]:
    """Parse `(patient_id, subtype)` from a file name of the Kermany set, Kaggle's or Mendeley's.

    The number in `personN_bacteria_K` counts per subtype, so the subtype is part of the id; in
    `NORMAL2-IM-n-0001-0002` the prefix is, and the last numbers are further films of one child. Any other film is a
    patient of its own, called by its whole name, folders too, and without a subtype.
    """
    stem = PurePosixPath(file_name).stem
    if match := KAGGLE_PNEUMONIA.match(stem):
        return f"{match[1]}_{match[2]}", match[2]
    if match := KAGGLE_NORMAL.match(stem):
        return match[1], "normal"
    if match := MENDELEY.match(stem):
        return match[1], match[2].lower()
    return str(PurePosixPath(file_name).with_suffix("")) if stem else file_name, ""


def patient_group(patient_id: str) -> str:
    """Drop the subtype of an id: a superset of the patient, in case one number should mean one child after all."""
    return re.sub(r"^(person\d+)_(bacteria|virus)$", r"\1", patient_id)


def keyed_hash(name: str) -> str:
    """Hash a name to 16 hexadecimal digits of keyed BLAKE2b.

    The key is drawn once and kept in `~/.cache/pneumo_hf/patient.key`, so that one patient has one id on this machine,
    and nobody who lacks the key can try names until one fits.
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
    """Qualify an id in a merged set: two hospitals' patient 7 are two patients, a child of Kermany's set is one."""
    known = (KAGGLE_PATIENT, MENDELEY_PATIENT, HASHED)
    return patient_id if any(pattern.match(patient_id) for pattern in known) else f"{source}/{patient_id}"

"""Who is on a film: patient ids from file names, splits that keep a patient together, and the check that they did."""

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from pneumo_hf.config import InputError

KAGGLE_PNEUMONIA = re.compile(r"^(person\d+)_(bacteria|virus)_\d+(?:_\d+)?$")
KAGGLE_NORMAL = re.compile(r"^((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?$")
MENDELEY = re.compile(r"^((BACTERIA|VIRUS|NORMAL)-\d+)-\d+$")
KAGGLE_PATIENT = re.compile(r"^(person\d+_(bacteria|virus)|(NORMAL2-)?IM-\d+)$")
MENDELEY_PATIENT = re.compile(r"^(BACTERIA|VIRUS|NORMAL)-\d+$")
KEY_BYTES = 32
HASHED = re.compile(r"^[0-9a-f]{16}$")


def parse_file_name(file_name: str) -> tuple[str, str]:
    """`(patient_id, subtype)` from a file name of the Kermany set, Kaggle's or Mendeley's.

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
    """The id without its subtype: a superset of the patient, in case one number should mean one child after all."""
    return re.sub(r"^(person\d+)_(bacteria|virus)$", r"\1", patient_id)


def keyed_hash(name: str) -> str:
    """A name without the name: 16 hexadecimal digits of keyed BLAKE2b.

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
    """The id in a merged set: two hospitals' patient 7 are two patients, but a child of Kermany's set is one."""
    known = (KAGGLE_PATIENT, MENDELEY_PATIENT, HASHED)
    return patient_id if any(pattern.match(patient_id) for pattern in known) else f"{source}/{patient_id}"


def split_by_patient(
    patient_ids: Sequence[str],
    labels: Sequence[int],
    fraction: float,
    seed: int,
    method: str = "random",
    fold: int = 0,
    duplicates: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Indices `(rest, held_out)` with about `fraction` of the films held out and no patient on both sides.

    The films fall into round(1 / fraction) folds, of which `fold` is held out: folds 0, 1, ... of one seed make a
    cross-validation. `random` is stratified by label (scikit-learn's StratifiedGroupKFold). `block` cuts the ids of
    each label, in their natural order, into contiguous runs, nearer to another acquisition period; the seed turns
    their order.

    Args:
        duplicates: pairs of films that are copies of one another, whose patients stay together.

    Raises:
        InputError: a side would lack a label: too few patients.
    """
    groups = link([patient_group(patient_id) for patient_id in patient_ids], duplicates)
    labels = np.asarray(labels)
    folds = round(1 / fraction)
    present = np.unique(labels)
    fewest = min((len(set(groups[labels == label])) for label in present), default=0)
    if fewest < folds:
        raise InputError(
            f"too few patients to hold out {fraction:.0%} of them: one label has {fewest}, needs at least {folds}"
        )
    if method == "random":
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        parts = [held_out for _, held_out in splitter.split(labels, labels, groups)]
        candidates = parts[fold % folds :] + parts[: fold % folds]
    else:
        blocks = [_block(groups, labels == label, folds, (seed + fold) % folds) for label in present]
        candidates = [np.flatnonzero(np.isin(groups, np.concatenate(blocks)))]
    for held_out in candidates:  # of folds so uneven that one lacks a label, the next is taken
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        if len(np.unique(labels[rest])) == len(np.unique(labels[held_out])) == len(present):
            return rest, held_out
    raise InputError("too few patients: a side of the split would lack a label")


def link(groups: Sequence[str], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Group names with those joined that `pairs` of films link, directly or through others."""
    names, numbers = np.unique(np.asarray(groups), return_inverse=True)
    if len(pairs) == 0:
        return names[numbers]
    first, second = numbers[np.asarray(pairs)].T
    edges = coo_array((np.ones(len(first)), (first, second)), shape=(len(names), len(names)))
    _, component = connected_components(edges, directed=False)
    _, leader = np.unique(component, return_index=True)
    return names[leader[component[numbers]]]


def _block(groups: np.ndarray, of_label: np.ndarray, folds: int, position: int) -> np.ndarray:
    """One of `folds` contiguous runs of a label's ids, each of about as many films and of at least one id."""
    ids, films = np.unique(groups[of_label], return_counts=True)
    order = sorted(range(len(ids)), key=lambda index: _natural(ids[index]))
    middle = np.cumsum(films[order]) - films[order] / 2
    wanted = (middle / films.sum() * folds).astype(int)
    fold, last = np.empty(len(ids), int), -1
    for index in range(len(ids)):
        last = fold[index] = max(min(wanted[index], last + 1), folds - (len(ids) - index), 0)
    return ids[order][fold == position]


def _natural(name: str) -> list[tuple[bool, int | str]]:
    """A sort key by which id 9 comes before id 10."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in parts]

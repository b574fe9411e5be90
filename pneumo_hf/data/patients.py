"""Who is on a film: patient ids from file names, splits that keep a patient together, and the check that they did."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from pneumo_hf.config import InputError

KAGGLE_PNEUMONIA = re.compile(r"^(person\d+)_(bacteria|virus)_\d+$")
KAGGLE_NORMAL = re.compile(r"^((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?$")
MENDELEY = re.compile(r"^((BACTERIA|VIRUS|NORMAL)-\d+)-\d+$")


def parse_file_name(file_name: str) -> tuple[str, str]:
    """`(patient_id, subtype)` from a file name of the Kermany set, Kaggle's or Mendeley's.

    The number in `personN_bacteria_K` counts per subtype, so the subtype is part of the id; in
    `NORMAL2-IM-n-0001-0002` the prefix is, and the last numbers are further films of one child. Any other name is a
    patient of its own, without a subtype.
    """
    stem = PurePosixPath(file_name).stem
    if match := KAGGLE_PNEUMONIA.match(stem):
        return f"{match[1]}_{match[2]}", match[2]
    if match := KAGGLE_NORMAL.match(stem):
        return match[1], "normal"
    if match := MENDELEY.match(stem):
        return match[1], match[2].lower()
    return stem, ""


def patient_group(patient_id: str) -> str:
    """The id without its subtype: a superset of the patient, in case one number should mean one child after all."""
    return re.sub(r"^(person\d+)_(bacteria|virus)$", r"\1", patient_id)


def split_by_patient(
    patient_ids: Sequence[str], labels: Sequence[int], fraction: float, seed: int, method: str = "random"
) -> tuple[np.ndarray, np.ndarray]:
    """Indices `(rest, held_out)` with about `fraction` of the films held out and no patient on both sides.

    `random` is stratified by label (scikit-learn's StratifiedGroupKFold). `block` holds out one contiguous block of
    ids of each label, nearer to another acquisition period; the seed chooses which block.

    Raises:
        InputError: a side would lack a label: too few patients.
    """
    groups = np.array([patient_group(patient_id) for patient_id in patient_ids])
    labels = np.asarray(labels)
    folds = round(1 / fraction)
    fewest = min((len(set(groups[labels == label])) for label in np.unique(labels)), default=0)
    if fewest < folds:
        raise InputError(
            f"too few patients to hold out {fraction:.0%} of them: one label has {fewest}, needs at least {folds}"
        )
    if method == "random":
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        rest, held_out = next(splitter.split(labels, labels, groups))
    else:
        blocks = [_block(groups, labels == label, folds, seed % folds) for label in np.unique(labels)]
        is_held_out = np.isin(groups, np.concatenate(blocks))
        rest, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    if len(np.unique(labels[rest])) < 2 or len(np.unique(labels[held_out])) < 2:
        raise InputError("too few patients: a side of the split would hold a single label")
    return rest, held_out


def assert_no_leakage(patient_ids: dict[str, Sequence[str]]) -> None:
    """Stop the run if a patient is in two splits.

    Raises:
        InputError: naming the two splits, how many patients they share, and some of them.
    """
    names = list(patient_ids)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            shared = sorted(set(patient_ids[first]) & set(patient_ids[second]))
            if shared:
                raise InputError(
                    f"leakage: {len(shared)} patients are in both {first} and {second} ({', '.join(shared[:3])}, ...)"
                )


def _block(groups: np.ndarray, of_label: np.ndarray, folds: int, position: int) -> np.ndarray:
    """One of `folds` contiguous runs of a label's ids, cut so that each holds about as many films."""
    ids, films = np.unique(groups[of_label], return_counts=True)
    order = sorted(range(len(ids)), key=lambda index: _natural(ids[index]))
    middle = np.cumsum(films[order]) - films[order] / 2
    fold = (middle / films.sum() * folds).astype(int)
    return ids[order][fold == position]


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

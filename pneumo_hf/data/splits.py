"""Train, validation and test: no patient, film or near-duplicate of a film is in two of them."""

import logging
import re
from collections.abc import Sequence

import numpy as np
from datasets import DatasetDict, concatenate_datasets
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from transformers.image_processing_utils import BaseImageProcessor

from pneumo_hf.config.arguments import DataArguments
from pneumo_hf.data.duplicates import copy_pairs, near_pairs
from pneumo_hf.data.labels import assert_every_label
from pneumo_hf.data.leakage import assert_no_leaks
from pneumo_hf.data.patients import patient_group
from pneumo_hf.data.pixels import FilmDataset, decode_films
from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)


def decode_splits(
    data: DatasetDict,
    image_processor: BaseImageProcessor,
    arguments: DataArguments,
    seed: int,
    finer: BaseImageProcessor | None = None,
) -> tuple[dict[str, FilmDataset], list[dict[str, str]]]:
    """Decode a data set and hold out what is missing of `train`, `validation` and `test`.

    No patient, film or near-duplicate of a film is in two of them. Patients who share a film are held out together.

    Without a test split, as many patients as for validation are held out for it, at random. A validation split of the
    data is used only if the recipe says `given`; else it joins train, whose patients are then held out afresh.

    Args:
        finer: the image processor of teachers who take larger films: those of train are decoded for both.

    Raises:
        InputError: no train split, too few films or patients, or something is in two splits.
    """
    if "train" not in data:
        raise InputError(f"{arguments.name} has no train split, only {', '.join(data)}")
    if arguments.validation_split == "given":
        if "validation" not in data:
            raise InputError(f"{arguments.name} has no validation split: use --validation_split random or block")
    elif "validation" in data:
        logger.info("the data's own validation split joins train (use it with --validation_split given)")
        data = DatasetDict(data)
        data["train"] = concatenate_datasets([data["train"], data.pop("validation")])
    seed = seed if arguments.split_seed is None else arguments.split_seed
    films, rejected = {}, []
    for split, table in data.items():
        films[split], unreadable = decode_films(table, image_processor, arguments.cache_dir)
        if split == "train" and finer is not None:
            films[split].finer = decode_films(table, finer, arguments.cache_dir)[0].pixels
        rejected += unreadable
        message = f"the {split} split of {arguments.name} has no {{}} films that can be read"
        assert_every_label(films[split].labels, films[split].label_names, message=message)
    if rejected:
        logger.warning("%d films cannot be read; they are listed in rejected.csv", len(rejected))
    if "test" not in films:
        films["train"], films["test"] = _hold_out(films["train"], arguments, seed + 1, "random")
    if "validation" not in films:
        films["train"], films["validation"] = _hold_out(
            films["train"], arguments, seed, arguments.validation_split, arguments.fold
        )
    everywhere = [np.concatenate(parts) for parts in zip(*map(_identity, films.values()), strict=True)]
    assert_no_leaks(np.repeat(list(films), [len(part) for part in films.values()]), *everywhere)
    logger.info(", ".join(f"{len(part)} {split} films" for split, part in films.items()))
    return films, rejected


def _identity(films: FilmDataset) -> tuple[np.ndarray, ...]:
    return films.patient_ids, films.contents, films.thumbnails, np.asarray(films.table["file_name"])


def _hold_out(
    films: FilmDataset, arguments: DataArguments, seed: int, method: str, fold: int = 0
) -> tuple[FilmDataset, FilmDataset]:
    copies, crossing = copy_pairs(films.contents, films.thumbnails), [(0, 0)]
    while crossing:  # of many copies of one film the first search may not have linked all
        rest, held_out = split_by_patient(
            films.patient_ids, films.labels, arguments.validation_fraction, seed, method, fold, copies
        )
        side = np.isin(np.arange(len(films)), held_out)
        near = near_pairs(films.contents, films.thumbnails, side)
        crossing = [(i, j) for i, j, _ in near if side[i] != side[j]]
        copies += crossing
    return films.select(rest), films.select(held_out)


def leave_out_patients(films: dict[str, FilmDataset], held_out: DatasetDict) -> dict[str, FilmDataset]:
    """Leave the patients of other films out of train and validation; the test stays as it is.

    It is done after the split, so that the other patients fall as they would without it, and as those of teachers.

    Raises:
        InputError: no film is of such a patient: the sets do not name them alike.
    """
    patients = {patient_group(patient) for table in held_out.values() for patient in table["patient_id"]}
    result, left_out = dict(films), 0
    for split in ("train", "validation"):
        known = np.array([patient_group(patient) in patients for patient in films[split].patient_ids])
        result[split] = films[split].select(np.flatnonzero(~known))
        left_out += int(known.sum())
    if not left_out:
        raise InputError("hold_out: no film of train is of a patient of these films, or they are named otherwise")
    logger.info("%d films of %d patients are held out", left_out, len(patients))
    return result


def split_by_patient(
    patient_ids: Sequence[str],
    labels: Sequence[int],
    fraction: float,
    seed: int,
    method: str = "random",
    fold: int = 0,
    duplicates: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Split films into indices `(rest, held_out)`, about `fraction` held out and no patient on both sides.

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
    for held_out in candidates:  # of folds so uneven that a label is missing in one, the next is taken
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

"""Whether train and the held-out films share a patient or a film, within a data set or through a checkpoint."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import AutoConfig

from pneumo_hf.data.digests import are_kermany, known_again, read_held_out
from pneumo_hf.data.duplicates import exact_groups, film_digests, near_pairs
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.predictions import read_predictions
from pneumo_hf.errors import InputError
from pneumo_hf.labels import NEGATIVE

logger = logging.getLogger(__name__)

HELD_OUT = ("test", "validation", "train")  # a film that two splits have belongs to the first of these


def find_leaks(
    splits: np.ndarray, patient_ids: np.ndarray, contents: np.ndarray, near: Sequence[tuple[int, int, float]]
) -> dict[str, list]:
    """Find what is in two splits: `patients` (their ids), and `exact` and `near`, lists of index pairs `(i, j)`.

    A held-out film that train has several times makes one exact pair, with the first of them.
    """
    homes = {}
    for patient, split in zip(patient_ids, splits, strict=True):
        homes.setdefault(patient, set()).add(split)
    exact = []
    for group in exact_groups(contents):
        first = group[np.argmax([HELD_OUT.index(split) for split in splits[group]])]
        exact += [(int(first), int(film)) for film in group if splits[film] != splits[first]]
    return {
        "patients": sorted(patient for patient, found in homes.items() if len(found) > 1),
        "exact": exact,
        "near": [(i, j) for i, j, _ in near if splits[i] != splits[j]],
    }


def assert_no_leaks(
    splits: np.ndarray, patient_ids: np.ndarray, contents: np.ndarray, thumbnails: np.ndarray, names: Sequence[str]
) -> None:
    """Stop the run if a patient, a film or a near-duplicate of one is in two splits.

    Raises:
        InputError: naming what leaks, with examples and the remedy.
    """
    leaks = find_leaks(splits, patient_ids, contents, near_pairs(contents, thumbnails, splits))
    found = []
    if leaks["patients"]:
        found.append(f"{len(leaks['patients'])} patients are in two splits ({', '.join(leaks['patients'][:3])})")
    for kind, what in (("exact", "are exact copies"), ("near", "are near-duplicates")):
        if leaks[kind]:
            examples = ", ".join(f"{names[i]} = {names[j]}" for i, j in leaks[kind][:3])
            found.append(f"{len(leaks[kind])} pairs of films in two splits {what} ({examples})")
    if found:
        raise InputError(
            f"leakage: {'; '.join(found)}. Take them out of one split, or write a clean copy with "
            "`python -m pneumo_hf prepare DATA --drop_leaks --output_dir DIR`; `audit` shows them all"
        )


def assert_held_out(checkpoints: Sequence[str], films: Mapping[str, FilmDataset]) -> None:
    """Stop where a starting checkpoint or a teacher was trained on films that this run validates or tests on.

    Films are compared by their digests; by name where a checkpoint carries none.

    Args:
        checkpoints: folders or Hub ids that have been loaded.
        films: by split.

    Raises:
        InputError: a checkpoint of the same data held out other films, or there is none of that name.
    """
    digests = {split: film_digests(part.thumbnails) for split, part in films.items()}
    names = {split: np.array(part.table["file_name"]) for split, part in films.items()}
    for checkpoint in checkpoints:
        unknown = not_held_out(checkpoint, digests, names)
        if unknown is None:
            _warn_of_unknown(checkpoint)
            continue
        if found := [name for split in ("validation", "test") for name in unknown[split]]:
            raise InputError(
                f"{checkpoint} may have been trained on {len(found)} films that this run holds out ({found[0]}): "
                "train both with one split_seed, validation_split and validation_fraction (recipe.yaml has its own)"
                + ", or rename yours if other films only have the same names"
                * (read_held_out(checkpoint) is None)
            )


def assert_new_to(
    checkpoint: str, digests: Mapping[str, np.ndarray], names: Mapping[str, np.ndarray], kermany: bool
) -> None:
    """Stop where a checkpoint is seen to have been trained on the films that it is to be recalibrated on.

    Raises:
        InputError: it may have been, naming a film and the remedy. The arguments are those of `seen_in_training`.
    """
    if found := seen_in_training(checkpoint, digests, names, kermany):
        raise InputError(
            f"{checkpoint} may have been trained on {len(found)} of the {len(names['local'])} films ({found[0]}): "
            "recalibrate on films that it has not seen: of its own data only the test (--split test), of the public "
            "Kermany set only what it held out"
        )


def seen_in_training(
    checkpoint: str, digests: Mapping[str, np.ndarray], names: Mapping[str, np.ndarray], kermany: bool
) -> list[str]:
    """Name the films that a checkpoint may have been trained on.

    It carries digests of what it held out alone: films of its training without a held-out one beside them pass, unless
    they are of the public set.

    Args:
        digests: `[N, 32]` of the films by split; those of `local` are to be recalibrated on.
        names: `[N]` of the same films.
        kermany: whether the checkpoint was trained on the public Kermany set.
    """
    unknown, held_out = not_held_out(checkpoint, digests, names), read_held_out(checkpoint)
    found = list(unknown["local"]) if unknown else []
    if kermany and not found:
        public = are_kermany(digests["local"])
        if held_out is not None:
            public &= ~known_again(digests["local"], held_out)
        found = names["local"][public].tolist()
    return found


def not_held_out(
    checkpoint: str, digests: Mapping[str, np.ndarray], names: Mapping[str, np.ndarray]
) -> dict[str, list[str]] | None:
    """Name the films, by split, of its own data that a checkpoint did not hold out; of other data there are none.

    Films are compared by their digests `[N, 32]`, and by their names `[N]` where a checkpoint carries none; None where
    it has no report that names them either.
    """
    held_out = read_held_out(checkpoint)
    if held_out is not None:
        known = {split: known_again(part, held_out) for split, part in digests.items()}
    else:
        tables = [read_predictions(checkpoint, split) for split in ("validation", "test")]
        if any(table is None for table in tables):
            return None
        held_out = np.array(sorted(set().union(*(table or () for table in tables))))
        known = {split: np.isin(part, held_out) for split, part in names.items()}
    same_data = any(part.any() for part in known.values())
    return {split: names[split][~part].tolist() if same_data else [] for split, part in known.items()}


def _warn_of_unknown(checkpoint: str) -> None:
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load {checkpoint}: neither a checkpoint folder nor a Hub id within reach") from error
    if any(str(name).upper() == NEGATIVE for name in config.label2id):
        logger.warning("%s does not say which films it held out: check that they are this run's", checkpoint)

"""The audit of a data set: what is in it, what is broken, what is there twice, what leaks, and what gives it away."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
from datasets import Dataset, IterableDataset

from pneumo_hf.data.doubts import doubted_labels
from pneumo_hf.data.duplicates import exact_groups, near_pairs
from pneumo_hf.data.leakage import find_leaks
from pneumo_hf.data.schema import DEVICE_COLUMNS
from pneumo_hf.data.shortcuts import linear_baselines, region_features
from pneumo_hf.data.survey import Survey, survey_films
from pneumo_hf.errors import InputError

PACKAGES = ("datasets", "pillow", "pydicom", "scikit-learn", "scipy", "numpy")
FILMS_FOR_BASELINES = 6_000  # of train and of test, drawn at random: they bound the memory
GROUPS = {
    "geometry": ("bytes", "width", "height", "aspect_ratio"),
    "intensity": ("brightness", "contrast", "sharpness"),
}


def audit(data: Mapping[str, Dataset | IterableDataset], title: str, labels: Sequence[str]) -> tuple[dict, Survey]:
    """Read every film once and collect what is wrong with a data set.

    Returns:
        What `audit.json` holds (counts, unreadable files, duplicates, leakage, geometry, intensity, shortcut
        baselines, doubted labels), and the measurements of the films, for the figures.

    Raises:
        InputError: no film of the set can be read.
    """
    found = survey_films(data)
    if not found.names:
        reason = found.unreadable[0]["reason"] if found.unreadable else "it is empty"
        raise InputError(f"{title}: no film can be read ({reason})")
    contents, splits = np.array(found.contents), np.array(found.splits)
    near = near_pairs(contents, found.thumbnails, splits)
    result = {
        "dataset": title,
        "n": found.rows,
        "n_readable": len(found.names),
        "n_patients": len(set(found.patients)),
        **counts(found, labels),
        "unreadable": found.unreadable,
        "wrong_extension": found.wrong_extension,
        "looks_inverted": found.inverted,
        "duplicates": duplicates(found, contents, near, labels),
        "leakage": leakage(found, splits, contents, near),
        **{name: by_label(found, names, labels) for name, names in GROUPS.items()},
        "shortcut_floors": shortcut_baselines(found, splits),
        "label_doubts": doubted_labels(found, labels),
        "floors_measured_on": "test" if _has_test(found, splits) else "cross-validation",
        "versions": {package: version(package) for package in PACKAGES},
    }
    return result, found


def counts(found: Survey, labels: Sequence[str]) -> dict[str, dict]:
    """Count readable films by split and label, patients by split, and films by each of the other columns."""
    films, patients = defaultdict(Counter), defaultdict(set)
    for split, label, patient in zip(found.splits, found.labels, found.patients, strict=True):
        films[split][labels[label]] += 1
        patients[split].add(patient)
    columns = ("subtype", "source", "view", "sex", "modality", *DEVICE_COLUMNS, "format", "mode", "bits")
    return {
        "counts": {split: {label: films[split][label] for label in labels} for split in films},
        "patients": {split: len(ids) for split, ids in patients.items()},
        **{
            f"by_{column}": {str(value): n for value, n in found.counts[column].most_common()}
            for column in columns
            if set(found.counts[column]) != {""}
        },
    }


def duplicates(
    found: Survey, contents: np.ndarray, near: Sequence[tuple[int, int, float]], labels: Sequence[str]
) -> dict[str, dict]:
    """Exact groups and near pairs, each with its films, labels and splits."""

    def described(rows: np.ndarray | tuple[int, int], **more) -> dict:
        return {
            "films": [found.names[row] for row in rows],
            "labels": sorted({labels[found.labels[row]] for row in rows}),
            "splits": sorted({found.splits[row] for row in rows}),
            **more,
        }

    groups = exact_groups(contents)
    exact = [described(group) for group in groups]
    pairs = [described((i, j), correlation=round(similar, 4)) for i, j, similar in near]
    return {
        "exact": {"groups": len(groups), "spare_films": sum(len(group) - 1 for group in groups), **_spread(exact)},
        "near": {"pairs": len(pairs), **_spread(pairs)},
    }


def _spread(found: list[dict]) -> dict:
    return {
        "across_splits": sum(len(item["splits"]) > 1 for item in found),
        "conflicting_labels": sum(len(item["labels"]) > 1 for item in found),
        "list": found,
    }


def leakage(
    found: Survey, splits: np.ndarray, contents: np.ndarray, near: Sequence[tuple[int, int, float]]
) -> dict[str, list]:
    """List patients, and pairs of films, that are in two splits: what stops a training."""
    leaks = find_leaks(splits, np.array(found.patients), contents, near)
    return {
        "patients": leaks["patients"],
        **{kind: [[found.names[i], found.names[j]] for i, j in leaks[kind]] for kind in ("exact", "near")},
    }


def by_label(found: Survey, names: Sequence[str], labels: Sequence[str]) -> dict[str, dict]:
    """Summarise `{label: {quantity: {"min", "median", "mean", "max"}}}`."""
    of_label, result = np.array(found.labels), {}
    for number, label in enumerate(labels):
        chosen = of_label == number
        if chosen.any():
            result[label] = {}
            for name in names:
                values = quantity(found, name)[chosen].astype(np.float64)
                result[label][name] = {
                    key: round(float(getattr(np, key)(values)), 3) for key in ("min", "median", "mean", "max")
                }
    return result


def quantity(found: Survey, name: str) -> np.ndarray:
    """Return bytes, width, height, aspect_ratio, brightness, contrast or sharpness of each readable film, `[N]`."""
    if name == "aspect_ratio":
        return quantity(found, "width") / quantity(found, "height")
    return np.array(found.numbers[name])


def shortcut_baselines(found: Survey, splits: np.ndarray) -> dict[str, dict]:
    """Measure the ROC AUC of a linear model on each thing that is not the lungs (see `linear_baselines`)."""
    is_test, random, chosen = splits == "test", np.random.default_rng(0), []
    for rows in (np.flatnonzero(~is_test), np.flatnonzero(is_test)):
        chosen.append(np.sort(random.permutation(rows)[:FILMS_FOR_BASELINES]))
    chosen = np.concatenate(chosen)
    labels, patients = np.array(found.labels)[chosen], np.array(found.patients)[chosen]
    if any(len(set(patients[(labels > 0) == positive])) < 5 for positive in (False, True)):
        return {}  # too few patients of a label to fit or to fold
    features = {
        "file_size": quantity(found, "bytes"),
        "width": quantity(found, "width"),
        "aspect_ratio": quantity(found, "aspect_ratio"),
        "sharpness": quantity(found, "sharpness"),
    }
    features = {name: values[chosen, None] for name, values in features.items()}
    features |= region_features(found.thumbnails[chosen])
    return linear_baselines(features, labels, patients, is_test[chosen])


def _has_test(found: Survey, splits: np.ndarray) -> bool:
    return len({label > 0 for label in np.array(found.labels)[splits == "test"].tolist()}) == 2


def summary(audit: dict, copies: int) -> list[str]:
    """Say what was found in a few lines.

    Args:
        copies: films that merging the sources left out.
    """
    exact, near, leaks = audit["duplicates"]["exact"], audit["duplicates"]["near"], audit["leakage"]
    conflicting = exact["conflicting_labels"] + near["conflicting_labels"]
    lines = [
        f"{split}: " + ", ".join(f"{count} {label}" for label, count in films.items())
        for split, films in audit["counts"].items()
    ]
    lines.append(
        f"{len(audit['unreadable'])} unreadable, {len(audit['wrong_extension'])} of a wrong extension, "
        f"{exact['spare_films']} exact copies in {exact['groups']} groups, {near['pairs']} near-duplicate pairs"
    )
    lines.append(
        f"leakage: {len(leaks['patients'])} patients, {len(leaks['exact'])} exact copies and {len(leaks['near'])} "
        f"near-duplicates in two splits; {conflicting} groups of conflicting labels"
    )
    if doubts := audit["label_doubts"]:
        lines.append(
            f"{doubts['doubted']} labels of {doubts['films']} are doubted by models that had not seen the film"
        )
    return lines + ([f"{copies} copies between the sources were left out"] if copies else [])

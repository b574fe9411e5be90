"""What age, sex and view add to a score: fitted on validation, measured on the test beside the film alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.linear_model import LogisticRegression

from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.data.predictions import log_odds
from pneumo_hf.data.schema import CLINICAL_COLUMNS
from pneumo_hf.errors import InputError
from pneumo_hf.evaluation.compare import delong
from pneumo_hf.evaluation.metrics import RESAMPLES, areas, bootstrap_weights, metrics_with_intervals
from pneumo_hf.evaluation.operating_points import DEFAULT, choose_thresholds
from pneumo_hf.inference.clinical import EPSILON, ClinicalModel

TOO_TELLING = 0.8  # ROC AUC of a column alone, or of whether it is known, from which it gives away the label
FEWEST = 5  # films that a value needs, to have a part of its own
SHOWN = ("roc_auc", "sensitivity", "specificity", "ece")


def assert_usable(films: Mapping[str, FilmDataset], columns: Sequence[str]) -> None:
    """Stop a run whose clinical columns are not there, or tell the label by themselves.

    A column that does is a sign of how the films were collected (children from one hospital, patients from another),
    and would hide what the network sees.

    Args:
        films: by split.
        columns: of CLINICAL_COLUMNS.

    Raises:
        InputError: naming the column, with its ROC AUC.
    """
    for name in columns:
        if name not in CLINICAL_COLUMNS:
            raise InputError(f"clinical_columns: {name} is none of {', '.join(CLINICAL_COLUMNS)}")
        for split in ("train", "validation"):
            values = [value for value in films[split].table[name] if value is not None]
            counts = sorted(map(values.count, set(values)), reverse=True)
            told = len(values) if name == "age" else min([*counts, 0][:2])  # two values, to differ by
            if told < FEWEST:
                raise InputError(f"clinical_columns: too few {split} films say their {name} ({told}, {FEWEST} needed)")
        for what, area in _alone([films["train"], films["validation"]], name).items():
            if area >= TOO_TELLING:
                raise InputError(
                    f"clinical_columns: {what} alone gives away the labels of the films (ROC AUC {area:.2f}, "
                    f"allowed below {TOO_TELLING}): a shortcut of how the films were collected; leave {name} out"
                )


def _alone(films: Sequence[FilmDataset], name: str) -> dict[str, float]:
    """ROC AUC of a column among the films that have it, and of whether they do, either way round."""
    labels = np.concatenate([part.endpoint for part in films])
    values = [value for part in films for value in part.table[name]]
    known = np.array([value is not None for value in values])
    weights = np.ones((1, len(labels)))
    by_knowing = float(areas(labels, known.astype(float), weights)[0][0])
    found = {f"whether {name} is known": max(by_knowing, 1 - by_knowing)}
    if len(set(labels[known])) < 2:
        return {f"whether {name} is known": 1.0}  # of one label only
    told, table = labels[known], {name: [value for value in values if value is not None]}
    nothing = np.full(len(told), 0.5)
    scores = fuse(fit_clinical(told, nothing, table, [name]), nothing, table)
    return found | {name: float(areas(told, scores, weights[:, known])[0][0])}


def fit_clinical(
    labels: np.ndarray,
    probs: np.ndarray,
    table: Dataset | Mapping[str, Sequence],
    columns: Sequence[str],
    method: str = DEFAULT,
) -> ClinicalModel:
    """Fit logistic regression to the log odds of scores and the columns, each centred; missing ones are their mean.

    Args:
        labels: `[N]`, 1 for pneumonia.
        probs: `[N]`, the checkpoint's.
        table: the columns, None where a value is missing.
        columns: those to take.
        method: that the threshold is chosen by.
    """
    odds = log_odds(probs, EPSILON)
    center, spread = float(odds.mean()), float(odds.std()) or 1.0
    features, describe = [(odds - center) / spread], []  # of one scale with the columns, for the ridge on them all
    for name in columns:
        values = list(table[name])
        if name == "age":
            known = np.array([value is not None for value in values])
            ages = np.array([value for value in values if value is not None], float)
            mean, scale = float(ages.mean()), float(ages.std()) or 1.0
            filled = np.zeros(len(values))
            filled[known] = (ages - mean) / scale
            features.append(filled)
            describe.append((name, mean, scale))
            continue
        counts = {value: values.count(value) for value in sorted(set(values) - {None})}
        counts = {value: count for value, count in counts.items() if count >= FEWEST}
        known, films = np.isin(values, list(counts)), sum(counts.values())
        for value, count in counts.items():
            features.append((np.array([one == value for one in values]) - count / films) * known)
            describe.append((name, value, count / films))
    fitted = LogisticRegression(max_iter=1000).fit(np.stack(features, axis=1), labels)
    weight, *coefficients = map(float, fitted.coef_[0])
    weight /= spread
    model = ClinicalModel(
        float(fitted.intercept_[0]) - weight * center, weight, _parts(describe, coefficients), 0.5, method
    )
    model.threshold = choose_thresholds(labels, fuse(model, probs, table), [method])[method]
    return model


def _parts(describe: list[tuple], coefficients: list[float]) -> dict[str, dict[str, float]]:
    columns: dict[str, dict[str, float]] = {}
    for (name, value, share), coefficient in zip(describe, coefficients, strict=True):
        if name == "age":
            columns[name] = {"mean": value, "per_year": coefficient / share}
        else:
            columns.setdefault(name, {})[value] = coefficient
    for name in columns.keys() - {"age"}:  # one-hot features less their means: a value's part, less the mean part
        mean = sum(
            share * coefficient
            for (of, _, share), coefficient in zip(describe, coefficients, strict=True)
            if of == name
        )
        columns[name] = {value: coefficient - mean for value, coefficient in columns[name].items()}
    return columns


def fuse(model: ClinicalModel, probs: np.ndarray, table: Dataset | Mapping[str, Sequence]) -> np.ndarray:
    """Fuse scores `[N]` with the columns of a table: `[N]`."""
    columns = [table[name] for name in model.columns]
    rows = [dict(zip(model.columns, values, strict=True)) for values in zip(*columns, strict=True)]
    return np.array([model.fuse(float(p), row) for p, row in zip(probs, rows, strict=True)])


def clinical_gain(model: ClinicalModel, labels: np.ndarray, probs: np.ndarray, films: FilmDataset) -> dict[str, Any]:
    """Measure on labelled films what the columns add to the score of the film alone.

    Returns:
        `{"columns", "known", "metrics", "difference", "delong"}`: the columns, for what share of the films each is
        known, the figures with them, the difference of the ROC AUC with its 95 % interval (a paired bootstrap over
        patients), and DeLong's test of it.
    """
    fused, patients = fuse(model, probs, films.table), films.patient_ids
    values = metrics_with_intervals(labels, fused, model.threshold, patients)
    gains = [
        areas(labels, fused, weights)[0] - areas(labels, probs, weights)[0]
        for weights in bootstrap_weights(patients, RESAMPLES, 0)
    ]
    resampled = np.concatenate(gains)
    low, high = np.percentile(resampled[np.isfinite(resampled)], [2.5, 97.5])
    test = delong(labels, fused, probs) if min(labels.sum(), (1 - labels).sum()) > 1 else None
    known = {name: float(np.mean([value is not None for value in films.table[name]])) for name in model.columns}
    return {
        "columns": model.columns,
        "known": known,
        "threshold": model.threshold,
        "metrics": {name: values[name] for name in SHOWN},
        "difference": {"value": test["difference"] if test else float("nan"), "ci95": [float(low), float(high)]},
        "delong": test,
    }

"""Shortcut baselines: what a linear model reaches without the lungs. A network no better relies on the frame."""

from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.imaging.quality import THUMBNAIL

SIDE = THUMBNAIL // 2
REGIONS = {"corners": 4, "border_ring": 3, "outside_central_box": 5}  # of 28 pixels: how far from the edge they reach
RESAMPLES = 300
FOLDS = 5

Baselines = dict[str, dict[str, float | list[float]]]


def shortcut_baselines(train: FilmDataset, test: FilmDataset) -> Baselines:
    """Measure on the test films what ridge regression makes of the parts that hold no lung (`linear_baselines`)."""
    labels, patients = (
        np.concatenate([train.endpoint, test.endpoint]),
        np.concatenate([train.patient_ids, test.patient_ids]),
    )
    thumbnails = np.concatenate([train.thumbnails, test.thumbnails])
    return linear_baselines(region_features(thumbnails), labels, patients, np.arange(len(labels)) >= len(train))


def region_features(thumbnails: np.ndarray) -> dict[str, np.ndarray]:
    """Average thumbnails `[N, 56, 56]` to 28 x 28: `{region: [N, D] float32}`, the grey levels of each region."""
    films = np.asarray(thumbnails).reshape(len(thumbnails), SIDE, 2, SIDE, 2).mean(axis=(2, 4), dtype=np.float32)
    return {region: films[:, region_mask(region)] for region in REGIONS}


def linear_baselines(
    features: Mapping[str, np.ndarray], labels: np.ndarray, patient_ids: np.ndarray, is_test: np.ndarray
) -> Baselines:
    """Measure the ROC AUC of ridge regression on each of `features` `[N, D]` alone: `{name: {"value", "ci95"}}`.

    Fitted on the films that are no test films and measured on those that are; without test films of both kinds,
    measured by cross-validation over patients. The intervals resample patients.

    Args:
        labels: `[N]`, 0 for normal.
        patient_ids: `[N]`.
        is_test: `[N]` bool.
    """
    labels, baselines = (labels > 0).astype(int), {}
    measured = is_test if len(set(labels[is_test])) == 2 else np.ones(len(labels), bool)
    for name, values in features.items():
        ridge = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1000.0, class_weight="balanced"))
        if measured is is_test:
            scores = ridge.fit(values[~is_test], labels[~is_test]).decision_function(values[is_test])
        else:
            folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
            scores = cross_val_predict(ridge, values, labels, groups=patient_ids, cv=folds, method="decision_function")
        baselines[name] = _with_interval(labels[measured], scores, patient_ids[measured])
    return baselines


def region_mask(region: str) -> np.ndarray:
    """Return which of 28 x 28 pixels belong to a region."""
    edge = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])  # distance from the nearer edge
    near_x, near_y = np.meshgrid(edge, edge)
    nearest = np.maximum(near_x, near_y) if region == "corners" else np.minimum(near_x, near_y)
    return nearest < REGIONS[region]


def _with_interval(labels: np.ndarray, scores: np.ndarray, patient_ids: np.ndarray) -> dict[str, float | list[float]]:
    order = np.argsort(-scores, kind="stable")
    cases, last_of_ties = labels[order] == 1, np.append(np.diff(scores[order]) != 0, True)

    def roc_area(weights: np.ndarray) -> float:  # trapezoids, so ties count half
        tp, fp = (np.append(0, np.cumsum(weights[order] * kind)[last_of_ties]) for kind in (cases, ~cases))
        return float(np.trapezoid(tp, fp) / (tp[-1] * fp[-1]))

    patients, numbers = np.unique(patient_ids, return_inverse=True)
    random, resampled = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        weights = np.bincount(random.integers(len(patients), size=len(patients)), minlength=len(patients))[numbers]
        if all(weights[labels == label].any() for label in (0, 1)):
            resampled.append(roc_area(weights))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": roc_area(np.ones(len(labels))), "ci95": [float(low), float(high)]}

from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from pneumo_hf.evaluation import hf_metric, metrics
from pneumo_hf.evaluation.metrics import (
    CALIBRATION_BINS,
    bootstrap_weights,
    confusion,
    delong_areas,
    epoch_metrics,
    metrics_with_intervals,
    top_label_error,
    weighted_metrics,
)

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random(300) < 0.6).astype(int)
PROBS = np.round(np.clip(0.5 + 0.25 * (2 * LABELS - 1) + 0.25 * RANDOM.standard_normal(300), 0, 1), 2)  # with ties
PATIENTS = np.repeat(np.arange(100), 3)


def by_scikit_learn(labels: np.ndarray, probs: np.ndarray, threshold: float, weights: np.ndarray) -> dict[str, float]:
    preds, given = probs >= threshold, {"sample_weight": weights}
    clipped = np.clip(probs, 1e-7, 1 - 1e-7)
    return {
        "roc_auc": sklearn_metrics.roc_auc_score(labels, probs, **given),
        "pr_auc": sklearn_metrics.average_precision_score(labels, probs, **given),
        "accuracy": sklearn_metrics.accuracy_score(labels, preds, **given),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, preds, **given),
        "sensitivity": sklearn_metrics.recall_score(labels, preds, **given),
        "specificity": sklearn_metrics.recall_score(labels, preds, pos_label=0, **given),
        "precision": sklearn_metrics.precision_score(labels, preds, **given),
        "npv": sklearn_metrics.precision_score(labels, preds, pos_label=0, **given),
        "f1": sklearn_metrics.f1_score(labels, preds, **given),
        "mcc": sklearn_metrics.matthews_corrcoef(labels, preds, **given),
        "brier": sklearn_metrics.brier_score_loss(labels, probs, **given),
        "log_loss": sklearn_metrics.log_loss(labels, clipped, **given),
    }


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.77])
def test_every_metric_is_scikit_learns_under_any_weights(threshold: float) -> None:
    weights = np.vstack([np.ones(300), *bootstrap_weights(PATIENTS, 3, seed=1)])
    ours = weighted_metrics(LABELS, PROBS, threshold, weights)
    for row, given in enumerate(weights):
        for name, expected in by_scikit_learn(LABELS, PROBS, threshold, given).items():
            assert ours[name][row] == pytest.approx(expected, abs=1e-7), name


def test_the_error_of_the_likelier_label() -> None:
    labels, probs = np.array([1, 0, 0, 1, 0]), np.array([0.98, 0.02, 0.99, 0.6, 0.3])
    # three of the five lie in the surest bin, right two times of three at .983 on average; then .6 right, .7 right
    expected = (abs(2 / 3 - 2.95 / 3) * 3 + abs(1 - 0.6) + abs(1 - 0.7)) / 5
    assert top_label_error(labels, probs) == pytest.approx(expected)


def test_calibration_error_by_its_definition() -> None:
    bins = np.minimum((PROBS * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    expected = sum(
        np.mean(bins == b) * abs(PROBS[bins == b].mean() - LABELS[bins == b].mean()) for b in np.unique(bins)
    )
    assert weighted_metrics(LABELS, PROBS, 0.5, np.ones((1, 300)))["ece"][0] == pytest.approx(expected)


def test_intervals_hold_the_value_and_widen_with_clustered_patients() -> None:
    values = metrics_with_intervals(LABELS, PROBS, 0.5, PATIENTS)
    for metric in values.values():
        assert metric["ci95"][0] <= metric["value"] <= metric["ci95"][1]
    same = np.repeat(np.arange(10), 30)  # thirty copies of ten patients: ten independent films
    labels, probs = np.repeat(LABELS[:10], 30), np.repeat(PROBS[:10], 30)
    width = np.diff(metrics_with_intervals(labels, probs, 0.5, same)["accuracy"]["ci95"])
    naive = np.diff(metrics_with_intervals(labels, probs, 0.5, np.arange(300))["accuracy"]["ci95"])
    assert width > 3 * naive


def test_delong_gives_the_figures_published_for_hanleys_scans() -> None:
    """109 CT scans, rated 1 to 5 (Hanley, McNeil 1982); Stata's manual, `roctab`: .8932, .0307, .83295 to .95339."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.repeat([1, 2, 3, 4, 5] * 2, normal + abnormal)
    labels = np.repeat([0, 1], [58, 51])
    (area,), covariance = delong_areas(labels, ratings)
    assert (round(area, 4), round(np.sqrt(covariance[0, 0]), 4)) == (0.8932, 0.0307)
    low, high = metrics_with_intervals(labels, ratings / 5, 0.5, np.arange(109))["roc_auc"]["ci95_delong"]
    assert (round(low, 5), round(high, 5)) == (0.83295, 0.95339)


def test_wilsons_interval_by_its_formula() -> None:
    values = metrics_with_intervals(LABELS, PROBS, 0.5, PATIENTS)
    counts, z = confusion(LABELS, PROBS >= 0.5), 1.959963984540054
    n = counts["tp"] + counts["fn"]
    p = counts["tp"] / n
    middle, half = (p + z * z / (2 * n)), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert values["sensitivity"]["ci95_wilson"] == pytest.approx(expected)
    assert "ci95_wilson" not in values["mcc"]


@pytest.mark.slow
def test_the_bootstrap_covers_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 synthetic studies as large as the official test: 400 patients with two films each.

    With 500 resamples instead of 2,000: the end of an interval is then the 13.5th of 501 parts on average, not the
    51st of 2,001, and 94.6 % are expected inside, not 94.9 %.
    """
    monkeypatch.setattr(metrics, "RESAMPLES", 500)
    random = np.random.default_rng(0)

    def study(patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = np.repeat(np.arange(patients), 2)
        labels = np.repeat((random.random(patients) < 0.6).astype(int), 2)
        shared = np.repeat(random.standard_normal(patients), 2)
        odds = 1.2 * (2 * labels - 1) + 0.7 * shared + 0.7 * random.standard_normal(2 * patients)
        return labels, 1 / (1 + np.exp(-odds)), ids

    labels, probs, _ = study(1_000_000)
    truth = {
        "roc_auc": sklearn_metrics.roc_auc_score(labels, probs),
        "sensitivity": np.mean(probs[labels == 1] >= 0.5),
        "specificity": np.mean(probs[labels == 0] < 0.5),
        "accuracy": np.mean((probs >= 0.5) == labels),
        "brier": np.mean((probs - labels) ** 2),
    }
    covered = dict.fromkeys(truth, 0)
    for _ in range(500):
        labels, probs, ids = study(400)
        values = metrics_with_intervals(labels, probs, 0.5, ids)
        for name, value in truth.items():
            low, high = values[name]["ci95"]
            covered[name] += low <= value <= high
    assert {name: 0.93 <= count / 500 <= 0.97 for name, count in covered.items()} == dict.fromkeys(truth, True), (
        covered
    )


def test_the_metrics_load_with_evaluate_and_without_the_hub() -> None:
    metric = evaluate.load(str(Path(hf_metric.__file__)))
    result = metric.compute(predictions=PROBS, references=LABELS, threshold=0.3, patient_ids=PATIENTS)
    expected = metrics_with_intervals(LABELS, PROBS, 0.3, PATIENTS)
    assert result["roc_auc"] == expected["roc_auc"]["value"] and result["mcc_ci95"] == expected["mcc"]["ci95"]


def test_undefined_metrics_are_nan_not_errors() -> None:
    values = metrics_with_intervals(np.array([1, 1]), np.array([0.2, 0.9]), 0.5, np.array(["a", "b"]))
    assert np.isnan(values["specificity"]["value"])
    assert values["sensitivity"]["value"] == 0.5


def test_confusion_and_ranking() -> None:
    counts = confusion(LABELS, PROBS >= 0.5)
    tn, fp, fn, tp = sklearn_metrics.confusion_matrix(LABELS, PROBS >= 0.5).ravel()
    assert counts == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    assert epoch_metrics(LABELS, PROBS)["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(LABELS, PROBS))

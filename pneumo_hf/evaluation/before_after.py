"""What recalibration changes on labelled films, figure by figure: before it, and after fits to other patients."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pneumo_hf.config.arguments import target_of
from pneumo_hf.data.predictions import log_odds
from pneumo_hf.evaluation.abstention import answer_shares
from pneumo_hf.evaluation.metrics import RESAMPLES, bootstrap_weights, calibration_error, metrics_with_intervals
from pneumo_hf.evaluation.sample_size import coverage_interval, design_effect, films_needed
from pneumo_hf.inference.scorer import probabilities, probability_of
from pneumo_hf.inference.settings import CheckpointSettings, is_positive
from pneumo_hf.labels import NEGATIVE, Task, column_of

DRAWS = 500  # of labels, for the calibration error of calibrated scores
LABEL_OF = {"sensitivity": 1, "specificity": 0}


@dataclass
class LocalFilms:
    """Labelled films of a hospital, as a checkpoint scores them."""

    names: list[str]
    labels: np.ndarray  # [N], 1 for what is not NORMAL
    logits: np.ndarray  # [N, C], NORMAL first
    patient_ids: np.ndarray  # [N]
    distances: np.ndarray  # [N], of the detector; NaN where there is none
    issues: Sequence[str]  # [N], of `quality_issue`
    rejected: list[dict] = field(default_factory=list)  # `{"path", "reason"}` of the films that could not be read
    details: list[dict] = field(default_factory=list)  # [N], DETAIL_COLUMNS; empty of scores alone

    @property
    def odds(self) -> np.ndarray:
        """Log odds of not being NORMAL, `[N]`."""
        return log_odds(probability_of(self.logits))

    def rows(self, logits: np.ndarray, settings: Sequence[CheckpointSettings], task: Task) -> list[dict]:
        """Make the rows of a predictions CSV: each film by its logits `[N, C]` and decided by its settings `[N]`."""
        probs, of_labels = probability_of(logits), probabilities(logits)
        rows = []
        for film, one in enumerate(settings):
            rows.append(
                {
                    "path": self.names[film],
                    "label": (NEGATIVE, task.positive)[self.labels[film]],
                    "patient_id": self.patient_ids[film],
                    "probability": float(probs[film]),
                    **one.decide(float(probs[film]), float(self.distances[film]), self.issues[film]),
                }
            )
            if logits.shape[1] > 2:
                rows[-1] |= zip(map(column_of, task.labels), of_labels[film].tolist(), strict=True)
        return rows


@dataclass
class Scored:
    """Scores of films, and the settings that each is decided by."""

    probs: np.ndarray  # [N]
    settings: Sequence[CheckpointSettings]  # [N]

    def thresholds(self, name: str | None = None) -> np.ndarray:
        """The decision threshold of each film, or that of an operating point, `[N]`; NaN where there is none."""
        return np.array([one.thresholds.get(name or one.method, np.nan) for one in self.settings])

    def passed(self, name: str | None = None) -> np.ndarray:
        """Return which films are called pneumonia, `[N]` bool."""
        return is_positive(self.probs, self.thresholds(name))


def before_and_after(films: LocalFilms, before: Scored, after: Scored, final: Scored) -> dict:
    """Measure films before recalibration and after it, with 95 % intervals by a bootstrap over patients.

    Args:
        before: by the checkpoint as it was.
        after: each film by a fit that did not see its patient.
        final: by the fit to all of them.
    """
    labels, patients, task = films.labels, films.patient_ids, before.settings[0].task
    first: dict[str, Any] = metrics_with_intervals(labels, before.probs, before.settings[0].threshold, patients)
    then: dict[str, Any] = metrics_with_intervals(labels, after.probs, after.thresholds(), patients)
    then |= {name: first[name] for name in ("roc_auc", "pr_auc")}  # of the order of films, which stays
    sensitivity, specificity = (then[name] for name in LABEL_OF)
    effects, one_normal = [sensitivity["design_effect"], specificity["design_effect"]], np.zeros(len(labels))
    decided = {
        when: films.rows(np.stack([one_normal, log_odds(scored.probs)], axis=1), scored.settings, task)
        for when, scored in (("before", before), ("after", after))
    }
    limits = {"before": before.settings[0].conformal_limits, "after": final.settings[0].conformal_limits}
    return {
        "metrics": {name: {"before": first[name], "after": then[name]} for name in first},
        "ece_of_calibrated_scores": {"before": of_calibrated(before.probs), "after": of_calibrated(after.probs)},
        "decision_threshold": {
            "before": {"value": before.settings[0].threshold, "method": before.settings[0].method},
            "after": {"value": final.settings[0].threshold, "method": final.settings[0].method},
        },
        "operating_points": _operating_points(films, before, after, final),
        "abstention": {when: _answers(films, rows) | {"limits": limits[when]} for when, rows in decided.items()},
        "films_needed": films_needed(float(labels.mean()), sensitivity["value"], specificity["value"], effects),
    }


def of_calibrated(probs: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Draw what the calibration error of so many scores would be, were they calibrated: `{"mean", "up_to"}`.

    `up_to` is not exceeded in 95 % of draws of the labels from the scores `[N]` (Bröcker and Smith 2007).
    """
    labels = np.random.default_rng(seed).random((DRAWS, len(probs))) < probs
    errors = calibration_error(labels, probs, np.ones((1, len(probs))))
    return {"mean": float(errors.mean()), "up_to": float(np.quantile(errors, 0.95))}


def _operating_points(films: LocalFilms, before: Scored, after: Scored, final: Scored) -> list[dict]:
    """Each point's threshold, sensitivity and specificity before and after, where the checkpoint had it before."""
    had, points = before.settings[0].thresholds, []
    names = [point["name"] for point in final.settings[0].operating_points]
    rates = _rates(films, np.stack([scored.passed(name) for name in names for scored in (before, after)]))
    for number, name in enumerate(names):
        first, then = rates[2 * number : 2 * number + 2]
        thresholds = {"before": had.get(name), "after": final.settings[0].thresholds[name]}
        point = {"name": name, "threshold": thresholds}
        for rate in LABEL_OF:
            point[rate] = {"before": first[rate] if name in had else None, "after": then[rate]}
        if target_of(name) and not name.startswith("cost@"):  # of one label's scores alone: so it can be expected
            point["expected"] = {rate: _expected(films, final.passed(name), rate) for rate in LABEL_OF}
        points.append(point)
    return points


def _expected(films: LocalFilms, passed: np.ndarray, rate: str) -> dict:
    """What a new threshold gives on further films of the hospital, from those that it was chosen on."""
    chosen = films.labels == LABEL_OF[rate]
    right = (passed == LABEL_OF[rate])[chosen]
    effect = design_effect(right, films.patient_ids[chosen])
    return {"value": float(right.mean()), "ci95": coverage_interval(right.sum(), len(right), effect)}


def _answers(films: LocalFilms, rows: list[dict]) -> dict[str, dict]:
    """Shares of films that get an answer or none, and how right the answers are, with intervals."""
    shares = answer_shares(films.labels, rows)
    counted, of = (np.stack(part) for part in zip(*shares.values(), strict=True))
    return dict(zip(shares, _shares(films.patient_ids, counted, of), strict=True))


def _rates(films: LocalFilms, passed: np.ndarray) -> list[dict]:
    """Sensitivity and specificity, with intervals, of K ways to call films, `[K, N]` bool."""
    rates = {}
    for rate, label in LABEL_OF.items():
        of = np.broadcast_to(films.labels == label, passed.shape)
        rates[rate] = _shares(films.patient_ids, passed == label, of)
    return [dict(zip(rates, both, strict=True)) for both in zip(*rates.values(), strict=True)]


def _shares(patient_ids: np.ndarray, counted: np.ndarray, of: np.ndarray) -> list[dict]:
    """K shares, of the films `of` those that are `counted`, `[K, N]` bool, with 95 % intervals over patients."""
    blocks = [np.ones((1, len(patient_ids))), *bootstrap_weights(patient_ids, RESAMPLES, 0)]
    with np.errstate(invalid="ignore"):
        shares = np.concatenate([(w @ (counted & of).T) / (w @ of.T) for w in blocks])
    found = []
    for value, *resampled in shares.T:
        defined = np.array(resampled)[np.isfinite(resampled)]
        interval = np.percentile(defined, [2.5, 97.5]).tolist() if len(defined) else [np.nan, np.nan]
        found.append({"value": float(value), "ci95": interval})
    return found

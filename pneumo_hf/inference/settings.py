"""What a checkpoint carries beside its weights, in `config.json`, and how it decides. The only such place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from pneumo_hf.errors import InputError
from pneumo_hf.imaging.quality import ATYPICAL_LAYOUT, QUALITY_ISSUES
from pneumo_hf.inference.conformal import undecided
from pneumo_hf.inference.integrity import assert_settings
from pneumo_hf.labels import NEGATIVE, Task

TASK = "task"  # key of config.json
T = TypeVar("T", float, np.ndarray)

KEYS = {  # field -> key of config.json
    "threshold": "decision_threshold",
    "method": "decision_method",
    "operating_points": "operating_points",
    "conformal_limits": "abstention",
    "temperature": "calibration_temperature",
    "preprocessing": "preprocessing",
    "training_data": "training_data",
    "recalibration": "recalibration",
}
KINDS: dict[str, Any] = {  # a stranger's checkpoint may hold anything under these keys
    "threshold": int | float,
    "method": str,
    "operating_points": list,
    "conformal_limits": dict,
    "temperature": int | float,
    "preprocessing": dict,
    "training_data": dict,
    "recalibration": dict,
}


def is_positive(probs: T, threshold: float | np.ndarray) -> T:
    """Return whether scores, one or `[N]`, are at or above the threshold, one or each its own: the one comparison."""
    return probs >= threshold


@dataclass
class CheckpointSettings:
    """Labels, threshold, operating points, conformal limits, calibration and provenance of a checkpoint.

    >>> settings = CheckpointSettings(threshold=0.6, method="youden")
    >>> settings.decide(0.7)
    {'prediction': 'PNEUMONIA', 'flag': 'review', 'error': ''}
    """

    threshold: float = 0.5
    method: str = "default"  # what the threshold was chosen by; "default" where nothing was chosen
    operating_points: list[dict] = field(default_factory=list)
    conformal_limits: dict[str, float] | None = None
    temperature: float | None = None  # already folded into the classifier; for the record
    preprocessing: dict = field(default_factory=dict)
    training_data: dict = field(default_factory=dict)
    recalibration: dict = field(default_factory=dict)  # of `recalibrate`: on which films, and what was before
    task: Task = Task()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> "CheckpointSettings":
        """Read the settings from a checkpoint's `config.json`; a checkpoint from elsewhere has none.

        Raises:
            InputError: a threshold, limit or temperature is no such number; `source` is the file that it names.
        """
        assert_settings(config, KEYS, source)
        values = {name: config[key] for name, key in KEYS.items() if isinstance(config.get(key), KINDS[name])}
        if "threshold" in values:
            values = {"method": "youden", **values, "threshold": float(values["threshold"])}
        return cls(**values)

    def to_config(self) -> dict[str, Any]:
        """Return the keys and values of `config.json`; the labels of a checkpoint are read from its `id2label`."""
        task = {"labels": list(self.task.labels), "positive": self.task.positive}
        values = {key: getattr(self, name) for name, key in KEYS.items() if name != "recalibration"}
        return values | ({KEYS["recalibration"]: self.recalibration} if self.recalibration else {}) | {TASK: task}

    @property
    def is_calibrated(self) -> bool:
        """Whether temperature and thresholds were chosen on validation films."""
        return self.method != "default"

    @property
    def chosen_on(self) -> str:
        """The films that temperature and thresholds were chosen on."""
        if self.recalibration:
            return f"{self.recalibration.get('n')} films of {self.recalibration.get('dataset')}"
        return "validation" if self.is_calibrated else "nothing: the checkpoint carries none"

    @property
    def prevalence_of_scores(self) -> float | None:
        """The share of pneumonia that the scores take for granted."""
        return self.training_data.get("prevalence_of_scores")

    @property
    def uncertain_scores(self) -> tuple[float, float] | None:
        """The scores between which neither label is certain enough, whatever the threshold."""
        if self.conformal_limits is None:
            return None
        lower, upper = sorted(self.conformal_limits[key] for key in ("normal_up_to", "pneumonia_from"))
        return lower, upper

    @property
    def trained_on_kermany(self) -> bool:
        """Whether the films of training are those of the public Kermany set, of children."""
        return self.training_data.get("kermany") is True

    @property
    def thresholds(self) -> dict[str, float]:
        """Every operating point by name, the one in use first."""
        return {self.method: self.threshold} | {point["name"]: point["threshold"] for point in self.operating_points}

    def use(self, operating_point: str) -> None:
        """Decide at another operating point from now on.

        Raises:
            InputError: the checkpoint carries none of that name.
        """
        thresholds = {point["name"]: point["threshold"] for point in self.operating_points}
        if operating_point not in thresholds:
            raise InputError(
                f"the checkpoint carries no operating point {operating_point}, only {', '.join(thresholds) or 'none'}"
            )
        self.threshold, self.method = thresholds[operating_point], operating_point

    def decide(
        self, probability: float, distance: float = np.nan, issue: str = "", threshold: float | None = None
    ) -> dict[str, str]:
        """Decide on a film: its `prediction` and `flag`, and in `error` what is wrong with the picture.

        Args:
            distance: from the films of training, of `OutlierDetector`; above 1 it is no chest film.
            issue: its `quality_issue`. threshold: by default the checkpoint's.
        """
        threshold = self.threshold if threshold is None else threshold
        above = is_positive(probability, threshold)
        prediction, flag, error = self.task.positive if above else NEGATIVE, "review" if above else "", issue
        if issue and not (issue == ATYPICAL_LAYOUT and distance > 1):  # the detector is surer of what is no chest
            flag = QUALITY_ISSUES[issue]
        elif distance > 1:
            flag, error = "not_chest_xray", f"unlike the films it was trained on: {distance:.2f} times the limit"
        elif self._abstains(probability, threshold):
            flag = "abstain"
        return {"prediction": prediction, "flag": flag, "error": error}

    def abstention_band(self, threshold: float | None = None) -> tuple[float, float] | None:
        """Return the scores between which neither label is certain enough, by default at the threshold in use.

        A threshold below them flags all of them: no score gets a weaker answer than a lower one.
        """
        threshold = self.threshold if threshold is None else threshold
        if self.uncertain_scores is None or self.conformal_limits is None:
            return None
        lower, upper = self.uncertain_scores
        if threshold < lower:
            return None
        missed = self.conformal_limits["pneumonia_from"] < threshold
        return lower, max(upper, threshold) if missed else upper

    def flagged_from(self, threshold: float) -> float:
        """Return the lowest score that is flagged at a threshold: those without an answer can reach above it."""
        unsure = self.abstention_band(threshold)
        return max(threshold, unsure[1]) if unsure else threshold

    def _abstains(self, probability: float, threshold: float) -> bool:
        limits = self.conformal_limits
        if limits is None or threshold < min(limits["normal_up_to"], limits["pneumonia_from"]):
            return False
        missed = limits["pneumonia_from"] <= probability < threshold  # pneumonia alone is possible, and not called
        return bool(undecided(probability, limits)) or missed

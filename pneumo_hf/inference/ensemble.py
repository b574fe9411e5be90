"""Several checkpoints that score as one."""

from pathlib import Path

import numpy as np
import torch

from pneumo_hf.inference.predictor import Predictor


class Ensemble(Predictor):
    """Several checkpoints as one: the mean of their logits, divided by a temperature of its own.

    Made by `pneumo_hf.evaluation.ensemble.load_predictor`, which fits temperature and thresholds on validation.

    Args:
        members: the checkpoints' predictors.
        temperature: of the mean logits.
        operating_points: as in a checkpoint's `config.json`; None where nothing could be chosen on validation.
        threshold: the decision threshold, chosen by `method`.
        limits: of `conformal_limits`, for abstaining.
        learnt_prevalence: of `prevalence_of_scores`.
    """

    def __init__(
        self,
        members: list[Predictor],
        temperature: float,
        threshold: float,
        method: str,
        operating_points: list[dict] | None,
        limits: dict[str, float] | None = None,
        learnt_prevalence: float | None = None,
    ):
        self._members, self.temperature = members, temperature
        self.threshold, self.method = threshold, method
        self.name = " + ".join(Path(member.name).name for member in members)
        self.calibrated, self.operating_points = operating_points is not None, operating_points or []
        first = members[0]
        self.batch_size, self.flip, self.device = first.batch_size, first.flip, first.device
        self.limits, self.learnt_prevalence = limits, learnt_prevalence

    @property
    def members(self) -> list[Predictor]:
        return self._members

    def logits(self, *pixels: torch.Tensor) -> np.ndarray:
        logits = [member.logits(part) for member, part in zip(self.members, pixels, strict=True)]
        return mean_logits(np.stack(logits)) / np.float32(self.temperature)

    def look(self, *pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """As of one checkpoint; the distances are the means over the members that have a detector."""
        seen = [member.look(part) for member, part in zip(self.members, pixels, strict=True)]
        logits, distances = map(np.stack, zip(*seen, strict=True))
        distances = distances[np.isfinite(distances).all(axis=1)]  # of those members that have a detector
        mean = distances.mean(axis=0) if len(distances) else np.full(len(logits[0]), np.nan)
        return mean_logits(logits) / np.float32(self.temperature), mean


def mean_logits(logits: np.ndarray) -> np.ndarray:
    """Logits `[M, N, 2]` of M members -> `[N, 2]`: their mean, the geometric mean of the odds."""
    return logits.mean(axis=0)

"""Several checkpoints that score as one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pneumo_hf.inference.predictor import Predictor
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.inference.settings import CheckpointSettings


class Ensemble(Scorer):
    """The mean of several checkpoints' logits, divided by a temperature of its own.

    Made by `pneumo_hf.evaluation.ensembles.load_predictor`, which fits temperature and thresholds on validation.

    Args:
        members: the predictors of the checkpoints.
        settings: chosen for their mean; its temperature divides it.
    """

    def __init__(self, members: Sequence[Predictor], settings: CheckpointSettings):
        first = members[0]
        self.members, self.settings = list(members), settings
        self.name = " + ".join(Path(member.name).name for member in members)
        self.device, self.batch_size, self.flip = first.device, first.batch_size, first.flip

    def logits(self, *pixels: torch.Tensor) -> np.ndarray:
        logits = [member.logits(part) for member, part in zip(self.members, pixels, strict=True)]
        return self._mean(np.stack(logits))

    def predict_with_outliers(self, *pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Score a batch as one checkpoint does; the distances are the means over the members that have a detector."""
        parts = zip(self.members, pixels, strict=True)
        logits, distances = map(
            np.stack, zip(*(member.predict_with_outliers(part) for member, part in parts), strict=True)
        )
        distances = distances[np.isfinite(distances).all(axis=1)]
        mean = distances.mean(axis=0) if len(distances) else np.full(len(logits[0]), np.nan)
        return self._mean(logits), mean

    def _mean(self, logits: np.ndarray) -> np.ndarray:
        return mean_logits(logits) / np.float32(self.settings.temperature or 1.0)


def mean_logits(logits: np.ndarray) -> np.ndarray:
    """Average logits `[M, N, C]` of M members to `[N, C]`: the geometric mean of the odds."""
    return logits.mean(axis=0)

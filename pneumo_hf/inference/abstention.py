"""Knowing when not to answer: pictures that are no chest film, and films on which neither label is sure."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA
from transformers.utils import cached_file

from pneumo_hf.config import InputError

logger = logging.getLogger(__name__)

DETECTOR = "chest_detector.safetensors"  # beside the weights, where the stock pipeline does not look
COMPONENTS = 16
TYPICAL = 0.995  # of the validation films are within the limit
ERROR_RATE = 0.05  # of the conformal limits
MADE = 0.05  # of the pictures made from train films that are no chest may be within it, so that other hospitals' are


@dataclass
class ChestDetector:
    """How unlike the training films a picture is: probabilistic PCA (Tipping and Bishop 1999) of a network's features.

    The features are each stage's channels, averaged over the picture: those of the last stage alone tell normal from
    pneumonia and little else.
    """

    mean: np.ndarray  # [D]
    scale: np.ndarray  # [D]
    components: np.ndarray  # [K, D], of the features less `mean`, divided by `scale`
    variances: np.ndarray  # [K], along them
    noise: np.ndarray  # [1], the variance along every other direction
    limit: np.ndarray  # [1]

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis distances `[N]` of features `[N, D]`, in units of the limit: above 1 is no chest film."""
        return self._distances(features) / self.limit[0]

    def _distances(self, features: np.ndarray) -> np.ndarray:
        standard = (features - self.mean) / self.scale
        along = standard @ self.components.T
        beside = np.maximum((standard**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return np.sqrt((along**2 / self.variances).sum(axis=1) + beside / self.noise[0])

    def save(self, folder: Path) -> None:
        save_file({name: np.ascontiguousarray(values, np.float32) for name, values in asdict(self).items()},
                  folder / DETECTOR)  # fmt: skip


def load_detector(checkpoint: str | Path) -> ChestDetector | None:
    """The detector beside a checkpoint, a folder or Hub id; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    try:
        path = cached_file(str(checkpoint), DETECTOR, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        logger.warning("%s of %s cannot be had, other pictures will be scored: %s", DETECTOR, checkpoint, error)
        return None
    try:
        return ChestDetector(**load_file(path)) if path else None
    except (SafetensorError, TypeError) as error:
        raise InputError(f"{DETECTOR} of {checkpoint} is damaged or not downloaded whole: {error}") from error


def fit_detector(train: np.ndarray, validation: np.ndarray, made: np.ndarray) -> ChestDetector:
    """A detector from the features `[N, D]` of train films; its limit from validation's and of pictures made to fail.

    Args:
        made: of `no_chests`, which lie nearer than photographs do: the limit is at their near edge, so that chest
            films of another hospital pass, and never below what validation needs.
    """
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    pca = PCA(min(COMPONENTS, len(train) // 4)).fit((train - mean) / scale)
    rest = np.maximum(pca.noise_variance_, 1e-6)
    detector = ChestDetector(
        mean + pca.mean_ * scale, scale, pca.components_, pca.explained_variance_, np.array([rest]), np.ones(1)
    )
    typical, edge = np.quantile(detector.distances(validation), TYPICAL), np.quantile(detector.distances(made), MADE)
    detector.limit = np.array([max(typical, edge)])
    return detector


def no_chests(films: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Pictures that are no chest films, made of chest films `[N, 1, H, W]`: quarter turns, and shuffled tiles."""
    generator = torch.Generator().manual_seed(seed)
    side = films.shape[-1] // 4
    whole = films[..., : 4 * side, : 4 * side]
    tiles = whole.unfold(2, side, side).unfold(3, side, side).reshape(len(films), 16, side, side)
    shuffled = tiles[:, torch.randperm(16, generator=generator)].reshape(len(films), 1, 4, 4, side, side)
    shuffled = shuffled.permute(0, 1, 2, 4, 3, 5).reshape(whole.shape)
    shuffled = torch.nn.functional.interpolate(shuffled.float(), films.shape[-2:]).to(films.dtype)
    return torch.cat([films[0::2].rot90(1, (2, 3)), shuffled[1::2]])


def conformal_limits(labels: np.ndarray, probs: np.ndarray, error_rate: float = ERROR_RATE) -> dict[str, float] | None:
    """Split-conformal limits of validation scores, label by label (Vovk 2012): below which rank a label is left out.

    Of new films exchangeable with validation's, each label is wrongly left out at most at `error_rate`. PNEUMONIA is
    possible from `pneumonia_from` up, NORMAL up to `normal_up_to`; where both are or none is, there is no answer.
    None where validation has too few films of a label (fewer than 19 for a rate of .05) to leave any out.

    Args:
        labels: `[N]`, 1 for pneumonia; probs: `[N]`, P(PNEUMONIA).
    """
    limits = []
    for scores in (1 - probs[labels == 0], probs[labels == 1]):
        rank = int(error_rate * (len(scores) + 1))
        if not rank:
            return None
        limits.append(float(np.sort(scores)[rank - 1]))
    return {"error_rate": error_rate, "normal_up_to": 1 - limits[0], "pneumonia_from": limits[1]}


def undecided(probs: np.ndarray, limits: dict[str, float]) -> np.ndarray:
    """`[N]` bool: where both labels are possible, or neither is."""
    return (probs <= limits["normal_up_to"]) == (probs >= limits["pneumonia_from"])

"""Pictures that are no chest film, by how unlike the films of training their features are."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers.utils import cached_file

from pneumo_hf.errors import InputError

logger = logging.getLogger(__name__)

DETECTOR = "chest_detector.safetensors"  # beside the weights, where the stock pipeline does not look
COMPONENTS = 4  # more of them also explain photographs
TYPICAL = 0.995  # of the validation films are within the limit
SYNTHETIC = 0.01  # of the synthetic outliers are within it: fewer, and films of other hospitals are not


@dataclass
class OutlierDetector:
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
        """Compute distances `[N]` (Mahalanobis) of features `[N, D]`, in units of the limit: above 1, no chest."""
        return self._distances(features) / self.limit[0]

    def _distances(self, features: np.ndarray) -> np.ndarray:
        if features.shape[1] != len(self.mean):
            raise InputError(
                f"{DETECTOR} is of another network: it has {len(self.mean)} channels, and this one {features.shape[1]}"
            )
        standard = (features.astype(np.float64) - self.mean) / self.scale  # below: a small difference of sums
        along = standard @ self.components.T
        beside = np.maximum((standard**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return np.sqrt((along**2 / self.variances).sum(axis=1) + beside / self.noise[0])

    def save(self, folder: Path) -> None:
        """Write the detector beside the weights."""
        values = {name: np.ascontiguousarray(values, np.float32) for name, values in asdict(self).items()}
        save_file(values, folder / DETECTOR)


def load_detector(checkpoint: str | Path) -> OutlierDetector | None:
    """Load the detector beside a checkpoint, a folder or Hub id; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    try:
        path = cached_file(str(checkpoint), DETECTOR, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        logger.warning("%s of %s cannot be had, other pictures will be scored: %s", DETECTOR, checkpoint, error)
        return None
    try:
        detector = OutlierDetector(**load_file(path)) if path else None
    except (SafetensorError, TypeError) as error:
        raise InputError(f"{DETECTOR} of {checkpoint} is damaged or not downloaded whole: {error}") from error
    if detector:
        _assert_sound(detector, f"{DETECTOR} of {checkpoint}")
    return detector


def _assert_sound(detector: OutlierDetector, source: str) -> None:
    channels, kept = detector.mean.shape[-1:], detector.variances.shape[-1:]
    shapes = {"mean": channels, "scale": channels, "components": kept + channels, "variances": kept}
    shapes |= {"noise": (1,), "limit": (1,)}
    for name, values in asdict(detector).items():
        if values.shape != shapes[name]:
            raise InputError(f"{source}: {name} is {list(values.shape)}, and should be {list(shapes[name])}")
        positive = name in ("mean", "components") or (values > 0).all()
        if not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all() or not positive:
            raise InputError(f"{source}: {name} has values that are no finite numbers, or not above 0")


def fit_detector(train: np.ndarray, validation: np.ndarray, outliers: np.ndarray) -> OutlierDetector:
    """Fit a detector to the features `[N, D]` of train films, and its limit to those of validation and of outliers.

    Args:
        outliers: features of `synthetic_outliers`, which are nearer than photographs: the limit is at their near edge,
            so that chest films of another hospital pass, and never below what validation needs.
    """
    from sklearn.decomposition import PCA  # for training alone

    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    pca = PCA(min(COMPONENTS, len(train) // 4)).fit((train - mean) / scale)
    rest = np.maximum(pca.noise_variance_, 1e-6)
    detector = OutlierDetector(
        mean + pca.mean_ * scale, scale, pca.components_, pca.explained_variance_, np.array([rest]), np.ones(1)
    )
    typical = np.quantile(detector.distances(validation), TYPICAL)
    edge = np.quantile(detector.distances(outliers), SYNTHETIC)
    detector.limit = np.array([max(typical, edge)])
    return detector


def synthetic_outliers(films: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Make pictures that are no chest films of chest films `[N, 1, H, W]`: quarter turns, and shuffled tiles."""
    generator = torch.Generator().manual_seed(seed)
    side = films.shape[-1] // 4
    whole = films[..., : 4 * side, : 4 * side]
    tiles = whole.unfold(2, side, side).unfold(3, side, side).reshape(len(films), 16, side, side)
    shuffled = tiles[:, torch.randperm(16, generator=generator)].reshape(len(films), 1, 4, 4, side, side)
    shuffled = shuffled.permute(0, 1, 2, 4, 3, 5).reshape(whole.shape)
    shuffled = torch.nn.functional.interpolate(shuffled.float(), films.shape[-2:]).to(films.dtype)
    return torch.cat([films[0::2].rot90(1, (2, 3)), shuffled[1::2]])

"""The weighted loss, plain or focal, for labels or for mixtures of them."""

import numpy as np
import torch
from torch.nn.functional import log_softmax, one_hot


def class_weights(labels: np.ndarray) -> torch.Tensor:
    """Compute inverse frequencies `[C]`, scaled so that the mean weight of a film is 1."""
    counts = np.bincount(labels)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)


def weighted_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None, focal_gamma: float = 0.0
) -> torch.Tensor:
    """Compute the mean over the films of weight x (1 - p)^gamma x cross-entropy; gamma 0 is the plain cross-entropy.

    torch's own mean divides by the weights of the batch, so that a batch in four parts has another loss than the
    whole; divided by the films, gradient accumulation and several processes give the loss of the one large batch.

    Args:
        logits: `[B, C]`.
        targets: `[B, C]`, shares of the labels (see `soft_targets`).
        weights: `[C]`.
        focal_gamma: Lin et al. 2017, equation 4.
    """
    log_probs = log_softmax(logits, dim=1)
    wrong = (1 - log_probs.exp()).clamp_min(1e-6)  # [B, C]; above 0, where a power may have an infinite slope
    terms = targets * log_probs * wrong**focal_gamma
    return -(terms if weights is None else terms * weights).sum() / len(logits)


def soft_targets(labels: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Turn labels `[B]` into shares `[B, C]`, `smoothing` spread over all labels (Szegedy et al. 2016)."""
    return one_hot(labels, classes) * (1 - smoothing) + smoothing / classes

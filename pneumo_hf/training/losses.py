"""The weighted loss."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy


def class_weights(labels: np.ndarray) -> torch.Tensor:
    """Inverse frequencies `[C]`, scaled so that the mean weight of a film is 1."""
    counts = np.bincount(labels)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)


def weighted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The mean over the films of weight x cross-entropy.

    torch's own mean divides by the weights of the batch, so that a batch in four parts has another loss than the
    whole; divided by the films, gradient accumulation and several processes give the loss of the one large batch.
    """
    return cross_entropy(logits, labels, weight=weights, reduction="sum") / len(labels)

"""Temperature scaling: one number, fitted on validation, that makes the scores mean what they say."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LIMITS = (0.05, 20.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimises the validation log loss of `logits / T` (Guo et al. 2017).

    Args:
        logits: `[N, C]`; labels: `[N]`. Kept within .05 to 20: perfectly separated films would ask for 0.
    """

    def log_loss(log_temperature: float) -> float:
        log_probs = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return -log_probs[np.arange(len(labels)), labels].mean()

    return float(np.exp(minimize_scalar(log_loss, bounds=np.log(LIMITS), method="bounded").x))

"""Temperature scaling: one number, fitted on validation, that makes the scores mean what they say."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, log_softmax, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from pneumo_hf.data.predictions import log_odds

LIMITS = (0.05, 20.0)
EPSILON = 1e-7


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature that minimises the validation log loss of `logits / T` (Guo et al. 2017).

    Args:
        logits: `[N, C]`; labels: `[N]`. Kept within .05 to 20: perfectly separated films would ask for 0.
    """

    def log_loss(log_temperature: float) -> float:
        log_probs = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return -log_probs[np.arange(len(labels)), labels].mean()

    return float(np.exp(minimize_scalar(log_loss, bounds=np.log(LIMITS), method="bounded").x))


def slope_and_intercept(labels: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """Fit calibration slope, and in the large: the intercept with the slope held at 1 (Van Calster et al. 2019).

    A slope below 1 says that scores are too extreme, an intercept below 0 that they are too high on average; 1 and 0
    are ideal. NaN where one label is missing; no slope where the labels are separated.
    """
    if len(np.unique(labels)) < 2:
        return {"slope": np.nan, "intercept": np.nan}
    odds, slope = log_odds(probs, EPSILON), np.nan
    if odds[labels == 1].min() < odds[labels == 0].max():
        slope = float(LogisticRegression(C=np.inf, max_iter=1000).fit(odds[:, None], labels).coef_[0, 0])
    return {"slope": slope, "intercept": fit_offset(labels, odds)}


def prevalence_of_scores(labels: np.ndarray, probs: np.ndarray) -> float:
    """Estimate the share of pneumonia that scores take for granted; class weights and undersampling change it.

    Of validation films with both labels. Temperature scaling leaves it as training made it.
    """
    odds = log_odds(probs, EPSILON)
    return float(expit(logit(labels.mean()) - fit_offset(labels, odds)))


def fit_offset(labels: np.ndarray, odds: np.ndarray) -> float:
    """Fit what, added to all log odds `[N]`, makes their mean probability the share of ones: maximum likelihood."""
    return float(brentq(lambda shift: expit(odds + shift).mean() - labels.mean(), -50, 50))


def fit_isotonic(labels: np.ndarray, probs: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit isotonic regression of validation labels on their scores: `[N]` scores -> `[N]`, in the same order."""
    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(probs, labels).predict


def at_prevalence(probs: np.ndarray, assumed: float, there: float) -> np.ndarray:
    """Correct scores `[N]` that take a share `assumed` of pneumonia for granted, for where a share `there` has it.

    The odds are multiplied by the ratio of the prior odds (Saerens et al. 2002). The order of films stays.
    """
    return expit(logit(probs) + logit(there) - logit(assumed))

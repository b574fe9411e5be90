"""Films whose label models doubt that were fitted without them: confident learning (Northcutt, Jiang, Chuang 2021).

The models are logistic regressions on brightness and edges of the films' thumbnails. On the embedded sample with 5 %
of its labels flipped they find as many as the same regressions on features of the embedded ImageNet network, at none
of its cost. They see no more than a coarse film, and doubt difficult films as well as wrong labels: a list to look at.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumo_hf.data.survey import Survey
from pneumo_hf.imaging.quality import THUMBNAIL

FOLDS, SEED = 5, 0
FEWEST = 20  # films, and FOLDS patients, that each label needs
FITTED_TO = 6_000  # films a fold, drawn at random: they bound time and memory
OF_EACH = 200  # films of a label that are drawn in any case, as far as there are so many
AT_ONCE = 4_096
POOL = 4  # pixels of a thumbnail
PENALTY = 0.002  # C, which is 1 / the ridge


def doubted_labels(found: Survey, labels: Sequence[str]) -> dict:
    """List the films whose label is doubted, the most doubted first.

    Returns:
        `{"films", "doubted", "list": [{"rank", "path", "split", "label", "looks_like"}]}`: how many films were judged,
        how many are doubted, and which. There are no scores: their order is what holds. Empty where a label has too
        few films or patients to leave some out.
    """
    numbers, patients = np.array(found.labels), np.array(found.patients)
    kinds = sorted(set(numbers.tolist()))
    for kind in kinds:
        if (numbers == kind).sum() < FEWEST or len(set(patients[numbers == kind])) < FOLDS:
            return {}
    if len(kinds) < 2:
        return {}
    present = np.array([kinds.index(number) for number in numbers])
    order, likelier = confident_learning(present, out_of_fold(found, present, patients))
    listed = [
        {
            "rank": rank,
            "path": found.names[row],
            "split": found.splits[row],
            "label": labels[numbers[row]],
            "looks_like": labels[kinds[likelier[row]]],
        }
        for rank, row in enumerate(order.tolist(), start=1)
    ]
    return {"films": len(numbers), "doubted": len(order), "list": listed}


def confident_learning(labels: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the films that are confidently of another label, the most doubted first.

    A film is confidently of a label whose probability reaches the mean that the films so labelled have; of several,
    of the likeliest.

    Args:
        labels: `[N]`, 0 to C - 1; probs: `[N, C]`, of models that were not fitted to the film.

    Returns:
        The doubted films `[D]`, by the probability of their own label less that of the other, and of every film which
        other label is likeliest, `[N]`.
    """
    rows, count = np.arange(len(labels)), probs.shape[1]
    thresholds = np.array([probs[labels == label, label].mean() for label in range(count)])
    confident = np.where(probs >= thresholds, probs, 0.0)
    own, others = confident[rows, labels].copy(), probs.copy()
    confident[rows, labels], others[rows, labels] = 0.0, -1.0
    likelier, doubted = others.argmax(axis=1), confident.max(axis=1) > own
    margin = probs[rows, labels] - others.max(axis=1)
    order = np.argsort(margin, kind="stable")
    return order[doubted[order]], likelier


def out_of_fold(found: Survey, labels: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Compute the probabilities `[N, C]` that models give to films whose patients they were not fitted to."""
    probs = np.zeros((len(labels), labels.max() + 1))
    random = np.random.default_rng(SEED)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED).split(labels, labels, patients)
    for others, held_out in folds:
        drawn = random.permutation(others)
        of_each = (drawn[labels[drawn] == label][:OF_EACH] for label in range(probs.shape[1]))
        chosen = np.unique(np.concatenate([drawn[:FITTED_TO], *of_each]))
        model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=300))
        model.fit(thumbnail_features(found.thumbnails[chosen]), labels[chosen])
        for start in range(0, len(held_out), AT_ONCE):
            part = held_out[start : start + AT_ONCE]
            given = model.predict_proba(thumbnail_features(found.thumbnails[part]))
            probs[part[:, None], model.classes_] = given
    return probs


def thumbnail_features(thumbnails: np.ndarray) -> np.ndarray:
    """Average brightness, standardised film by film, and the steepness of edges, of thumbnails `[N, 56, 56]`.

    `[N, 588]` float32: 14 x 14 places of brightness, of edges between columns and between rows.
    """
    films = thumbnails.astype(np.float32)
    deviation = films.std(axis=(1, 2), keepdims=True)
    standard = (films - films.mean(axis=(1, 2), keepdims=True)) / np.maximum(deviation, 1e-6)
    across = np.abs(np.diff(films, axis=2, append=films[:, :, -1:]))
    down = np.abs(np.diff(films, axis=1, append=films[:, -1:]))
    places = THUMBNAIL // POOL
    pooled = [part.reshape(-1, places, POOL, places, POOL).mean(axis=(2, 4)) for part in (standard, across, down)]
    return np.concatenate([part.reshape(len(films), -1) for part in pooled], axis=1)

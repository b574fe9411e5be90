"""Whether films are like a reference: statistics, and the limits that all of them together seldom pass by chance.

A statistic sets a batch beside the reference. Calm batches are resampled from the reference, patient by patient, and
the reference itself too, because another reference of the same hospital would have looked a little different. Each
statistic is divided by its own 99 % quantile; the limit is one factor for all, which the largest of them passes as
often as stated (Westfall and Young 1993). Of a patient with many films a few count, in batch and reference: one more
such patient would move every share. Knows nothing of files, words or pages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, kstwobign, norm

from pneumo_hf.inference.details import CATEGORIES, DETAIL_COLUMNS

SCORE, FLAG, PATIENT = "probability", "flag", "patient_id"
NUMBERS = (SCORE, *(name for name in DETAIL_COLUMNS if name not in CATEGORIES))
FLAGS = ("review", "abstain", "not_chest_xray", "unreadable")
BINS = 10  # of the population stability index: deciles of the reference
RARE = 0.02  # of the reference: rarer categories are counted together
LEAST = 20  # known values of a column, in the reference, to watch it
WINDOW = 4  # batches that are also judged together
MOST_FILMS = 5  # of a patient that count, in each batch and in the reference
SIMULATIONS = 4000
OWN = 0.99  # quantile that a statistic is divided by
BLOCK = 2_000_000  # weights at once

Films = dict[str, np.ndarray]  # a column each, `[N]`: floats (NaN where unknown) of NUMBERS, texts ("") of the others
Statistic = tuple[str, str]  # the column or flag, and "ks", "psi", "share" or "new"


@dataclass
class Grid:
    """What a reference lays down for every comparison with it.

    Attributes:
        numbers, categories: the columns that are watched.
        edges: of the bins of the score. kept: of each category column the values that count alone.
        known: of each category column every value of the reference.
    """

    numbers: list[str]
    categories: list[str]
    edges: np.ndarray
    kept: dict[str, list[str]]
    known: dict[str, set[str]]

    @classmethod
    def of(cls, reference: Films, columns: Sequence[str]) -> "Grid":
        """Lay the grid of a reference for those of its columns that can be watched."""
        numbers = [name for name in NUMBERS if name in columns and np.isfinite(reference[name]).sum() >= LEAST]
        categories = [name for name in CATEGORIES if name in columns and (reference[name] != "").sum() >= LEAST]
        score = reference[SCORE][np.isfinite(reference[SCORE])]
        kept, known = {}, {}
        for name in categories:
            values, counts = np.unique(reference[name], return_counts=True)
            known[name] = {*values, ""}
            kept[name] = values[counts >= RARE * len(reference[name])].tolist()
        return cls(numbers, categories, np.unique(np.quantile(score, np.arange(1, BINS) / BINS)), kept, known)


class Pool:
    """Films encoded once, of which batches are counts: how often each film is in it.

    Args:
        films: all films of batch and reference. grid: of the reference.
    """

    def __init__(self, films: Films, grid: Grid):
        self.sorted, parts = [], {}
        for name in grid.numbers:
            values = films[name]
            order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]  # NaN come last
            self.sorted.append((name, order, np.append(np.diff(values[order]) != 0, True)))
        scored = np.isfinite(films[SCORE])
        in_bin = np.eye(len(grid.edges) + 1)[np.searchsorted(grid.edges, films[SCORE], side="right")]
        parts[SCORE, "psi"] = in_bin * scored[:, None]
        for name in grid.categories:
            alone = films[name][:, None] == np.array(grid.kept[name])
            new = ~np.isin(films[name], [*grid.known[name]])
            parts[name, "psi"] = np.column_stack([alone, ~alone.any(axis=1)])
            parts[name, "new"] = np.column_stack([new, ~new])
        for flag in FLAGS:
            has = films[FLAG] == flag
            parts[flag, "share"] = np.column_stack([has, ~has])
        self.slices, self.indicators = {}, np.concatenate([*parts.values()], axis=1).astype(np.float32)
        start = 0
        for statistic, part in parts.items():
            self.slices[statistic] = slice(start, start := start + part.shape[1])

    def statistics(self, batch: np.ndarray, reference: np.ndarray) -> dict[Statistic, np.ndarray]:
        """Compute every statistic `[B]` of batches and references, counts `[B, N]`; NaN of what no film of one has.

        `ks` is the largest distance of the two distribution functions, `psi` the root of the population stability
        index, `share` and `new` the distance of two shares by their arcsine, whose spread is that of any share.
        """
        found = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, order, last in self.sorted:
                found[name, "ks"] = _largest_gap(batch[:, order], reference[:, order], last)
            counts = batch @ self.indicators, reference @ self.indicators
            for statistic, part in self.slices.items():
                theirs, ours = (count[:, part] for count in counts)
                found[statistic] = _psi_root(theirs, ours) if statistic[1] == "psi" else _share_gap(theirs, ours)
        return found


def _largest_gap(batch: np.ndarray, reference: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov's distance `[B]`, of counts of films in the order of their values; `last` of equal ones."""
    gap = batch / batch.sum(axis=1, keepdims=True)
    gap -= reference / reference.sum(axis=1, keepdims=True)
    np.cumsum(gap, axis=1, out=gap)
    return np.abs(gap[:, last]).max(axis=1)


def _psi_root(batch: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The root of the population stability index `[B]` of counts `[B, K]`, each with half a film more."""
    batch, reference = ((counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True) for counts in (batch, reference))
    return np.sqrt(((batch - reference) * np.log(batch / reference)).sum(axis=1))


def _share_gap(batch: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The distance `[B]` of the arcsines of two shares, of counts `[B, 2]` with and without."""
    angles = (np.arcsin(np.sqrt(counts[:, 0] / counts.sum(axis=1))) for counts in (batch, reference))
    return np.abs(next(angles) - next(angles))


def draw(patients: np.ndarray, films: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw `count` batches of about so many films, patients with replacement: counts `[count, N]` float32.

    Args:
        patients: of each film of the reference a number `[N]`, from 0 up.
    """
    most = int(patients.max()) + 1
    wanted = max(1, round(films * most / len(patients)))
    return random.multinomial(wanted, np.full(most, 1 / most), count)[:, patients].astype(np.float32)


def number_patients(ids: np.ndarray) -> np.ndarray:
    """Number patients `[N]` from 0 up; a film of an unknown one, "", is a patient of its own."""
    unknown = np.flatnonzero(ids == "")
    named = ids.astype(object)
    named[unknown] = [f"\0{number}" for number in unknown]
    return np.unique(named.astype(str), return_inverse=True)[1]


def counted(films: Films) -> Films:
    """Keep of each patient the first MOST_FILMS films.

    >>> counted({PATIENT: np.array(["a"] * 7 + ["", "b"]), SCORE: np.arange(9.0)})[SCORE]
    array([0., 1., 2., 3., 4., 7., 8.])
    """
    patients = number_patients(films[PATIENT])
    order = np.argsort(patients, kind="stable")
    starts = np.cumsum(np.bincount(patients)) - np.bincount(patients)
    kept = np.sort(order[np.arange(len(order)) - starts[patients[order]] < MOST_FILMS])
    return {name: values[kept] for name, values in films.items()}


@dataclass
class Limits:
    """The limits of a batch of one size after others: `{statistic: limit}` of the batch, and of the last together."""

    batch: dict[Statistic, float]
    window: dict[Statistic, float]


def find_limits(reference: Films, grid: Grid, sizes: Sequence[int], rate: float, seed: int = 0) -> Limits:
    """Find the limits that the largest statistic of a calm batch passes at a stated rate, all of them together.

    Args:
        sizes: films of the last batches, the newest at the end, at most WINDOW. rate: of false alarms a batch.
    """
    batches, windows = [], []
    for of_batch, of_window in simulate(reference, grid, sizes, SIMULATIONS, seed):
        batches.append(of_batch)
        windows.append(of_window)
    largest, scales = np.zeros(SIMULATIONS), ({}, {})
    for parts, scale, films in ((batches, scales[0], sizes[-1]), (windows, scales[1], sum(sizes))):
        for statistic in parts[0]:
            values = np.nan_to_num(np.concatenate([part[statistic] for part in parts]))
            least = _least(statistic, films, len(reference[FLAG]), grid)
            scale[statistic] = max(float(np.quantile(values, OWN)), least)
            largest = np.maximum(largest, values / scale[statistic])
    factor = float(np.quantile(largest, 1 - rate, method="higher"))
    return Limits(*({statistic: factor * own for statistic, own in scale.items()} for scale in scales))


def simulate(
    reference: Films, grid: Grid, sizes: Sequence[int], count: int, seed: int
) -> Iterator[tuple[dict[Statistic, np.ndarray], dict[Statistic, np.ndarray]]]:
    """Yield statistics of calm batches, and of the last ones together ({} of one alone), some of `count` at a time.

    The reference is drawn too, as for another one of the same hospital.
    """
    pool, random = Pool(reference, grid), np.random.default_rng(seed)
    patients = number_patients(reference[PATIENT])
    films = len(patients)
    rows = max(1, min(count, BLOCK // films))
    for start in range(0, count, rows):
        block = min(rows, count - start)
        against = draw(patients, films, block, random)
        drawn = [draw(patients, size, block, random) for size in sizes]
        together = pool.statistics(np.sum(drawn, axis=0), against) if len(sizes) > 1 else {}
        yield pool.statistics(drawn[-1], against), together


def _least(statistic: Statistic, films: int, of_reference: int, grid: Grid) -> float:
    """The 99 % quantile were each film a patient's and no value constant: below it a statistic is not trusted."""
    name, kind = statistic
    spread = np.sqrt(1 / films + 1 / of_reference)
    if kind == "ks":
        return float(kstwobign.ppf(OWN) * spread)
    if kind == "psi":
        freedom = len(grid.edges) if name == SCORE else len(grid.kept[name])
        return float(np.sqrt(chi2.ppf(OWN, max(freedom, 1))) * spread)
    return float(norm.ppf((1 + OWN) / 2) / 2 * spread)


def join(parts: Sequence[Films], names: Sequence[str]) -> Films:
    """Put films together, of these columns, which all of them have."""
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def compare_with(reference: Films, batch: Films, grid: Grid) -> dict[Statistic, float]:
    """Compute the statistics of a batch of films against a reference."""
    names = [*grid.numbers, *grid.categories, FLAG]
    pool, films = Pool(join([batch, reference], names), grid), len(batch[FLAG])
    inside = (np.arange(films + len(reference[FLAG])) < films)[None].astype(np.float32)
    return {name: float(values[0]) for name, values in pool.statistics(inside, 1 - inside).items()}

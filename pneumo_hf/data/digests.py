"""By which a film is known again, whatever its file is called: of the public set, and of what a run held out."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from transformers.utils import cached_file

from pneumo_hf.data.duplicates import film_digests
from pneumo_hf.data.pixels import FilmDataset
from pneumo_hf.errors import InputError

KERMANY = Path(__file__).parent / "kermany_films.npy"  # [5808, 8] uint8, sorted, which data/make_sample.py writes
PUBLIC_BYTES = 8  # of a digest, its lowest frequencies: the file stays below 60 kB
# Bits that may differ. Of 102 originals and their 224-pixel copies at most 2 of 64 and 11 of 256 do; of different
# films of the set at least 45 of 256, and of 240 films from elsewhere and the nearest of the set at least 7 of 64.
PUBLIC_TOLERANCE, TOLERANCE = 4, 24
HELD_OUT = "report/held_out.npy"  # of a run: the digests [N, 32] of its validation and test films
FILMS_AT_ONCE = 1024


def known_again(digests: np.ndarray, known: np.ndarray, tolerance: int = TOLERANCE) -> np.ndarray:
    """Return `[N]` bool: which films' digests `[N, B]` are, but for a few bits, among the known `[M, B]`."""
    if not len(known):
        return np.zeros(len(digests), bool)
    ours, theirs = (np.ascontiguousarray(part).view(np.uint64) for part in (digests, known))
    found = [np.empty(0, bool)]
    for start in range(0, len(ours), FILMS_AT_ONCE):
        piece = ours[start : start + FILMS_AT_ONCE]
        different = np.zeros((len(piece), len(theirs)), np.uint16)
        for word in range(ours.shape[1]):
            different += np.bitwise_count(piece[:, word, None] ^ theirs[:, word])
        found.append(different.min(axis=1) <= tolerance)
    return np.concatenate(found)


def are_kermany(digests: np.ndarray) -> np.ndarray:
    """Return `[N]` bool: which films are of the public Kermany set, which anyone may show (CC BY 4.0)."""
    return known_again(digests[:, :PUBLIC_BYTES], _kermany(), PUBLIC_TOLERANCE)


@cache
def _kermany() -> np.ndarray:
    return np.load(KERMANY)


def write_held_out(run: Path, films: Mapping[str, FilmDataset]) -> None:
    """Write the digests of a run's validation and test films beside its predictions, which have their names alone."""
    path = run / HELD_OUT
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate([film_digests(films[split].thumbnails) for split in ("validation", "test")]))


def read_held_out(checkpoint: str | Path) -> np.ndarray | None:
    """Read the digests `[N, 32]` of the films that a checkpoint, a folder or Hub id, held out.

    Returns:
        None where the checkpoint does not say.

    Raises:
        InputError: the file is damaged.
    """
    try:
        path = cached_file(str(checkpoint), HELD_OUT, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None
    if path is None:
        return None
    try:
        digests = np.load(path)
    except (ValueError, EOFError) as error:
        raise InputError(f"{HELD_OUT} of {checkpoint} is damaged: {error}") from error
    if digests.dtype != np.uint8 or digests.shape[1:] != (32,):
        raise InputError(f"{HELD_OUT} of {checkpoint} is damaged: it has no digests of 32 bytes")
    return digests

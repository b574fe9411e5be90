"""Copies of films: exact ones by a hash of the pixels, near ones by a perceptual hash in an index."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from sklearn.decomposition import PCA

from pneumo_hf.imaging.quality import THUMBNAIL, mean_chest, standardise, thumbnail

# Correlation: resized and recompressed copies keep above .957, different films of the Kermany set stay below .91.
NEAR = 0.95
FREQUENCIES = 8  # a side: the perceptual hash is the 64 lowest of the film's cosine transform
AXES = 24  # principal ones of the hashes: the tree is five times faster than on all 64
NEIGHBOURS = 8  # looked at for each film, so that memory stays bounded whatever the films
FILMS_AT_ONCE = 1024
DIGEST_BITS = 256


@dataclass(frozen=True)
class Fingerprint:
    """By which two films are found to be copies, whatever their files."""

    content: str  # for exact copies: BLAKE2b of the size and the 8-bit pixels, 32 hexadecimal digits
    thumbnail: np.ndarray  # for near ones: [56, 56] uint8


def fingerprint(film: Image.Image) -> Fingerprint:
    digest = hashlib.blake2b(repr(film.size).encode(), digest_size=16)
    digest.update(film.tobytes())
    return Fingerprint(digest.hexdigest(), thumbnail(film))


def exact_groups(contents: np.ndarray) -> list[np.ndarray]:
    """Group indices of the films of equal content, a group each, in order of their first film."""
    order = np.argsort(contents, kind="stable")
    groups = np.split(order, np.flatnonzero(contents[order][1:] != contents[order][:-1]) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: group[0])


def near_pairs(
    contents: np.ndarray, thumbnails: Any, groups: np.ndarray | None = None
) -> list[tuple[int, int, float]]:
    """Find pairs of films of different content that are one picture, resized or recompressed: `(i, j, correlation)`.

    The measure is the correlation of thumbnails from which the mean chest film is taken out, since all chests look
    alike. The index is a k-d tree of a perceptual hash, the lowest cosine coefficients as in pHash (Zauner 2010) but
    kept as numbers and turned to their principal axes: an orthonormal projection shortens distances only, so no pair
    above `NEAR` escapes it, unless a film has more than `NEIGHBOURS` nearer ones in the same group.

    Args:
        contents: `[N]` hashes; of films of equal content in a group one stands for all.
        thumbnails: `[N, 56, 56]` uint8, in memory or a `ThumbnailFile`: rows are taken by arrays of indices.
        groups: `[N]`, splits or sources: each has a tree of its own, so that many copies here hide none there.
    """
    groups = np.zeros(len(contents), np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    _, same = np.unique(contents, return_inverse=True)
    _, chosen = np.unique(same * (groups.max(initial=0) + 1) + groups, return_index=True)
    hashes = np.concatenate(
        [np.empty((0, FREQUENCIES**2), np.float32)]
        + [_perceptual_hash(_details(thumbnails[rows])) for rows in _pieces(chosen)]
    )
    chosen, hashes = chosen[hashes.any(axis=1)], hashes[hashes.any(axis=1)]  # a blank film resembles nothing
    if len(chosen) < 2:
        return []
    axes = PCA(min(AXES, *hashes.shape)).fit(hashes[:: len(hashes) // 4096 + 1])
    pairs = _neighbours(axes.transform(hashes), chosen, groups[chosen])
    found = []
    pairs = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    for piece in _pieces(pairs[same[pairs[:, 0]] != same[pairs[:, 1]]]):
        similar = np.einsum("nd,nd->n", _details(thumbnails[piece[:, 0]]), _details(thumbnails[piece[:, 1]]))
        found += [(int(i), int(j), float(r)) for (i, j), r in zip(piece, similar, strict=True) if r >= NEAR]
    return found


def _neighbours(points: np.ndarray, films: np.ndarray, groups: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of `films` `[M]`, the smaller first, whose `points` `[M, D]` lie near enough, by a tree for each group."""
    radius, pairs = np.sqrt(2 * (1 - NEAR)), set()
    for group in np.unique(groups):
        members = films[groups == group]
        tree = KDTree(points[groups == group])
        for piece in _pieces(np.arange(len(films))):
            nearest = tree.query(points[piece], k=NEIGHBOURS + 1, distance_upper_bound=radius, workers=-1)[1]
            rows, columns = np.nonzero(nearest < len(members))
            first, second = films[piece[rows]], members[nearest[rows, columns]]
            pairs |= {(min(i, j), max(i, j)) for i, j in zip(first.tolist(), second.tolist(), strict=True) if i != j}
    return pairs


def copy_pairs(
    contents: np.ndarray, thumbnails: np.ndarray, groups: np.ndarray | None = None
) -> list[tuple[int, int]]:
    """Find pairs of films that link all copies, exact and near (`groups` as in `near_pairs`)."""
    exact = [(int(group[0]), int(other)) for group in exact_groups(contents) for other in group[1:]]
    return exact + [(i, j) for i, j, _ in near_pairs(contents, thumbnails, groups)]


def copy_groups(pairs: Sequence[tuple[int, int]], films: int) -> np.ndarray:
    """Number the groups of copies `[N]`; a film without copies is alone in its own."""
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(len(first)), (first, second)), shape=(films, films))
    return connected_components(edges, directed=False)[1]


def _details(thumbnails: np.ndarray) -> np.ndarray:
    """`[N, 3136]`: thumbnails without their share of the mean chest film, of length one (zero for a blank film)."""
    rows = standardise(thumbnails)
    rows -= (rows @ mean_chest())[:, None] * mean_chest()
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 1e-3, rows / np.maximum(length, 1e-3), 0)


def _perceptual_hash(details: np.ndarray) -> np.ndarray:
    pictures = details.reshape(-1, THUMBNAIL, THUMBNAIL)
    return dctn(pictures, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES].reshape(len(details), -1)


def film_digests(thumbnails: np.ndarray) -> np.ndarray:
    """Digest thumbnails `[N, 56, 56]` to `[N, 32]` uint8: copies differ in a few bits, whatever their size and coding.

    The bits are the signs of cosine coefficients as in pHash (Zauner 2010), the lowest frequencies first.
    """
    sides = range(2 * math.isqrt(DIGEST_BITS))
    waves = sorted((y + x, y, x) for y in sides for x in sides)[1 : DIGEST_BITS + 1]  # the first is the mean, zero
    _, rows, columns = np.array(waves).T
    found = [np.empty((0, DIGEST_BITS // 8), np.uint8)]
    for piece in _pieces(np.arange(len(thumbnails))):
        pictures = _details(thumbnails[piece]).reshape(-1, THUMBNAIL, THUMBNAIL)
        found.append(np.packbits(dctn(pictures, axes=(1, 2), norm="ortho")[:, rows, columns] > 0, axis=1))
    return np.concatenate(found)


def _pieces(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + FILMS_AT_ONCE] for start in range(0, len(rows), FILMS_AT_ONCE)]

"""Whether a test face is a near-duplicate of a training face: nearest neighbours against those among training faces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.stimuli.pictures import resize

__all__ = ["NeighbourCheck", "nearest_neighbours", "picture_vectors"]

FloatArray = NDArray[np.float64]

SHARE = 0.5
"""A near-duplicate is closer than this share of the median distance from a training face to its nearest neighbour."""


@dataclass(frozen=True)
class NeighbourCheck:
    """Distances to the nearest training face; 1 is the root mean square distance of two training faces.

    Attributes
    ----------
    distance : ndarray of float64, (n_test,)
        From each test face to the nearest training face.
    index : ndarray of intp, (n_test,)
        Which training face that is.
    train_distance : ndarray of float64, (n_train,)
        The yardstick: from each training face to the nearest other one.
    limit : float
        A test face closer than this is a near-duplicate.
    flagged : ndarray of intp
        The near-duplicates among the test faces, nearest first.
    scale : float
        Distance in the units of the vectors that counts as 1.
    dimension : float
        Effective dimension of the training faces near a face (maximum likelihood, `nearest_neighbours`).
    chance : float
        Probability, about, that any test face is flagged though all faces were drawn independently.
    """

    distance: FloatArray
    index: NDArray[np.intp]
    train_distance: FloatArray
    limit: float
    flagged: NDArray[np.intp]
    scale: float
    dimension: float
    chance: float


def nearest_neighbours(test: ArrayLike, train: ArrayLike, *, share: float = SHARE, block: int = 1024) -> NeighbourCheck:
    """Find each test face's nearest training face and flag those that are much too near.

    A test face is a near-duplicate when its distance is less than ``share`` times the median, over training faces,
    of the distance to the nearest other training face. The rule has no unit, and chance hardly ever meets it: among
    n faces drawn independently in k effective dimensions the expected number nearer than r grows as r^k and is
    ln 2 at the median, so that a new face is flagged with probability of about ``ln 2 share^k``: one in 1,500 for
    k = 10, one in 1.5 million for k = 20. A tail of the yardstick's own distribution would not do: it flags its share
    of good faces whatever the faces are, and no copy where training faces hold copies too.

    k comes from ratios of the distances to the two nearest neighbours, ``k = n / sum_i ln(d2_i / d1_i)`` (Facco et al.
    2017), where the tenth of the ratios that is largest counts as censored: the maximum likelihood estimate for m kept
    ratios is ``k = m / (sum of their logarithms + (n - m) ln of the largest kept)``.

    Parameters
    ----------
    test : array-like, (n_test, n_dimensions)
        Latents, or pictures as vectors.
    train : array-like, (n_train, n_dimensions)
    share : float
        See above; between 0 and 1.
    block : int
        Faces compared at a time with all training faces; bounds the memory at ``8 * block * n_train`` bytes and
        copies of the input.

    Returns
    -------
    NeighbourCheck

    Raises
    ------
    UserError
        When shapes do not fit, there are fewer than three training faces, values are not finite, or training faces
        are all alike.

    References
    ----------
    Facco E, d'Errico M, Rodriguez A, Laio A (2017). Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information. Scientific Reports 7, 12140.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (test, train))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(f"test and training faces must be rows of one length, got shapes {a.shape} and {b.shape}")
    if len(b) < 3 or not len(a):
        raise UserError(f"neighbours need a test face and 3 training faces, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("latents and pictures must be finite to be compared: make the stimuli anew")
    if not 0 < share < 1 or block < 1:
        raise UserError(f"share lies between 0 and 1 and block is at least 1, got {share} and {block}")
    # About the mean, squares are as small as they can be, and so is the rounding of their differences.
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    scale = math.sqrt(2 * float(b.var(axis=0).sum()) * len(b) / (len(b) - 1))
    if scale == 0:
        raise UserError("all training faces are alike: make the stimuli anew")
    index, distance = _nearest(a, b, block, False)
    _, among = _nearest(b, b, block, True)
    limit = share * float(np.median(among[:, 0]))
    near = np.flatnonzero(distance[:, 0] < limit)
    dimension = _dimension(among)
    return NeighbourCheck(
        distance=distance[:, 0] / scale,
        index=index[:, 0],
        train_distance=among[:, 0] / scale,
        limit=limit / scale,
        flagged=near[np.argsort(distance[near, 0], kind="stable")],
        scale=scale,
        dimension=dimension,
        chance=-math.expm1(len(a) * math.log1p(-min(math.log(2) * share**dimension, 1 - 1e-12))),
    )


def picture_vectors(pictures: Iterable[NDArray[np.uint8]], side: int = 32) -> NDArray[np.float32]:
    """Turn pictures into rows that tell faces apart and bear small changes: their colours at a small size.

    Parameters
    ----------
    pictures : iterable of ndarray of uint8, (height, width, 3)
        Square, of one size; taken one at a time.
    side : int
        Side that larger pictures are brought to by averaging areas: 32 px keep what tells faces apart, and lose noise,
        compression and shifts of a pixel.

    Returns
    -------
    ndarray of float32, (n, side * side * 3)
        Grey levels 0-255.
    """
    rows = []
    for picture in pictures:
        planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        rows.append(resize(planes, min(side, planes.shape[-1])).flatten().numpy())
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)


def _nearest(
    queries: FloatArray, points: FloatArray, block: int, themselves: bool
) -> tuple[NDArray[np.intp], FloatArray]:
    """Index of and distance to the two nearest points of each query; leaving out itself where the two are the same."""
    squares = (points**2).sum(axis=1)
    indices, distances = [], []
    for first in range(0, len(queries), block):
        rows = queries[first : first + block]
        found = squares[None, :] + (rows**2).sum(axis=1)[:, None] - 2 * (rows @ points.T)
        if themselves:
            found[np.arange(len(rows)), first + np.arange(len(rows))] = np.inf
        two = np.argpartition(found, 1, axis=1)[:, :2]
        values = np.take_along_axis(found, two, axis=1)
        order = np.argsort(values, axis=1)
        indices.append(np.take_along_axis(two, order, axis=1))
        distances.append(np.sqrt(np.maximum(np.take_along_axis(values, order, axis=1), 0)))
    return np.concatenate(indices), np.concatenate(distances)


def _dimension(two: FloatArray) -> float:
    """Effective dimension from the distances to the two nearest neighbours, (n, 2)."""
    first, second = two[two[:, 0] > 0].T
    if not len(first):
        return 0.0
    logs = np.sort(np.log(second / first))
    kept = max(round(0.9 * len(logs)), 1)
    # The largest ratios, of faces that stand alone, bias the estimate: each counts as the largest that is kept.
    total = float(logs[:kept].sum() + (len(logs) - kept) * logs[kept - 1])
    return kept / total if total > 0 else math.inf

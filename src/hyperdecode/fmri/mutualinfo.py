"""Rigid and affine registration by mutual information on a few thousand points, with its exact gradient.

    MI(M) = sum_sk P(s, k) log(P(s, k) / (P(s) P(k)))

over the joint histogram P of static intensities s and moving intensities k at ``M p``. Points p are drawn within
voxels, not at their centres: on a grid, interpolation would favour matrices that put grid on grid. A moving value
counts for four bins by a cubic B-spline, which makes P, and so MI, differentiable in M (Mattes et al. 2003, IEEE Trans.
Med. Imaging 22, 120-128).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from hyperdecode.errors import UserError
from hyperdecode.fmri.grids import Volume, apply_affine, inverse

__all__ = ["Level", "Samples", "best_start", "climb", "draw_samples", "mutual_information", "tilted_starts"]

FloatArray = NDArray[np.float64]
Freedom = Literal["rigid", "affine"]

N_BINS = 32
PADDING = 2
"""Bins at each end that no value falls into: room for the spline."""
RADIUS_MM = 60.0
"""A rotation or stretch of 1 / RADIUS_MM moves the outside of the brain by about 1 mm."""
ANGLES_DEG = (-14.0, 14.0)


@dataclass(frozen=True)
class Level:
    """One resolution.

    Attributes
    ----------
    sigma_mm : float
        Smoothing of both images (standard deviation).
    n_points : int
    """

    sigma_mm: float
    n_points: int


@dataclass(frozen=True)
class Samples:
    """What one level works on.

    Attributes
    ----------
    points : ndarray of float64, (n, 3)
        In static mm.
    bins : ndarray of int64, (n,)
        Bin of the static value.
    moving : ndarray of float32, (x, y, z)
        In units of bins, clipped.
    moving_from_mm : ndarray, (4, 4)
        Moving mm to voxel.
    """

    points: FloatArray
    bins: NDArray[np.int64]
    moving: NDArray[np.float32]
    moving_from_mm: FloatArray


def draw_samples(static: Volume, inside: NDArray[np.bool_], moving: Volume, level: Level, seed: int = 0) -> Samples:
    """Smooth both images, draw points within the voxels of `inside`, and sort the values into bins.

    Raises
    ------
    UserError
        When `inside` holds no voxel.
    """
    where = np.argwhere(inside)
    if not len(where):
        raise UserError("nothing to register: the mask of the fixed image is empty, look for the right file")
    rng = np.random.default_rng(seed)
    n = min(level.n_points, 4 * len(where))
    at = where[rng.integers(len(where), size=n)] + rng.uniform(-0.5, 0.5, (n, 3))
    values = ndimage.map_coordinates(_smooth(static, level.sigma_mm), at.T, order=1, mode="nearest")
    low, high = _range(values)
    bins = np.clip((values - low) / (high - low) * N_BINS, 0, N_BINS - 1).astype(np.int64)
    smooth = _smooth(moving, level.sigma_mm)
    low, high = _range(smooth[smooth > 0.02 * smooth.max()])
    low = min(low, 0.0)
    scaled = PADDING + np.clip((smooth - low) / (high - low), 0, 1) * (N_BINS - 2 * PADDING - 1)
    return Samples(
        apply_affine(static.affine, at), bins, np.ascontiguousarray(scaled, np.float32), inverse(moving.affine)
    )


def mutual_information(samples: Samples, matrix: FloatArray) -> tuple[float, FloatArray]:
    """Return MI in nats and its derivative by the matrix from static mm to moving mm, (3, 4)."""
    to_voxel = samples.moving_from_mm @ matrix
    histogram, values, slopes = _joint(samples.points, samples.bins, samples.moving, to_voxel, N_BINS)
    joint = histogram / len(samples.points)
    moving, static = joint.sum(axis=0), joint.sum(axis=1)
    seen = joint > 0
    ratio = np.zeros_like(joint)
    by_moving = np.broadcast_to(moving, joint.shape)
    ratio[seen] = np.log(joint[seen] / by_moving[seen])
    information = float((joint * ratio).sum() - (static[static > 0] * np.log(static[static > 0])).sum())
    slope = _slope(samples.points, samples.bins, values, slopes, ratio) / len(samples.points)
    return information, samples.moving_from_mm[:3, :3].T @ slope


def climb(samples: Samples, start: FloatArray, freedom: Freedom, *, iterations: int = 60) -> tuple[FloatArray, float]:
    """Return the matrix that raises MI from `start` (L-BFGS), and its MI.

    The matrix is ``U start`` with U a rotation, shift and (affine) symmetric stretch about the centre of the points.
    """
    centre = apply_affine(start, samples.points.mean(axis=0)[None])[0]
    n = 6 if freedom == "rigid" else 12

    def cost(x: FloatArray) -> tuple[float, FloatArray]:
        information, slope = mutual_information(samples, update(x, centre) @ start)
        step = 1e-4
        gradient = np.empty(n)
        for k in range(n):
            e = np.zeros(n)
            e[k] = step
            change = (update(x + e, centre) - update(x - e, centre)) @ start / (2 * step)
            gradient[k] = (slope * change[:3]).sum()
        # MI changes by about 0.01 per mm: scaled so that the first step is not a hair's breadth.
        return -100.0 * information, -100.0 * gradient

    found = optimize.minimize(
        cost, np.zeros(n), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "ftol": 1e-8, "gtol": 1e-4}
    )
    return update(found.x, centre) @ start, -float(found.fun) / 100.0


def update(x: FloatArray, centre: FloatArray) -> FloatArray:
    """Return the (4, 4) matrix of shift (mm), rotation and stretch (mm at `RADIUS_MM`) about `centre`."""
    linear = Rotation.from_rotvec(x[3:6] / RADIUS_MM).as_matrix()
    if len(x) == 12:
        a, b, c, d, e, f = x[6:] / RADIUS_MM
        linear = linear @ (np.eye(3) + np.array([[a, d, e], [d, b, f], [e, f, c]]))
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + x[:3] - linear @ centre
    return matrix


def tilted_starts(start: FloatArray, static_centre: FloatArray) -> list[FloatArray]:
    """Return `start`, and `start` turned both ways about each axis through the moving image's centre."""
    centre = apply_affine(start, static_centre[None])[0]
    turns = [np.zeros(6)]
    for axis in range(3):
        for angle in ANGLES_DEG:
            x = np.zeros(6)
            x[3 + axis] = np.radians(angle) * RADIUS_MM
            turns.append(x)
    return [update(x, centre) @ start for x in turns]


def best_start(
    samples: Samples, starts: Sequence[FloatArray], freedom: Freedom = "rigid", *, iterations: int = 25
) -> FloatArray:
    """Climb a little from each start and return the matrix of highest MI."""
    return max((climb(samples, start, freedom, iterations=iterations) for start in starts), key=lambda end: end[1])[0]


def _smooth(image: Volume, sigma_mm: float) -> NDArray[np.float32]:
    size = np.linalg.norm(image.affine[:3, :3], axis=0)
    return np.asarray(ndimage.gaussian_filter(image.values, sigma_mm / size), np.float32)


def _range(values: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(edge) for edge in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1e-6 * max(abs(low), 1.0))


@njit(cache=True, nogil=True)
def _joint(
    points: FloatArray, bins: NDArray[np.int64], moving: NDArray[np.float32], matrix: FloatArray, n_bins: int
) -> Any:
    """Return the joint histogram, the moving values (in bins) and their slope by voxel; outside is bin `PADDING`."""
    n = points.shape[0]
    histogram = np.zeros((n_bins, n_bins))
    values, slopes = np.full(n, 2.0), np.zeros((n, 3))
    top = (moving.shape[0] - 1, moving.shape[1] - 1, moving.shape[2] - 1)
    for i in range(n):
        p = points[i]
        x = matrix[0, 0] * p[0] + matrix[0, 1] * p[1] + matrix[0, 2] * p[2] + matrix[0, 3]
        y = matrix[1, 0] * p[0] + matrix[1, 1] * p[1] + matrix[1, 2] * p[2] + matrix[1, 3]
        z = matrix[2, 0] * p[0] + matrix[2, 1] * p[1] + matrix[2, 2] * p[2] + matrix[2, 3]
        if 0 <= x < top[0] and 0 <= y < top[1] and 0 <= z < top[2]:
            a, b, c = int(x), int(y), int(z)
            u, v, w = x - a, y - b, z - c
            v000, v001 = moving[a, b, c], moving[a, b, c + 1]
            v010, v011 = moving[a, b + 1, c], moving[a, b + 1, c + 1]
            v100, v101 = moving[a + 1, b, c], moving[a + 1, b, c + 1]
            v110, v111 = moving[a + 1, b + 1, c], moving[a + 1, b + 1, c + 1]
            v00, v01 = v000 + w * (v001 - v000), v010 + w * (v011 - v010)
            v10, v11 = v100 + w * (v101 - v100), v110 + w * (v111 - v110)
            v0, v1 = v00 + v * (v01 - v00), v10 + v * (v11 - v10)
            values[i] = v0 + u * (v1 - v0)
            slopes[i, 0] = v1 - v0
            slopes[i, 1] = (1 - u) * (v01 - v00) + u * (v11 - v10)
            low = (1 - v) * (v001 - v000) + v * (v011 - v010)
            slopes[i, 2] = (1 - u) * low + u * ((1 - v) * (v101 - v100) + v * (v111 - v110))
        first = int(values[i]) - 1
        t = values[i] - int(values[i])
        row = histogram[bins[i]]
        row[first] += (1 - t) ** 3 / 6
        row[first + 1] += (3 * t**3 - 6 * t**2 + 4) / 6
        row[first + 2] += (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
        row[first + 3] += t**3 / 6
    return histogram, values, slopes


@njit(cache=True, nogil=True)
def _slope(
    points: FloatArray, bins: NDArray[np.int64], values: FloatArray, slopes: FloatArray, ratio: FloatArray
) -> FloatArray:
    """Return the derivative of the sum of `ratio` over the histogram by the matrix to moving voxels, (3, 4)."""
    out = np.zeros((3, 4))
    for i in range(points.shape[0]):
        first = int(values[i]) - 1
        t = values[i] - int(values[i])
        row = ratio[bins[i]]
        pull = (
            -0.5 * (1 - t) ** 2 * row[first]
            + (1.5 * t**2 - 2 * t) * row[first + 1]
            + (-1.5 * t**2 + t + 0.5) * row[first + 2]
            + 0.5 * t**2 * row[first + 3]
        )
        for k in range(3):
            change = pull * slopes[i, k]
            for j in range(3):
                out[k, j] += change * points[i, j]
            out[k, 3] += change
    return out

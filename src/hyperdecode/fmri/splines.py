"""Cubic B-splines of volumes in compiled code: coefficients, and values at scattered points.

The value at x of a line of samples s is ``sum_i c_i b(x - i)`` with b the cubic B-spline and c such that the curve runs
through the samples: ``(c[i-1] + 4 c[i] + c[i+1]) / 6 = s[i]``. Two recursions along the line solve that (pole
``z = sqrt(3) - 2``); a volume is filtered along each axis in turn. Beyond its ends a line goes on with its last sample,
as with ``mode="nearest"`` of `scipy.ndimage.map_coordinates`.

The kernels release the interpreter's lock and keep no state. Callers share out volumes, never points, to threads, so
that values do not depend on the number of threads.

References
----------
Unser M, Aldroubi A, Eden M (1993). B-spline signal processing. IEEE Transactions on Signal Processing 41, 821-848.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["PAD", "near_marked", "spline_coefficients", "spline_values"]

FloatArray = NDArray[np.float64]
Volume = NDArray[np.float32]

PAD = 2
"""Coefficients kept beyond each face: what a point half a voxel outside the volume reaches."""

_POLE = math.sqrt(3) - 2
# float32 all along: a float64 constant would make the recursions float64 and half as fast
_Z, _GAIN = np.float32(_POLE), np.float32(-6 * _POLE)
_SUM, _SUM_SQUARED = np.float32(1 / (1 - _POLE)), np.float32(1 / (1 - _POLE) ** 2)
_EVEN_SUM = np.float32(1 / (1 - _POLE**2))
_ONE, _HALF, _SIXTH, _TWO_THIRDS = np.float32(1), np.float32(0.5), np.float32(1 / 6), np.float32(2 / 3)


def spline_coefficients(volume: Volume) -> Volume:
    """Return the cubic B-spline coefficients of a volume.

    Parameters
    ----------
    volume : ndarray of float32, shape (x, y, z)
        Finite values. Fortran order, as NIfTI files are read, is faster.

    Returns
    -------
    ndarray of float32, shape (z + 4, y + 4, x + 4)
        Axes reversed, `PAD` coefficients more at every face.
    """
    nx, ny, nz = volume.shape
    coefficients = np.empty((nz + 2 * PAD, ny + 2 * PAD, nx + 2 * PAD), dtype=np.float32)
    _filter_volume(np.ascontiguousarray(volume.T), coefficients)
    return coefficients


def spline_values(coefficients: Volume, to_voxel: FloatArray, points: FloatArray) -> Volume:
    """Return the values of a spline at the voxel positions ``A p + b``.

    Parameters
    ----------
    coefficients : ndarray of float32, shape (z + 4, y + 4, x + 4)
        From `spline_coefficients`.
    to_voxel : ndarray of float64, shape (4, 4)
        A and b, from the points' space to voxels.
    points : ndarray of float64, shape (n, 3)

    Returns
    -------
    ndarray of float32, shape (n,)
        NaN where the point lies half a voxel or more outside the volume, or is not finite.
    """
    values = np.empty(len(points), dtype=np.float32)
    _sample(coefficients, np.ascontiguousarray(to_voxel[:3]), np.ascontiguousarray(points), values)
    return values


def near_marked(marked: NDArray[np.bool_], to_voxel: FloatArray, points: FloatArray) -> NDArray[np.bool_]:
    """Return which points have a marked voxel among the up to eight around them.

    Parameters
    ----------
    marked : ndarray of bool, shape (x, y, z)
    to_voxel : ndarray of float64, shape (4, 4)
        From the points' space to voxels.
    points : ndarray of float64, shape (n, 3)

    Returns
    -------
    ndarray of bool, shape (n,)
        Voxels that linear interpolation would give no weight do not count; a point outside the volume is moved to
        its surface first.
    """
    near = np.zeros(len(points), dtype=np.bool_)
    _look_around(np.ascontiguousarray(marked.T), np.ascontiguousarray(to_voxel[:3]), np.ascontiguousarray(points), near)
    return near


@njit(cache=True, nogil=True, fastmath={"contract"})
def _filter_rows(c: Volume) -> None:
    """Filter all columns of (n + 4, m) side by side, from samples to coefficients, and fill in the outer ones.

    Beyond the last sample e the first recursion tends to ``e / (1 - z)`` as ``z^k``, so its end is known in closed
    form; coefficients tend to e likewise.
    """
    last = c.shape[0] - PAD - 1
    columns = c.shape[1]
    first_sample, last_sample = c[PAD].copy(), c[last].copy()
    for x in range(columns):
        c[PAD, x] = first_sample[x] * _SUM
    for k in range(PAD + 1, last + 1):
        here, before = c[k], c[k - 1]
        for x in range(columns):
            here[x] = here[x] + _Z * before[x]
    end = c[last]
    for x in range(columns):
        end[x] = _GAIN * (last_sample[x] * _SUM_SQUARED + (end[x] - last_sample[x] * _SUM) * _EVEN_SUM)
    for k in range(last - 1, PAD - 1, -1):
        here, behind = c[k], c[k + 1]
        for x in range(columns):
            here[x] = _GAIN * here[x] + _Z * behind[x]
    for x in range(columns):
        away = _Z * (c[PAD, x] - first_sample[x])
        c[1, x] = first_sample[x] + away
        c[0, x] = first_sample[x] + _Z * away
        away = _Z * (end[x] - last_sample[x])
        c[last + 1, x] = last_sample[x] + away
        c[last + 2, x] = last_sample[x] + _Z * away


@njit(cache=True, nogil=True, fastmath={"contract"})
def _filter_volume(volume: Volume, c: Volume) -> None:
    """Filter a (z, y, x) volume along all its axes, into `c`."""
    nz, ny, nx = volume.shape
    turned = np.empty((nx + 2 * PAD, ny), dtype=np.float32)
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                turned[i + PAD, j] = volume[k, j, i]
        _filter_rows(turned)
        for j in range(ny):
            for i in range(nx + 2 * PAD):
                c[k + PAD, j + PAD, i] = turned[i, j]
        _filter_rows(c[k + PAD])
    for j in range(ny + 2 * PAD):
        _filter_rows(c[:, j])


@njit(inline="always")
def _weights(t: np.float32) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Cubic B-spline at ``1 + t, t, 1 - t, 2 - t``, t from 0 to 1."""
    o = _ONE - t
    return (
        o * o * o * _SIXTH,
        _TWO_THIRDS - t * t * (_ONE - _HALF * t),
        _TWO_THIRDS - o * o * (_ONE - _HALF * o),
        t * t * t * _SIXTH,
    )


@njit(cache=True, nogil=True, fastmath={"contract"})
def _sample(c: Volume, m: FloatArray, points: FloatArray, values: Volume) -> None:
    nz, ny, nx = c.shape[0] - 2 * PAD, c.shape[1] - 2 * PAD, c.shape[2] - 2 * PAD
    for p in range(points.shape[0]):
        px, py, pz = points[p, 0], points[p, 1], points[p, 2]
        x = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]
        y = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]
        z = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
        # as a negation, so that NaN is refused too
        if not (x > -0.5 and x < nx - 0.5 and y > -0.5 and y < ny - 0.5 and z > -0.5 and z < nz - 0.5):
            values[p] = np.nan
            continue
        i, j, k = math.floor(x), math.floor(y), math.floor(z)
        a0, a1, a2, a3 = _weights(np.float32(x - i))
        b0, b1, b2, b3 = _weights(np.float32(y - j))
        depth = _weights(np.float32(z - k))
        i, j, k = i + PAD - 1, j + PAD - 1, k + PAD - 1
        total = np.float32(0)
        for q in range(4):
            plane = c[k + q]
            r0, r1, r2, r3 = plane[j], plane[j + 1], plane[j + 2], plane[j + 3]
            s0 = b0 * r0[i] + b1 * r1[i] + b2 * r2[i] + b3 * r3[i]
            s1 = b0 * r0[i + 1] + b1 * r1[i + 1] + b2 * r2[i + 1] + b3 * r3[i + 1]
            s2 = b0 * r0[i + 2] + b1 * r1[i + 2] + b2 * r2[i + 2] + b3 * r3[i + 2]
            s3 = b0 * r0[i + 3] + b1 * r1[i + 3] + b2 * r2[i + 3] + b3 * r3[i + 3]
            total += depth[q] * ((a0 * s0 + a1 * s1) + (a2 * s2 + a3 * s3))
        values[p] = total


@njit(cache=True, nogil=True)
def _look_around(marked: NDArray[np.bool_], m: FloatArray, points: FloatArray, near: NDArray[np.bool_]) -> None:
    nz, ny, nx = marked.shape
    for p in range(points.shape[0]):
        px, py, pz = points[p, 0], points[p, 1], points[p, 2]
        x = min(max(m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3], 0.0), nx - 1.0)
        y = min(max(m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3], 0.0), ny - 1.0)
        z = min(max(m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3], 0.0), nz - 1.0)
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            continue
        for k in range(math.floor(z), math.ceil(z) + 1):
            for j in range(math.floor(y), math.ceil(y) + 1):
                for i in range(math.floor(x), math.ceil(x) + 1):
                    if marked[k, j, i]:
                        near[p] = True

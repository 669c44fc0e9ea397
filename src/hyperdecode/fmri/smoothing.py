"""Gaussian smoothing of one volume in compiled code."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

__all__ = ["fwhm_in_voxels", "smooth"]

Volume = NDArray[np.float32]

SIGMA_OF_FWHM = 1 / np.sqrt(8 * np.log(2))
REACH = 3.5
"""The kernel is cut off at this many standard deviations."""
COLUMNS = 256
"""Columns filtered at a time, so that their rows stay in the cache."""


def fwhm_in_voxels(fwhm: float, affine: ArrayLike) -> NDArray[np.float64]:
    """Return the standard deviation in voxels, (3,), of a Gaussian of `fwhm` mm on a grid (voxel to mm, (4, 4))."""
    size = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return np.asarray(fwhm * SIGMA_OF_FWHM / size)


def smooth(volume: Volume, sigma: ArrayLike) -> Volume:
    """Smooth a volume with a Gaussian; beyond its faces it goes on with its outermost voxels.

    Parameters
    ----------
    volume : ndarray of float32, shape (x, y, z)
        Finite values; left as it is.
    sigma : array-like, shape (3,)
        Standard deviations along x, y, z in voxels; 0 for no smoothing.

    Returns
    -------
    ndarray of float32, shape (x, y, z)
        In Fortran order.
    """
    along_x, along_y, along_z = (_taps(s) for s in np.asarray(sigma, dtype=np.float64).tolist())
    turned = np.array(volume.T, dtype=np.float32, order="C")
    _smooth_volume(turned, along_x, along_y, along_z)
    return turned.T


def _taps(sigma: float) -> Volume:
    """Half of the kernel, its middle first."""
    at = np.arange(int(REACH * sigma + 0.5) + 1)
    half = np.exp(-0.5 * (at / sigma) ** 2) if sigma > 0 else np.ones(1)
    return np.asarray(half / (half[0] + 2 * half[1:].sum()), dtype=np.float32)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _smooth_volume(c: Volume, along_x: Volume, along_y: Volume, along_z: Volume) -> None:
    """Smooth a (z, y, x) volume in place."""
    nz, ny, nx = c.shape
    reach = along_x.size - 1
    if reach > 0:
        line = np.empty(nx + 2 * reach, dtype=np.float32)
        for k in range(nz):
            for j in range(ny):
                _smooth_line(c[k, j], line, along_x)
    if along_y.size > 1:
        for k in range(nz):
            _smooth_rows(c[k], along_y)
    if along_z.size > 1:
        for j in range(ny):
            for first in range(0, nx, COLUMNS):
                _smooth_rows(c[:, j, first : min(first + COLUMNS, nx)], along_z)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _smooth_line(row: Volume, line: Volume, taps: Volume) -> None:
    n, reach = row.size, taps.size - 1
    line[:reach] = row[0]
    line[reach : reach + n] = row
    line[reach + n :] = row[n - 1]
    for x in range(n):
        row[x] = taps[0] * line[x + reach]
    for t in range(1, reach + 1):
        for x in range(n):
            row[x] += taps[t] * (line[x + reach - t] + line[x + reach + t])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _smooth_rows(c: Volume, taps: Volume) -> None:
    """Smooth all columns of (n, m) side by side, in place."""
    n, columns = c.shape
    old = c.copy()
    for k in range(n):
        here, middle = c[k], old[k]
        for x in range(columns):
            here[x] = taps[0] * middle[x]
        # two taps at a time: half as many loads and stores of the sum
        for t in range(1, taps.size, 2):
            before, behind, weight = old[max(k - t, 0)], old[min(k + t, n - 1)], taps[t]
            if t + 1 == taps.size:
                for x in range(columns):
                    here[x] += weight * (before[x] + behind[x])
            else:
                before2, behind2, weight2 = old[max(k - t - 1, 0)], old[min(k + t + 1, n - 1)], taps[t + 1]
                for x in range(columns):
                    here[x] += weight * (before[x] + behind[x]) + weight2 * (before2[x] + behind2[x])

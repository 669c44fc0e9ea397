"""Values of many volumes at points in mm, by one cubic spline interpolation; volume by volume, also from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.series import Series, in_order
from hyperdecode.fmri.splines import near_marked, spline_coefficients, spline_values

__all__ = ["resample", "resampled_volumes", "values_at"]

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]


def resample(
    volumes: Any,
    affine: ArrayLike,
    matrices: ArrayLike,
    points: ArrayLike,
    *,
    progress: Progress | None = None,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Take each volume's value at ``M_v p``: motion and any earlier transform of the points in one interpolation.

    Volumes are read and interpolated a few at a time: besides series and result, memory holds no more than three
    volumes a thread. The values are the same, bit for bit, for any number of threads.

    Parameters
    ----------
    volumes : ndarray, nibabel array proxy or Series, shape (x, y, z, n_volumes)
        BOLD as it was acquired.
    affine : array-like, shape (4, 4)
        Voxel to mm.
    matrices : array-like, shape (n_volumes, 4, 4)
        Reference mm to volume mm (`hyperdecode.fmri.realign.Motion.matrices`).
    points : array-like, shape (n_points, 3)
        Reference points in mm; for an MNI grid, `Normalisation.to_epi` of its points.
    progress : callable, optional
        Called with (volumes done, volumes to do).
    out : ndarray of float32, shape (n_volumes, n_points), optional
        Where to put the values, for instance a memory map.
    threads : int, optional
        Default: the usable cores.

    Returns
    -------
    ndarray of float32, shape (n_volumes, n_points)
        Cubic spline values; NaN where the point falls outside the volume (by half a voxel) or beside a voxel that is
        not finite.

    Raises
    ------
    UserError
        When shapes do not fit.
    """
    at = np.asarray(points, dtype=np.float64)
    n = len(np.asarray(matrices))
    if out is None:
        out = np.empty((n, len(at)), dtype=np.float32)
    elif out.shape != (n, len(at)) or out.dtype != np.float32:
        raise UserError(f"resample writes float32 of shape {(n, len(at))}, got {out.dtype} of shape {out.shape}")
    for k, values in enumerate(resampled_volumes(volumes, affine, matrices, at, threads=threads)):
        out[k] = values
        if progress is not None:
            progress(k + 1, n)
    return out


def resampled_volumes(
    volumes: Any, affine: ArrayLike, matrices: ArrayLike, points: ArrayLike, *, threads: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Yield the values of one volume after the other, (n_points,): `resample` for those who keep only a part.

    Parameters
    ----------
    volumes, affine, matrices, points, threads
        As for `resample`.

    Yields
    ------
    ndarray of float32, shape (n_points,)

    Raises
    ------
    UserError
        When shapes do not fit.
    """
    motion, at = np.asarray(matrices, dtype=np.float64), np.ascontiguousarray(points, dtype=np.float64)
    series = Series(volumes)
    if motion.shape != (len(series), 4, 4):
        raise UserError(f"resampling needs one 4x4 matrix a volume, got shape {motion.shape} for {len(series)} volumes")
    if at.ndim != 2 or at.shape[1] != 3:
        raise UserError(f"points are 3 coordinates in mm each, got an array of shape {at.shape}")
    to_voxel = np.linalg.inv(np.asarray(affine, dtype=np.float64))

    work = ((volume, to_voxel @ matrix, at) for volume, matrix in zip(series.volumes(), motion, strict=True))
    yield from in_order(values_at, work, threads)


def values_at(volume: NDArray[np.float32], to_voxel: FloatArray, points: FloatArray) -> NDArray[np.float32]:
    """Return the values of one volume at points, as `resample` does.

    Parameters
    ----------
    volume : ndarray of float32, shape (x, y, z)
    to_voxel : ndarray, shape (4, 4)
        From the points' space to voxels.
    points : ndarray of float64, shape (n_points, 3)

    Returns
    -------
    ndarray of float32, shape (n_points,)
    """
    finite = np.isfinite(volume)
    if finite.all():
        return spline_values(spline_coefficients(volume), to_voxel, points)
    values = spline_values(spline_coefficients(np.where(finite, volume, np.float32(0))), to_voxel, points)
    values[near_marked(~finite, to_voxel, points)] = np.nan
    return values

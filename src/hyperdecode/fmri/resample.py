"""Values of many volumes at points in mm, by one cubic spline interpolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

__all__ = ["resample"]

Progress = Callable[[int, int], None]


def resample(
    volumes: NDArray[np.generic],
    affine: ArrayLike,
    matrices: ArrayLike,
    points: ArrayLike,
    *,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Take each volume's value at ``M_v p``: motion and any earlier transform of the points in one interpolation.

    Parameters
    ----------
    volumes : ndarray, shape (x, y, z, n_volumes)
        BOLD as it was acquired.
    affine : array-like, shape (4, 4)
        Voxel to mm.
    matrices : array-like, shape (n_volumes, 4, 4)
        Reference mm to volume mm (`hyperdecode.fmri.realign.Motion.matrices`).
    points : array-like, shape (n_points, 3)
        Reference points in mm; for an MNI grid, `Normalisation.to_epi` of its points.
    progress : callable, optional
        Called with (volumes done, volumes to do).

    Returns
    -------
    ndarray of float32, shape (n_volumes, n_points)
        Cubic spline values; NaN where the point falls outside the volume or beside a voxel that is not finite.
    """
    to_voxel = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    at, motion = np.asarray(points, dtype=np.float64), np.asarray(matrices, dtype=np.float64)
    limits = np.asarray(volumes.shape[:3], dtype=np.float64)[:, None] - 0.5
    out = np.empty((volumes.shape[3], at.shape[0]), dtype=np.float32)
    for k in range(volumes.shape[3]):
        matrix = to_voxel @ motion[k]
        voxels = matrix[:3, :3] @ at.T + matrix[:3, 3:]
        volume = np.asarray(volumes[..., k], dtype=np.float64)
        bad = ~np.isfinite(volume)
        volume[bad] = 0.0
        out[k] = ndimage.map_coordinates(volume, voxels, order=3, mode="nearest", output=np.float32)
        if bad.any():
            spoiled = ndimage.map_coordinates(bad.astype(np.float32), voxels, order=1, mode="nearest") > 0
            out[k, spoiled] = np.nan
        out[k, ~((voxels > -0.5) & (voxels < limits)).all(axis=0)] = np.nan
        if progress is not None:
            progress(k + 1, volumes.shape[3])
    return out

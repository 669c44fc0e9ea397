"""Rigid head motion of a run: inverse-compositional Gauss-Newton, to the first volume, then to their mean.

A motion matrix maps points, in mm, from the reference to a volume: the value that belongs at reference point p is
taken from the volume at ``M p``. Matrices compose with those of `hyperdecode.fmri.normalise`, so a value is
interpolated once, by `hyperdecode.fmri.resample`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hyperdecode.errors import UserError

__all__ = ["Motion", "framewise_displacement", "realign", "rigid_matrix", "rigid_parameters"]

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

HEAD_RADIUS_MM = 50.0


@dataclass(frozen=True)
class Motion:
    """Head motion of one run.

    Attributes
    ----------
    matrices : ndarray, shape (n_volumes, 4, 4)
        Reference mm to volume mm.
    parameters : ndarray, shape (n_volumes, 6)
        Translations along x, y, z (mm) and rotations about x, y, z (rad) of `matrices` about `centre`.
    framewise_displacement : ndarray, shape (n_volumes,)
        In mm; 0 for the first volume.
    mean : ndarray of float32, shape (x, y, z)
        Mean of the realigned volumes, the reference.
    centre : ndarray, shape (3,)
        Point, in mm, about which the parameters rotate.
    """

    matrices: FloatArray
    parameters: FloatArray
    framewise_displacement: FloatArray
    mean: NDArray[np.float32]
    centre: FloatArray


def realign(
    volumes: NDArray[np.generic],
    affine: ArrayLike,
    *,
    smoothing: float = 5.0,
    sampling: float = 4.0,
    max_iterations: int = 20,
    tolerance: float = 1e-3,
    progress: Progress | None = None,
) -> Motion:
    """Estimate the six rigid parameters of every volume by least squares on intensity.

    Minimises ``sum_k (V(M p_k) - g R(p_k))^2`` over the rigid M and the gain g. Each step solves
    ``[J, R] d = V(M p) - R(p)`` where ``J_k = [grad R(p_k), (p_k - c) x grad R(p_k)]`` and replaces M by
    ``M W(d)^-1``: gradients and their factorization belong to the reference, so they are worked out once for
    all volumes and steps (inverse compositional).

    Parameters
    ----------
    volumes : ndarray, shape (x, y, z, n_volumes)
        BOLD.
    affine : array-like, shape (4, 4)
        Voxel to mm.
    smoothing : float
        FWHM in mm of the Gaussian applied before the comparison.
    sampling : float
        Distance of the sampled points in mm.
    max_iterations : int
        Steps a volume at most.
    tolerance : float
        A volume is done when a step moves no point of a 50 mm sphere by more than this, in mm.
    progress : callable, optional
        Called with (volumes done, volumes to do).

    Returns
    -------
    Motion

    Raises
    ------
    UserError
        When `volumes` is not 4D or its first volume has no structure to align on.

    References
    ----------
    Baker S, Matthews I (2004). Lucas-Kanade 20 years on: a unifying framework. International Journal of
    Computer Vision 56, 221-255. Power JD et al. (2012). NeuroImage 59, 2142-2154 (framewise displacement).
    """
    if volumes.ndim != 4:
        raise UserError(f"realignment needs a 4D series, got shape {volumes.shape}: give the whole run")
    to_mm = np.asarray(affine, dtype=np.float64)
    n = volumes.shape[3]
    sigma = smoothing / np.sqrt(8 * np.log(2)) / np.linalg.norm(to_mm[:3, :3], axis=0)

    def smoothed(k: int) -> NDArray[np.float32]:
        volume = np.nan_to_num(np.asarray(volumes[..., k], dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        return np.asarray(ndimage.gaussian_filter(volume, sigma), dtype=np.float32)

    matrices = np.tile(np.eye(4), (n, 1, 1))
    first = _Reference(smoothed(0), to_mm, sampling)
    for k in range(1, n):
        matrices[k] = first.align(smoothed(k), matrices[k - 1], max_iterations, tolerance)
        if progress is not None:
            progress(k + 1, 2 * n)
    mean = _mean(volumes, to_mm, matrices)
    reference = _Reference(np.asarray(ndimage.gaussian_filter(mean, sigma), dtype=np.float32), to_mm, sampling)
    for k in range(n):
        matrices[k] = reference.align(smoothed(k), matrices[k], max_iterations, tolerance)
        if progress is not None:
            progress(n + k + 1, 2 * n)
    parameters = np.stack([rigid_parameters(m, reference.centre) for m in matrices])
    return Motion(
        matrices=matrices,
        parameters=parameters,
        framewise_displacement=framewise_displacement(parameters),
        mean=_mean(volumes, to_mm, matrices),
        centre=reference.centre,
    )


def rigid_matrix(parameters: ArrayLike, centre: ArrayLike) -> FloatArray:
    """Return the 4x4 matrix ``p -> R (p - c) + c + t`` of (t_x, t_y, t_z in mm, r_x, r_y, r_z in rad)."""
    values, c = np.asarray(parameters, dtype=np.float64), np.asarray(centre, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", values[3:]).as_matrix()
    matrix[:3, 3] = c + values[:3] - matrix[:3, :3] @ c
    return matrix


def rigid_parameters(matrix: ArrayLike, centre: ArrayLike) -> FloatArray:
    """Return the six parameters of which `rigid_matrix` makes `matrix`."""
    m, c = np.asarray(matrix, dtype=np.float64), np.asarray(centre, dtype=np.float64)
    angles = Rotation.from_matrix(m[:3, :3]).as_euler("xyz")
    return np.concatenate([m[:3, :3] @ c + m[:3, 3] - c, angles])


def framewise_displacement(parameters: ArrayLike) -> FloatArray:
    """Return ``sum |d translation| + 50 mm * sum |d rotation|`` between neighbours, (n_volumes,), in mm."""
    change = np.abs(np.diff(np.asarray(parameters, dtype=np.float64), axis=0))
    moved = change[:, :3].sum(axis=1) + HEAD_RADIUS_MM * change[:, 3:].sum(axis=1)
    return np.concatenate([[0.0], moved])


class _Reference:
    """The image that volumes are aligned to, with everything about it that can be worked out once."""

    def __init__(self, image: NDArray[np.float32], affine: FloatArray, sampling: float) -> None:
        self.to_voxel = np.linalg.inv(affine)
        self.limits = np.asarray(image.shape, dtype=np.float64)[:, None] - 1
        size = np.linalg.norm(affine[:3, :3], axis=0)
        axes = [np.arange(1.0, n - 1.5, max(sampling / s, 1.0)) for n, s in zip(image.shape, size, strict=True)]
        voxels = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
        spline = ndimage.spline_filter(image, order=3)
        values = ndimage.map_coordinates(spline, voxels, order=3, prefilter=False)
        top = np.percentile(image, 98)
        kept = values > 0.2 * top
        if top <= 0 or kept.sum() < 50:
            raise UserError("the first volume has too little structure to align on: check the BOLD image")
        voxels, self.values = voxels[:, kept], values[kept].astype(np.float64)
        gradient = np.empty((3, voxels.shape[1]))
        for axis in range(3):
            step = np.zeros((3, 1))
            step[axis] = 0.5
            ahead, behind = (
                ndimage.map_coordinates(spline, voxels + s, order=3, prefilter=False, mode="nearest")
                for s in (step, -step)
            )
            gradient[axis] = ahead - behind
        gradient = self.to_voxel[:3, :3].T @ gradient
        self.points = _move(affine, voxels.T).T
        self.centre: FloatArray = self.points.mean(axis=0)
        turning = np.cross(self.points - self.centre, gradient.T)
        jacobian = np.column_stack([gradient.T, turning, self.values])
        self.solve = np.linalg.pinv(jacobian)

    def align(
        self, volume: NDArray[np.float32], start: FloatArray, max_iterations: int, tolerance: float
    ) -> FloatArray:
        """Return the matrix, reference mm to volume mm, reached from `start`."""
        spline = ndimage.spline_filter(volume, order=3)
        matrix = start.copy()
        for _ in range(max_iterations):
            voxels = _move(self.to_voxel @ matrix, self.points)
            values = ndimage.map_coordinates(spline, voxels, order=3, prefilter=False, mode="nearest")
            seen = ((voxels >= 0) & (voxels <= self.limits)).all(axis=0)
            step = self.solve @ np.where(seen, values - self.values, 0.0)
            matrix = matrix @ np.linalg.inv(rigid_matrix(step[:6], self.centre))
            if np.abs(step[:3]).sum() + HEAD_RADIUS_MM * np.abs(step[3:6]).sum() < tolerance:
                break
        return matrix


def _move(affine: FloatArray, points: FloatArray) -> FloatArray:
    """Return ``A p + b`` of (n, 3) points as (3, n), the order that `map_coordinates` takes."""
    moved: FloatArray = affine[:3, :3] @ points.T + affine[:3, 3:]
    return moved


def _mean(volumes: NDArray[np.generic], affine: FloatArray, matrices: FloatArray) -> NDArray[np.float32]:
    """Mean of the realigned volumes on the reference's grid, over the volumes that see each voxel."""
    shape = volumes.shape[:3]
    to_voxel = np.linalg.inv(affine)
    limits = np.asarray(shape, dtype=np.float64)[:, None] - 0.5
    points = _move(affine, np.indices(shape).reshape(3, -1).T.astype(np.float64)).T
    total, count = np.zeros(points.shape[0]), np.zeros(points.shape[0])
    for k in range(volumes.shape[3]):
        voxels = _move(to_voxel @ matrices[k], points)
        volume = np.nan_to_num(np.asarray(volumes[..., k], dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        seen = ((voxels > -0.5) & (voxels < limits)).all(axis=0)
        total += np.where(seen, ndimage.map_coordinates(volume, voxels, order=1, mode="nearest"), 0.0)
        count += seen
    return (total / np.maximum(count, 1)).reshape(shape).astype(np.float32)

"""Rigid head motion that is known: drawn, and applied to volumes by cubic splines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hyperdecode.errors import UserError

__all__ = ["Mover", "draw_motion", "rigid_matrices"]

FloatArray = NDArray[np.float64]
Volume = NDArray[np.float32]

HEAD_RADIUS_MM = 50.0
RETURN = 0.98
"""A head tends back to where it lay: autocorrelation of its wandering from volume to volume."""
DRIFT_SHARE = 0.05
"""Share of the framewise displacement that is slow drift."""
JERK_EVERY = 80.0
"""Volumes between two sudden moves, on average."""
JERK_SIZE = 5.0
"""Size of a sudden move in standard deviations of an ordinary step."""


def draw_motion(n_volumes: int, *, scale: float, seed: int) -> FloatArray:
    """Draw the motion of one run: wandering that tends back, slow drift, and now and then a sudden move.

    The parameters mean what those of `hyperdecode.fmri.realign.Motion` mean: a point p of the head that lies still at
    the first volume lies at ``R (p - c) + c + t`` at volume k. All are 0 at the first volume. Their size is such that
    the mean framewise displacement, ``sum |d t| + 50 mm * sum |d r|`` between neighbouring volumes, is `scale`.

    Parameters
    ----------
    n_volumes : int
    scale : float
        Mean framewise displacement in mm; 0 for a head that lies still.
    seed : int

    Returns
    -------
    ndarray of float64, (n_volumes, 6)
        Translations along x, y, z in mm, rotations about x, y, z in rad.

    Raises
    ------
    UserError
        When `scale` is negative or not finite.

    References
    ----------
    Power JD et al. (2012). NeuroImage 59, 2142-2154 (framewise displacement).
    """
    if not np.isfinite(scale) or scale < 0:
        raise UserError(f"the scale of motion is a mean framewise displacement in mm, at least 0, got {scale}")
    if n_volumes < 2 or scale == 0:
        return np.zeros((n_volumes, 6))
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((n_volumes - 1, 6))
    sudden = rng.random(n_volumes - 1) < 1 / JERK_EVERY
    steps[sudden] *= JERK_SIZE
    wandering = np.zeros((n_volumes, 6))
    for k, step in enumerate(steps):
        wandering[k + 1] = RETURN * wandering[k] + step
    drift = _slow(rng, n_volumes)
    mixed = (1 - DRIFT_SHARE) * _unit(wandering) + DRIFT_SHARE * _unit(drift)
    parameters = _unit(mixed) * scale
    parameters[:, 3:] /= HEAD_RADIUS_MM
    return parameters


def _slow(rng: np.random.Generator, n_volumes: int) -> FloatArray:
    """Half a cosine cycle and one cycle a run, 0 at the first volume."""
    phase = np.pi * np.arange(n_volumes)[:, None] / n_volumes
    waves = [(np.cos(j * phase) - 1) * rng.standard_normal(6) / j for j in (1, 2)]
    return np.asarray(waves[0] + waves[1])


def _unit(moved: FloatArray) -> FloatArray:
    """Scale parameters, rotations given as mm on the sphere, to a mean framewise displacement of 1."""
    size = float(np.abs(np.diff(moved, axis=0)).sum(axis=1).mean())
    return moved / size if size > 0 else moved


def rigid_matrices(parameters: ArrayLike, centre: ArrayLike) -> FloatArray:
    """Return the matrices ``p -> R (p - c) + c + t`` of motion parameters.

    Parameters
    ----------
    parameters : array-like, (n_volumes, 6)
        Translations in mm and rotations in rad: first about x, then about y, then about z.
    centre : array-like, (3,)
        c, in mm.

    Returns
    -------
    ndarray, (n_volumes, 4, 4)
    """
    values, c = np.asarray(parameters, dtype=np.float64), np.asarray(centre, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 6 or not np.isfinite(values).all():
        raise UserError(f"motion is 6 finite parameters a volume, got an array of shape {values.shape}")
    matrices = np.tile(np.eye(4), (len(values), 1, 1))
    turns = Rotation.from_euler("xyz", values[:, 3:]).as_matrix()
    matrices[:, :3, :3] = turns
    matrices[:, :3, 3] = c + values[:, :3] - turns @ c
    return matrices


@dataclass(frozen=True)
class Mover:
    """Moves volumes of one grid; what does not depend on the volume is worked out once.

    Attributes
    ----------
    affine : ndarray, (4, 4)
        Voxel to mm.
    shape : tuple of int
        (x, y, z).
    inside : ndarray of intp, (n_inside,)
        Flat indices of the voxels whose new value is worked out.
    """

    affine: FloatArray
    shape: tuple[int, ...]
    inside: NDArray[np.intp]

    def move(self, volume: Volume, matrix: FloatArray) -> Volume:
        """Return what a scanner sees in the voxels `inside` when the head has moved by `matrix`.

        What lay at p before lies at ``M p`` now, so the new value at q is that of the old volume at ``M^-1 q``, by
        cubic spline interpolation. A head that is cut by the edge of the grid goes on beyond it as its mirror image.

        Parameters
        ----------
        volume : ndarray of float32, (x, y, z)
        matrix : ndarray, (4, 4)
            mm to mm.

        Returns
        -------
        ndarray of float32, (n_inside,)
        """
        spline = ndimage.spline_filter(volume, order=3, output=np.float32, mode="mirror")
        back = np.linalg.inv(self.affine) @ np.linalg.inv(matrix) @ self.affine
        where = np.stack(np.unravel_index(self.inside, self.shape)).astype(np.float64)
        places = back[:3, :3] @ where + back[:3, 3:]
        return np.asarray(
            ndimage.map_coordinates(spline, places, order=3, prefilter=False, output=np.float32, mode="mirror")
        )

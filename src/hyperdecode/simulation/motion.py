"""Rigid head motion that is known: drawn, and applied to volumes by cubic splines."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
LEAST_STRETCH = 1e-3
"""In voxels: a line that is stretched by less is only shifted."""
NEGLIGIBLE = 1e-12


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


class Mover:
    """Moves volumes of one grid by cubic splines, one axis after the other.

    ``p = B q + b``, the place in the old volume of voxel q of the new one, is a product of three maps each of which
    changes one coordinate: ``B = X Y Z``. So the volume is resampled along x, then y, then z; each line of voxels
    is shifted by an amount of its own. All lines of an axis share one matrix from values to spline coefficients, and
    taps are sums of whole slices: many times faster than interpolating at scattered points, and as accurate.

    Parameters
    ----------
    affine : ndarray, (4, 4)
        Voxel to mm.
    shape : tuple of int
        (x, y, z).
    """

    def __init__(self, affine: FloatArray, shape: tuple[int, ...]) -> None:
        self.affine, self.shape = affine, shape
        self.to_voxel = np.linalg.inv(affine)
        self.coefficients = [_spline_matrix(n) for n in shape]

    def move(self, volume: Volume, matrix: FloatArray) -> Volume:
        """Return the volume that a scanner sees when the head has moved by `matrix`.

        What lay at p before lies at ``M p`` now, so the new value at q is that of the old volume at ``M^-1 q``. A
        head that is cut by the edge of the grid goes on beyond it as its mirror image.

        Parameters
        ----------
        volume : ndarray of float32, (x, y, z)
        matrix : ndarray, (4, 4)
            mm to mm, a rotation of less than 45 degrees.

        Returns
        -------
        ndarray of float32, (x, y, z)
        """
        rows = _axis_by_axis(self.to_voxel @ np.linalg.inv(matrix) @ self.affine)
        moved = np.ascontiguousarray(volume, np.float32)
        for axis in range(3):
            after, last = (axis + 1) % 3, (axis + 2) % 3
            row = rows[axis]
            shift = (
                row[3] + row[after] * np.arange(self.shape[after])[:, None] + row[last] * np.arange(self.shape[last])
            )
            lines = _shift_lines(moved.reshape(self.shape[axis], -1), row[axis], shift.ravel(), self.coefficients[axis])
            # The next axis comes first: (x, y, z), (y, z, x), (z, x, y) and back.
            moved = np.ascontiguousarray(lines.T)
        return moved.reshape(self.shape)


def _axis_by_axis(place: FloatArray) -> FloatArray:
    """Split an affine map into maps of one coordinate each: rows of X, Y, Z with their constants, (3, 4)."""
    rows = np.zeros((3, 4))
    for axis in range(3):
        known = np.arange(axis + 1, 3)
        # Coordinates behind `axis` are the new ones by now: express the row by them.
        swap = place[axis, known] @ np.linalg.inv(place[np.ix_(known, known)])
        first = np.arange(axis + 1)
        rows[axis, first] = place[axis, first] - swap @ place[np.ix_(known, first)]
        rows[axis, known] = swap
        rows[axis, 3] = place[axis, 3] - swap @ place[known, 3]
    return rows


def _shift_lines(lines: Volume, scale: float, shift: FloatArray, coefficients: NDArray[np.float32]) -> Volume:
    """Read every line, a column of `lines` (n, n_lines), at ``scale * k + shift[line]``, k = 0..n-1.

    The shift about the line's middle gives the weights ``w_j = b(shift - j)`` of the taps, b the cubic B-spline; scale
    differs from 1 by the square of an angle and enters by the weights' derivative.
    """
    n = len(lines)
    middle = (n - 1) / 2
    about = shift + (scale - 1) * middle
    taps = np.arange(int(np.floor(about.min())) - 1, int(np.floor(about.max())) + 3)
    away = about - taps[:, None]
    weights = _b_spline(away).astype(np.float32)
    stretch = ((scale - 1) * (np.arange(n) - middle)).astype(np.float32)
    slope = _b_spline_slope(away).astype(np.float32) if np.abs(stretch).max() > LEAST_STRETCH else None

    # Coefficients at all places that a tap may reach, mirrored beyond the ends.
    at = np.arange(taps[0], n + taps[-1]) % max(2 * n - 2, 1)
    spline = coefficients[np.minimum(at, 2 * n - 2 - at)] @ lines
    out, used = np.empty_like(lines), weights
    if slope is not None:
        used = np.empty_like(weights)
    for k in range(n):
        if slope is not None:
            np.multiply(slope, stretch[k], out=used)
            used += weights
        np.einsum("kl,kl->l", used, spline[k : k + taps.size], out=out[k])
    return out


def _spline_matrix(n: int) -> NDArray[np.float32]:
    """Matrix from the values of a line to its cubic B-spline coefficients, mirrored at the ends, (n, n)."""
    values = np.eye(n) * 2 / 3 + (np.eye(n, k=1) + np.eye(n, k=-1)) / 6
    if n == 1:
        return np.ones((1, 1), np.float32)
    values[0, 1] = values[-1, -2] = 1 / 3
    return without_denormals(np.asarray(np.linalg.inv(values)))


def without_denormals(matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Put 0 for what is too small to matter: products with denormal numbers take a hundred times as long."""
    return np.where(np.abs(matrix) < NEGLIGIBLE, 0, matrix).astype(np.float32)


def _b_spline(at: FloatArray) -> FloatArray:
    size = np.abs(at)
    return np.asarray((np.maximum(2 - size, 0) ** 3 - 4 * np.maximum(1 - size, 0) ** 3) / 6)


def _b_spline_slope(at: FloatArray) -> FloatArray:
    size = np.abs(at)
    return np.asarray(-np.sign(at) * (np.maximum(2 - size, 0) ** 2 - 4 * np.maximum(1 - size, 0) ** 2) / 2)

"""Where a rigid head lies in a volume: inverse-compositional Gauss-Newton with robust weights.

Minimised over the rigid M and the gain g is ``sum_k rho(V(M p_k) - g R(p_k))``, R the reference and V the volume, both
filtered, p_k points inside the reference's head. Each step solves the weighted least-squares problem

    sum_k w_k (r_k - [g J_k, R(p_k)] d)^2 -> min,    r_k = V(M p_k) - g R(p_k)

with ``J_k = [grad R(p_k), (p_k - c) x grad R(p_k)]``, then replaces M by ``M W(d)^-1``, W(d) the motion of the six
parameters d, and g by ``g + d_7``. J belongs to the reference and is worked out once for all volumes and steps, which
is the point of the inverse composition (Baker and Matthews 2004).

The filter is a band-pass, a Gaussian minus one three times as wide: a slow change of signal that varies smoothly over
the head is no motion but looks like some to least squares, because it tilts whole plateaus; edges alone tell the two
apart.

Weights make it robust: what else changes between volumes (activation, a slice that is lost, a head cut elsewhere by
the edge of the grid) leaves large residuals at some points. With s the residuals' scale, 1.4826 times their median
size, weights are Huber's (1 up to 2 s, then falling as ``1/|r|``) until a step is small, then Tukey's
(``(1 - (r / 6 s)^2)^2``, 0 beyond 6 s): edges that are still displaced must not be thrown away as outliers.

References
----------
Baker S, Matthews I (2004). Lucas-Kanade 20 years on: a unifying framework. International Journal of Computer Vision 56,
221-255. Holland PW, Welsch RE (1977). Robust regression using iteratively reweighted least-squares. Communications in
Statistics A6, 813-827.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.rigid import HEAD_RADIUS_MM, rigid_matrix
from hyperdecode.fmri.smoothing import fwhm_in_voxels, smooth
from hyperdecode.fmri.splines import spline_coefficients, spline_values

__all__ = ["Fit", "Reference", "filtered_spline"]

FloatArray = NDArray[np.float64]
Volume = NDArray[np.float32]

HUBER, TUKEY = 2.0, 6.0
"""Where the weights bend, and where they end, in units of the residuals' scale."""
NEAR_MM = 0.2
"""A step below this changes the weights from Huber's to Tukey's."""
HEAD = 0.05
"""The head: what lies above the 2nd percentile by this share of the way to the 98th."""
WIDE = 3.0
"""How many times wider than the first the Gaussian is that the band-pass takes away."""
SPARSE, MANY = 1.7, 2000
"""A lattice so many times wider leads to where steps are small, if that leaves so many points."""
SCALED = 5
"""Every fifth residual tells their scale."""
SINGULAR = 1e14
FEWEST = 50
"""Points without which nothing is aligned."""


@dataclass(frozen=True)
class Fit:
    """Where a volume lies.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        Reference mm to volume mm.
    gain : float
        Of the volume's intensities over the reference's.
    error : float
        Root mean square of all residuals over the gain, as a share of the reference's mean intensity; not robust, so
        that it tells of a spike.
    unexplained : float
        The same residuals' mean square as a share of the filtered reference's over the points.
    seen : float
        Share of the points that fall inside the volume.
    """

    matrix: FloatArray
    gain: float
    error: float
    unexplained: float
    seen: float


@dataclass(frozen=True)
class _Points:
    """Points of a reference.

    Attributes
    ----------
    points : ndarray, shape (n, 3)
        In mm.
    values : ndarray of float32, shape (n,)
        R at the points.
    jacobian : ndarray of float32, shape (n, 7)
        J, and R once more for the gain.
    """

    points: FloatArray
    values: Volume
    jacobian: Volume

    @classmethod
    def of(cls, spline: Volume, voxels: FloatArray, affine: FloatArray, centre: FloatArray) -> _Points:
        """Sample a filtered reference at voxel positions (n, 3)."""
        values = spline_values(spline, np.eye(4), voxels)
        slope = np.stack([_difference(spline, voxels, axis) for axis in range(3)], axis=1)
        gradient = slope @ np.linalg.inv(affine)[:3, :3]
        points = voxels @ affine[:3, :3].T + affine[:3, 3]
        turning = np.cross(points - centre, gradient)
        return cls(points, values, np.column_stack([gradient, turning, values]).astype(np.float32))


class Reference:
    """The image that volumes are aligned to, with everything about it that can be worked out once.

    Parameters
    ----------
    image : ndarray of float32, shape (x, y, z)
        Finite.
    affine : ndarray, shape (4, 4)
        Voxel to mm.
    smoothing : float
        FWHM in mm of the filter's narrow Gaussian.
    sampling : float
        Distance between points in mm; at least one voxel.
    band : bool
        Whether the filter takes away a wider Gaussian. From far away, plateaus help.

    Attributes
    ----------
    centre : ndarray, shape (3,)
        Mean of the points in mm, about which steps rotate.

    Raises
    ------
    UserError
        When the image has no structure.
    """

    def __init__(
        self, image: Volume, affine: FloatArray, smoothing: float, sampling: float, *, band: bool = True
    ) -> None:
        self.smoothing, self.band = smoothing, band
        plain = spline_coefficients(smooth(image, fwhm_in_voxels(smoothing, affine)))
        voxels = _lattice(image.shape, affine, sampling)
        values = spline_values(plain, np.eye(4), voxels)
        low, top = np.percentile(values, (2, 98))
        least = low + HEAD * (top - low)
        head = values > least
        if not top > low or head.sum() < FEWEST:
            raise UserError("the reference volume has too little structure to align on: check the BOLD image")
        self.brightness = float(np.mean(np.abs(values[head]), dtype=np.float64))
        spline = self.prepare(image, affine)
        self.centre: FloatArray = voxels[head].mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
        self.all = _Points.of(spline, voxels[head], affine, self.centre)
        self.few = self.all
        wide = _lattice(image.shape, affine, SPARSE * sampling)
        wide = wide[spline_values(plain, np.eye(4), wide) > least]
        if len(wide) >= MANY:
            self.few = _Points.of(spline, wide, affine, self.centre)
        self.square = float(np.mean(np.square(self.all.values, dtype=np.float64)))

    def prepare(self, volume: Volume, affine: FloatArray) -> Volume:
        """Filter a finite volume as the reference was; return the spline coefficients for `align`."""
        return filtered_spline(volume, affine, self.smoothing, band=self.band)

    def align(
        self,
        spline: Volume,
        to_voxel: FloatArray,
        start: FloatArray,
        *,
        max_iterations: int = 20,
        tolerance: float = 1e-3,
    ) -> Fit:
        """Align one volume.

        Parameters
        ----------
        spline : ndarray of float32, shape (z + 4, y + 4, x + 4)
            The volume as `prepare` returns it.
        to_voxel : ndarray, shape (4, 4)
            The volume's mm to its voxels.
        start : ndarray, shape (4, 4)
            Reference mm to volume mm, a first guess.
        max_iterations : int
        tolerance : float
            Done when a step moves no point of a 50 mm sphere by more than this, in mm.

        Returns
        -------
        Fit
            That of `start` when less than a tenth of the points can be seen.
        """
        matrix, near = start.copy(), False
        at = self.few
        gain = _gain(spline_values(spline, to_voxel @ matrix, at.points), at.values)
        for _ in range(max_iterations):
            residuals = spline_values(spline, to_voxel @ matrix, at.points) - np.float32(gain) * at.values
            scale = _scale(residuals)
            if not scale > 0:  # equal images, or nothing to see
                break
            normal, right = _normal_equations(at.jacobian, residuals, gain, scale, near)
            if np.linalg.cond(normal) > SINGULAR:
                break
            step = np.linalg.solve(normal, right)
            matrix = matrix @ np.linalg.inv(rigid_matrix(step[:6], self.centre))
            gain += float(step[6])
            size = np.abs(step[:3]).sum() + HEAD_RADIUS_MM * np.abs(step[3:6]).sum()
            if near and size < tolerance:  # so small a step would not change the residuals to speak of
                return self._fit(residuals, matrix, gain)
            if not near and size < NEAR_MM:
                near, at = True, self.all
        values = spline_values(spline, to_voxel @ matrix, self.all.points)
        return self._fit(values - np.float32(gain) * self.all.values, matrix, gain)

    def _fit(self, residuals: Volume, matrix: FloatArray, gain: float) -> Fit:
        """Summarise the residuals at all points."""
        seen = np.isfinite(residuals)
        if not seen.any() or gain <= 0:  # out of sight, or a negative of the head
            return Fit(matrix, gain, np.inf, np.inf, float(seen.mean()))
        square = float(np.mean(np.square(residuals[seen], dtype=np.float64))) / gain**2
        unexplained = square / self.square if self.square else np.inf
        return Fit(matrix, gain, square**0.5 / self.brightness, unexplained, float(seen.mean()))


def filtered_spline(volume: Volume, affine: FloatArray, smoothing: float, *, band: bool = True) -> Volume:
    """Return the spline coefficients of a finite volume after the filter of a `Reference`."""
    filtered = smooth(volume, fwhm_in_voxels(smoothing, affine))
    if band:
        filtered -= smooth(volume, fwhm_in_voxels(WIDE * smoothing, affine))
    return spline_coefficients(filtered)


def _lattice(shape: tuple[int, ...], affine: FloatArray, sampling: float) -> FloatArray:
    """Points a distance apart, in voxels, at least one voxel from the faces; the same for an image that is flipped."""
    axes = []
    for n, size in zip(shape, np.linalg.norm(affine[:3, :3], axis=0), strict=True):
        step = max(sampling / size, 1.0)
        count = max(int((n - 3) / step) + 1, 1)
        axes.append((n - 1) / 2 + step * (np.arange(count) - (count - 1) / 2))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _difference(spline: Volume, voxels: FloatArray, axis: int) -> Volume:
    """Central difference over one voxel along an axis."""
    ahead, behind = np.eye(4), np.eye(4)
    ahead[axis, 3], behind[axis, 3] = 0.5, -0.5
    return np.asarray(spline_values(spline, ahead, voxels) - spline_values(spline, behind, voxels))


def _gain(values: Volume, reference: Volume) -> float:
    """Gain that a volume's values have over the reference's, before anything is known of its motion."""
    seen = np.isfinite(values)
    square = float(np.square(reference[seen], dtype=np.float64).sum())
    gain = float(values[seen].astype(np.float64) @ reference[seen]) / square if square else 1.0
    return gain if gain > 0 else 1.0


def _scale(residuals: Volume) -> float:
    """Robust standard deviation, of every few residuals where there are many; 0 when hardly any can be seen."""
    few = residuals[:: SCALED if residuals.size > SCALED * MANY else 1]
    size = np.abs(few[np.isfinite(few)])
    return 1.4826 * float(np.median(size)) if size.size >= 0.1 * few.size else 0.0


def _normal_equations(
    jacobian: Volume, residuals: Volume, gain: float, scale: float, near: bool
) -> tuple[FloatArray, FloatArray]:
    """Weighted normal equations of one step: matrix (7, 7) and right-hand side (7,)."""
    normal, right = np.zeros((7, 7)), np.zeros(7)
    _accumulate(jacobian, residuals, (TUKEY if near else HUBER) * scale, near, normal, right)
    factor = np.array([gain] * 6 + [1.0])
    return normal * factor * factor[:, None], right * factor


@njit(cache=True, nogil=True)
def _accumulate(
    jacobian: Volume, residuals: Volume, cut: float, tukey: bool, normal: FloatArray, right: FloatArray
) -> None:
    row = np.empty(7)
    for p in range(residuals.size):
        r = float(residuals[p])
        if not np.isfinite(r):
            continue
        away = abs(r) / cut
        if tukey:
            if away >= 1:
                continue
            weight = (1 - away * away) ** 2
        else:
            weight = 1.0 if away <= 1 else 1 / away
        for a in range(7):
            row[a] = jacobian[p, a]
        for a in range(7):
            weighted = weight * row[a]
            right[a] += weighted * r
            for b in range(a, 7):
                normal[a, b] += weighted * row[b]
    for a in range(7):
        for b in range(a):
            normal[a, b] = normal[b, a]

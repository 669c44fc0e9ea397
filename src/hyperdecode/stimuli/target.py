"""The fixation target of Thaler et al. (2013): bull's eye with cross hair, by geometry."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError

__all__ = ["draw_target", "fixation_target"]

FloatArray = NDArray[np.float64]

DOT_SHARE = 1 / 3
"""Diameter of the dot, and width of the cross's arms, as a share of the disc's diameter (0.2 of 0.6 deg)."""
INK = 0
ROUNDING = 1e-9
"""Parts of a pixel's area that are no more than the rounding of differences."""


def fixation_target(
    pixels_per_deg: float,
    diameter_deg: float = 0.6,
    background: int = 128,
    *,
    shape: tuple[int, int] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Draw the target that holds the eye best: shape ABC of Thaler et al., bull's eye and cross hair combined.

    A black disc of diameter D (0.6 deg), on it a cross in the background's colour from edge to edge with arms D/3
    wide (0.2 deg), on it a black dot of diameter D/3. A pixel gets of each part what the part covers of its area,
    and that area is exact: for a disc of radius R about the origin, the part of it in [0, x] x [0, y] is
    ``F(x, y) = y min(x, a) + [G(x) - G(min(x, a))]`` with ``a = sqrt(R^2 - y^2)`` and
    ``G(t) = (t sqrt(R^2 - t^2) + R^2 arcsin(t / R)) / 2`` for x, y in 0..R, and a pixel is four such corners.

    Parameters
    ----------
    pixels_per_deg : float
        Pixels a degree of visual angle.
    diameter_deg : float
        Diameter of the disc in degrees.
    background : int
        Grey level of the cross, 0-255.
    shape : (int, int), optional
        Height and width of the result in pixels; the target stands exactly in its middle, which is the middle of a
        pixel where a side is odd. Default: the smallest square that holds the disc.

    Returns
    -------
    colour : ndarray of float64, (height, width, 3)
        Grey levels 0-255, not multiplied by `alpha`; the background's where `alpha` is 0.
    alpha : ndarray of float64, (height, width)
        Share of the pixel that the disc covers, 0-1.

    Raises
    ------
    UserError
        When a size is not positive, the grey level lies outside 0-255, or `shape` cannot hold the disc.

    References
    ----------
    Thaler L, Schuetz AC, Goodale MA, Gegenfurtner KR (2013). What is the best fixation target? The effect of target
    shape on stability of fixational eye movements. Vision Research 76, 31-42.
    """
    diameter = _diameter(pixels_per_deg, diameter_deg, background)
    smallest = math.ceil(diameter - 1e-9)
    height, width = shape or (smallest, smallest)
    if min(height, width) < diameter - 1e-9:
        raise UserError(
            f"a fixation target of {diameter:.1f} px does not fit into {height} x {width} px: lower viewing.target_deg"
        )
    radius, half = diameter / 2, DOT_SHARE * diameter / 2
    rows, columns = (np.arange(n + 1, dtype=np.float64) - n / 2 for n in (height, width))
    narrow_rows, narrow_columns = (np.clip(edges, -half, half) for edges in (rows, columns))
    disc = _disc_area(rows, columns, radius)
    upright, level = _disc_area(rows, narrow_columns, radius), _disc_area(narrow_rows, columns, radius)
    middle = _disc_area(narrow_rows, narrow_columns, radius)
    cross: FloatArray = upright + level - middle - _disc_area(rows, columns, half)
    colour = np.full(disc.shape, float(background))
    covered = disc > 0
    colour[covered] = INK + (background - INK) * np.clip(cross[covered] / disc[covered], 0, 1)
    return np.repeat(colour[..., None], 3, axis=2), disc


def draw_target(
    picture: NDArray[np.uint8], pixels_per_deg: float, diameter_deg: float = 0.6, background: int = 128
) -> NDArray[np.uint8]:
    """Draw the fixation target over the middle of a copy of a picture.

    Parameters
    ----------
    picture : ndarray of uint8, (height, width, 3)
        Left as it is.
    pixels_per_deg, diameter_deg, background
        As in `fixation_target`.

    Returns
    -------
    ndarray of uint8, (height, width, 3)
        ``(1 - alpha) picture + alpha colour``, rounded.

    Raises
    ------
    UserError
        When the array is no such picture, or as `fixation_target` does.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UserError(f"a picture is uint8 of (height, width, 3), got {picture.dtype} of {picture.shape}")
    diameter = math.ceil(_diameter(pixels_per_deg, diameter_deg, background) - 1e-9)
    # A window whose sides are odd or even as the picture's are shares its middle with the picture.
    shape = tuple(diameter + (side - diameter) % 2 for side in picture.shape[:2])
    top, left = ((side - inner) // 2 for side, inner in zip(picture.shape[:2], shape, strict=True))
    if min(top, left) < 0:
        raise UserError(
            f"a fixation target of {diameter} px does not fit into a picture of {picture.shape[0]} x "
            f"{picture.shape[1]} px: lower viewing.target_deg"
        )
    colour, alpha = fixation_target(pixels_per_deg, diameter_deg, background, shape=(shape[0], shape[1]))
    drawn = picture.copy()
    window = drawn[top : top + shape[0], left : left + shape[1]]
    mixed = (1 - alpha[..., None]) * window + alpha[..., None] * colour
    window[:] = np.floor(mixed + 0.5).astype(np.uint8)
    return drawn


def _diameter(pixels_per_deg: float, diameter_deg: float, background: int) -> float:
    """Diameter of the disc in pixels, once the numbers are checked."""
    for name, value in (("pixels a degree", pixels_per_deg), ("diameter in degrees", diameter_deg)):
        if not math.isfinite(value) or value <= 0:
            raise UserError(f"the fixation target's {name} must be a number above 0, got {value}")
    if not 0 <= background <= 255:
        raise UserError(f"the background is a grey level from 0 to 255, got {background}")
    return pixels_per_deg * diameter_deg


def _disc_area(rows: FloatArray, columns: FloatArray, radius: float) -> FloatArray:
    """Area of a disc about the origin inside each box of a grid of edges, (len(rows) - 1, len(columns) - 1)."""
    y, x = np.minimum(np.abs(rows), radius)[:, None], np.minimum(np.abs(columns), radius)[None, :]
    arc = np.sqrt(np.maximum(radius**2 - y**2, 0))
    flat = np.minimum(x, arc)
    corner = y * flat + _under_arc(x, radius) - _under_arc(flat, radius)
    corner = corner * np.sign(rows)[:, None] * np.sign(columns)[None, :]
    area: FloatArray = np.diff(np.diff(corner, axis=0), axis=1)
    area[area < ROUNDING] = 0
    return np.minimum(area, 1)


def _under_arc(t: FloatArray, radius: float) -> FloatArray:
    """Area under a circle's upper arc from 0 to t."""
    area: FloatArray = (t * np.sqrt(np.maximum(radius**2 - t**2, 0)) + radius**2 * np.arcsin(t / radius)) / 2
    return area

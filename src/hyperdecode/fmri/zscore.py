"""Student's t as a standard normal deviate, for millions of values."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.interpolate import CubicSpline

__all__ = ["z_from_t"]

FloatArray = NDArray[np.float64]

SPLINE_TO, KNOTS = 12.0, 2048
SMALLEST_P = 1e-300


def z_from_t(t: ArrayLike, dof: float) -> FloatArray:
    """Return the standard normal deviate with the tail probability of t: ``z = sign(t) isf_N(sf_t(|t|))``.

    Each sign is worked out in its own tail, where the probability is small and exact, so z rises with t on both
    sides; probabilities are held at 1e-300 (|z| = 37.0), so z is finite for every t. Many values with |t| up to 12 are
    read off a cubic spline through 2,048 exact ones, which is off by less than 1e-9 and several times faster.

    Parameters
    ----------
    t : array-like
        Values of Student's t.
    dof : float
        Degrees of freedom.

    Returns
    -------
    ndarray of float64, shape of `t`
    """
    values = np.asarray(t, dtype=np.float64)
    if values.size < KNOTS:
        return _exact_z(values, dof)
    size = np.abs(values)
    far = ~(size < SPLINE_TO)
    step = np.where(far, 0.0, size * ((KNOTS - 1) / SPLINE_TO))
    knot = step.astype(np.int32)
    step -= knot
    cubic, square, slope, level = _spline(dof)
    z: FloatArray = np.copysign(((cubic[knot] * step + square[knot]) * step + slope[knot]) * step + level[knot], values)
    z[far] = _exact_z(values[far], dof)
    return z


@lru_cache(maxsize=8)
def _spline(dof: float) -> FloatArray:
    """Coefficients (4, `KNOTS` - 1) of the cubics between evenly spaced t, of the way from knot to knot."""
    coefficients: FloatArray = CubicSpline(np.arange(KNOTS), _exact_z(np.linspace(0, SPLINE_TO, KNOTS), dof)).c
    return coefficients


def _exact_z(t: FloatArray, dof: float) -> FloatArray:
    tail = np.maximum(special.stdtr(dof, -np.abs(t)), SMALLEST_P)
    z: FloatArray = np.sign(t) * -special.ndtri(tail)
    return z

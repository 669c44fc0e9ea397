"""Latent dimensions one by one: which of them the responses tell anything about."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from hyperdecode.errors import UserError
from hyperdecode.evaluation.corrections import benjamini_hochberg
from hyperdecode.evaluation.metrics import checked_pair

__all__ = ["DIMENSION_COLUMNS", "dimension_table"]

Array = NDArray[np.float64]

DIMENSION_COLUMNS = ("dimension", "r", "p_value", "q_value")


def dimension_table(predicted: ArrayLike, true: ArrayLike) -> pd.DataFrame:
    r"""Correlate predicted with true values of each latent dimension over the test faces.

    .. math:: t = r \sqrt{\frac{n - 2}{1 - r^2}}, \qquad p = P(T_{n - 2} \ge t),

    one-sided, since only a positive correlation speaks for decoding; q is Benjamini-Hochberg's over the dimensions.

    Parameters
    ----------
    predicted, true : arrays of shape (n_faces, n_latents)
        Latents of the test faces, in any unit: r knows neither offset nor scale.

    Returns
    -------
    pandas.DataFrame
        One row a dimension (counted from 0), columns `DIMENSION_COLUMNS`; NaN where one of the two does not vary.

    Raises
    ------
    UserError
        When shapes do not fit, a value is not finite, or there are fewer than four faces.
    """
    p, t = checked_pair(predicted, true)
    n = len(p)
    if p.shape != t.shape or n < 4:
        raise UserError(f"got predictions {p.shape} and stimuli {t.shape}: give both for the same four faces or more")
    r = np.clip((_unit_columns(p) * _unit_columns(t)).sum(axis=0), -1, 1)
    with np.errstate(divide="ignore"):
        p_value = student.sf(r * np.sqrt((n - 2) / (1 - r**2)), n - 2)
    columns = (np.arange(p.shape[1]), r, p_value, benjamini_hochberg(p_value))
    return pd.DataFrame(dict(zip(DIMENSION_COLUMNS, columns, strict=True)))


def _unit_columns(values: Array) -> Array:
    """Columns without their mean and of length one; NaN where only rounding is left."""
    centred = values - values.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    flat = np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max(axis=0)
    return np.asarray(centred / np.where(flat, np.nan, length))

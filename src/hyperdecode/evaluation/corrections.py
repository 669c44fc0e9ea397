"""Many tests at once: false discovery rate, and the largest of a family."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.evaluation.permutation import checked_matrices, null_moments, null_statistics

__all__ = ["benjamini_hochberg", "max_statistic_test"]

Array = NDArray[np.float64]


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    r"""Return q-values: the least false discovery rate at which each hypothesis is rejected.

    .. math:: q_{(k)} = \min_{l \ge k} \frac{m}{l} p_{(l)}

    Rejecting where q <= 0.05 keeps the expected share of false ones among the rejected at or below 5 %, for p-values
    that are independent or positively dependent.

    Parameters
    ----------
    p_values : array of shape (n_tests,)
        NaN stands for a test that was not made: it stays NaN and is not counted in m.

    Returns
    -------
    array of shape (n_tests,)
        In the order of `p_values`.

    Raises
    ------
    UserError
        When a value lies outside 0 to 1.

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57:289.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or np.any((p < 0) | (p > 1)):
        raise UserError(f"p-values must be one row of numbers from 0 to 1, got shape {p.shape}: {p.ravel()[:5]}")
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    q = np.full(len(p), np.nan)
    scaled = p[order] * len(made) / np.arange(1, len(made) + 1)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return q


def max_statistic_test(matrices: ArrayLike, n_permutations: int = 10_000, seed: int = 0) -> Array:
    r"""Test the pairing by a family of metrics (or attributes, or dimensions), with the error of the whole family kept.

    .. math::
        Z_k(\pi) = \frac{T_k(\pi) - E\,T_k}{\mathrm{sd}\,T_k}, \qquad
        p_k = \frac{1 + \#\{\pi : \max_l Z_l(\pi) \ge Z_k(\mathrm{id})\}}{1 + n_{\mathrm{permutations}}},

    where T is the mean score of the pairs; mean and sd are the exact ones over all pairings
    (`hyperdecode.evaluation.permutation.null_moments`), so that metrics of any scale compete alike. A pairing is
    drawn once for all metrics, which keeps their dependence: the chance that any of the p is at most 0.05
    while nothing was decoded is 5 %, and metrics that say the same cost nothing.

    Parameters
    ----------
    matrices : array of shape (n_metrics, n_faces, n_faces)
        Entry (k, i, j): similarity of prediction i and stimulus j by metric k. For the correlation of attribute k pass
        the outer product of its standardised predictions and truths.
    n_permutations : int
        Random permutations, uniform over all pairings.
    seed : int
        Seed of the permutations.

    Returns
    -------
    array of shape (n_metrics,)
        One-sided family-wise p-values; 1 for a metric that is the same for all pairings.

    Raises
    ------
    UserError
        When matrices are not square, hold NaN, or have fewer than two faces.

    References
    ----------
    Westfall & Young (1993), Resampling-based multiple testing; Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol.
    9:39.
    """
    s = checked_matrices(matrices)
    mean, sd = null_moments(s)
    telling = sd > 0
    p = np.ones(len(s))
    if not telling.any():
        return p
    mean, sd = mean[telling, None], sd[telling, None]
    null = ((null_statistics(s[telling], n_permutations, seed) - mean) / sd).max(axis=0)
    observed = (np.trace(s[telling], axis1=1, axis2=2)[:, None] / s.shape[1] - mean) / sd
    # Metrics that differ by rounding alone must count their own pairings.
    exceeding = len(null) - np.searchsorted(np.sort(null), observed[:, 0] - 1e-9)
    p[telling] = (1 + exceeding) / (1 + n_permutations)
    return p

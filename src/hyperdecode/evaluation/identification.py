"""Identification: how often a prediction is closer to its own stimulus than to others, two or many, like or unlike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb
from scipy.stats import rankdata

from hyperdecode.errors import UserError

__all__ = ["identification_accuracy", "matched_pools", "n_way_rates", "win_rates"]

Array = NDArray[np.float64]


def win_rates(scores: ArrayLike) -> Array:
    r"""For each prediction and stimulus, the share of all other stimuli that the stimulus beats.

    .. math::
        W_{ij} = \frac{1}{n - 1} \sum_{k \neq j} [S_{ij} > S_{ik}] + \tfrac12 [S_{ij} = S_{ik}]

    Were prediction i a prediction of stimulus j, its two-way identification accuracy would be
    :math:`W_{ij}`, so this matrix carries the permutation test of the accuracy too.

    Parameters
    ----------
    scores : array of shape (n_predictions, n_stimuli)
        Similarities, higher is better. The pool of foils is all other stimuli of the matrix (all other
        test faces). Scores that differ by rounding alone count as ties.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Accuracies between 0 and 1; chance is 0.5, and every row's mean is 0.5.

    Raises
    ------
    UserError
        When there are fewer than two stimuli, or a score is not finite.
    """
    s = _checked(scores)
    ranks = np.asarray(rankdata(s, method="average", axis=1), dtype=np.float64)
    rates: Array = (ranks - 1) / (s.shape[1] - 1)
    return rates


def n_way_rates(scores: ArrayLike, n: int, pools: ArrayLike | None = None) -> Array:
    r"""For each prediction and stimulus, the expected accuracy among n faces: the stimulus and n - 1 random foils.

    .. math::
        W_{ij} = \frac{\binom{b + e + 1}{n} - \binom{b}{n}}{(e + 1) \binom{m}{n - 1}},

    where of the m foils in the pool of stimulus j prediction i is less like b than like j, and as like e (ties). It is
    the mean over all sets of n - 1 foils, exactly; where k foils tie for the best, one of k + 1 is guessed.

    Parameters
    ----------
    scores : array of shape (n_predictions, n_stimuli)
        Similarities, higher is better. Scores that differ by rounding alone count as ties.
    n : int
        Faces to choose among; 2 with the whole pool is `win_rates`.
    pools : bool array of shape (n_stimuli, n_stimuli), optional
        Whether stimulus k is a foil of stimulus j. Default: all others are.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Accuracies between 0 and 1; chance is 1 / n.

    Raises
    ------
    UserError
        When a pool holds fewer than n - 1 foils or the stimulus itself, or a score is not finite.

    Notes
    -----
    The sum over k tied foils of :math:`\binom{e}{k} \binom{b}{n - 1 - k} / (k + 1)` is Vandermonde's, since
    :math:`\binom{e}{k} / (k + 1) = \binom{e + 1}{k + 1} / (e + 1)`.
    """
    s = _checked(scores)
    count = s.shape[1]
    foils = ~np.eye(count, dtype=bool) if pools is None else np.asarray(pools, dtype=bool)
    if foils.shape != (count, count) or foils.diagonal().any():
        raise UserError(
            f"pools of foils for {count} stimuli must be of shape ({count}, {count}) without the stimulus itself, "
            f"got {foils.shape}"
        )
    size = foils.sum(axis=1)
    if n < 2 or size.min() < n - 1:
        raise UserError(f"{n}-way identification needs {max(n, 2) - 1} foils, the smallest pool has {size.min()}")
    rates = np.empty_like(s)
    for j, pool in enumerate(foils):
        own, others = s[:, j, None], s[:, pool]
        beaten, even = (others < own).sum(axis=1), (others == own).sum(axis=1)
        # Without ties the difference of two large numbers is one of them: C(b + 1, n) - C(b, n) = C(b, n - 1).
        right = np.where(even, comb(beaten + even + 1, n) - comb(beaten, n), comb(beaten, n - 1))
        rates[:, j] = right / ((even + 1) * comb(size[j], n - 1))
    return rates


def matched_pools(attributes: ArrayLike, share: float = 1 / 3) -> NDArray[np.bool_]:
    """Choose for each face, as foils, the others that are most like it in their attributes.

    Nearest by Euclidean distance of the scores, each attribute in units of its spread over the faces. Foils of one
    gender, age and smile leave nothing to win by these.

    Parameters
    ----------
    attributes : array of shape (n_faces, n_attributes)
        Scores of the faces that were shown (never of predictions).
    share : float
        Share of the other faces that is kept, above 0 and up to 1; at least one.

    Returns
    -------
    bool array of shape (n_faces, n_faces)
        Entry (j, k): face k is a foil of face j.

    Raises
    ------
    UserError
        When there are fewer than two faces, a score is not finite, or the share is outside 0 to 1.
    """
    a = np.asarray(attributes, dtype=np.float64)
    if a.ndim != 2 or len(a) < 2 or not a.shape[1] or not np.all(np.isfinite(a)) or not 0 < share <= 1:
        raise UserError(
            f"matched foils need finite attribute scores of at least two faces and a share from 0 to 1, got shape "
            f"{a.shape}, {int((~np.isfinite(a)).sum())} not finite, and {share}"
        )
    spread = a.std(axis=0)
    standard = np.divide(a - a.mean(axis=0), spread, out=np.zeros_like(a), where=spread > 0)
    distance = np.linalg.norm(standard[:, None] - standard, axis=2)
    np.fill_diagonal(distance, np.inf)
    kept = max(1, round(share * (len(a) - 1)))
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :kept]
    pools = np.zeros(distance.shape, dtype=bool)
    np.put_along_axis(pools, nearest, True, axis=1)
    return pools


def identification_accuracy(scores: ArrayLike) -> Array:
    """Two-way identification accuracy of each face: the diagonal of `win_rates`.

    Parameters
    ----------
    scores : array of shape (n_faces, n_faces)
        Entry (i, j) compares the prediction for face i with stimulus j.

    Returns
    -------
    array of shape (n_faces,)
        Share of the other faces that the right face beats.
    """
    rates = win_rates(scores)
    if rates.shape[0] != rates.shape[1]:
        raise UserError(f"accuracy needs one prediction a stimulus, got scores of shape {rates.shape}")
    return np.diagonal(rates).copy()


def _checked(scores: ArrayLike) -> Array:
    """Return scores in which those that differ by rounding alone are equal."""
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or s.shape[1] < 2:
        raise UserError(f"identification needs scores for at least two stimuli, got shape {s.shape}")
    if not np.all(np.isfinite(s)):
        raise UserError(f"{int((~np.isfinite(s)).sum())} similarity scores are NaN or infinite: check the predictions")
    return np.asarray(np.round(s / max(float(np.abs(s).max()), np.finfo(float).tiny), 12))

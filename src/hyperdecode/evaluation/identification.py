"""Two-way identification: how often a prediction is closer to its own stimulus than to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from hyperdecode.errors import UserError

__all__ = ["identification_accuracy", "win_rates"]

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
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 2 or s.shape[1] < 2:
        raise UserError(f"identification needs scores for at least two stimuli, got shape {s.shape}")
    if not np.all(np.isfinite(s)):
        raise UserError(f"{int((~np.isfinite(s)).sum())} similarity scores are NaN or infinite: check the predictions")
    rounded = np.round(s / max(float(np.abs(s).max()), np.finfo(float).tiny), 12)
    ranks = np.asarray(rankdata(rounded, method="average", axis=1), dtype=np.float64)
    rates: Array = (ranks - 1) / (s.shape[1] - 1)
    return rates


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

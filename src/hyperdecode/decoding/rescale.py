"""Stretch shrunken predictions: to what averages over repeats deserve, or to the length of real latents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["averages_stretch", "match_norm"]


def averages_stretch(
    predicted: ArrayLike, stimuli: Sequence[str], centre: ArrayLike, n_repeats: ArrayLike
) -> NDArray[np.float64]:
    r"""Return by how much a decoder fitted to single trials shrinks the prediction for an average of n trials too much.

    .. math:: s(n) = \frac{V}{V - (1 - 1/n) N},

    with V the mean squared distance of predictions for single trials from `centre` and N their variance between trials
    of one stimulus, both summed over latents. Ridge regression is fitted so that predictions :math:`\bar y + p` of
    single trials have :math:`\mathrm{cov}(y, p) = \mathrm{var}(p) = V`. An average has the same covariance and only
    :math:`V - (1 - 1/n) N` of the variance: its best multiple is s, one for all faces of as many trials. No direction
    changes. What it takes from the trials is how far those of one stimulus scatter, never the stimulus' latents.

    Parameters
    ----------
    predicted : array of shape (n_trials, n_latents)
        Predictions for single trials that the decoder was not fitted to.
    stimuli : sequence of str, length n_trials
        The stimulus of each.
    centre : array of shape (n_latents,)
        Mean of the training latents.
    n_repeats : array of int
        How many trials each average is of.

    Returns
    -------
    array of the shape of `n_repeats`
        Between 1 and n; 1 where no stimulus has two trials, and nothing is known of N.
    """
    p, n = np.asarray(predicted, np.float64) - np.asarray(centre, np.float64), np.asarray(n_repeats, np.float64)
    names, place = np.unique(np.asarray(stimuli, dtype=str), return_inverse=True)
    counts = np.bincount(place)
    if not (counts > 1).any():
        return np.ones(n.shape)
    means = np.zeros((len(names), p.shape[1]))
    np.add.at(means, place, p)
    scatter = p - (means / counts[:, None])[place]
    noise = float(np.square(scatter).sum() / (counts - 1).sum())
    total = float(np.square(p).sum(1).mean())
    if total == 0:
        return np.ones(n.shape)
    stretch: NDArray[np.float64] = total / np.maximum(total - (1 - 1 / n) * noise, total / n)
    return stretch


def match_norm(predicted: ArrayLike, mean: ArrayLike, norm: float) -> NDArray[np.float64]:
    r"""Stretch each prediction away from the training mean until it is as far from it as real latents are.

    .. math:: \hat y_i' = \bar y + \frac{n}{\lVert \hat y_i - \bar y \rVert} (\hat y_i - \bar y)

    Ridge regression shrinks its predictions towards the training mean, the more so the noisier the data: drawn as
    they are, they all look like the average face. Their direction is what was decoded. Latent scores are taken
    before, pictures after this step. It uses training latents and the prediction itself, nothing of the test stimuli.

    Parameters
    ----------
    predicted : array of shape (n, n_latents)
        Decoded latents.
    mean : array of shape (n_latents,)
        Mean of the training latents.
    norm : float
        Mean distance of the training latents from their mean.

    Returns
    -------
    array of shape (n, n_latents)
        A prediction that equals the mean exactly stays there.

    Raises
    ------
    UserError
        When shapes do not fit or `norm` is not positive.
    """
    p, m = np.asarray(predicted, np.float64), np.asarray(mean, np.float64)
    if p.ndim != 2 or m.shape != p.shape[1:]:
        raise UserError(f"predictions of shape {p.shape} need a mean of one row, got shape {m.shape}")
    if not norm > 0:
        raise UserError(f"the norm of training latents must be positive, got {norm}")
    away = p - m
    length = np.linalg.norm(away, axis=1, keepdims=True)
    stretched: NDArray[np.float64] = m + away * np.divide(norm, length, out=np.zeros_like(length), where=length > 0)
    return stretched

"""Similarity of predictions and stimuli: one number for each pair, as a matrix.

Every function here returns scores of shape (n_predictions, n_stimuli) whose entry (i, j) compares
prediction i with stimulus j; higher is better. The diagonal holds the score of each face, and the
matrix holds all that a test of the *pairing* needs (`hyperdecode.evaluation.permutation`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = [
    "checked_pair",
    "correlation_scores",
    "cosine_scores",
    "feature_scores",
    "lsim_scores",
    "norm_ratios",
    "r_squared_scores",
    "standardise",
]

Array = NDArray[np.float64]


def standardise(latents: ArrayLike, mean: ArrayLike, sd: ArrayLike) -> Array:
    """Put latents on the scale where the generator's own samples have mean 0 and standard deviation 1.

    ``(latents - mean) / sd`` for each dimension. On this scale predicting zero is predicting the average
    face, and `lsim_scores` has the values that it has for N(0, I) latents.

    Parameters
    ----------
    latents : array of shape (n, n_latents)
        Latents in the generator's space.
    mean, sd : arrays of shape (n_latents,)
        Mean and standard deviation of the generator's latents; all `sd` positive.

    Returns
    -------
    array of shape (n, n_latents)
        Standardised latents, float64.

    Raises
    ------
    UserError
        When shapes do not fit or an `sd` is not positive.
    """
    values, centre, scale = (np.asarray(a, dtype=np.float64) for a in (latents, mean, sd))
    width = values.shape[-1] if values.ndim else 0
    if centre.shape != (width,) or scale.shape != (width,):
        raise UserError(
            f"latents with {width} dimensions need a mean and an sd of shape ({width},), "
            f"got {centre.shape} and {scale.shape}"
        )
    if not np.all(scale > 0):
        raise UserError(f"{int((~(scale > 0)).sum())} latent dimensions have no spread: leave them out")
    standardised: Array = (values - centre) / scale
    return standardised


def lsim_scores(predicted: ArrayLike, true: ArrayLike) -> Array:
    """Latent similarity, ``1 / (1 + mean((predicted - true)^2))``, between 0 and 1.

    Parameters
    ----------
    predicted : array of shape (n_predictions, n_latents)
        Decoded latents.
    true : array of shape (n_stimuli, n_latents)
        Latents of the stimuli.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Similarity of each pair.

    Notes
    -----
    The formula is that of the code of Dado et al. (2022), Sci. Rep. 12:141. With true latents from N(0, I),
    predicting zero scores about 0.50 and fresh N(0, I) noise about 0.33: a value means nothing by itself.
    """
    p, t = checked_pair(predicted, true)
    similarity: Array = 1.0 / (1.0 + _squared_distances(p, t) / p.shape[1])
    return similarity


def cosine_scores(predicted: ArrayLike, true: ArrayLike, centre: ArrayLike | None = None) -> Array:
    """Cosine of the angle between prediction and stimulus, seen from `centre`.

    ``(p - c).(t - c) / (|p - c| |t - c|)``; a prediction that lies on the centre has no direction and scores 0.

    Parameters
    ----------
    predicted : array of shape (n_predictions, n_latents)
        Decoded latents.
    true : array of shape (n_stimuli, n_latents)
        Latents of the stimuli.
    centre : array of shape (n_latents,), optional
        The origin, best the mean of the *training* latents. Default: zero.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Cosines, between -1 and 1.
    """
    p, t = checked_pair(predicted, true)
    c = np.zeros(p.shape[1]) if centre is None else np.asarray(centre, dtype=np.float64)
    return _unit_rows(_without(p, c)) @ _unit_rows(_without(t, c)).T


def correlation_scores(predicted: ArrayLike, true: ArrayLike, centre: ArrayLike | None = None) -> Array:
    """Pearson correlation over dimensions between prediction and stimulus, after subtracting `centre`.

    The cosine of rows that also had their own mean taken off. Constant rows score 0. With flattened
    pictures this is the pixelwise correlation (PixCorr).

    Parameters
    ----------
    predicted : array of shape (n_predictions, n_latents)
        Decoded latents, or pictures flattened to rows.
    true : array of shape (n_stimuli, n_latents)
        Latents of the stimuli, or pictures flattened to rows.
    centre : array of shape (n_latents,), optional
        Subtracted from both first, best the mean of the *training* latents. Default: zero.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Correlations, between -1 and 1.
    """
    p, t = checked_pair(predicted, true)
    if centre is not None:
        p, t = (_without(a, np.asarray(centre, dtype=np.float64)) for a in (p, t))
    p, t = (_without(a, a.mean(axis=1, keepdims=True)) for a in (p, t))
    return _unit_rows(p) @ _unit_rows(t).T


def r_squared_scores(predicted: ArrayLike, true: ArrayLike, training_mean: ArrayLike) -> Array:
    """Share of the squared distance from the training mean that a prediction explains.

    ``1 - |p_i - t_j|^2 / mean_k |t_k - m|^2``: the denominator is shared, so that the mean of the diagonal
    is the pooled ``R^2 = 1 - sum |p - t|^2 / sum |t - m|^2``. Predicting the training mean `m` scores 0;
    there is no lower bound.

    Parameters
    ----------
    predicted : array of shape (n_predictions, n_latents)
        Decoded latents.
    true : array of shape (n_stimuli, n_latents)
        Latents of the stimuli.
    training_mean : array of shape (n_latents,)
        Mean latent of the training stimuli.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Explained shares, at most 1.

    Raises
    ------
    UserError
        When all stimuli lie on the training mean.
    """
    p, t = checked_pair(predicted, true)
    total = float(np.mean(np.sum((t - np.asarray(training_mean)) ** 2, axis=1)))
    if total == 0:
        raise UserError("R^2 needs stimuli that differ from the training mean, got none: check the latents")
    return 1.0 - _squared_distances(p, t) / total


def feature_scores(predicted: ArrayLike, true: ArrayLike) -> Array:
    """Feature similarity, ``1 / (1 + mean((predicted - true)^2))`` of a face network's features.

    The authors' formula, that of `lsim_scores`: its size depends on the network's unit, so that numbers of two networks
    cannot be compared (``fsim`` is the paper's network, ``fsim_dlib`` dlib's).

    Parameters
    ----------
    predicted : array of shape (n_predictions, n_features)
        Features of the reconstructions.
    true : array of shape (n_stimuli, n_features)
        Features of the stimuli.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Similarity of each pair.
    """
    return lsim_scores(predicted, true)


def norm_ratios(predicted: ArrayLike, true: ArrayLike, training_mean: ArrayLike) -> Array:
    """How far predictions lie from the training mean, in distances of the stimuli: ``|p_i - m| / |t_j - m|``.

    It describes shrinkage and is no score: 1 is the right length in any direction, right or wrong; below 1 decoded
    faces are more average than those shown, and the least squared error of noisy responses wants that.

    Parameters
    ----------
    predicted : array of shape (n_predictions, n_latents)
        Decoded latents.
    true : array of shape (n_stimuli, n_latents)
        Latents of the stimuli.
    training_mean : array of shape (n_latents,)
        Mean latent of the training stimuli.

    Returns
    -------
    array of shape (n_predictions, n_stimuli)
        Ratios, 0 or more.

    Raises
    ------
    UserError
        When a stimulus lies on the training mean.
    """
    p, t = checked_pair(predicted, true)
    own, length = (np.linalg.norm(a - np.asarray(training_mean), axis=1) for a in (p, t))
    if not np.all(length > 0):
        raise UserError(
            f"the norm ratio needs stimuli that differ from the training mean, {int((length == 0).sum())} do not: "
            "check the latents"
        )
    return np.asarray(own[:, None] / length)


def checked_pair(predicted: ArrayLike, true: ArrayLike) -> tuple[Array, Array]:
    """Return both as float64 matrices with rows of one length, all finite; else raise `UserError`."""
    p, t = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if p.ndim != 2 or t.ndim != 2 or p.shape[1] != t.shape[1] or not p.size or not t.size:
        raise UserError(
            f"predictions and stimuli must be matrices with rows of one length, got shapes {p.shape} and {t.shape}"
        )
    for name, values in (("predictions", p), ("stimuli", t)):
        if not np.all(np.isfinite(values)):
            raise UserError(f"{name} hold {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
    return p, t


def _squared_distances(p: Array, t: Array) -> Array:
    return np.stack([np.sum((t - row) ** 2, axis=1) for row in p])


def _without(values: Array, centre: Array) -> Array:
    """Subtract `centre`, and make rows that differ from it by rounding alone exactly zero."""
    left: Array = values - centre
    rounding = 1e-12 * np.abs(values).max(axis=1, keepdims=True)
    return np.where(np.abs(left).max(axis=1, keepdims=True) > rounding, left, 0.0)


def _unit_rows(values: Array) -> Array:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Array = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return unit

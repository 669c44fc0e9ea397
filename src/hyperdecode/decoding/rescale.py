"""Give shrunken predictions the length of real latents, for pictures alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["match_norm"]


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

"""Ridge regression with a penalty for each principal component of the generator's latents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.decoding.arrays import to_numpy
from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.checks import checked_latents
from hyperdecode.decoding.penalties import DEFAULT_ALPHAS
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning, UserError

__all__ = ["ComponentRidgeDecoder"]

ISOTROPIC = 1.05
"""Ratio of the largest to the least prior variance below which no direction of the latents is told from another."""


class ComponentRidgeDecoder(LinearDecoder):
    r"""Ridge regression on the principal components of the latents.

    .. math:: \Gamma = V \Lambda V^\top, \qquad \hat y = V \hat u(x),

    where :math:`\hat u` is `RidgeDecoder`, with a penalty of its own for each component of :math:`u = V^\top y`.
    Latents w vary in few directions by far the most, and responses tell of those; one penalty for all of them shrinks
    these too much and the others too little. Where the prior has no directions (z ~ N(0, I)) all components share a
    penalty, and this is plain ridge regression.

    Parameters
    ----------
    prior_covariance : array of shape (n_latents, n_latents)
        Of the generator's latents (`hyperdecode.decoding.posterior.latent_prior`), on the scale of those fitted to.
    alphas, cv, standardize, seed
        As those of `hyperdecode.decoding.ridge.RidgeDecoder`.

    Attributes
    ----------
    ridge_ : RidgeDecoder
        The fitted regression on components.
    alpha_ : array of shape (n_latents,), or float where all share it
        Penalty of each component, that of the largest prior variance first.
    components_ : array of shape (n_latents, n_latents)
        V, one component a column.
    coef_, intercept_, x_mean_, x_scale_, n_features_in_
        As those of `hyperdecode.decoding.ridge.RidgeDecoder`.
    """

    def __init__(
        self,
        prior_covariance: ArrayLike,
        alphas: Sequence[float] | NDArray[np.float64] = DEFAULT_ALPHAS,
        cv: int | str = "loo",
        standardize: bool = True,
        seed: int = 0,
    ) -> None:
        self.prior_covariance = prior_covariance
        self.alphas = alphas
        self.cv = cv
        self.standardize = standardize
        self.seed = seed

    def fit(
        self,
        X: Any,
        Y: Any,
        roles: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
        sample_weight: Any | None = None,
    ) -> Self:
        """Fit to training trials; arguments and errors are those of `RidgeDecoder.fit`.

        Raises
        ------
        UserError
            Also when the prior is of latents of another number of dimensions.
        """
        latents, self._one_latent = checked_latents(Y)
        covariance = np.asarray(self.prior_covariance, np.float64)
        if covariance.shape != (latents.shape[1],) * 2:
            raise UserError(
                f"latents of {latents.shape[1]} dimensions need a prior covariance of as many, got shape "
                f"{covariance.shape}: give that of the generator the stimuli were made with"
            )
        variances, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        apart = bool(variances[-1] > ISOTROPIC * variances[0])
        self.components_ = vectors[:, ::-1].copy()
        ridge = RidgeDecoder(self.alphas, self.cv, apart, self.standardize, self.seed)
        with warnings.catch_warnings():
            if apart:
                # Responses need not tell of every component: the highest penalty is then the right one.
                warnings.filterwarnings("ignore", message="the best ridge penalty is the highest", category=DataWarning)
            self.ridge_ = ridge.fit(X, to_numpy(latents) @ self.components_, roles, groups, sample_weight)
        self.alpha_, self.n_features_in_ = ridge.alpha_, ridge.n_features_in_
        self.x_mean_, self.x_scale_ = ridge.x_mean_, ridge.x_scale_
        self.coef_ = (self.components_ @ ridge.coef_).astype(ridge.coef_.dtype)
        self.intercept_ = (self.components_ @ ridge.intercept_).astype(ridge.coef_.dtype)
        return self

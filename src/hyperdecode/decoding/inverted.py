"""An encoding model turned round: the posterior mean as a linear decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.posterior import N_COMPONENTS, LatentPosterior

__all__ = ["InvertedEncodingDecoder"]


class InvertedEncodingDecoder(LinearDecoder):
    r"""Mean of `LatentPosterior` for single trials, which is linear in the voxels.

    .. math:: \hat y = \mu + \Gamma A^\top (A \Gamma A^\top + \Psi)^{-1} (f(x) - c - A \mu)

    It knows how the generator's latents vary together (:math:`\Gamma`) and models the noise of the responses
    (:math:`\Psi`), but reads their leading components alone, so that neither it nor ridge regression is always
    better. Test trials tell it nothing, not even how many were averaged.

    Parameters
    ----------
    prior_mean, prior_covariance, n_components, n_folds, seed
        As those of `hyperdecode.decoding.posterior.LatentPosterior`.

    Attributes
    ----------
    posterior_ : LatentPosterior
        The fitted model.
    coef_, intercept_, n_features_in_
        As those of `hyperdecode.decoding.base.LinearDecoder`.
    """

    def __init__(
        self,
        prior_mean: Any,
        prior_covariance: Any,
        n_components: Sequence[int] = N_COMPONENTS,
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.prior_mean = prior_mean
        self.prior_covariance = prior_covariance
        self.n_components = n_components
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self,
        X: Any,
        Y: Any,
        roles: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
        sample_weight: Any | None = None,
    ) -> Self:
        """Fit to training trials; arguments and errors are those of `LatentPosterior.fit`."""
        trials = self._training_trials(X, Y, roles, sample_weight)
        model = LatentPosterior(self.prior_mean, self.prior_covariance, self.n_components, self.n_folds, self.seed).fit(
            trials.voxels, trials.latents, roles, groups, trials.weights
        )
        covariance, mean = np.asarray(self.prior_covariance, np.float64), np.asarray(self.prior_mean, np.float64)
        shared = model.encoding_ @ covariance
        gain = np.linalg.solve(shared @ model.encoding_.T + model.residual_covariance_, shared).T
        self.posterior_ = model
        self.coef_ = gain @ model.weights_.T
        self.intercept_ = mean + gain @ (model.offset_ - model.encoding_intercept_ - model.encoding_ @ mean)
        return self

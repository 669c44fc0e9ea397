"""What all linear decoders share: checks before a fit, and prediction by weights and an intercept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hyperdecode.decoding.arrays import Kind
from hyperdecode.decoding.checks import checked_matrix, checked_pair, checked_weights
from hyperdecode.split import require_training

__all__ = ["LinearDecoder", "TrainingTrials"]


class TrainingTrials(NamedTuple):
    """What a decoder is fitted to, on one device and of one type.

    Attributes
    ----------
    voxels : Tensor, (n_trials, n_voxels)
    latents : Tensor, (n_trials, n_latents)
    weights : Tensor, (n_trials,), or None
        Of the trials, positive, with a mean of 1.
    kind : Kind
        Of the responses.
    """

    voxels: Tensor
    latents: Tensor
    weights: Tensor | None
    kind: Kind


class LinearDecoder(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the decoders whose prediction is ``X @ coef_.T + intercept_``.

    Learned attributes are NumPy arrays, whatever was given to `fit`: they can be inspected and saved. `predict`
    computes where its responses lie and returns what came in: NumPy or torch, CPU or GPU, float32 or float64.

    Attributes
    ----------
    coef_ : array of shape (n_latents, n_voxels)
        Weights for raw voxels.
    intercept_ : array of shape (n_latents,)
        Constant that goes with `coef_`.
    n_features_in_ : int
        Number of voxels.
    """

    coef_: NDArray[np.floating]
    intercept_: NDArray[np.floating]
    n_features_in_: int

    def _training_trials(
        self, X: Any, Y: Any, roles: Sequence[str] | None, sample_weight: Any | None = None
    ) -> TrainingTrials:
        """Check what came to `fit`; a test trial among the rows is refused."""
        voxels, latents, kind = checked_pair(X, Y)
        require_training(roles, len(voxels), type(self).__name__)
        self.n_features_in_ = voxels.shape[1]
        return TrainingTrials(voxels, latents, checked_weights(sample_weight, voxels), kind)

    def predict(self, X: Any) -> Any:
        """Decode latents from responses.

        Parameters
        ----------
        X : array or Tensor of shape (n_trials, n_voxels)
            Responses, in the units of the training responses.

        Returns
        -------
        array or Tensor of shape (n_trials, n_latents)
            What `X` is: library, device, float32 or float64.

        Raises
        ------
        UserError
            When the number of voxels differs from the training's, or a response is not finite.
        """
        check_is_fitted(self)
        voxels, kind = checked_matrix(X, "responses", self.n_features_in_)
        weights, constant = (torch.from_numpy(a).to(voxels) for a in (self.coef_, self.intercept_))
        return kind.back(torch.addmm(constant, voxels, weights.T))

"""What all linear decoders share: checks before a fit, and prediction by weights and an intercept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from hyperdecode.decoding.arrays import Kind, as_tensor, to_numpy
from hyperdecode.decoding.blocks import Responses
from hyperdecode.decoding.checks import (
    checked_latents,
    checked_matrix,
    checked_weights,
    refuse_constant,
    refuse_other_length,
)
from hyperdecode.errors import UserError
from hyperdecode.split import require_training

__all__ = ["LinearDecoder", "TrainingTrials"]

BLOCK_BYTES = 256 * 2**20
"""Responses that are read at once for a prediction."""


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
    feature_names_in_ : array of shape (n_voxels,)
        Their names, where the responses came as a table with names; another order of them is refused by `predict`.
    """

    coef_: NDArray[np.floating]
    intercept_: NDArray[np.floating]
    x_mean_: NDArray[np.floating]
    x_scale_: NDArray[np.floating]
    n_features_in_: int
    _one_latent: bool = False

    def _training_trials(
        self, X: Any, Y: Any, roles: Sequence[str] | None, sample_weight: Any | None = None
    ) -> TrainingTrials:
        """Check what came to `fit`; a test trial among the rows is refused."""
        voxels, kind = checked_matrix(X, "responses")
        latents = self._training_latents(X, Y, tuple(voxels.shape), roles)
        return TrainingTrials(voxels, latents.to(voxels), checked_weights(sample_weight, voxels), kind)

    def _standardised(self, trials: TrainingTrials, scaled: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return voxels and latents centred (voxels scaled, too), and the mean of the latents; all float64."""
        voxels, latents = trials.voxels.double(), trials.latents.double()
        weights = torch.ones(len(voxels)).to(voxels) if trials.weights is None else trials.weights.double()
        mean = weights @ voxels / len(voxels)
        spread = (weights @ (voxels - mean).square() / len(voxels)).sqrt()
        refuse_constant(trials.voxels, spread.to(trials.voxels))
        scale = spread if scaled else torch.ones_like(spread)
        self.x_mean_, self.x_scale_ = to_numpy(mean), to_numpy(scale)
        latent_mean = weights @ latents / len(latents)
        return (voxels - mean) / scale, latents - latent_mean, latent_mean

    def _training_latents(self, X: Any, Y: Any, shape: tuple[int, ...], roles: Sequence[str] | None) -> Tensor:
        """Check all that came to `fit` but the numbers in the responses, and return the latents as a matrix."""
        latents, self._one_latent = checked_latents(Y)
        refuse_other_length(shape, len(latents))
        require_training(roles, shape[0], type(self).__name__)
        self.n_features_in_ = shape[1]
        self._check_names(X, reset=True)
        return latents

    def _check_names(self, X: Any, reset: bool) -> None:
        """Remember the names of the voxels in a table, or compare them with those that were remembered."""
        if not isinstance(X, Tensor):
            try:
                validate_data(self, X, reset=reset, skip_check_array=True)
            except ValueError as error:
                raise UserError(" ".join(str(error).split())) from error

    def predict(self, X: Any) -> Any:
        """Decode latents from responses.

        Parameters
        ----------
        X : array or Tensor of shape (n_trials, n_voxels)
            Responses, in the units of the training responses.

        Returns
        -------
        array or Tensor of shape (n_trials, n_latents), or (n_trials,) when `fit` got one latent so
            What `X` is: library, device, float32 or float64. What lies on disk is read in blocks of trials.

        Raises
        ------
        UserError
            When the number of voxels differs from the training's, or a response is not finite.
        """
        check_is_fitted(self)
        voxels = Responses(X, "responses", self.n_features_in_)
        self._check_names(X, reset=False)
        kind = voxels.kind
        learned = {"coef_": self.coef_, "intercept_": self.intercept_}
        weights, constant = (as_tensor(a, name)[0].to(kind.device, kind.dtype) for name, a in learned.items())
        predicted = torch.empty(voxels.shape[0], len(constant), dtype=kind.dtype, device=kind.device)
        finite = torch.ones(voxels.shape[1], dtype=torch.bool, device=kind.device)
        for rows, block in voxels.row_blocks(BLOCK_BYTES):
            finite &= torch.isfinite(block).all(0)
            torch.addmm(constant, block, weights.T, out=predicted[rows])
        voxels.refuse_bad(int((~finite).sum()))
        return kind.back(predicted.squeeze(1) if self._one_latent else predicted)

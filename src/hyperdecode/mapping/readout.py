"""A linear decoder as occlusion sees it: weights from voxels to a basis, predictions and truths of the test faces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from hyperdecode.decoding.activation_ridge import ActivationRidge, CompressedActivations
from hyperdecode.errors import UserError

__all__ = ["LinearReadout", "readout_of_activations", "readout_of_latents"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearReadout:
    r"""What a linear readout of responses predicts of n test faces, in an orthonormal basis of k vectors.

    With a_j the true activation of face j and p_i the prediction from the responses to face i,

    .. math:: \|a_j - p_i\|^2 = \|\tilde a_j - \tilde p_i\|^2 + r_j^2,

    where the tilde is the part inside the basis and r_j the length of what lies outside it: predictions never do.

    Attributes
    ----------
    weights : array of floats, shape (n_voxels, k)
        Of raw voxels; the prediction changes by ``x @ weights`` where responses change by x. May be float32 or a
        `numpy.memmap`: rows are read and made float64 as they are needed.
    predicted : array of shape (n, k)
        Predictions from all voxels.
    true : array of shape (n, k)
        Of the faces shown, the same rows.
    residuals : array of shape (n,)
        r_j.
    n_features : int
        Features of one whole activation.
    variance : float
        Mean over features of the variance of the training activations.

    Raises
    ------
    UserError
        When shapes do not fit, there are fewer than two faces, a value is not finite or the training activations do
        not vary.
    """

    weights: NDArray[np.floating]
    predicted: Array
    true: Array
    residuals: Array
    n_features: int
    variance: float

    def __post_init__(self) -> None:
        n, k = self.predicted.shape if self.predicted.ndim == 2 else (0, 0)
        if n < 2 or self.true.shape != (n, k) or self.residuals.shape != (n,) or self.weights.shape[1:] != (k,):
            raise UserError(
                "a readout needs weights (voxels, k), predictions and truths (faces, k) of two faces or more and one "
                f"residual a face, got {self.weights.shape}, {self.predicted.shape}, {self.true.shape} and "
                f"{self.residuals.shape}"
            )
        named = {
            "weights": self.weights,
            "predictions": self.predicted,
            "truths": self.true,
            "residuals": self.residuals,
        }
        for name, values in named.items():
            if not np.isfinite(values).all():
                raise UserError(f"{name} of a readout hold values that are NaN or infinite: check the decoder's input")
        if self.n_features < 1 or not (np.isfinite(self.variance) and self.variance > 0):
            raise UserError(
                f"activations need features that vary in training, got {self.n_features} of variance {self.variance}"
            )

    @property
    def n_voxels(self) -> int:
        """Number of voxels that are read."""
        return int(self.weights.shape[0])

    @cached_property
    def squared_distances(self) -> Array:
        """Squared distance of prediction i and truth j over all features, shape (n, n)."""
        inside: Array = cdist(self.predicted, self.true, "sqeuclidean")
        return inside + self.residuals**2

    @cached_property
    def towards_true(self) -> Array:
        """What each voxel adds along each truth, ``weights @ true.T``, shape (n_voxels, n)."""
        rows = max(1, 2**25 // (8 * self.weights.shape[1]))
        towards = np.empty((self.n_voxels, len(self.true)))
        for start in range(0, self.n_voxels, rows):
            part = np.asarray(self.weights[start : start + rows], np.float64)
            towards[start : start + rows] = part @ self.true.T
        return towards


def readout_of_activations(ridge: ActivationRidge, responses: ArrayLike, true: CompressedActivations) -> LinearReadout:
    """Take the readout of a layer's activations, exact for all features through their compressed basis.

    Parameters
    ----------
    ridge : ActivationRidge
        Fitted to training trials.
    responses : array of shape (n, n_voxels)
        To test faces, averaged over repeats.
    true : CompressedActivations
        Of the same faces, by ``ridge.compress``.

    Returns
    -------
    LinearReadout
        `variance` is that of the training activations about their mean, over trials and features.

    Raises
    ------
    UserError
        When responses and truths are not of the same faces, or not what the decoder was fitted to.
    """
    x = _checked_responses(responses, ridge.coef_.shape[1])
    coordinates = np.asarray(true.coordinates, np.float64)
    if len(coordinates) != len(x):
        raise UserError(f"{len(x)} responses came with {len(coordinates)} true activations: give the same faces")
    if coordinates.shape[1] != len(ridge.coef_):
        raise UserError(
            f"true activations have {coordinates.shape[1]} coordinates, the decoder {len(ridge.coef_)}: compress them "
            "with this decoder"
        )
    n_features = int(np.prod(ridge.shape_))
    variance = float(np.square(ridge.coordinates_).sum() / len(ridge.coordinates_) / n_features)
    weights = np.ascontiguousarray(ridge.coef_.T)
    predicted = x @ weights.astype(np.float64, copy=False) + ridge.intercept_
    return LinearReadout(weights, predicted, coordinates, np.asarray(true.residuals, np.float64), n_features, variance)


def readout_of_latents(
    coef: ArrayLike, intercept: ArrayLike, responses: ArrayLike, true_latents: ArrayLike, scale: ArrayLike
) -> LinearReadout:
    """Take the readout of latents, each divided by its standard deviation.

    Parameters
    ----------
    coef : array of shape (n_latents, n_voxels)
        Weights for raw voxels, ``coef_`` of a linear decoder.
    intercept : array of shape (n_latents,)
        ``intercept_`` of it.
    responses : array of shape (n, n_voxels)
        To test faces, averaged over repeats.
    true_latents : array of shape (n, n_latents)
        Of the same faces.
    scale : float or array of shape (n_latents,)
        Standard deviation of the training latents, positive.

    Returns
    -------
    LinearReadout
        Of n_latents features with a variance of 1.

    Raises
    ------
    UserError
        When shapes do not fit or a scale is not positive.
    """
    weights, true = np.asarray(coef, np.float64), np.asarray(true_latents, np.float64)
    if weights.ndim != 2 or true.ndim != 2 or true.shape[1] != len(weights):
        raise UserError(
            f"weights (latents, voxels) and true latents (faces, latents) do not fit: {weights.shape}, {true.shape}"
        )
    x, k = _checked_responses(responses, weights.shape[1]), len(weights)
    sd, constant = np.asarray(scale, np.float64), np.asarray(intercept, np.float64)
    if sd.shape not in ((), (k,)) or not np.all(sd > 0) or constant.shape != (k,):
        raise UserError(
            f"{k} latents need a positive scale, one or {k}, and {k} intercepts, got shapes {sd.shape} and "
            f"{constant.shape}"
        )
    scaled = np.ascontiguousarray(weights.T / sd)
    return LinearReadout(scaled, x @ scaled + constant / sd, true / sd, np.zeros(len(true)), k, 1.0)


def _checked_responses(responses: ArrayLike, n_voxels: int) -> Array:
    x = np.asarray(responses, np.float64)
    if x.ndim != 2 or x.shape[1] != n_voxels:
        raise UserError(f"the decoder reads {n_voxels} voxels, got responses of shape {x.shape}: give faces x voxels")
    return x

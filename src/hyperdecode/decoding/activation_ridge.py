"""Ridge regression from voxels straight to activations, however many, through an exact compression of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.blocks import Responses
from hyperdecode.decoding.penalties import DEFAULT_ALPHAS
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import UserError
from hyperdecode.split import require_training

__all__ = ["ActivationRidge", "CompressedActivations"]

BLOCK_BYTES = 2**27
"""Of one block of features of all trials, in float64."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CompressedActivations:
    """Activations as far as they matter beside predictions.

    Attributes
    ----------
    coordinates : array of shape (n, rank)
        Of their deviations from the mean training activation, in the basis of the training activations.
    residuals : array of shape (n,)
        Length of what lies outside that basis.
    sums : array of shape (n,)
        Sum of each deviation over all features.
    """

    coordinates: Array
    residuals: Array
    sums: Array


class ActivationRidge(LinearDecoder):
    r"""Ridge regression from responses to the activations of a generator's layer; the generator is not needed.

    With :math:`A` the activations of n training trials (n x millions), :math:`\bar a` their mean and
    :math:`A - 1 \bar a^\top = U S V^\top`,

    .. math::
        \hat a(x) = \bar a + V \hat c(x), \qquad \hat c = \text{ridge fitted to the coordinates } C = U S .

    Ridge with one penalty for all targets is linear in them, and V keeps all lengths and angles: predictions, errors of
    every trial left out and the penalty chosen by them are exactly those of ridge on A itself. C has at most n - 1
    columns and comes from the n x n products of the trials, summed over blocks of features; V is never made.

    Parameters
    ----------
    alphas, cv, standardize, seed
        As in `RidgeDecoder`, whose penalty is shared by all activations.

    Attributes
    ----------
    coef_ : array of shape (rank, n_voxels)
        Weights for raw voxels: ``predict(X) == X @ coef_.T + intercept_``, coordinates in the compressed basis.
    intercept_ : array of shape (rank,)
        Constant that goes with `coef_`.
    coordinates_ : array of shape (n_trials, rank)
        C, of the training trials.
    loadings_ : array of shape (n_trials, rank)
        :math:`U S^{-1}`; the basis is ``loadings_.T @ (A - A.mean(0))``, its columns of length 1.
    basis_sums_ : array of shape (rank,)
        Sum over all features of each column of the basis.
    shape_ : tuple of int
        Of one trial's activation.
    alpha_ : float
        The chosen penalty.
    cv_scores_ : array of shape (n_alphas,)
        Minus the mean squared error of an activation on trials left out, for each of `alphas_`.
    alphas_ : array of shape (n_alphas,)
        The penalties tried.
    n_features_in_ : int
        Number of voxels.
    """

    def __init__(
        self,
        alphas: Sequence[float] | Array = DEFAULT_ALPHAS,
        cv: int | str = "loo",
        standardize: bool = True,
        seed: int = 0,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.standardize = standardize
        self.seed = seed

    def fit(
        self,
        X: Any,
        A: Any,
        roles: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
        sample_weight: Any | None = None,
    ) -> Self:
        """Fit to training trials.

        Parameters
        ----------
        X : array or Tensor of shape (n_trials, n_voxels)
            Responses.
        A : array or Tensor of shape (n_trials, n_features) or (n_trials, channels, height, width)
            Activations of the faces shown (a centre crop, say). A `numpy.memmap`, or an h5py dataset of two axes, is
            read in blocks.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.
        groups, sample_weight : optional
            As in `RidgeDecoder.fit`.

        Returns
        -------
        ActivationRidge
            Itself, fitted.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together, contain NaN, constant voxels or activations that do not differ.
        """
        activations = _flat(A)
        require_training(roles, activations.shape[0], type(self).__name__)
        self._training_trials(X, np.zeros((activations.shape[0], 1)), roles)
        values, vectors, sums = _principal_axes(activations)
        self.shape_ = tuple(int(side) for side in A.shape[1:])
        self.coordinates_ = vectors * np.sqrt(values)
        self.loadings_ = vectors / np.sqrt(values)
        ridge = RidgeDecoder(alphas=self.alphas, cv=self.cv, standardize=self.standardize, seed=self.seed)
        ridge.fit(X, self.coordinates_, roles=roles, groups=groups, sample_weight=sample_weight)
        self.coef_, self.intercept_ = ridge.coef_, ridge.intercept_
        self.alpha_, self.alphas_ = ridge.alpha_, ridge.alphas_
        self.cv_scores_ = ridge.cv_scores_ * (len(values) / activations.shape[1])
        self.basis_sums_ = self.loadings_.T @ sums
        return self

    def predict(self, X: Any) -> Any:
        """Decode activations from responses, as coordinates in the compressed basis.

        Parameters
        ----------
        X : array or Tensor of shape (n_trials, n_voxels)

        Returns
        -------
        array or Tensor of shape (n_trials, rank)
            What `X` is: library, device, float32 or float64. `expand` makes activations of it.
        """
        return super().predict(X)

    def expand(self, coordinates: Any, A: Any, out: Any | None = None) -> Any:
        """Make full activations of coordinates.

        Parameters
        ----------
        coordinates : array of shape (n, rank)
            Of `predict`.
        A : array or Tensor of shape (n_trials, ...)
            The training activations that were fitted.
        out : array of shape (n, ...), optional
            Where to write, a `numpy.memmap` say. Default: a new array in memory.

        Returns
        -------
        array of shape (n, ...)
            `out`, or float32.

        Raises
        ------
        UserError
            When shapes do not fit, or A is not what was fitted.
        """
        weights = self._checked(coordinates) @ self.loadings_.T
        training = self._training_activations(A)
        shape = (len(weights), *self.shape_)
        if out is not None and (tuple(out.shape) != shape or not out.flags.c_contiguous):
            raise UserError(f"out must be contiguous and of shape {shape}, got shape {tuple(out.shape)}")
        made = np.empty(shape, np.float32) if out is None else out
        flat = made.reshape(len(weights), -1)
        for block, mean, away in _blocks(training):
            flat[:, block] = (mean + torch.from_numpy(weights) @ away).numpy()
        return made

    def compress(self, A_new: Any, A: Any) -> CompressedActivations:
        """Project new activations on the compressed basis.

        Parameters
        ----------
        A_new : array or Tensor of shape (n, ...)
            Activations of other faces.
        A : array or Tensor of shape (n_trials, ...)
            The training activations that were fitted.

        Returns
        -------
        CompressedActivations

        Raises
        ------
        UserError
            When shapes do not fit, or A is not what was fitted.
        """
        training, new = self._training_activations(A), _flat(A_new)
        if tuple(A_new.shape[1:]) != self.shape_:
            raise UserError(
                f"new activations have shape {tuple(A_new.shape[1:])} each, those fitted have {self.shape_}: "
                "take the same layer and crop"
            )
        loadings = torch.from_numpy(self.loadings_)
        products = torch.zeros(new.shape[0], training.shape[0], dtype=torch.float64)
        sums = torch.zeros(new.shape[0], dtype=torch.float64)
        for block, mean, away in _blocks(training):
            there = _read(new, block) - mean
            products += there @ away.T
            sums += there.sum(1)
        coordinates = products @ loadings
        # A second pass: the difference of two squared lengths would lose half the digits.
        weights, squares = coordinates @ loadings.T, torch.zeros_like(sums)
        for block, mean, away in _blocks(training):
            squares += (_read(new, block) - mean - weights @ away).square().sum(1)
        return CompressedActivations(coordinates.numpy(), squares.sqrt().numpy(), sums.numpy())

    def similarity(self, coordinates: Any, true: CompressedActivations) -> Array:
        r"""Correlate predicted and true activations, each less the mean training activation, over all features.

        .. math::
            r_{ij} = \mathrm{corr}(\hat a_i - \bar a,\; a_j - \bar a)

        Parameters
        ----------
        coordinates : array of shape (n_predictions, rank)
            Of `predict`.
        true : CompressedActivations
            Of `compress`.

        Returns
        -------
        array of shape (n_predictions, n_true)
            Exactly what the full activations would give; for `identification_accuracy` where they are of the same
            faces in the same order.
        """
        predicted, n = self._checked(coordinates), int(np.prod(self.shape_))
        sums = predicted @ self.basis_sums_
        products = predicted @ true.coordinates.T - np.outer(sums, true.sums) / n
        lengths = np.square(predicted).sum(1) - sums**2 / n
        true_lengths = np.square(true.coordinates).sum(1) + true.residuals**2 - true.sums**2 / n
        similarities: Array = products / np.sqrt(np.outer(lengths, true_lengths))
        return similarities

    def squared_errors(self, coordinates: Any, true: CompressedActivations) -> Array:
        """Mean squared error over all features of each predicted activation, (n,), the same rows in both."""
        away = self._checked(coordinates) - true.coordinates
        errors: Array = (np.square(away).sum(1) + true.residuals**2) / int(np.prod(self.shape_))
        return errors

    def _checked(self, coordinates: Any) -> Array:
        check_is_fitted(self)
        values: Array = np.asarray(
            coordinates.numpy(force=True) if isinstance(coordinates, Tensor) else coordinates, np.float64
        )
        if values.ndim != 2 or values.shape[1] != self.coordinates_.shape[1]:
            raise UserError(
                f"coordinates must have shape (n, {self.coordinates_.shape[1]}), got {values.shape}: give those of "
                "predict"
            )
        return values

    def _training_activations(self, A: Any) -> Responses:
        """Refuse what was not fitted: the first trial's products with all others tell."""
        check_is_fitted(self)
        training = _flat(A)
        if tuple(A.shape) != (len(self.coordinates_), *self.shape_):
            raise UserError(
                f"the training activations have shape {tuple(A.shape)}, those fitted had "
                f"{(len(self.coordinates_), *self.shape_)}: give the same again"
            )
        found = torch.zeros(training.shape[0], dtype=torch.float64)
        for _, _, away in _blocks(training):
            found += away @ away[0]
        expected = self.coordinates_ @ self.coordinates_[0]
        size = np.square(self.coordinates_).sum(1).max()
        if not np.allclose(found.numpy(), expected, rtol=0, atol=1e-6 * size):
            raise UserError("these are not the training activations that were fitted: give the same again, same order")
        return training


def _flat(activations: Any) -> Responses:
    """Activations as a trials x features matrix that is read in blocks."""
    if not hasattr(activations, "shape"):
        activations = np.asarray(activations)
    if len(activations.shape) > 2:
        if not hasattr(activations, "reshape"):
            raise UserError(
                f"activations on disk must have two axes, got shape {activations.shape}: flatten each trial"
            )
        activations = activations.reshape(activations.shape[0], -1)
    return Responses(activations, "activations")


def _read(activations: Responses, block: slice) -> Tensor:
    values = activations.columns(block.start, block.stop)
    activations.refuse_bad(int((~torch.isfinite(values)).any(0).sum()))
    return values.double().cpu()


def _blocks(activations: Responses) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield blocks of features with their means over trials and the deviations from these, float64."""
    n_trials, n_features = activations.shape
    width = max(1, BLOCK_BYTES // (8 * n_trials))
    for start in range(0, n_features, width):
        block = slice(start, min(start + width, n_features))
        values = _read(activations, block)
        mean = values.mean(0)
        yield block, mean, values - mean


def _principal_axes(activations: Responses) -> tuple[Array, Array, Array]:
    """Return squared singular values of the centred activations, descending, left singular vectors, sums of trials."""
    n_trials = activations.shape[0]
    gram = torch.zeros(n_trials, n_trials, dtype=torch.float64)
    sums, largest = torch.zeros(n_trials, dtype=torch.float64), 0.0
    for _, mean, away in _blocks(activations):
        gram.addmm_(away, away.T)
        sums += away.sum(1)
        largest += float(mean.square().sum())
    values, vectors = torch.linalg.eigh(gram)
    top = float(values[-1])
    # Rounding of float32 features about a far mean is no difference between faces.
    if not top > 1e-12 * largest:
        raise UserError("activations do not differ between the training trials: take a deeper layer")
    kept = values > n_trials * torch.finfo(torch.float64).eps * top
    return values[kept].flip(0).numpy(), vectors[:, kept].flip(1).numpy(), sums.numpy()

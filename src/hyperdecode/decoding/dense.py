"""The decoder of the paper's notebook: one dense layer from voxels to latents, trained by Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from hyperdecode.decoding.checks import checked_matrix, checked_pair, refuse_constant
from hyperdecode.errors import UserError
from hyperdecode.split import require_training

__all__ = ["DenseDecoder"]


class DenseDecoder(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    r"""One dense layer, fitted by gradient descent as the paper's authors do.

    .. math::
        \hat y = W z + b, \qquad
        \min_{W, b} \frac{1}{2 n d} \sum_i \lVert W z_i + b - y_i \rVert^2,

    over batches, by Adam with the weight decay added to the gradient (d latents, n trials a batch). First weights are
    uniform and b starts at 0, as MXNet's `Dense` does; trials are shuffled once, before the first epoch,
    and a last batch that is too short is filled up from the beginning, as its `NDArrayIter` does.

    It neither reaches the minimum nor chooses its penalty: what the first weights leave behind in directions that no
    trial spans stays in its predictions as noise. It is here to reproduce published figures and as a yardstick;
    `RidgeDecoder` solves the same problem exactly.

    Parameters
    ----------
    n_epochs : int
    batch_size : int
    learning_rate, weight_decay : float
        Of Adam.
    first_weights : float
        Half width of the uniform first weights; 0.07 is MXNet's default.
    standardize : bool
        Centre each voxel and divide it by its standard deviation over the training trials.
    seed : int
        First weights and the order of trials.
    progress : callable, optional
        Called after each epoch with (epochs done, epochs in all).

    Attributes
    ----------
    coef_ : array of shape (n_latents, n_voxels)
        Weights for raw voxels: ``predict(X) == X @ coef_.T + intercept_``.
    intercept_ : array of shape (n_latents,)
        Constant that goes with `coef_`.
    x_mean_, x_scale_ : arrays of shape (n_voxels,)
        Mean and scale of the voxels over training trials (zeros and ones when not `standardize`).
    losses_ : array of shape (n_epochs,)
        Training loss of each epoch.
    n_features_in_ : int
        Number of voxels.

    References
    ----------
    Dado et al. (2022), Sci. Rep. 12:141; the notebook of neuralcodinglab/HYPER.
    """

    def __init__(
        self,
        n_epochs: int = 1500,
        batch_size: int = 30,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.01,
        first_weights: float = 0.07,
        standardize: bool = True,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.first_weights = first_weights
        self.standardize = standardize
        self.seed = seed
        self.progress = progress

    def fit(self, X: ArrayLike, Y: ArrayLike, roles: Sequence[str] | None = None) -> Self:
        """Fit to training trials.

        Parameters
        ----------
        X : array of shape (n_trials, n_voxels)
            Responses.
        Y : array of shape (n_trials, n_latents)
            Latents of the stimuli shown.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.

        Returns
        -------
        DenseDecoder
            Itself, fitted.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together, contain NaN or constant voxels, or a setting is out of range.
        """
        voxels, latents = (values.double().numpy() for values in checked_pair(X, Y)[:2])
        require_training(roles, len(voxels), "DenseDecoder")
        if min(self.n_epochs, self.batch_size) < 1 or min(self.weight_decay, self.first_weights) < 0:
            raise UserError(
                "n_epochs and batch_size must be above 0, weight_decay and first_weights at least 0, got "
                f"{self.n_epochs}, {self.batch_size}, {self.weight_decay} and {self.first_weights}"
            )
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate must be above 0, got {self.learning_rate}")
        self.n_features_in_ = voxels.shape[1]
        self.x_mean_, self.x_scale_ = np.zeros(voxels.shape[1]), np.ones(voxels.shape[1])
        if self.standardize:
            self.x_mean_, self.x_scale_ = voxels.mean(axis=0), voxels.std(axis=0)
            refuse_constant(torch.from_numpy(voxels), torch.from_numpy(self.x_scale_))
        weights, bias = self._train((voxels - self.x_mean_) / self.x_scale_, latents)
        self.coef_ = weights / self.x_scale_
        self.intercept_ = bias - self.coef_ @ self.x_mean_
        return self

    def _train(self, z: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        source = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(z), generator=source)
        inputs, targets = (torch.from_numpy(values.astype(np.float32))[order] for values in (z, y))
        n_batches = -(-len(z) // self.batch_size)
        batches = (torch.arange(n_batches * self.batch_size) % len(z)).view(n_batches, self.batch_size)
        first = (2 * torch.rand(y.shape[1], z.shape[1], generator=source) - 1) * self.first_weights
        # Voxels x latents, with the gradient written out: on a CPU four times as fast as autograd on a `Linear`.
        weights, bias = first.T.contiguous(), torch.zeros(y.shape[1])
        weights.grad, bias.grad = torch.zeros_like(weights), torch.zeros_like(bias)
        adam = torch.optim.Adam([weights, bias], lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        losses = np.empty(self.n_epochs)
        for epoch in range(self.n_epochs):
            total = torch.zeros(())
            for batch in batches:
                shown = inputs[batch]
                error = torch.addmm(bias, shown, weights) - targets[batch]
                total += 0.5 * error.square().mean()
                error /= error.numel()
                torch.mm(shown.T, error, out=weights.grad)
                torch.sum(error, 0, out=bias.grad)
                adam.step()
            losses[epoch] = float(total) / n_batches
            if self.progress:
                self.progress(epoch + 1, self.n_epochs)
        if not np.isfinite(losses[-1]):
            raise UserError(f"the dense layer diverged at learning_rate = {self.learning_rate}: lower it")
        self.losses_ = losses
        return weights.T.double().numpy(), bias.double().numpy()

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Decode latents from responses.

        Parameters
        ----------
        X : array of shape (n_trials, n_voxels)
            Responses, in the units of the training responses.

        Returns
        -------
        array of shape (n_trials, n_latents)

        Raises
        ------
        UserError
            When the number of voxels differs from the training's, or a response is not finite.
        """
        check_is_fitted(self)
        voxels = checked_matrix(X, "responses", self.n_features_in_)[0].double().numpy()
        predicted: NDArray[np.float64] = voxels @ self.coef_.T + self.intercept_
        return predicted

"""Ridge regression from voxels to latents, its penalty chosen on training trials alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.decoding.arrays import to_numpy
from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.blocks import Responses, available_memory
from hyperdecode.decoding.checks import checked_weights
from hyperdecode.decoding.folds import folds_of
from hyperdecode.decoding.kernel import decompose, dual_weights, left_out_errors, left_out_residuals
from hyperdecode.decoding.penalties import DEFAULT_ALPHAS, checked_alphas, chosen_alphas, searched_alphas
from hyperdecode.decoding.primal import decompose_gram, held_out_errors, held_out_residuals, primal_weights
from hyperdecode.decoding.standardised import Standardised
from hyperdecode.errors import UserError

__all__ = ["RidgeDecoder"]

Array = NDArray[np.float64]


class RidgeDecoder(LinearDecoder):
    r"""Linear decoder from responses to latents, with a squared penalty on its weights.

    .. math::
        \min_{B, b} \sum_i w_i \lVert y_i - B^\top z_i - b \rVert^2 + \alpha \lVert B \rVert^2,
        \qquad z = (x - \bar x) / s,

    The penalty is the one with the least squared error on trials left out *of the training trials*; each fit
    that leaves trials out has an intercept of its own. The voxel scale `s` comes from all training trials.
    One eigendecomposition gives all penalties and all folds exactly (`hyperdecode.decoding.kernel`):
    of the trials' kernel, or, where there are at least twice as many trials as voxels (or that alone fits memory),
    of the voxels' products.

    Parameters
    ----------
    alphas : sequence of float
        Penalties to try, all positive. One value means a fixed penalty. A best value at the edge of the grid
        extends the grid on that side by three decades, once.
    cv : "loo" or int
        Leave out each trial alone ("loo"; each group, when `fit` gets groups), or this number of folds.
    per_latent : bool
        Choose a penalty for each latent dimension instead of one for all. A shared penalty is the
        steadier choice when trials are few.
    standardize : bool
        Divide each voxel by its standard deviation over the training trials.
    seed : int
        Shuffles the trials into folds. Not used when trials are left out one by one or `fit` gets groups.
    memory : int, optional
        Bytes that the fit may take beside its input; half of what is free without it. Responses that do not
        fit are standardised and summed block by block, with the same result.

    Attributes
    ----------
    alpha_ : float, or array of shape (n_latents,) when `per_latent`
        The chosen penalty.
    alphas_ : array of shape (n_alphas,)
        The grid that was searched, extension included, ascending.
    cv_scores_ : array of shape (n_alphas,), or (n_alphas, n_latents) when `per_latent`
        Minus the (weighted) mean squared error over held-out trials (and latents), in squared units of the
        latents. NaN where the responses were too singular for the penalty.
    cv_predictions_ : array of shape (n_trials, n_latents)
        What the chosen penalty predicts for each training trial by the fit that left it out. NaN where the only
        penalty given is too small for the responses.
    dual_coef_ : array of shape (n_trials, n_latents)
        Weights of the trials, where the dual form was solved: ``coef_ == (Z.T @ dual_coef_ / s).T``.
    coef_ : array of shape (n_latents, n_voxels)
        Weights for raw voxels: ``predict(X) == X @ coef_.T + intercept_``.
    intercept_ : array of shape (n_latents,)
        Constant that goes with `coef_`.
    x_mean_, x_scale_ : arrays of shape (n_voxels,)
        Mean and scale of the voxels over training trials (ones when not `standardize`).
    n_features_in_ : int
        Number of voxels.

    Notes
    -----
    Eigendecomposition and all that follows from it are computed in float64. Products of float32 responses
    are summed in float32 over blocks, and over the blocks in float64.
    """

    dual_coef_: NDArray[np.floating]

    def __init__(
        self,
        alphas: Sequence[float] | Array = DEFAULT_ALPHAS,
        cv: int | str = "loo",
        per_latent: bool = False,
        standardize: bool = True,
        seed: int = 0,
        memory: int | None = None,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.per_latent = per_latent
        self.standardize = standardize
        self.seed = seed
        self.memory = memory

    def fit(
        self,
        X: Any,
        Y: Any,
        roles: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
        sample_weight: Any | None = None,
    ) -> Self:
        """Fit to training trials.

        Parameters
        ----------
        X : array, Tensor or array-like of shape (n_trials, n_voxels)
            Responses. A `numpy.memmap` or an h5py dataset is read in blocks.
        Y : array or Tensor of shape (n_trials, n_latents) or (n_trials,)
            Latents of the stimuli shown.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.
        groups : sequence, length n_trials, optional
            Trials of one group (a run, a repeated stimulus) stay in one fold.
        sample_weight : array of shape (n_trials,), optional
            How much each trial counts, positive; only ratios matter: they are divided by their mean.

        Returns
        -------
        RidgeDecoder
            Itself, fitted.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together, contain NaN or constant voxels, the trials are too few, all
            penalties are too small, or the system of equations is larger than memory.
        TypeError
            When responses or latents are sparse.

        Warns
        -----
        DataWarning
            When the best penalty still stands at the edge of the extended grid.
        """
        alphas = checked_alphas(self.alphas)
        responses = Responses(X)
        latents = self._training_latents(X, Y, responses.shape, roles)
        latents = latents.to(responses.kind.device, torch.float64)
        weights = checked_weights(sample_weight, latents)
        folds = folds_of(len(latents), self.cv, groups, self.seed)
        mean = latents.mean(0) if weights is None else weights @ latents / len(latents)

        primal, budget = self._planned(responses, latents.shape[1])
        voxels = Standardised(responses, weights, self.standardize, budget)
        form = _Primal if primal else _Dual
        solver = form(voxels, latents - mean, weights, _on(folds, latents.device))

        self.alphas_, errors = searched_alphas(lambda grid: to_numpy(solver.errors(grid)), alphas, self.per_latent)
        chosen = chosen_alphas(self.alphas_, errors, self.per_latent)
        self.cv_scores_ = -errors if self.per_latent else -errors.mean(axis=1)
        self.alpha_ = chosen if self.per_latent else float(chosen[0])
        self._keep(solver, voxels, torch.from_numpy(chosen).to(latents), latents, mean)
        return self

    def _planned(self, responses: Responses, n_latents: int) -> tuple[bool, int]:
        """Return whether to solve the primal form, and the bytes that blocks may take beside its equations."""
        if self.memory is not None and not self.memory > 0:
            raise UserError(f"memory must be a number of bytes above 0, got {self.memory!r}")
        memory = available_memory(responses.kind.device) // 2 if self.memory is None else int(self.memory)
        n_trials, n_voxels = responses.shape
        dual_needs = 8 * (6 * n_trials**2 + 4 * n_trials * n_latents)
        primal_needs = 8 * (6 * n_voxels**2 + (4 * n_trials + n_voxels) * n_latents)
        # With about as many voxels as trials the dual form loses less to rounding and costs about the same.
        primal = 2 * n_voxels <= n_trials or (n_voxels < n_trials and dual_needs >= memory)
        size, what, needed = (n_voxels, "voxels", primal_needs) if primal else (n_trials, "trials", dual_needs)
        if needed >= memory:
            raise UserError(
                f"ridge regression on {size} {what} needs {_amount(needed)} for its {size} x {size} system and may "
                f"take {_amount(memory)}: give a larger memory, or average repeats, or leave {what} out"
            )
        return primal, memory - needed

    def _keep(self, solver: _Solver, voxels: Standardised, alphas: Tensor, latents: Tensor, mean: Tensor) -> None:
        dtype = voxels.responses.kind.dtype
        self.cv_predictions_ = to_numpy((latents - solver.residuals(alphas)).to(dtype))
        coef = torch.empty(len(alphas), voxels.n_voxels, dtype=dtype, device=latents.device)
        offset = mean
        dual = solver.write(coef, alphas)
        for block, part in zip(torch.split(coef.T, 4096), torch.split(voxels.mean, 4096), strict=True):
            offset = offset - part @ block.double()
        self.coef_, self.intercept_ = to_numpy(coef), to_numpy(offset.to(dtype))
        self.x_mean_, self.x_scale_ = to_numpy(voxels.mean.to(dtype)), to_numpy(voxels.scale.to(dtype))
        self.__dict__.pop("dual_coef_", None)
        if dual is not None:
            self.dual_coef_ = to_numpy(dual)


class _Solver(Protocol):
    def errors(self, alphas: Array) -> Tensor: ...

    def residuals(self, alphas: Tensor) -> Tensor: ...

    def write(self, coef: Tensor, alphas: Tensor) -> Tensor | None: ...


class _Dual:
    """Through the trials' kernel."""

    def __init__(
        self, voxels: Standardised, latents: Tensor, weights: Tensor | None, folds: list[Tensor] | None
    ) -> None:
        self.voxels, self.folds = voxels, folds
        precision = voxels.responses.kind.dtype
        self.spectrum = decompose(voxels.kernel(), latents, weights, voxels.n_voxels, precision, overwrite=True)

    def errors(self, alphas: Array) -> Tensor:
        return left_out_errors(self.spectrum, alphas.tolist(), self.folds)

    def residuals(self, alphas: Tensor) -> Tensor:
        return left_out_residuals(self.spectrum, alphas, self.folds)

    def write(self, coef: Tensor, alphas: Tensor) -> Tensor:
        dual = dual_weights(self.spectrum, alphas).to(coef)
        for block, z in self.voxels.columns():
            coef[:, block] = dual.T @ z / self.voxels.scale[block].to(coef)
        return dual


class _Primal:
    """Through the voxels' products."""

    def __init__(
        self, voxels: Standardised, latents: Tensor, weights: Tensor | None, folds: list[Tensor] | None
    ) -> None:
        self.voxels, self.folds = voxels, folds
        roots = voxels.weights.sqrt()
        weighted = latents * roots[:, None]
        gram, cross = voxels.gram(weighted)
        self.gram = decompose_gram(gram, cross, weighted, roots, voxels.responses.kind.dtype)

    def errors(self, alphas: Array) -> Tensor:
        return held_out_errors(self.gram, self.voxels.trials, alphas.tolist(), self.folds, self.voxels.n_rows)

    def residuals(self, alphas: Tensor) -> Tensor:
        return held_out_residuals(self.gram, self.voxels.trials, alphas, self.folds, self.voxels.n_rows)

    def write(self, coef: Tensor, alphas: Tensor) -> None:
        coef.copy_((primal_weights(self.gram, alphas) / self.voxels.scale[:, None]).T)


def _on(folds: list[Tensor] | None, device: torch.device) -> list[Tensor] | None:
    return None if folds is None else [fold.to(device) for fold in folds]


def _amount(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.3g} MB"

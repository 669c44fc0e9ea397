"""Kernel ridge regression from voxels to latents, its penalty chosen on training trials alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import himalaya.backend
import numpy as np
import torch
from himalaya.kernel_ridge import KernelRidgeCV
from himalaya.scoring import l2_neg_loss
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import GroupKFold, KFold, PredefinedSplit
from sklearn.utils.validation import check_is_fitted

from hyperdecode.decoding.checks import checked_matrix, checked_pair, refuse_constant
from hyperdecode.errors import DataWarning, UserError
from hyperdecode.split import require_training

__all__ = ["DEFAULT_ALPHAS", "RidgeDecoder"]

DEFAULT_ALPHAS: tuple[float, ...] = tuple(float(a) for a in np.logspace(1, 7, 13))
"""Penalties tried by default; on standardised voxels the kernel's diagonal is about the number of voxels."""

EXTENSION_DECADES = 3

Array = NDArray[np.float64]
Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


class RidgeDecoder(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Linear decoder from responses to latents, with a squared penalty on its weights.

    .. math::
        \min_{B, b} \lVert Y - Z B - 1 b^\top \rVert^2 + \alpha \lVert B \rVert^2,
        \qquad Z = (X - \bar x) / s,

    solved in the dual form :math:`B = Z^\top A,\; A = (Z Z^\top + \alpha I)^{-1}(Y - \bar y)`, whose cost
    grows with the number of trials (about 1000) and hardly with that of voxels (about 4000). The penalty
    is the one with the least squared error in cross-validation *within the training trials*, where each
    fold centres voxels and latents on its own training part. The voxel scale `s` comes from all
    training trials. Everything is computed in float64.

    Parameters
    ----------
    alphas : sequence of float
        Penalties to try, all positive. One value means a fixed penalty. A best value at the edge of the grid
        extends the grid on that side by three decades, once.
    n_folds : int
        Folds of the cross-validation, at least 2.
    per_latent : bool
        Choose a penalty for each latent dimension instead of one for all. A shared penalty is the
        steadier choice when trials are few.
    standardize : bool
        Divide each voxel by its standard deviation over the training trials.
    seed : int
        Shuffles the trials into folds. Ignored when `fit` gets groups.

    Attributes
    ----------
    alpha_ : float, or array of shape (n_latents,) when `per_latent`
        The chosen penalty.
    alphas_ : array of shape (n_alphas,)
        The grid that was searched, extension included, ascending.
    cv_scores_ : array of shape (n_alphas,), or (n_alphas, n_latents) when `per_latent`
        Minus the mean squared error over held-out trials, averaged over folds (and latents), in squared
        units of the latents. NaN where the kernel was too singular for the penalty.
    dual_coef_ : array of shape (n_trials, n_latents)
        The weights `A`.
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
    The solver is himalaya's [1]_, run on its numpy backend; the backend that was set before is set again.

    References
    ----------
    .. [1] Dupré la Tour, Eickenberg, Nunez-Elizalde & Gallant (2022), Feature-space selection with banded ridge
       regression, NeuroImage 264:119728 (kernel ridge and its cross-validation).
    """

    def __init__(
        self,
        alphas: Sequence[float] | Array = DEFAULT_ALPHAS,
        n_folds: int = 5,
        per_latent: bool = False,
        standardize: bool = True,
        seed: int = 0,
    ) -> None:
        self.alphas = alphas
        self.n_folds = n_folds
        self.per_latent = per_latent
        self.standardize = standardize
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        roles: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
    ) -> Self:
        """Fit to training trials.

        Parameters
        ----------
        X : array of shape (n_trials, n_voxels)
            Responses.
        Y : array of shape (n_trials, n_latents)
            Latents of the stimuli shown.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.
        groups : sequence, length n_trials, optional
            Trials of one group (a run, a repeated stimulus) stay in one fold.

        Returns
        -------
        RidgeDecoder
            Itself, fitted.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together, contain NaN or constant voxels, or the trials are too few.

        Warns
        -----
        DataWarning
            When the best penalty still stands at the edge of the extended grid.
        """
        voxels, latents = (values.double().numpy() for values in checked_pair(X, Y)[:2])
        require_training(roles, len(voxels), "RidgeDecoder")
        alphas = _checked_alphas(self.alphas)
        folds = _folds(len(voxels), self.n_folds, groups, self.seed)

        self.n_features_in_ = voxels.shape[1]
        self.x_mean_ = voxels.mean(axis=0)
        spread = voxels.std(axis=0)
        refuse_constant(torch.from_numpy(voxels), torch.from_numpy(spread))
        self.x_scale_ = spread if self.standardize else np.ones_like(spread)
        z = (voxels - self.x_mean_) / self.x_scale_
        kernel = z @ z.T

        solution = _solve(kernel, latents, alphas, folds, self.per_latent)
        if len(alphas) > 1 and _at_edge(solution, alphas).any():
            alphas = _extended(alphas, _at_edge(solution, alphas))
            solution = _solve(kernel, latents, alphas, folds, self.per_latent)
            _warn_at_edge(solution, alphas)

        chosen, self.dual_coef_, offset, self.cv_scores_ = solution
        self.alphas_ = alphas
        self.alpha_ = chosen if self.per_latent else float(chosen[0])
        self.coef_ = ((z.T @ self.dual_coef_) / self.x_scale_[:, None]).T
        self.intercept_ = offset - self.coef_ @ self.x_mean_
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Decode latents from responses.

        Parameters
        ----------
        X : array of shape (n_trials, n_voxels)
            Responses, in the units of the training responses.

        Returns
        -------
        array of shape (n_trials, n_latents)
            Decoded latents, float64.

        Raises
        ------
        UserError
            When the number of voxels differs from the training's, or a response is not finite.
        """
        check_is_fitted(self)
        voxels = checked_matrix(X, "responses", self.n_features_in_)[0].double().numpy()
        predicted: Array = voxels @ self.coef_.T + self.intercept_
        return predicted


Solution = tuple[Array, Array, Array, Array]


def _solve(kernel: Array, latents: Array, alphas: Array, folds: Folds, per_latent: bool) -> Solution:
    """Return (chosen penalties (n_latents,), dual weights, intercept, scores per penalty)."""
    per_fold: list[Array] = []

    def recorded(y_true: Array, y_pred: Array) -> Array:
        scores: Array = l2_neg_loss(y_true, y_pred)
        per_fold.append(scores)
        return scores

    with _numpy_backend():
        model = _cv_model(alphas, folds, per_latent, recorded, len(latents)).fit(kernel, latents)
    nearest = np.abs(np.log(alphas)[:, None] - np.log(np.asarray(model.best_alphas_))).argmin(axis=0)
    scores = np.mean(per_fold, axis=0)
    return (
        alphas[nearest],
        np.asarray(model.dual_coef_),
        np.asarray(model.intercept_),
        scores if per_latent else scores.mean(axis=1),
    )


def _cv_model(
    alphas: Array, folds: Folds, per_latent: bool, score: Callable[[Array, Array], Array], n_trials: int
) -> KernelRidgeCV:
    fold_of = np.empty(n_trials, dtype=int)
    for number, (_, held_out) in enumerate(folds):
        fold_of[held_out] = number
    return KernelRidgeCV(
        alphas=alphas,
        kernel="precomputed",
        fit_intercept=True,
        cv=PredefinedSplit(fold_of),
        solver_params={"local_alpha": per_latent, "score_func": score},
    )


@contextmanager
def _numpy_backend() -> Iterator[None]:
    before = himalaya.backend.get_backend().name
    himalaya.backend.set_backend("numpy")
    try:
        yield
    finally:
        himalaya.backend.set_backend(before)


def _at_edge(solution: Solution, alphas: Array) -> NDArray[np.bool_]:
    """Return whether any latent's penalty is the (lowest, highest) of the grid."""
    chosen = solution[0]
    return np.array([(chosen == alphas[0]).any(), (chosen == alphas[-1]).any()])


def _extended(alphas: Array, edges: NDArray[np.bool_]) -> Array:
    step = max(float(np.median(np.diff(np.log10(alphas)))), 0.1)
    beyond = 10.0 ** (step * np.arange(1, int(np.ceil(EXTENSION_DECADES / step)) + 1))
    low = alphas[0] / beyond[::-1] if edges[0] else []
    high = alphas[-1] * beyond if edges[1] else []
    return np.concatenate([low, alphas, high])


def _warn_at_edge(solution: Solution, alphas: Array) -> None:
    for edge, name, meaning in (
        (alphas[0], "lowest", "the responses may be almost free of noise, or repeat trials across folds"),
        (alphas[-1], "highest", "the responses may not predict the latents"),
    ):
        count = int((solution[0] == edge).sum())
        if count:
            warnings.warn(
                f"the best ridge penalty is the {name} tried, {edge:.3g}, for {count} of {len(solution[0])} latents: "
                f"{meaning}; else give other alphas",
                DataWarning,
                stacklevel=3,
            )


def _folds(n_trials: int, n_folds: int, groups: Sequence[object] | None, seed: int) -> Folds:
    if n_folds < 2:
        raise UserError(f"cross-validation needs at least 2 folds, got n_folds={n_folds}")
    if groups is not None and len(groups) != n_trials:
        raise UserError(f"got {n_trials} trials and {len(groups)} groups: give one group a trial")
    units = n_trials if groups is None else len(set(groups))
    if units < n_folds:
        unit = "trials" if groups is None else "groups of trials"
        raise UserError(f"{n_folds} folds need at least {n_folds} {unit}, got {units}: lower n_folds or add trials")
    if groups is None:
        return list(KFold(n_folds, shuffle=True, random_state=seed).split(np.zeros(n_trials)))
    number_of = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    labels = [number_of[group] for group in groups]
    return list(GroupKFold(n_folds).split(np.zeros(n_trials), groups=labels))


def _checked_alphas(alphas: Sequence[float] | Array) -> Array:
    values = np.unique(np.asarray(alphas, dtype=np.float64))
    if not values.size or not np.all(np.isfinite(values)) or values[0] <= 0:
        raise UserError(f"ridge penalties must be positive and finite, got {alphas!r}")
    return values

"""Ridge regression with a penalty of its own for each band of voxels (a brain region, say)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hyperdecode.decoding.arrays import to_numpy
from hyperdecode.decoding.base import LinearDecoder, TrainingTrials
from hyperdecode.decoding.folds import folds_of
from hyperdecode.decoding.kernel import decompose, dual_weights, left_out_errors
from hyperdecode.decoding.penalties import DEFAULT_ALPHAS, checked_alphas
from hyperdecode.errors import UserError

__all__ = ["BandedRidgeDecoder"]

CONCENTRATIONS = (0.1, 1.0)
"""Of the Dirichlet distributions that band weights are drawn from in turn: few bands alone, all mixtures alike."""

Array = NDArray[np.float64]


class _Choice(NamedTuple):
    """The best band weights and penalty so far, of each latent."""

    error: Tensor
    draw: Tensor
    alpha: Tensor

    def improved(self, errors: Tensor, alphas: Tensor, draw: int) -> _Choice:
        """Take over where a draw's least error, over penalties, is lower."""
        least, place = torch.where(errors.isnan(), torch.inf, errors).min(0)
        better = least < self.error
        return _Choice(
            torch.where(better, least, self.error),
            torch.where(better, draw, self.draw),
            torch.where(better, alphas[place], self.alpha),
        )


class BandedRidgeDecoder(LinearDecoder):
    r"""Linear decoder whose squared penalty differs between bands of voxels.

    .. math::
        \min_{B, b} \lVert Y - \textstyle\sum_k Z_k B_k - 1 b^\top \rVert^2 + \sum_k \alpha_k \lVert B_k \rVert^2,
        \qquad \alpha_k = \alpha / (K \gamma_k),\; \gamma_k \ge 0,\; \textstyle\sum_k \gamma_k = 1,

    over K bands with voxels Z_k. Equal :math:`\gamma_k` are plain ridge regression, which is tried first; then weights
    drawn from Dirichlet distributions. Each draw is ridge regression on the kernel
    :math:`K \sum_k \gamma_k Z_k Z_k^\top`, whose exact errors on trials left out choose among draws and penalties
    (`hyperdecode.decoding.kernel`).

    Parameters
    ----------
    bands : sequence of length n_voxels, optional
        Label of each voxel. Default: all voxels are one band.
    n_iter : int
        Draws of band weights beside the equal ones.
    alphas : sequence of float
        Penalties to try.
    cv : "loo" or int
        As for `hyperdecode.decoding.ridge.RidgeDecoder`.
    per_latent : bool
        Choose band weights and penalty for each latent instead of once for all.
    standardize : bool
        Divide each voxel by its standard deviation over the training trials.
    seed : int
        Of the draws and the folds.
    progress : callable, optional
        Called with (draws done, draws in all).

    Attributes
    ----------
    bands_ : tuple
        Labels of the bands, in the order of their first voxel.
    band_weights_ : array of shape (n_bands,), or (n_bands, n_latents) when `per_latent`
        The chosen :math:`\gamma`.
    alpha_ : float, or array of shape (n_latents,) when `per_latent`
        The chosen penalty.
    cv_scores_ : array of shape (n_iter + 1,)
        Minus the mean squared error on trials left out, of each draw at its best penalty, the equal weights first.
    coef_, intercept_, x_mean_, x_scale_, n_features_in_
        As those of `hyperdecode.decoding.ridge.RidgeDecoder`.

    References
    ----------
    Nunez-Elizalde, Huth & Gallant (2019), NeuroImage 197:482; the random search is that of Dupré la Tour et al. (2022),
    NeuroImage 264:119728 (himalaya), with exact errors in place of refits.
    """

    def __init__(
        self,
        bands: Sequence[object] | None = None,
        n_iter: int = 40,
        alphas: Sequence[float] | Array = DEFAULT_ALPHAS,
        cv: int | str = "loo",
        per_latent: bool = False,
        standardize: bool = True,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.bands = bands
        self.n_iter = n_iter
        self.alphas = alphas
        self.cv = cv
        self.per_latent = per_latent
        self.standardize = standardize
        self.seed = seed
        self.progress = progress

    def fit(
        self,
        X: Any,
        Y: Any,
        roles: Sequence[str] | None = None,
        groups: Sequence[object] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit to training trials.

        Parameters
        ----------
        X : array or Tensor of shape (n_trials, n_voxels)
            Responses.
        Y : array or Tensor of shape (n_trials, n_latents) or (n_trials,)
            Latents of the stimuli shown.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.
        groups : sequence, length n_trials, optional
            Trials of one group stay in one fold.
        sample_weight : array of shape (n_trials,), optional
            How much each trial counts, positive.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays or bands do not fit together, contain NaN or constant voxels, the trials are too few for the
            folds, or a setting is out of range.
        """
        alphas = checked_alphas(self.alphas)
        if self.n_iter < 0:
            raise UserError(f"n_iter must be 0 draws of band weights or more, got {self.n_iter}")
        trials = self._training_trials(X, Y, roles, sample_weight)
        members = self._members(trials.voxels.shape[1])
        folds = folds_of(len(trials.voxels), self.cv, groups, self.seed)
        z, latents, latent_mean = self._standardised(trials, self.standardize)
        kernels = torch.stack([part @ part.T for part in (z[:, band] for band in members)])
        draws = self._draws(len(members))
        on_device = None if folds is None else [fold.to(z.device) for fold in folds]
        choice = self._search(kernels, draws, torch.from_numpy(alphas).to(latents), latents, trials, on_device)
        dual = torch.zeros_like(latents)
        for draw in sorted(set(choice.draw.tolist())):
            mine = choice.draw == draw
            spectrum = decompose(_mixed(kernels, draws[draw]), latents[:, mine], trials.weights)
            dual[:, mine] = dual_weights(spectrum, choice.alpha[mine])
        self._keep(z, dual, members, draws[choice.draw], choice.alpha, latent_mean, trials)
        return self

    def _members(self, n_voxels: int) -> list[Tensor]:
        """Return the voxels of each band."""
        labels = [None] * n_voxels if self.bands is None else list(self.bands)
        if len(labels) != n_voxels:
            raise UserError(f"got {n_voxels} voxels and {len(labels)} labels of bands: give one label a voxel")
        self.bands_ = tuple(dict.fromkeys(labels))
        number = {label: k for k, label in enumerate(self.bands_)}
        numbers = torch.tensor([number[label] for label in labels])
        return [torch.nonzero(numbers == k)[:, 0] for k in range(len(self.bands_))]

    def _draws(self, n_bands: int) -> Tensor:
        """Return band weights to try, (n_draws, n_bands), each row summing to 1, the equal ones first."""
        rng = np.random.default_rng(self.seed)
        n_iter = self.n_iter if n_bands > 1 else 0
        drawn = [rng.dirichlet(np.full(n_bands, CONCENTRATIONS[i % len(CONCENTRATIONS)])) for i in range(n_iter)]
        return torch.from_numpy(np.array([np.full(n_bands, 1 / n_bands), *drawn]))

    def _search(
        self,
        kernels: Tensor,
        draws: Tensor,
        alphas: Tensor,
        latents: Tensor,
        trials: TrainingTrials,
        folds: list[Tensor] | None,
    ) -> _Choice:
        n_latents = latents.shape[1]
        start = torch.full((n_latents,), torch.inf).to(latents)
        choice = _Choice(
            start, torch.zeros(n_latents, dtype=torch.long, device=latents.device), torch.zeros_like(start)
        )
        scores = []
        for number, draw in enumerate(draws):
            spectrum = decompose(_mixed(kernels, draw), latents, trials.weights)
            errors = left_out_errors(spectrum, alphas.tolist(), folds)
            shared = errors if self.per_latent else errors.mean(1, keepdim=True).expand_as(errors)
            choice = choice.improved(shared, alphas, number)
            scores.append(-float(torch.where(shared.isnan(), torch.inf, shared).min(0).values.mean()))
            if self.progress:
                self.progress(number + 1, len(draws))
        if not bool(torch.isfinite(choice.error).all()):
            raise UserError(
                f"the responses are too singular for every penalty up to {alphas.max():.3g}: give larger ones"
            )
        self.cv_scores_ = np.array(scores)
        return choice

    def _keep(
        self,
        z: Tensor,
        dual: Tensor,
        members: list[Tensor],
        weights: Tensor,
        alpha: Tensor,
        latent_mean: Tensor,
        trials: TrainingTrials,
    ) -> None:
        coef = torch.empty(dual.shape[1], z.shape[1]).to(z)
        for k, band in enumerate(members):
            coef[:, band] = (len(members) * weights[:, k, None].to(z)) * (dual.T @ z[:, band])
        coef /= torch.from_numpy(self.x_scale_).to(z)
        intercept = latent_mean - coef @ torch.from_numpy(self.x_mean_).to(z)
        self.coef_, self.intercept_ = (to_numpy(a.to(trials.kind.dtype)) for a in (coef, intercept))
        chosen, penalty = weights.numpy(force=True).T, to_numpy(alpha)
        self.band_weights_ = chosen if self.per_latent else chosen[:, 0]
        self.alpha_ = penalty if self.per_latent else float(penalty[0])


def _mixed(kernels: Tensor, weights: Tensor) -> Tensor:
    """Return the kernel of all bands; equal weights give that of plain ridge regression."""
    mixed: Tensor = torch.einsum("k,kij->ij", len(kernels) * weights.to(kernels), kernels)
    return mixed

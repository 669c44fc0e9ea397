"""Ridge regression that trusts each voxel as far as latents explain it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hyperdecode.decoding.arrays import to_numpy
from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.folds import folds_of
from hyperdecode.decoding.kernel import Spectrum, decompose, dual_weights, left_out_errors
from hyperdecode.decoding.penalties import DEFAULT_ALPHAS, checked_alphas, chosen_alphas, searched_alphas
from hyperdecode.errors import UserError

__all__ = ["WeightedRidgeDecoder"]

Array = NDArray[np.float64]

ENCODING_ALPHAS = np.logspace(-2, 3, 11)
"""Penalties of the encoding model, in units of the mean diagonal of the latents' kernel."""

N_SAMPLE = 512
"""About as many voxels choose the penalty of the encoding model, which is one for all."""

LEAST_FREEDOM = 10
"""Noise is told from signal where a tenth of the trials are left over by the latents."""


class WeightedRidgeDecoder(LinearDecoder):
    r"""Linear decoder whose squared penalty on a voxel is the lower, the more of it the latents explain.

    .. math::
        \min_{B, b} \sum_i w_i \lVert y_i - B^\top z_i - b \rVert^2 + \alpha \sum_v \lVert B_v \rVert^2 / s_v,
        \qquad s_v = \max(m + \rho (R^2_v - m), \epsilon),

    with :math:`R^2_v` the share of voxel v's variance that an encoding model (ridge regression from latents to voxels,
    one penalty) predicts on trials left out one by one, less what it is on average for voxels whose trials were
    shuffled; m its mean over voxels; :math:`\rho = 1 - \mathrm{var}_0 / \mathrm{var}`, not below zero, the share of its
    variance over voxels that the shuffled ones do not have, so that s is its linear estimate; and :math:`\epsilon`
    the median size of it in shuffled voxels. s is divided by its mean. In the Bayesian reading s is the prior variance
    of a voxel's weights, which for independent noise is proportional to :math:`R^2_v`. Where voxels cannot be told
    apart, all are alike, and this is plain ridge regression.

    The penalty :math:`\alpha` is chosen by folds, and *s is learned anew in each without the trials left out*: with
    voxels weighed by all trials, the left-out trials would have been seen. Chosen is the one whose predictions p, at
    their best multiple, have the least squared error for averages of n trials,

    .. math:: \mathrm{var}(y) - \mathrm{cov}(y, p)^2 \big/ \sqrt{V (V - (1 - 1/n) N)}, \qquad V = \mathrm{var}(p),

    where N is what a linear regression of p on the latents of the (training) trials leaves over of V: the variance of p
    between trials of the same latents, and more where voxels are not linear in latents. What averages keep of V thus
    lies between :math:`V - (1 - 1/n) N` and V; their geometric mean is taken. n is known from the design; of
    test trials nothing is used. B is the ridge solution times :math:`\mathrm{cov}(y, p) / V`, the best multiple for
    single trials. Predictions without positive covariance are judged as they are: where no penalty has any, the highest
    one is taken, and next to nothing is predicted.

    Parameters
    ----------
    alphas : sequence of float
        Penalties to try, as for `hyperdecode.decoding.ridge.RidgeDecoder`.
    cv : int or "loo"
        Folds that choose among them; "loo" leaves out each trial (each group) alone, at a fit for each.
    standardize : bool
        Divide each voxel by its standard deviation over the training trials. Without it, s weighs raw voxels.
    n_averaged : float
        How many trials of one stimulus are averaged for each prediction that shall be good: n. Where training trials
        are averages themselves, how many times more of them.
    seed : int
        Shuffles the trials into folds. Not used when `fit` gets groups.

    Attributes
    ----------
    alpha_ : float
        The chosen penalty.
    alphas_ : array of shape (n_alphas,)
        The grid that was searched, extension included, ascending.
    cv_scores_ : array of shape (n_alphas,)
        Minus that squared error, mean over latents.
    scale_ : float
        By which the ridge solution was multiplied; 1 where nothing is decoded.
    voxel_weights_ : array of shape (n_voxels,)
        s, with a mean of 1.
    coef_, intercept_, x_mean_, x_scale_, n_features_in_
        As those of `hyperdecode.decoding.ridge.RidgeDecoder`.

    Notes
    -----
    All is computed in float64, with the responses in memory. One decomposition of the latents' kernel gives all voxels'
    :math:`R^2`, one of the trials' kernel all penalties (`hyperdecode.decoding.kernel`).
    """

    def __init__(
        self,
        alphas: Sequence[float] | Array = DEFAULT_ALPHAS,
        cv: int | str = 5,
        standardize: bool = True,
        n_averaged: float = 1,
        seed: int = 0,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.standardize = standardize
        self.n_averaged = n_averaged
        self.seed = seed

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
            Trials of one group (a run, a repeated stimulus) stay in one fold.
        sample_weight : array of shape (n_trials,), optional
            How much each trial counts, positive.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together, contain NaN or constant voxels, or the trials are too few for the folds.

        Warns
        -----
        DataWarning
            When the best penalty still stands at the edge of the extended grid.
        """
        alphas = checked_alphas(self.alphas)
        if not self.n_averaged >= 1:
            raise UserError(f"n_averaged must be 1 trial or more, got {self.n_averaged!r}")
        trials = self._training_trials(X, Y, roles, sample_weight)
        folds = folds_of(len(trials.voxels), self.cv, groups, self.seed)
        z, latents, latent_mean = self._standardised(trials, self.standardize)
        weights = torch.ones(len(z)).to(z) if trials.weights is None else trials.weights.to(z)
        alone = list(torch.arange(len(z))[:, None]) if folds is None else folds
        held_out = _HeldOut([_LeftOut(z, latents, weights, fold.to(z.device)) for fold in alone], latents, weights)

        def errors_of(grid: Array) -> Array:
            return np.array([[held_out.moments(alpha).error(self.n_averaged)] for alpha in grid])

        self.alphas_, errors = searched_alphas(errors_of, alphas)
        self.alpha_ = float(chosen_alphas(self.alphas_, errors)[0])
        self.cv_scores_ = -errors[:, 0] / latents.shape[1]
        self.scale_ = held_out.moments(self.alpha_).slope
        shares = explained_shares(latents, z, weights)
        spectrum = decompose((z * shares) @ z.T, latents, weights, z.shape[1])
        dual = self.scale_ * dual_weights(spectrum, torch.full((latents.shape[1],), self.alpha_).to(z))
        coef = shares * (dual.T @ z) / torch.from_numpy(self.x_scale_).to(z)
        intercept = latent_mean - coef @ torch.from_numpy(self.x_mean_).to(z)
        self.coef_, self.intercept_ = (to_numpy(a.to(trials.kind.dtype)) for a in (coef, intercept))
        self.voxel_weights_ = to_numpy(shares)
        return self


class Moments(NamedTuple):
    """Held-out latents y and predictions p about the mean of those fitted to, all summed over latents.

    Attributes
    ----------
    total : float
        Mean square of y.
    shared : float
        Mean product of y and p.
    spread : float
        Mean square of p.
    noise : float
        Variance of p between trials of the same latents.
    """

    total: float
    shared: float
    spread: float
    noise: float

    def error(self, n: float) -> float:
        """Return the squared error of predictions from averages of n trials, at their best multiple or as they are."""
        if math.isnan(self.spread):
            return math.nan
        averaged = math.sqrt(self.spread * max(self.spread - (1 - 1 / n) * self.noise, self.spread / n))
        if self.shared > 0 and averaged > 0:
            return self.total - self.shared**2 / averaged
        # No positive multiple helps. As they are, the least of them does least harm: the highest penalty.
        return self.total - 2 * self.shared + averaged

    @property
    def slope(self) -> float:
        """The best multiple of predictions from single trials; 1 where they tell nothing."""
        return self.shared / self.spread if self.shared > 0 else 1.0


class _LeftOut:
    """Fits to all trials but those of one fold, voxel weights included."""

    def __init__(self, z: Tensor, latents: Tensor, weights: Tensor, fold: Tensor) -> None:
        kept = torch.ones(len(z), dtype=torch.bool, device=z.device)
        kept[fold] = False
        rest, w = z[kept], weights[kept] / weights[kept].mean()
        mean = w @ latents[kept] / len(w)
        shares = explained_shares(latents[kept] - mean, rest, w)
        kernel = (z * shares) @ rest.T
        self.fold, self.true = fold, latents[fold] - mean
        self.spectrum: Spectrum = decompose(kernel[kept], latents[kept] - mean, w, z.shape[1])
        centred = kernel[fold] - w @ kernel[kept] / len(w)
        self.products = centred @ (self.spectrum.roots[:, None] * self.spectrum.vectors)

    def predicted(self, alpha: float) -> Tensor:
        """Return what the fit says of the fold, (n_left_out, n_latents), from its mean; NaN for too small a penalty."""
        s = self.spectrum
        divisors = s.values + alpha if float(s.values[0]) + alpha >= s.floor else torch.full_like(s.values, torch.nan)
        return self.products @ (s.targets / divisors[:, None])


class _HeldOut:
    """All trials, each as the fit says that left it out."""

    def __init__(self, folds: list[_LeftOut], latents: Tensor, weights: Tensor) -> None:
        self.folds, self.weights = folds, weights
        self.true = torch.empty_like(latents)
        for fold in folds:
            self.true[fold.fold] = fold.true
        roots = weights.sqrt()[:, None]
        left, sizes, _ = torch.linalg.svd(roots * torch.cat([torch.ones_like(roots), latents], 1), full_matrices=False)
        basis = left[:, sizes > 1e-9 * sizes[0]]
        self.freedom = len(latents) - basis.shape[1]
        # With about as many latents as trials nothing is left over to tell noise by.
        self.basis = basis if self.freedom >= len(latents) / LEAST_FREEDOM else None

    def moments(self, alpha: float) -> Moments:
        predicted = torch.empty_like(self.true)
        for fold in self.folds:
            predicted[fold.fold] = fold.predicted(float(alpha))
        n, w = len(predicted), self.weights[:, None]
        total, shared, spread = (
            float((w * a * b).sum() / n)
            for a, b in ((self.true, self.true), (self.true, predicted), (predicted, predicted))
        )
        if self.basis is None:
            return Moments(total, shared, spread, 0.0)
        weighted = w.sqrt() * predicted
        noise = float((weighted.square().sum() - (self.basis.T @ weighted).square().sum()) / self.freedom)
        return Moments(total, shared, spread, min(max(noise, 0.0), spread))


def explained_shares(latents: Tensor, voxels: Tensor, weights: Tensor) -> Tensor:
    """Return how far to trust each voxel: the share of its variance that latents explain, bounded, with a mean of 1.

    Parameters
    ----------
    latents : Tensor of shape (n_trials, n_latents)
        Centred, float64.
    voxels : Tensor of shape (n_trials, n_voxels)
    weights : Tensor of shape (n_trials,)
        Of the trials, positive, with a mean of 1.

    Returns
    -------
    Tensor of shape (n_voxels,)
        All positive; ones where no voxel is explained, or latents do not differ.
    """
    kernel = latents @ latents.T
    unit = float(kernel.diagonal().mean())
    if not unit > 0:
        return torch.ones(voxels.shape[1]).to(voxels)
    n_voxels = voxels.shape[1]
    some = slice(None, None, max(1, n_voxels // N_SAMPLE))
    both = torch.cat([voxels, _shuffled(voxels[:, some])], 1)
    spectrum = decompose(kernel, both, weights, latents.shape[1])
    sample = spectrum._replace(targets=spectrum.targets[:, :n_voxels][:, some])
    alphas = unit * ENCODING_ALPHAS
    errors = left_out_errors(sample, alphas.tolist()).mean(1)
    best = float(alphas[int(torch.where(errors.isnan(), torch.inf, errors).argmin())])
    shares = 1 - left_out_errors(spectrum, [best])[0] / _blind_errors(both, weights)
    shares = torch.where(shares.isfinite(), shares, 0)
    chance = shares[n_voxels:] - shares[n_voxels:].mean()
    share = shares[:n_voxels] - shares[n_voxels:].mean()
    spread = float(share.var(correction=0))
    sure = max(0.0, 1 - float(chance.square().mean()) / spread) if spread > 0 else 0.0
    estimate = (share.mean() + sure * (share - share.mean())).clamp_min(float(chance.abs().median()))
    return estimate / estimate.mean() if float(estimate.mean()) > 0 else torch.ones_like(estimate)


def _shuffled(voxels: Tensor) -> Tensor:
    """Return voxels with their trials in random order, each voxel's its own: what they are without latents."""
    shuffled = np.random.default_rng(0).permuted(voxels.numpy(force=True), axis=0)
    return torch.from_numpy(shuffled).to(voxels)


def _blind_errors(voxels: Tensor, weights: Tensor) -> Tensor:
    """Return the squared error of predicting each trial by the mean of all others, (n_voxels,)."""
    mean = weights @ voxels / len(weights)
    return weights @ ((voxels - mean) / (1 - weights / len(weights))[:, None]).square() / len(weights)

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
from hyperdecode.decoding.blocks import Responses, available_memory
from hyperdecode.decoding.checks import checked_weights
from hyperdecode.decoding.explained import Encoding, sampled
from hyperdecode.decoding.folds import folds_of
from hyperdecode.decoding.left_out import DualForm, LeftOut, PrimalForm, kept_weights
from hyperdecode.decoding.penalties import DEFAULT_ALPHAS, checked_alphas, chosen_alphas, searched_alphas
from hyperdecode.decoding.standardised import Standardised
from hyperdecode.errors import UserError
from hyperdecode.memory import VARIABLE, amount

__all__ = ["WeightedRidgeDecoder"]

Array = NDArray[np.float64]

ENCODED = 256
"""Voxels that are compared with latents at once."""

COEF_COLUMNS = 4096

LEAST_BLOCKS = 2**26
"""Bytes of responses that are read at once, at least."""

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
    memory : int, optional
        Bytes that the fit may take beside its input; half of what is free without it. Responses that do not
        fit are read block by block, with the same result.

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
    One decomposition of the latents' products gives all voxels' :math:`R^2` (`hyperdecode.decoding.explained`), one of
    the trials' kernel, or of the voxels' products where trials are at least twice as many, all penalties
    (`hyperdecode.decoding.left_out`); both in float64. Products of float32 responses are summed in float32 over
    blocks, and over the blocks in float64.
    """

    def __init__(
        self,
        alphas: Sequence[float] | Array = DEFAULT_ALPHAS,
        cv: int | str = 5,
        standardize: bool = True,
        n_averaged: float = 1,
        seed: int = 0,
        memory: int | None = None,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.standardize = standardize
        self.n_averaged = n_averaged
        self.seed = seed
        self.memory = memory

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
        X : array, Tensor or array-like of shape (n_trials, n_voxels)
            Responses. What lies on disk is read in blocks (`hyperdecode.decoding.blocks.Responses`).
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
            When arrays do not fit together, contain NaN or constant voxels, the trials are too few for the folds, or
            the system of equations is larger than memory.

        Warns
        -----
        DataWarning
            When the best penalty still stands at the edge of the extended grid.
        """
        alphas = checked_alphas(self.alphas)
        if not self.n_averaged >= 1:
            raise UserError(f"n_averaged must be 1 trial or more, got {self.n_averaged!r}")
        responses = Responses(X)
        latents = self._training_latents(X, Y, responses.shape, roles).to(responses.kind.device, torch.float64)
        weights = checked_weights(sample_weight, latents)
        folds = folds_of(len(latents), self.cv, groups, self.seed)
        form, budget = self._planned(responses, latents.shape[1])
        voxels = Standardised(responses, weights, self.standardize, budget)
        sample = voxels.learn(sampled(voxels.n_voxels))
        latent_mean = voxels.weights @ latents / len(latents)
        latents = latents - latent_mean
        alone = torch.arange(len(latents))[:, None] if folds is None else folds
        left = [fold.to(latents.device) for fold in alone]
        *shares, everything = _trust(voxels, latents, sample, [*left, left[0][:0]], budget)
        solver = form(voxels, latents)
        self._choose_alpha(
            _HeldOut([solver.left_out(*each) for each in zip(shares, left, strict=True)], latents, voxels.weights),
            alphas,
        )
        coef = solver.coefficients(everything, self.alpha_)
        scales = torch.split(self.scale_ / voxels.scale, COEF_COLUMNS)
        for part, scale in zip(torch.split(coef, COEF_COLUMNS, 1), scales, strict=True):
            part.mul_(scale)
        self._keep(coef.to(responses.kind.dtype), voxels, latent_mean)
        self.voxel_weights_ = to_numpy(everything)
        return self

    def _choose_alpha(self, held_out: _HeldOut, alphas: Array) -> None:
        def errors_of(grid: Array) -> Array:
            return np.array([[held_out.moments(alpha).error(self.n_averaged)] for alpha in grid])

        self.alphas_, errors = searched_alphas(errors_of, alphas)
        self.alpha_ = float(chosen_alphas(self.alphas_, errors)[0])
        self.cv_scores_ = -errors[:, 0] / held_out.true.shape[1]
        self.scale_ = held_out.moments(self.alpha_).slope

    def _keep(self, coef: Tensor, voxels: Standardised, latent_mean: Tensor) -> None:
        offset = latent_mean
        for block, mean in zip(torch.split(coef, COEF_COLUMNS, 1), torch.split(voxels.mean, COEF_COLUMNS), strict=True):
            offset = offset - block.double() @ mean
        self.coef_, self.intercept_ = to_numpy(coef), to_numpy(offset.to(coef))
        self.x_mean_, self.x_scale_ = to_numpy(voxels.mean), to_numpy(voxels.scale)

    def _planned(self, responses: Responses, n_latents: int) -> tuple[type[DualForm] | type[PrimalForm], int]:
        """Return how to solve the equations, and the bytes that blocks of responses may take beside them."""
        if self.memory is not None and not self.memory > 0:
            raise UserError(f"memory must be a number of bytes above 0, got {self.memory!r}")
        memory = available_memory(responses.kind.device) // 2 if self.memory is None else int(self.memory)
        (n, v), itemsize = responses.shape, responses.itemsize
        # Latents and, of each fold, targets; in the end the weights, in three copies.
        kept = 8 * 6 * n * n_latents
        weights = kept + 3 * itemsize * n_latents * v
        dual, reading_dual = _dual_needs(n, itemsize)
        primal, reading_primal = _primal_needs(n, v, itemsize)
        use_primal = 2 * v <= n or (v < n and kept + dual > memory)
        most, reading = (primal, reading_primal) if use_primal else (dual, reading_dual)
        needed = max(kept + most, kept + reading + LEAST_BLOCKS, weights)
        if needed > memory:
            raise UserError(
                f"ridge regression on {n} trials x {v} voxels needs {amount(needed)} and may take {amount(memory)}: "
                "average repeats (decoding.repeats = 'average'), choose fewer voxels (bold.n_voxels), or allow more "
                f"memory ({VARIABLE})"
            )
        return PrimalForm if use_primal else DualForm, memory - kept - reading


def _dual_needs(n: int, itemsize: int) -> tuple[int, int]:
    """Bytes of what is made of n trials: at most, and while responses are read.

    A kernel, float64, with a product to be added; of each fold, its trials in the basis of the others. At most: the
    kernel of four fifths of the trials, its eigenvectors and LAPACK's workspace of twice their size.
    """
    return (22 + itemsize) * n**2, (8 + 2 * itemsize) * n**2


def _primal_needs(n: int, v: int, itemsize: int) -> tuple[int, int]:
    """Bytes of the products of v voxels, of all trials and of a fold, and of each fold's trials in their basis."""
    products = itemsize * n * v
    return 8 * 5 * v**2 + products, (8 * 2 + itemsize) * v**2 + products


def _trust(voxels: Standardised, latents: Tensor, sample: Tensor, folds: list[Tensor], budget: int) -> list[Tensor]:
    """Return how far to trust each voxel, (n_voxels,), without each of the folds; several folds in one reading."""
    each = 8 * len(latents) * min(latents.shape[1], len(latents))
    at_once = max(1, budget // 4 // each)
    found = []
    for first in range(0, len(folds), at_once):
        some = [kept_weights(voxels.weights, fold) for fold in folds[first : first + at_once]]
        models = [Encoding(latents[kept] - w @ latents[kept] / len(w), sample[kept].double(), w) for kept, w in some]
        shares = torch.empty(len(some), voxels.n_voxels).to(latents)
        for block, z in voxels.columns():
            for start in range(block.start, block.stop, ENCODED):
                part = z[:, start - block.start : start - block.start + ENCODED].double()
                for row, ((kept, _), model) in enumerate(zip(some, models, strict=True)):
                    shares[row, start : start + part.shape[1]] = model.shares(part[kept])
        found += [model.trusted(own) for model, own in zip(models, shares, strict=True)]
    return found


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


class _HeldOut:
    """All trials, each as the fit says that left it out."""

    def __init__(self, folds: list[LeftOut], latents: Tensor, weights: Tensor) -> None:
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

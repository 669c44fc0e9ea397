"""The encoding model behind the posterior: components of responses explained by latents, everything held out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from hyperdecode.decoding.arrays import as_tensor
from hyperdecode.decoding.checks import checked_matrix, refuse_constant
from hyperdecode.errors import UserError

__all__ = [
    "Components",
    "Encoder",
    "Folds",
    "Prior",
    "held_out_components",
    "posterior_factor",
    "posterior_mean",
    "shrunk",
]

PENALTIES = np.logspace(-1.5, 4, 12)
"""Penalties tried, in units of the mean squared length of the centred latents."""

STEADY = 0.5
"""A heavier penalty is taken that is worse by no more than this many standard errors. Of many components that say
nothing the best penalty lets some say a little by chance, which averages would then be believed too much."""

SINGULAR = 1e-6
"""Variance of the prior, relative to its largest, that is rounding."""

Array = NDArray[np.float64]
Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


class Prior(NamedTuple):
    """Gaussian prior of latents: mean (d,), covariance (d, d), and a root of it, ``root @ root.T == covariance``."""

    mean: Tensor
    covariance: Tensor
    root: Tensor


def checked_prior(mean: Any, covariance: Any, n_latents: int, like: Tensor) -> Prior:
    """Return the prior as float64 tensors where `like` lies; a singular covariance is fine, a negative one is not.

    Raises
    ------
    UserError
        When shapes do not fit, or the covariance is none.
    """
    centre, spread = as_tensor(mean, "prior_mean")[0], checked_matrix(covariance, "prior_covariance")[0]
    centre, spread = centre.to(like.device, torch.float64), spread.to(like.device, torch.float64)
    if centre.shape != (n_latents,) or spread.shape != (n_latents, n_latents):
        raise UserError(
            f"latents of {n_latents} dimensions need a prior mean of as many and a square covariance, got shapes "
            f"{tuple(centre.shape)} and {tuple(spread.shape)}: take both from latent_prior of the stimuli's generator"
        )
    values, vectors = torch.linalg.eigh((spread + spread.T) / 2)
    largest = float(values[-1])
    if (
        not bool(torch.isfinite(centre).all())
        or not largest > 0
        or float(values[0]) < -SINGULAR * largest
        or float((spread - spread.T).abs().max()) > SINGULAR * largest
    ):
        raise UserError(
            "the prior must have a finite mean and a symmetric covariance without negative eigenvalues, got "
            f"eigenvalues from {float(values[0]):.3g} to {largest:.3g}: take both from latent_prior of the generator"
        )
    return Prior(centre, spread, (vectors * values.clamp(min=0).sqrt()) @ vectors.T)


class Components(NamedTuple):
    """Principal components of standardised voxels.

    Attributes
    ----------
    held_out : Tensor, (n_trials, k)
        Of each training trial, as long as if the directions had been found without it.
    directions : Tensor, (n_voxels, k)
        For raw voxels, from all training trials: ``(x - centre) @ directions``.
    centre : Tensor, (n_voxels,)
    of_folds : list of (Tensor, Tensor)
        Along directions found without the fold: components of its training rows, scaled likewise, and of its held-out
        rows, as they are.
    """

    held_out: Tensor
    directions: Tensor
    centre: Tensor
    of_folds: list[tuple[Tensor, Tensor]]

    def scaled(self) -> Components:
        """Return them in units of the training trials' standard deviation."""
        scale = self.held_out.std(0, correction=0)
        folds = [(train / scale, held / scale) for train, held in self.of_folds]
        return Components(self.held_out / scale, self.directions / scale, self.centre, folds)


def held_out_components(voxels: Tensor, roots: Tensor, folds: Folds, k: int) -> Components:
    """Return the leading `k` principal components, or as many as the training trials of every fold have.

    A component of a trial that the directions were fitted to is larger than that of a trial to come, by a factor that
    grows from one direction to the next and is nearly the same for all trials (Lee, Zou & Wright 2010). The training
    trials' components are divided by it. It is found fold by fold: the variance of held-out trials along the j-th
    direction of the others, against that of the trials themselves along their own.

    Parameters
    ----------
    voxels : Tensor, (n_trials, n_voxels)
    roots : Tensor, (n_trials,)
        Square roots of the weights of trials.
    folds : list of (training rows, held-out rows)
    k : int

    Raises
    ------
    UserError
        When voxels are constant.

    References
    ----------
    Lee, Zou & Wright (2010), Convergence and prediction of principal component scores in high-dimensional settings,
    Annals of Statistics 38:3605.
    """
    share = roots**2 / (roots**2).sum()
    centre = share @ voxels
    scale = (share @ (voxels - centre) ** 2).sqrt()
    refuse_constant(voxels, scale)
    z = (voxels - centre) / scale * roots[:, None]
    kernel = z @ z.T
    parts = [_leading(kernel[train][:, train], k) for train, _ in folds]
    k = min(part.shape[1] for part in parts)
    own = [_lengths(kernel[train][:, train] @ part[:, :k]) for (train, _), part in zip(folds, parts, strict=True)]
    held_out = [kernel[held][:, train] @ part[:, :k] for (train, held), part in zip(folds, parts, strict=True)]
    length = _lengths(torch.cat(held_out))
    whole = _leading(kernel, k)
    fitted = kernel @ whole
    return Components(
        fitted * (length / _lengths(fitted)) / roots[:, None],
        z.T @ whole / scale[:, None],
        centre,
        [
            (kernel[train][:, train] @ part[:, :k] * (length / mine) / roots[train, None], new / roots[held, None])
            for (train, held), part, mine, new in zip(folds, parts, own, held_out, strict=True)
        ],
    )


def _lengths(columns: Tensor) -> Tensor:
    return columns.square().mean(0).sqrt()


def _leading(kernel: Tensor, k: int) -> Tensor:
    """Return dual weights (n, at most k) of the leading directions, each of which is then of length one."""
    values, vectors = torch.linalg.eigh(kernel)
    rank = int((values > 1e-10 * values[-1]).sum())
    leading = slice(len(values) - min(k, rank), None)
    dual: Tensor = vectors[:, leading] / values[leading].sqrt()
    return dual.flip(1)


class Encoder:
    """Ridge regression of components on latents, with a penalty for each component, chosen by held-out error.

    Parameters
    ----------
    latents : Tensor, (n_trials, n_latents)
    components : Components
    roots : Tensor, (n_trials,)
        Square roots of the weights of trials.
    folds : list of (training rows, held-out rows)

    Attributes
    ----------
    coefficients : Tensor, (k, n_latents)
    intercept : Tensor, (k,)
        ``components ~ latents @ coefficients.T + intercept``, from all trials.
    penalties : Tensor, (k,)
    freedom : Tensor, (k,)
        Effective degrees of freedom of the fit to all trials, the intercept among them.
    residuals : Tensor, (n_trials, k)
        Of held-out predictions, each times its root weight.
    """

    def __init__(self, latents: Tensor, components: Components, roots: Tensor, folds: Folds) -> None:
        self._latents, self._roots, self._folds = latents, roots, folds
        self._components, self._of_folds = components.held_out, components.of_folds
        self._centre = (roots**2 / (roots**2).sum()) @ latents
        self._scaled = (latents - self._centre) * roots[:, None]
        kernel = self._scaled @ self._scaled.T
        solved = [_Eigen.of(kernel[train][:, train]) for train, _ in folds]
        grid = torch.from_numpy(PENALTIES).to(latents) * kernel.diagonal().mean()
        errors = [self._held_out(solved, penalty.expand(self._components.shape[1])).square() for penalty in grid]
        self.penalties = grid[_steadiest(torch.stack(errors))]
        self.residuals = self._held_out(solved, self.penalties)
        self._solved = solved
        whole = _Eigen.of(kernel)
        everything = np.arange(len(latents))
        self.coefficients, self.intercept = self._fitted(whole, everything, self._components, self.penalties)
        self.freedom = whole.freedom(self.penalties)

    def errors(self, k: int, prior: Prior) -> Tensor:
        """Return latents minus their posterior mean, (n_trials, n_latents), of a model of `k` components without them.

        All is fitted anew without the fold, directions of components too; penalties alone are those of all trials. The
        covariance of residuals is that of the model's own trials, times (n / (n - freedom))^2, as in generalised
        cross-validation.
        """
        errors = torch.empty_like(self._latents)
        for (train, held), (own, new), solved in zip(self._folds, self._of_folds, self._solved, strict=True):
            coefficients, intercept = self._fitted(solved, train, own[:, :k], self.penalties[:k])
            misses = (own[:, :k] - self._latents[train] @ coefficients.T - intercept) * self._roots[train, None]
            noise = shrunk(misses / (1 - solved.freedom(self.penalties[:k]) / len(train)))
            errors[held] = self._latents[held] - posterior_mean(new[:, :k], coefficients, intercept, noise, prior)
        return errors

    def _held_out(self, solved: list[_Eigen], penalties: Tensor) -> Tensor:
        """Return the residuals of held-out trials, times their root weight."""
        residuals = torch.empty_like(self._components)
        for (train, held), part in zip(self._folds, solved, strict=True):
            coefficients, intercept = self._fitted(part, train, self._components[train], penalties)
            predicted = self._latents[held] @ coefficients.T + intercept
            residuals[held] = (self._components[held] - predicted) * self._roots[held, None]
        return residuals

    def _fitted(
        self, solved: _Eigen, rows: NDArray[np.intp], components: Tensor, penalties: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Solve ``min sum_i w_i |f_i - A y_i - c|^2 + penalty |A|^2`` for each component, in the dual."""
        roots, targets = self._roots[rows], components * self._roots[rows, None]
        inverse = 1 / (solved.values[:, None] + penalties)
        duals = solved.vectors @ (inverse * (solved.vectors.T @ targets))
        constant = solved.vectors @ (inverse * (solved.vectors.T @ roots)[:, None])
        intercept = (roots @ duals) / (roots @ constant)
        coefficients = (duals - constant * intercept).T @ self._scaled[rows]
        return coefficients, intercept - coefficients @ self._centre


def _steadiest(errors: Tensor) -> Tensor:
    """Return for each component the heaviest penalty about as good as the best; errors squared, (penalties, n, k)."""
    best = errors.mean(1).argmin(0)
    excess = errors - errors.gather(0, best.expand(1, errors.shape[1], -1))
    within = excess.mean(1) <= STEADY * excess.std(1) / errors.shape[1] ** 0.5
    places = torch.arange(len(errors), device=errors.device)[:, None]
    return torch.where(within, places, -1).amax(0)


class _Eigen(NamedTuple):
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, kernel: Tensor) -> _Eigen:
        values, vectors = torch.linalg.eigh(kernel)
        return cls(values.clamp(min=0), vectors)

    def freedom(self, penalties: Tensor) -> Tensor:
        """Return effective degrees of freedom (k,) of a fit with an intercept."""
        return 1 + (self.values[:, None] / (self.values[:, None] + penalties)).sum(0)


def shrunk(residuals: Tensor) -> Tensor:
    """Return the covariance (k, k) of centred rows (n, k): variances as they are, correlations shrunk to none.

    Shrinking by Ledoit & Wolf (2004), of the rows in units of their standard deviation.
    """
    sd = residuals.square().mean(0).sqrt()
    correlation, _ = ledoit_wolf((residuals / sd).numpy(force=True), assume_centered=True)
    covariance: Tensor = torch.from_numpy(correlation).to(residuals) * sd * sd[:, None]
    return covariance


def misfit_share(noise: Array, explained: Array, least: Array, free_noise: float, free_total: float) -> Array:
    """Return what share of each component's residual variance repeats have in common.

    One minus the noise's share is known to within the sampling error of two variances. Taken as it is, components that
    seem free of misfit by chance would be those that an average is believed most. So it is drawn to what misfit all
    components have: a constant, and a share of the variance that latents explain (both by least squares, neither
    negative), by as much as its sampling variance outweighs the true scatter around that (empirical Bayes).

    Parameters
    ----------
    noise : array, (k,)
        Variance between repeats, in units of the residual variance.
    explained : array, (k,)
        Variance that latents explain, in the same units.
    least : array, (k,)
        Share that is misfit in any case.
    free_noise, free_total : float
        Degrees of freedom of the noise and of the residual variance.
    """
    seen, variance = 1 - noise, noise**2 * (2 / free_noise + 2 / free_total)
    design = np.stack([np.ones_like(explained), explained], axis=1)
    scale = 1 / np.sqrt(variance)
    trend = design @ nnls(design * scale[:, None], seen * scale)[0]
    scatter = max(0.0, float(np.mean((seen - trend) ** 2 - variance)))
    share: Array = np.clip(trend + scatter / (scatter + variance) * (seen - trend), least, 1)
    return share


def posterior_mean(components: Tensor, coefficients: Tensor, intercept: Tensor, noise: Tensor, prior: Prior) -> Tensor:
    r"""Return :math:`\mu + \Gamma A^\top (A \Gamma A^\top + \Psi)^{-1} (f - c - A \mu)` for each row f."""
    shared = coefficients @ prior.covariance
    surprise = components - intercept - coefficients @ prior.mean
    solved: Tensor = torch.linalg.solve(shared @ coefficients.T + noise, surprise.T)
    return prior.mean + solved.T @ shared


def posterior_factor(coefficients: Tensor, noise: Tensor, prior: Prior) -> Tensor:
    r"""Return L (d, d) with :math:`L L^\top = \Gamma - \Gamma A^\top (A \Gamma A^\top + \Psi)^{-1} A \Gamma`.

    With ``Gamma = R R^T``, ``A R = B`` and ``B B^T + Psi = C C^T`` it is ``R (I - D^T D)^(1/2)`` for ``D = C^-1 B``,
    whose singular values are below one: nothing is subtracted that could leave a negative variance.
    """
    reading = coefficients @ prior.root
    lower = torch.linalg.cholesky(reading @ reading.T + noise)
    _, values, right = torch.linalg.svd(torch.linalg.solve_triangular(lower, reading, upper=False), full_matrices=False)
    narrowed = (1 - values.square()).clamp(min=0).sqrt() - 1
    factor: Tensor = prior.root + (prior.root @ right.T) * narrowed @ right
    return factor

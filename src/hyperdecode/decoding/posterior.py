"""What responses leave open: the Gaussian posterior over latents given the voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hyperdecode.decoding.arrays import Kind, to_numpy
from hyperdecode.decoding.checks import checked_matrix, checked_pair, checked_weights
from hyperdecode.decoding.encoding import (
    SINGULAR,
    Encoder,
    Folds,
    Prior,
    checked_prior,
    held_out_components,
    misfit_share,
    posterior_factor,
    posterior_mean,
    shrunk,
)
from hyperdecode.errors import UserError
from hyperdecode.fmri.repeats import repeat_variance
from hyperdecode.generators.base import Generator
from hyperdecode.split import require_training

__all__ = ["LatentPosterior", "Posterior", "RepeatNoise", "latent_prior"]

Array = NDArray[np.float64]

N_COMPONENTS = (10, 20, 40, 80, 160)
FEW_TAIL = 5
"""Held-out errors that must lie beyond an interval's end for its level to be taken from them."""


@dataclass(frozen=True)
class RepeatNoise:
    """Variance of what differs between repeats of one stimulus, in the components of one `LatentPosterior`.

    Attributes
    ----------
    variance : array of float64, (n_components,)
    n_stimuli, n_trials : int
        What it was estimated from.
    """

    variance: Array
    n_stimuli: int
    n_trials: int


@dataclass(frozen=True)
class Posterior:
    r"""Gaussian over the latents of each trial: :math:`y_i \sim N(m_i, L L^\top)`.

    Attributes
    ----------
    mean : array or Tensor, (n_trials, n_latents)
    factor : array or Tensor, (n_latents, n_latents)
        The L that all trials share.
    errors : array or Tensor, (n_training_trials, n_latents)
        Latents minus posterior mean of training trials that the model had not seen.
    error_factor : array or Tensor, (n_latents, n_latents)
        The L of those trials.

    Notes
    -----
    Latents w are not Gaussian. An interval that is `calibrated` therefore reaches as many standard deviations to both
    sides of the mean as cover its level of the held-out errors in the same direction; else as many as the normal
    distribution has. Where fewer than five held-out errors would lie outside, the normal distribution is used.
    """

    mean: Any
    factor: Any
    errors: Any
    error_factor: Any

    @property
    def sd(self) -> Any:
        """Standard deviation of each latent, (n_latents,)."""
        return (self.factor**2).sum(1) ** 0.5

    def sample(self, n: int, seed: int) -> Any:
        """Draw `n` latents for each trial, (n, n_trials, n_latents)."""
        mean, factor = torch.as_tensor(self.mean), torch.as_tensor(self.factor)
        shape = (n, *mean.shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        drawn = mean + noise.to(mean) @ factor.T
        return drawn if isinstance(self.mean, Tensor) else drawn.numpy()

    def interval(self, level: float = 0.9, calibrated: bool = True) -> tuple[Any, Any]:
        """Return lower and upper ends, (n_trials, n_latents) each, of the interval of each latent."""
        return self.projected_interval(np.eye(self.mean.shape[1]), level, calibrated)

    def project(self, directions: Any) -> tuple[Any, Any]:
        """Return the posterior of ``latents . direction``: means (n_trials, k) and standard deviations (k,).

        Parameters
        ----------
        directions : array or Tensor, (k, n_latents)
            Attribute normals, say.

        Raises
        ------
        UserError
            When directions are of another length.
        """
        along = self._directions(directions)
        return self.mean @ along.T, ((along @ self.factor) ** 2).sum(1) ** 0.5

    def projected_interval(self, directions: Any, level: float = 0.9, calibrated: bool = True) -> tuple[Any, Any]:
        """Return lower and upper ends, (n_trials, k) each, of the intervals of ``latents . direction``.

        Raises
        ------
        UserError
            When `level` is not between 0 and 1, or directions are of another length.
        """
        if not 0 < level < 1:
            raise UserError(f"the level of an interval must lie between 0 and 1, got {level}: 0.9 is usual")
        mean, sd = self.project(directions)
        reach = sd * self._reach(self._directions(directions), level, calibrated)
        return mean - reach, mean + reach

    def _directions(self, directions: Any) -> Any:
        along = torch.as_tensor(directions).to(torch.as_tensor(self.mean))
        if along.ndim != 2 or along.shape[1] != self.mean.shape[1]:
            raise UserError(
                f"directions must be k x {self.mean.shape[1]}, as the latents are long, got shape {tuple(along.shape)}"
            )
        return along if isinstance(self.mean, Tensor) else along.numpy()

    def _reach(self, along: Any, level: float, calibrated: bool) -> Any:
        """Return how many standard deviations an interval reaches, (k,) or one for all."""
        n = len(self.errors)
        rank = int(np.ceil((n + 1) * level))
        if not calibrated or n - rank < FEW_TAIL:
            return float(ndtri((1 + level) / 2))
        sd = ((along @ self.error_factor) ** 2).sum(1) ** 0.5
        ratios = torch.as_tensor(abs(self.errors @ along.T) / sd)
        found = ratios.kthvalue(rank, dim=0).values
        return found if isinstance(self.mean, Tensor) else found.numpy()


class LatentPosterior(BaseEstimator):  # type: ignore[misc]
    r"""Posterior over latents by an encoding model of the leading components of the responses.

    .. math::
        y \sim N(\mu, \Gamma), \qquad f = A y + c + \eta_m + \eta_n / \sqrt r, \qquad
        \eta_m \sim N(0, \Psi_m),\; \eta_n \sim N(0, \Psi_n),

    where f are the principal components of the standardised voxels, averaged over r repeats. Averaging lessens the
    noise :math:`\eta_n` between repeats, and not the misfit :math:`\eta_m`, what of the response to a stimulus is not
    linear in its latents. With :math:`S_r = A \Gamma A^\top + \Psi_m + \Psi_n / r`, in closed form

    .. math::
        E[y \mid f] = \mu + \Gamma A^\top S_r^{-1} (f - c - A \mu), \qquad
        \mathrm{Cov}[y \mid f] = \Gamma - \Gamma A^\top S_r^{-1} A \Gamma .

    Nothing is judged on the trials that it was fitted to: training trials' components are scaled to what they would
    be if the directions had been found without them; A's penalty is chosen for each component, and how many
    components are kept, by held-out error; :math:`\Psi_m + \Psi_n` is the covariance of held-out residuals, its
    correlations shrunk (Ledoit and Wolf), so that it holds the uncertainty of A, which no averaging lessens. Misfit
    and noise, of the same correlations, are told apart component by component (`misfit_share`). Components are of
    voxels alone: directions chosen by latents would fit the chance correlations of hundreds of latents.

    Parameters
    ----------
    prior_mean : array of shape (n_latents,)
    prior_covariance : array of shape (n_latents, n_latents)
        Of the latents that stimuli are drawn from (`latent_prior`), not estimated from the few that were shown. May be
        singular.
    n_components : sequence of int
        Numbers of principal components tried; those beyond a third of the training trials are left out.
    n_folds : int
        Folds of the training trials, at least 2.
    seed : int
        Deals trials to folds.

    Attributes
    ----------
    n_components_ : int
        Principal components that are read.
    weights_ : array of float64, (n_voxels, n_components_)
        ``f = X @ weights_ + offset_``, components of unit variance over held-out trials.
    offset_ : array of float64, (n_components_,)
    encoding_ : array of float64, (n_components_, n_latents)
        A.
    encoding_intercept_ : array of float64, (n_components_,)
        c.
    residual_covariance_ : array of float64, (n_components_, n_components_)
        Misfit and noise of a training trial.
    uncertainty_ : array of float64, (n_components_,)
        Share of the residual variance that is due to A's being estimated, ``freedom / (n_trials + freedom)``: misfit at
        least.
    noise_ : RepeatNoise or None
        From training stimuli shown more than once (rows of equal latents), where at least two were.
    errors_ : array of float64, (n_trials, n_latents)
        Latents minus posterior mean of training trials, held out.
    cv_errors_ : array of float64, (n_numbers,)
        Mean squared held-out error in units of the prior's variance, for each number of components tried.
    n_stimuli_ : int
        Training stimuli: rows of different latents.
    n_features_in_ : int
        Number of voxels.
    """

    def __init__(
        self,
        prior_mean: Any,
        prior_covariance: Any,
        n_components: Sequence[int] = N_COMPONENTS,
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.prior_mean = prior_mean
        self.prior_covariance = prior_covariance
        self.n_components = n_components
        self.n_folds = n_folds
        self.seed = seed

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
        X : array or Tensor of shape (n_trials, n_voxels)
            Responses. Computed where they lie, in float64.
        Y : array or Tensor of shape (n_trials, n_latents)
            Latents of the stimuli shown.
        roles : sequence of {"train", "test"}, length n_trials, optional
            Role of each row; a single test trial is refused.
        groups : sequence, length n_trials, optional
            Trials of one group stay in one fold. Default: trials of equal latents, repeats of one stimulus.
        sample_weight : array of shape (n_trials,), optional
            Inverse noise variance of each trial, up to a factor. The model is then one of a trial of mean weight.

        Returns
        -------
        LatentPosterior
            Itself, fitted.

        Raises
        ------
        LeakageError
            When a row is a test trial.
        UserError
            When arrays do not fit together or with the prior, hold NaN or constant voxels, or trials are too few.
        """
        voxels, latents, _ = checked_pair(X, Y)
        require_training(roles, len(voxels), "LatentPosterior")
        voxels, latents = voxels.double(), latents.double()
        prior = checked_prior(self.prior_mean, self.prior_covariance, latents.shape[1], latents)
        stimuli = torch.unique(latents, dim=0, return_inverse=True)[1].tolist()
        folds = _folds(len(voxels), self.n_folds, stimuli if groups is None else groups, self.seed)
        weights = checked_weights(sample_weight, voxels)
        roots = torch.ones_like(voxels[:, 0]) if weights is None else weights.sqrt()
        numbers = _numbers(self.n_components, voxels)

        found = held_out_components(voxels, roots, folds, max(numbers)).scaled()
        numbers = [n for n in numbers if n <= found.held_out.shape[1]] or [found.held_out.shape[1]]
        encoder = Encoder(latents, found, roots, folds)
        tried = [encoder.errors(n, prior) for n in numbers]
        variance = prior.covariance.diagonal()
        varied = variance > SINGULAR * variance.max()
        self.cv_errors_ = np.array([float((e.square() / variance)[:, varied].mean()) for e in tried])
        best = int(self.cv_errors_.argmin())
        n = self.n_components_ = numbers[best]
        self.errors_ = to_numpy(tried[best])
        self.encoding_, self.encoding_intercept_ = to_numpy(encoder.coefficients[:n]), to_numpy(encoder.intercept[:n])
        self.residual_covariance_ = to_numpy(shrunk(encoder.residuals[:, :n]))
        self.uncertainty_ = to_numpy(encoder.freedom[:n] / (len(voxels) + encoder.freedom[:n]))
        self.weights_ = to_numpy(found.directions[:, :n])
        self.offset_ = -to_numpy(found.centre) @ self.weights_
        self.n_features_in_ = voxels.shape[1]
        counts = np.bincount(stimuli)
        self.n_stimuli_ = len(counts)
        self.noise_ = _repeat_noise(found.held_out[:, :n], stimuli) if (counts > 1).sum() > 1 else None
        return self

    def noise_from_repeats(self, X_trials: Any, stimuli: Sequence[object]) -> RepeatNoise:
        """Return the noise between repeats, from the SPREAD of trials around the mean of their stimulus.

        Meant for the design of the paper, where training faces are shown once and test faces often: how much an
        average over repeats is less noisy than a trial can then be learnt from the trials that are decoded alone. It
        uses neither their latents nor their averages, but it does use test trials: it changes how far posterior means
        of averages are from the prior mean and how wide their intervals are. Leave it out (``noise=None``) for scores
        of which it is claimed that nothing but the averages was taken from test trials.

        Parameters
        ----------
        X_trials : array or Tensor of shape (n_trials, n_voxels)
            Single trials, before they are averaged.
        stimuli : sequence, length n_trials
            The stimulus of each.

        Returns
        -------
        RepeatNoise
            For `posterior`.

        Raises
        ------
        UserError
            When fewer than two stimuli have more than one trial.
        """
        check_is_fitted(self)
        return _repeat_noise(self._components(X_trials)[0], stimuli)

    def posterior(self, X: Any, n_repeats: int = 1, noise: RepeatNoise | None = None) -> Posterior:
        """Return the posterior over the latents of each row.

        Parameters
        ----------
        X : array or Tensor of shape (n, n_voxels)
            Responses to one stimulus each, every one the mean of `n_repeats` trials.
        n_repeats : int
        noise : RepeatNoise, optional
            What repeats have not in common. Default: that of repeated training stimuli. Where there are none, an
            average is taken for as noisy as a trial: means are drawn to the prior more than they need be, and
            intervals are wider than they need be.

        Returns
        -------
        Posterior
            Of the library, device and type of `X`.

        Raises
        ------
        UserError
            When voxels differ from the training's, or `n_repeats` is below 1.
        """
        check_is_fitted(self)
        if n_repeats < 1:
            raise UserError(f"an average is of 1 trial or more, got n_repeats={n_repeats}: give how many were averaged")
        components, kind = self._components(X)
        prior = checked_prior(self.prior_mean, self.prior_covariance, self.encoding_.shape[1], components)
        coefficients = torch.from_numpy(self.encoding_).to(components)
        intercept = torch.from_numpy(self.encoding_intercept_).to(components)
        single = torch.from_numpy(self.residual_covariance_).to(components)
        averaged = self._averaged(single, n_repeats, noise or self.noise_, prior)
        mean = posterior_mean(components, coefficients, intercept, averaged, prior)
        return Posterior(
            kind.back(mean),
            kind.back(posterior_factor(coefficients, averaged, prior)),
            kind.back(torch.from_numpy(self.errors_)),
            kind.back(posterior_factor(coefficients, single, prior)),
        )

    def sample_posterior(
        self, X: Any, n: int, seed: int = 0, n_repeats: int = 1, noise: RepeatNoise | None = None
    ) -> Any:
        """Draw `n` latents for each row of `X`, (n, n_rows, n_latents): ``posterior(...).sample(n, seed)``."""
        return self.posterior(X, n_repeats, noise).sample(n, seed)

    def predict(self, X: Any) -> Any:
        """Return the posterior means of single trials, (n, n_latents)."""
        return self.posterior(X).mean

    def _components(self, X: Any) -> tuple[Tensor, Kind]:
        voxels, kind = checked_matrix(X, "responses", self.n_features_in_)
        weights, offset = (torch.from_numpy(a).to(voxels.device) for a in (self.weights_, self.offset_))
        return torch.addmm(offset, voxels.double(), weights), kind

    def _averaged(self, single: Tensor, n_repeats: int, noise: RepeatNoise | None, prior: Prior) -> Tensor:
        """Return the covariance of misfit and noise in an average: the misfit stays."""
        if noise is None or n_repeats == 1:
            return single
        if noise.variance.shape != self.uncertainty_.shape:
            raise UserError(
                f"the noise is of {len(noise.variance)} components and the model of {len(self.uncertainty_)}: call "
                "noise_from_repeats of the model that makes the posterior"
            )
        total = self.residual_covariance_.diagonal()
        explained = np.einsum("kd,de,ke->k", self.encoding_, to_numpy(prior.covariance), self.encoding_)
        free = noise.n_trials - noise.n_stimuli
        share = misfit_share(noise.variance / total, explained / total, self.uncertainty_, free, self.n_stimuli_)
        kept = torch.from_numpy(np.sqrt(share + (1 - share) / n_repeats)).to(single)
        averaged: Tensor = single * kept * kept[:, None]
        return averaged


def latent_prior(
    generator: Generator, space: str, truncation: float = 1.0, n: int = 16384, seed: int = 0
) -> tuple[Array, Array]:
    r"""Return mean and covariance of the latents that a generator's faces are drawn from.

    N(0, I) in z. In w the moments of `n` seeded samples, drawn to the mean by `truncation` as stimuli are: the
    covariance is that of w times ``truncation ** 2``.

    Raises
    ------
    UserError
        When it has no such space.
    """
    if space not in generator.spaces:
        raise UserError(f"the generator has latents {' and '.join(generator.spaces)}, not {space!r}: name one of them")
    if space == "z":
        return np.zeros(generator.latent_dim), np.eye(generator.latent_dim)
    with torch.inference_mode():
        w = to_numpy(generator.to_w(generator.sample(n, seed), truncation).double())
    return w.mean(0), np.cov(w, rowvar=False)


def _repeat_noise(components: Tensor, stimuli: Sequence[object]) -> RepeatNoise:
    found = repeat_variance(components.numpy(force=True), [str(name) for name in stimuli])
    return RepeatNoise(found.noise, found.n_stimuli, found.n_trials)


def _numbers(asked: Sequence[int], voxels: Tensor) -> list[int]:
    """Return the numbers of components to try: no more than a third of the trials bears."""
    if not len(asked) or min(asked) < 1:
        raise UserError(f"numbers of components must be 1 or more, got {tuple(asked)}: {N_COMPONENTS} is usual")
    most = max(1, min(len(voxels) // 3, voxels.shape[1]))
    return sorted({min(int(n), most) for n in asked})


def _folds(n_trials: int, n_folds: int, groups: Sequence[object], seed: int) -> Folds:
    if n_folds < 2:
        raise UserError(f"cross-validation needs at least 2 folds, got n_folds={n_folds}")
    if len(groups) != n_trials:
        raise UserError(f"got {n_trials} trials and {len(groups)} groups: give one group a trial")
    number_of = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(number_of) < n_folds:
        raise UserError(
            f"{n_folds} folds need at least {n_folds} groups of trials, got {len(number_of)}: "
            "lower n_folds or add trials"
        )
    labels = np.array([number_of[group] for group in groups])
    order = np.random.default_rng(seed).permutation(len(number_of))
    return list(GroupKFold(n_folds).split(np.zeros(n_trials), groups=order[labels]))

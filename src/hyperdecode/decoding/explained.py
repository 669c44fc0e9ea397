"""How far to trust each voxel: the share of its variance that latents explain, voxels taken a few at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hyperdecode.decoding.kernel import Spectrum, decompose, left_out_errors
from hyperdecode.decoding.penalties import chosen_alphas

__all__ = ["Encoding", "explained_shares", "sampled"]

ENCODING_ALPHAS = np.logspace(-2, 3, 11)
"""Penalties of the encoding model, in units of the mean diagonal of the latents' kernel."""

N_SAMPLE = 512
"""About as many voxels choose the penalty of the encoding model, which is one for all."""

TINY = torch.finfo(torch.float64).eps ** 0.5
"""The least part of a trial that its own fit leaves over, to be told from rounding."""


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
    encoding = Encoding(latents, voxels[:, sampled(voxels.shape[1])], weights)
    return encoding.trusted(encoding.shares(voxels))


def sampled(n_voxels: int) -> slice:
    """Return the voxels that choose the penalty and, shuffled, say what chance does."""
    return slice(None, None, max(1, n_voxels // N_SAMPLE))


class Encoding:
    """Ridge regression from latents to voxels, one penalty for all, and what it predicts of trials left out.

    Parameters
    ----------
    latents : Tensor of shape (n_trials, n_latents)
        Centred on their weighted mean, float64.
    sample : Tensor of shape (n_trials, n_sample)
        The voxels of `sampled`.
    weights : Tensor of shape (n_trials,)
        Of the trials, positive, with a mean of 1.
    """

    def __init__(self, latents: Tensor, sample: Tensor, weights: Tensor) -> None:
        self.weights = weights
        unit = float(latents.square().sum(1).mean())
        self._tells = unit > 0
        if not self._tells:
            return
        few = 2 * latents.shape[1] <= len(latents)
        self._form: _Primal | _Dual = (_Primal if few else _Dual)(latents, weights)
        alphas = unit * ENCODING_ALPHAS
        errors = torch.stack([self._form.errors(sample, float(alpha)).mean() for alpha in alphas])
        known = torch.where(errors.isnan(), torch.inf, errors)
        self.alpha = float(chosen_alphas(alphas, known[:, None].cpu().numpy())[0])
        self.chance = self.shares(_shuffled(sample))

    def shares(self, voxels: Tensor) -> Tensor:
        """Return the share of each voxel's variance that is predicted of trials left out, (n_voxels,); not bounded."""
        if not self._tells:
            return torch.ones(voxels.shape[1]).to(self.weights)
        shares = 1 - self._form.errors(voxels.to(self.weights), self.alpha) / _blind_errors(voxels, self.weights)
        return torch.where(shares.isfinite(), shares, 0)

    def trusted(self, shares: Tensor) -> Tensor:
        """Return how far to trust each voxel, from the shares of all, (n_voxels,); with a mean of 1."""
        if not self._tells:
            return torch.ones_like(shares)
        chance, share = self.chance - self.chance.mean(), shares - self.chance.mean()
        spread = float(share.var(correction=0))
        sure = max(0.0, 1 - float(chance.square().mean()) / spread) if spread > 0 else 0.0
        estimate = (share.mean() + sure * (share - share.mean())).clamp_min(float(chance.abs().median()))
        return estimate / estimate.mean() if float(estimate.mean()) > 0 else torch.ones_like(estimate)


class _Primal:
    """Through the products of the latents, for more trials than latents; see `hyperdecode.decoding.primal`."""

    def __init__(self, latents: Tensor, weights: Tensor) -> None:
        self.weights, self.roots = weights, weights.sqrt()
        x = self.roots[:, None] * latents
        self.values, vectors = torch.linalg.eigh(x.T @ x)
        self.values.clamp_min_(0)
        self.basis = x @ vectors

    def errors(self, voxels: Tensor, alpha: float) -> Tensor:
        y = self.roots[:, None] * (voxels - self.weights @ voxels / len(voxels))
        inverse = 1 / (self.values + alpha)
        left = 1 - self.weights / self.weights.sum() - self.basis.square() @ inverse
        residuals: Tensor = y - self.basis @ (inverse[:, None] * (self.basis.T @ y))
        residuals /= torch.where(left > TINY, left, torch.nan)[:, None]
        return residuals.square_().mean(0)


class _Dual:
    """Through the products of the trials."""

    def __init__(self, latents: Tensor, weights: Tensor) -> None:
        self.spectrum: Spectrum = decompose(latents @ latents.T, latents, weights, latents.shape[1])

    def errors(self, voxels: Tensor, alpha: float) -> Tensor:
        s = self.spectrum
        targets = s.vectors.T @ (s.roots[:, None] * voxels)
        return left_out_errors(s._replace(targets=targets), [alpha])[0]


def _shuffled(voxels: Tensor) -> Tensor:
    """Return voxels with their trials in random order, each voxel's its own: what they are without latents."""
    shuffled = np.random.default_rng(0).permuted(voxels.numpy(force=True), axis=0)
    return torch.from_numpy(shuffled).to(voxels)


def _blind_errors(voxels: Tensor, weights: Tensor) -> Tensor:
    """Return the squared error of predicting each trial by the mean of all others, (n_voxels,)."""
    voxels = voxels.to(weights)
    mean = weights @ voxels / len(weights)
    return weights @ ((voxels - mean) / (1 - weights / len(weights))[:, None]).square_() / len(weights)

"""Weighted-voxel ridge regression without the trials of a fold: one decomposition gives all penalties.

Through the products of trials (`DualForm`), or, where trials outnumber voxels, through those of voxels (`PrimalForm`).
Either reads the responses block by block and keeps of each fold what its predictions need and no more.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hyperdecode.decoding.kernel import ROUNDING, decompose, dual_solution
from hyperdecode.decoding.standardised import Standardised

__all__ = ["DualForm", "Form", "LeftOut", "PrimalForm", "kept_weights"]


class LeftOut(NamedTuple):
    """A fit without the trials of a fold, and those trials in its eigenbasis.

    Attributes
    ----------
    fold : Tensor, (n_left_out,)
    true : Tensor, (n_left_out, n_latents)
        Their latents, less the mean of those that were fitted to.
    values : Tensor, (m,)
        Eigenvalues, ascending.
    targets : Tensor, (m, n_latents)
    products : Tensor, (n_left_out, m)
    floor : float
        The least eigenvalue + penalty that can be told from rounding.
    """

    fold: Tensor
    true: Tensor
    values: Tensor
    targets: Tensor
    products: Tensor
    floor: float

    def predicted(self, alpha: float) -> Tensor:
        """Return what the fit says of the fold, (n_left_out, n_latents), from its mean; NaN for too small a penalty."""
        divisors = self.values + alpha
        if float(divisors[0]) < self.floor:
            divisors = torch.full_like(divisors, torch.nan)
        return (self.products @ (self.targets / divisors[:, None]).to(self.products)).to(self.true)


class Form(Protocol):
    """How the equations are solved."""

    def left_out(self, shares: Tensor, fold: Tensor) -> LeftOut:
        """Fit to all trials but those of a fold, voxels weighed by `shares`."""
        ...

    def coefficients(self, shares: Tensor, alpha: float) -> Tensor:
        """Fit to all trials: weights of the standardised voxels, (n_latents, n_voxels)."""
        ...


def kept_weights(weights: Tensor, fold: Tensor) -> tuple[Tensor, Tensor]:
    """Return which trials a fold leaves, and their weights with a mean of 1."""
    kept = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
    kept[fold] = False
    rows = kept.nonzero().squeeze(1)
    return rows, weights[rows] / weights[rows].mean()


class DualForm:
    """Through the trials' kernel.

    Parameters
    ----------
    voxels : Standardised
        After `learn`.
    latents : Tensor of shape (n_trials, n_latents)
        Centred, float64.
    """

    def __init__(self, voxels: Standardised, latents: Tensor) -> None:
        self.voxels, self.latents = voxels, latents

    def left_out(self, shares: Tensor, fold: Tensor) -> LeftOut:
        """See `Form`."""
        kept, w = kept_weights(self.voxels.weights, fold)
        mean = w @ self.latents[kept] / len(w)
        kernel = self.voxels.weighed_kernel(shares.sqrt())
        centred, kernel = kernel[fold[:, None], kept], kernel[kept[:, None], kept]
        centred -= w @ kernel / len(w)
        precision = self.voxels.responses.kind.dtype
        s = decompose(kernel, self.latents[kept] - mean, w, self.voxels.n_voxels, precision, overwrite=True)
        del kernel
        products = (centred * s.roots) @ s.vectors
        return LeftOut(fold, self.latents[fold] - mean, s.values, s.targets, products.to(precision), s.floor)

    def coefficients(self, shares: Tensor, alpha: float) -> Tensor:
        """See `Form`."""
        kernel = self.voxels.weighed_kernel(shares.sqrt())
        dual = dual_solution(kernel, self.latents, alpha, self.voxels.weights)
        del kernel
        kind = self.voxels.responses.kind
        coef = torch.empty(self.latents.shape[1], self.voxels.n_voxels, dtype=kind.dtype, device=dual.device)
        for block, z in self.voxels.columns():
            coef[:, block] = shares[block].to(z) * (dual.T.to(z) @ z)
        return coef


class PrimalForm:
    """Through the voxels' products; parameters as `DualForm`."""

    def __init__(self, voxels: Standardised, latents: Tensor) -> None:
        self.voxels, self.latents = voxels, latents
        everything = torch.arange(len(latents), device=latents.device)
        self.gram, self.sums, self.cross = voxels.sums(everything, latents)
        self.total = float(voxels.weights.sum())

    def left_out(self, shares: Tensor, fold: Tensor) -> LeftOut:
        """See `Form`."""
        voxels, latents = self.voxels, self.latents
        kept, w = kept_weights(voxels.weights, fold)
        unit = len(w) / (self.total - float(voxels.weights[fold].sum()))
        mean = w @ latents[kept] / len(w)
        gram, sums, cross = voxels.sums(fold, latents)
        gram.neg_().add_(self.gram).mul_(unit)
        centre = unit * (self.sums - sums) / len(w)
        cross = unit * (self.cross - cross) - len(w) * torch.outer(centre, mean)
        roots = shares.sqrt()
        gram.addr_(centre, centre, alpha=-len(w)).mul_(roots).mul_(roots[:, None])
        values, vectors = torch.linalg.eigh(gram)
        del gram
        values.clamp_min_(0)
        precision = voxels.responses.kind.dtype
        noise = ROUNDING * torch.finfo(precision).eps * float(values[-1])
        products = torch.empty(len(fold), len(values), dtype=precision, device=values.device)
        for rows in torch.split(torch.arange(len(fold), device=fold.device), voxels.n_rows):
            products[rows] = ((voxels.rows(fold[rows]).double() - centre) * roots @ vectors).to(products)
        targets = vectors.T @ (roots[:, None] * cross)
        floor = 0.0 if float(values[0]) > noise else noise
        return LeftOut(fold, latents[fold] - mean, values, targets, products, floor)

    def coefficients(self, shares: Tensor, alpha: float) -> Tensor:
        """See `Form`."""
        roots, centre = shares.sqrt(), self.sums / self.total
        gram = torch.addr(self.gram, centre, centre, alpha=-self.total).mul_(roots).mul_(roots[:, None])
        gram.diagonal().add_(alpha)
        factor, failed = torch.linalg.cholesky_ex(gram)
        mean = self.voxels.weights @ self.latents / self.total
        right = roots[:, None] * (self.cross - self.total * torch.outer(centre, mean))
        solved = torch.full_like(right, torch.nan) if int(failed) else torch.cholesky_solve(right, factor)
        return (roots[:, None] * solved).T

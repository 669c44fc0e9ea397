r"""Ridge regression in its primal form, for more trials than voxels, read in blocks of trials.

With weighted, centred responses :math:`\tilde Z` (each row times the root :math:`q_i` of its trial's weight) and
:math:`\tilde Z^\top \tilde Z = V \Lambda V^\top`, the trials in the eigenbasis are :math:`T = \tilde Z V` and the hat
matrix of a fit with an intercept is

.. math:: H = \hat q \hat q^\top + T (\Lambda + \alpha I)^{-1} T^\top, \qquad \hat q = q / \lVert q \rVert .

A trial alone is missed by :math:`\tilde r_i / (1 - h_i)`; a group by :math:`(I - H_{GG})^{-1} \tilde r_G`, or, when it
is larger than the number of voxels, by the weights that the rest gives:

.. math:: B_{-G} = (D^{-1} - T_G^{+\top} T_G^+)^{-1} (T^{+\top} \tilde y - T_G^{+\top} \tilde y_G),
    \qquad T^+ = [T, \hat q],\; D^{-1} = \mathrm{diag}(\lambda + \alpha, 1).

Nothing of the size trials x trials is made. The dual form, and sources: `hyperdecode.decoding.kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hyperdecode.decoding.kernel import stacked

__all__ = ["Gram", "decompose_gram", "held_out_errors", "held_out_residuals", "primal_weights"]

Rows = Callable[[Tensor], Tensor]
"""Numbers of trials -> their weighted, centred responses (n, n_voxels), float64."""


class Gram(NamedTuple):
    """Decomposed inner products of voxels, with the latents that they shall explain, all float64.

    Attributes
    ----------
    values : Tensor, (n_voxels,)
        Eigenvalues, ascending, none negative.
    vectors : Tensor, (n_voxels, n_voxels)
    targets : Tensor, (n_voxels, n_latents)
        ``vectors.T @ Z.T @ Y``, weighted.
    latents : Tensor, (n_trials, n_latents)
        Centred on their weighted mean, times `roots`.
    roots : Tensor, (n_trials,)
        Square roots of the trials' weights.
    tiny : float
        The least 1 - h that can be told from rounding.
    """

    values: Tensor
    vectors: Tensor
    targets: Tensor
    latents: Tensor
    roots: Tensor
    tiny: float


def decompose_gram(
    gram: Tensor, cross: Tensor, latents: Tensor, roots: Tensor, precision: torch.dtype = torch.float64
) -> Gram:
    """Decompose the inner products of voxels.

    Parameters
    ----------
    gram : Tensor of shape (n_voxels, n_voxels)
        Of the weighted, centred responses.
    cross : Tensor of shape (n_voxels, n_latents)
        Of the weighted, centred responses and `latents`.
    latents : Tensor of shape (n_trials, n_latents)
        Weighted and centred.
    roots : Tensor of shape (n_trials,)
        Square roots of the trials' weights, whose mean is 1.
    precision : torch.dtype
        Type that `gram` was computed in.
    """
    values, vectors = torch.linalg.eigh(gram)
    tiny = float(torch.finfo(precision).eps ** 0.5)
    return Gram(values.clamp_min(0), vectors, vectors.T @ cross, latents, roots, tiny)


def primal_weights(gram: Gram, alphas: Tensor) -> Tensor:
    """Return the weights of the voxels, (n_voxels, n_latents), for one penalty a latent."""
    return gram.vectors @ (gram.targets / (gram.values[:, None] + alphas))


def held_out_errors(
    gram: Gram, rows: Rows, alphas: Sequence[float], folds: Sequence[Tensor] | None, n_rows: int
) -> Tensor:
    """Return the weighted mean squared error of held-out trials, (n_alphas, n_latents).

    Parameters
    ----------
    gram : Gram
    rows : callable
        Numbers of trials -> their weighted, centred responses, float64.
    alphas : sequence of float
        Penalties.
    folds : sequence of Tensor, optional
        Trials left out together, each in one fold; without it, each trial alone.
    n_rows : int
        Trials asked of `rows` at once, at most (a group no larger than the number of voxels is read whole).

    Returns
    -------
    Tensor
        In squared units of the latents; NaN where what is left without a trial is too singular for the penalty.
    """
    every = torch.ones(gram.latents.shape[1], dtype=torch.bool, device=gram.latents.device)
    total = torch.zeros(len(alphas), len(every)).to(gram.values)
    for _, number, residuals in _residuals(gram, rows, [(alpha, every) for alpha in alphas], folds, n_rows):
        total[number] += residuals.square_().sum(0)
    return total / len(gram.roots)


def held_out_residuals(gram: Gram, rows: Rows, alphas: Tensor, folds: Sequence[Tensor] | None, n_rows: int) -> Tensor:
    """Return true minus predicted latents of each trial by the fit that left it out, (n_trials, n_latents).

    Parameters
    ----------
    gram, rows, folds, n_rows
        As in `held_out_errors`.
    alphas : Tensor of shape (n_latents,)
        The penalty of each latent.
    """
    penalties = [(alpha, alphas == alpha) for alpha in sorted(set(alphas.tolist()))]
    found = torch.empty_like(gram.latents)
    for which, number, residuals in _residuals(gram, rows, penalties, folds, n_rows):
        found[which[:, None], penalties[number][1].nonzero().squeeze(1)] = residuals
    return found / gram.roots[:, None]


Penalties = Sequence[tuple[float, Tensor]]
Part = tuple[Tensor, int, Tensor]  # trials, number of the penalty, weighted residuals


def _residuals(
    gram: Gram, rows: Rows, penalties: Penalties, folds: Sequence[Tensor] | None, n_rows: int
) -> Iterator[Part]:
    if folds is None or all(len(fold) == 1 for fold in folds):
        for block in torch.split(torch.arange(len(gram.roots), device=gram.roots.device), n_rows):
            yield from _alone(gram, rows(block) @ gram.vectors, block, penalties)
        return
    size = len(gram.values)
    for same in stacked([fold for fold in folds if len(fold) <= size]):
        for part in torch.split(same, max(1, n_rows // same.shape[1])):
            yield from _together(gram, rows(part.flatten()) @ gram.vectors, part, penalties)
    for fold in folds:
        if len(fold) > size:
            yield from _without(gram, rows, torch.split(fold, n_rows), penalties)


def _alone(gram: Gram, trials: Tensor, block: Tensor, penalties: Penalties) -> Iterator[Part]:
    shares = gram.roots[block].square() / gram.roots.square().sum()
    squares = trials.square()
    for number, (alpha, columns) in enumerate(penalties):
        inverse = 1 / (gram.values + alpha)
        left = 1 - shares - squares @ inverse
        left = torch.where(left > gram.tiny, left, torch.nan)
        yield block, number, _plain(gram, trials, block, inverse, columns) / left[:, None]


def _together(gram: Gram, trials: Tensor, folds: Tensor, penalties: Penalties) -> Iterator[Part]:
    """Leave out folds of one size, (n_folds, size), each together."""
    flat = folds.flatten()
    unit = (gram.roots[folds] / gram.roots.norm())[:, :, None]
    apart = trials.view(*folds.shape, -1)
    without = torch.eye(folds.shape[1]).to(trials) - unit @ unit.mT
    for number, (alpha, columns) in enumerate(penalties):
        inverse = 1 / (gram.values + alpha)
        factors, failed = torch.linalg.cholesky_ex(without - (apart * inverse) @ apart.mT)
        residuals = _plain(gram, trials, flat, inverse, columns).view(*folds.shape, -1)
        residuals = torch.cholesky_solve(residuals, factors)
        residuals[_singular(gram, factors, failed)] = torch.nan
        yield flat, number, residuals.flatten(0, 1)


def _without(gram: Gram, rows: Rows, blocks: Sequence[Tensor], penalties: Penalties) -> Iterator[Part]:
    """Refit without a fold that has more trials than there are voxels."""
    size, device = len(gram.values) + 1, gram.values.device
    inner = torch.zeros(size, size, dtype=torch.float64, device=device)
    cross = torch.zeros(size, gram.latents.shape[1], dtype=torch.float64, device=device)
    for block in blocks:
        extended = _extended(gram, rows, block)
        inner += extended.T @ extended
        cross += extended.T @ gram.latents[block]
    targets = torch.cat([gram.targets, torch.zeros_like(gram.targets[:1])]) - cross
    fitted = []
    identity = torch.eye(size).to(inner)
    for alpha, columns in penalties:
        # In units of what all trials give, pivots tell what is left without the fold, as 1 - h does for a trial.
        unit = torch.cat([gram.values + alpha, gram.values.new_ones(1)]).rsqrt()
        factor, failed = torch.linalg.cholesky_ex(identity - unit[:, None] * inner * unit)
        weights = unit[:, None] * torch.cholesky_solve(unit[:, None] * targets[:, columns], factor)
        fitted.append(torch.where(_singular(gram, factor, failed), torch.nan, weights))
    for block in blocks:
        extended = _extended(gram, rows, block)
        for number, (_, columns) in enumerate(penalties):
            yield block, number, gram.latents[block][:, columns] - extended @ fitted[number]


def _singular(gram: Gram, factors: Tensor, failed: Tensor) -> Tensor:
    pivots = factors.diagonal(dim1=-2, dim2=-1).amin(-1).square()
    return (failed != 0) | ~(pivots > gram.tiny)


def _extended(gram: Gram, rows: Rows, block: Tensor) -> Tensor:
    return torch.cat([rows(block) @ gram.vectors, (gram.roots[block] / gram.roots.norm())[:, None]], 1)


def _plain(gram: Gram, trials: Tensor, block: Tensor, inverse: Tensor, columns: Tensor) -> Tensor:
    """Return the residuals of the fit to all trials."""
    return gram.latents[block][:, columns] - trials @ (inverse[:, None] * gram.targets[:, columns])

r"""Ridge regression in its dual form, and exactly what it would have said of trials that it never saw.

One eigendecomposition of the trial kernel serves a whole grid of penalties and every way of leaving trials out.

With trial weights :math:`w` of mean 1, :math:`q = \sqrt w`, responses :math:`Z` and an intercept without penalty, all
in weighted coordinates :math:`\tilde y = q \circ y`, the residuals of the fit to all trials are

.. math::
    \tilde r = M \tilde y, \qquad
    M = \alpha\, U (\Lambda + \alpha I)^{-1} U^\top,

where :math:`U \Lambda U^\top` decomposes the kernel :math:`\tilde K_{ij} = q_i q_j z_i \cdot z_j` *within the subspace
orthogonal to q*: weighted centring is the projection onto it, so :math:`I - M`, the hat matrix, holds the intercept.
A fit without the trials :math:`G` (its own intercept included) then misses them by

.. math:: \tilde r_G^{\mathrm{out}} = (M_{GG})^{-1} \tilde r_G .

Both factors are sums of terms of one sign and :math:`\alpha` cancels between them, so nothing is lost to rounding for
tiny penalties, where the familiar :math:`r_i / (1 - h_i)` divides zero by zero.

Sources: Allen (1974), Technometrics 16:125 (PRESS); Golub, Heath & Wahba (1979), Technometrics 21:215; Cook & Weisberg
(1982), Residuals and influence in regression, for groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Spectrum",
    "decompose",
    "dual_solution",
    "dual_weights",
    "left_out_errors",
    "left_out_residuals",
    "stacked",
]

ROUNDING = 1000.0
"""A penalty is believed beside an eigenvalue of about zero when it is this many rounding errors of the largest one."""

SINGULAR = 1e4
"""What divides residuals must be this many rounding errors of the largest term in it: about four digits are left."""


class Spectrum(NamedTuple):
    """A decomposed trial kernel with the latents that it shall explain, all float64.

    Attributes
    ----------
    values : Tensor, (m,)
        Eigenvalues, ascending, none negative; m = n_trials - 1.
    vectors : Tensor, (n_trials, m)
        Eigenvectors, orthogonal to `roots`.
    targets : Tensor, (m, n_latents)
        Weighted latents in the basis of the eigenvectors.
    roots : Tensor, (n_trials,)
        Square roots of the trials' weights.
    floor : float
        The least eigenvalue + penalty that can be told from rounding.
    """

    values: Tensor
    vectors: Tensor
    targets: Tensor
    roots: Tensor
    floor: float


def decompose(
    kernel: Tensor,
    latents: Tensor,
    weights: Tensor | None = None,
    rank: int | None = None,
    precision: torch.dtype = torch.float64,
    overwrite: bool = False,
) -> Spectrum:
    """Decompose a trial kernel within the subspace that an intercept leaves.

    Parameters
    ----------
    kernel : Tensor of shape (n_trials, n_trials)
        Inner products of the responses, centred or not: ``Z @ Z.T``, not weighted.
    latents : Tensor of shape (n_trials, n_latents)
    weights : Tensor of shape (n_trials,), optional
        Of the trials, positive, with a mean of 1.
    rank : int, optional
        Number of voxels, where it is known: no more eigenvalues than that are above zero.
    precision : torch.dtype
        Type that the kernel was computed in, for how far its small eigenvalues can be believed.
    overwrite : bool
        Whether a float64 kernel may be worked on in its own place: two matrices of its size less are needed.

    Returns
    -------
    Spectrum
    """
    n = len(kernel)
    y = latents.to(kernel.device, torch.float64)
    inner, mirror, q = _deflated(kernel, weights, overwrite)
    values, inner_vectors = torch.linalg.eigh(inner)
    del inner
    values = values.clamp_min(0)
    if rank is not None and rank < n - 1:
        values[: n - 1 - rank] = 0
    vectors = torch.outer(mirror, mirror[1:] @ inner_vectors).mul_(-2 / (mirror @ mirror))
    vectors[1:] += inner_vectors
    nonzero = values if rank is None else values[max(n - 1 - rank, 0) :]
    noise = ROUNDING * torch.finfo(precision).eps * float(values[-1])
    # Eigenvalues that are all well above rounding bear any penalty, however small.
    floor = 0.0 if float(nonzero[0]) > noise else noise
    return Spectrum(values, vectors, vectors.T @ (q[:, None] * y), q, floor)


def _deflated(kernel: Tensor, weights: Tensor | None, overwrite: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted kernel in a basis of what is orthogonal to q, the mirror (Householder) for it, and q."""
    k = kernel.to(torch.float64)
    k = k if overwrite or k is not kernel else k.clone()
    q = torch.ones(len(k), dtype=torch.float64, device=k.device)
    if weights is not None:
        q = weights.to(q).sqrt()
        k.mul_(q).mul_(q[:, None])
    mirror = q / q.norm()
    mirror[0] += 1  # q is positive: no cancellation
    product = k @ mirror
    scale = 2 / (mirror @ mirror)
    product = scale * product - 0.5 * scale**2 * (mirror @ product) * mirror
    k.addr_(mirror, product, alpha=-1).addr_(product, mirror, alpha=-1)
    return k[1:, 1:], mirror, q


def dual_solution(kernel: Tensor, latents: Tensor, alpha: float, weights: Tensor | None = None) -> Tensor:
    r"""Return what `dual_weights` does for one penalty alone, (n_trials, n_latents), without a decomposition.

    Parameters
    ----------
    kernel : Tensor of shape (n_trials, n_trials)
        As for `decompose`; it is overwritten.
    latents : Tensor of shape (n_trials, n_latents)
    alpha : float
    weights : Tensor of shape (n_trials,), optional
        Of the trials, positive, with a mean of 1.

    Returns
    -------
    Tensor
        NaN where the kernel is too singular for the penalty.
    """
    inner, mirror, q = _deflated(kernel, weights, overwrite=True)
    y = q[:, None] * latents.to(q)
    scale = 2 / (mirror @ mirror)
    reflected = y - scale * torch.outer(mirror, mirror @ y)
    inner.diagonal().add_(alpha)
    factor, failed = torch.linalg.cholesky_ex(inner)
    if int(failed):
        return torch.full_like(y, torch.nan)
    solved = torch.zeros_like(y)
    solved[1:] = torch.cholesky_solve(reflected[1:], factor)
    return q[:, None] * (solved - scale * torch.outer(mirror, mirror @ solved))


def dual_weights(spectrum: Spectrum, alphas: Tensor) -> Tensor:
    r"""Return :math:`A` of :math:`B = Z^\top A`, (n_trials, n_latents), for one penalty a latent.

    Z is centred on its weighted mean; the columns of A sum to zero, so that uncentred responses give the same B.
    """
    shrunk = spectrum.targets / (spectrum.values[:, None] + alphas)
    return spectrum.roots[:, None] * (spectrum.vectors @ shrunk)


def left_out_errors(spectrum: Spectrum, alphas: Sequence[float], folds: Sequence[Tensor] | None = None) -> Tensor:
    """Return the weighted mean squared error of held-out trials, (n_alphas, n_latents).

    Parameters
    ----------
    spectrum : Spectrum
    alphas : sequence of float
        Penalties.
    folds : sequence of Tensor, optional
        Rows left out together, each trial in one fold; without it, each trial alone.

    Returns
    -------
    Tensor
        In squared units of the latents; NaN where the penalty is too small for the kernel.
    """
    solver = _LeaveOut(spectrum, folds)
    return torch.stack([solver.weighted(alpha).square_().mean(0) for alpha in alphas])


def left_out_residuals(spectrum: Spectrum, alphas: Tensor, folds: Sequence[Tensor] | None = None) -> Tensor:
    """Return true minus predicted latents of each trial by the fit that left it out, (n_trials, n_latents).

    Parameters
    ----------
    spectrum : Spectrum
    alphas : Tensor of shape (n_latents,)
        The penalty of each latent.
    folds : sequence of Tensor, optional
        As in `left_out_errors`.
    """
    solver = _LeaveOut(spectrum, folds)
    residuals = torch.empty(len(spectrum.roots), len(alphas)).to(spectrum.vectors)
    for alpha in sorted(set(alphas.tolist())):
        mine = alphas == alpha
        residuals[:, mine] = solver.weighted(alpha, mine)
    return residuals / spectrum.roots[:, None]


class _LeaveOut:
    """Weighted held-out residuals at one penalty after the other, with what they share done once."""

    def __init__(self, spectrum: Spectrum, folds: Sequence[Tensor] | None) -> None:
        self.spectrum = spectrum
        alone = folds is None or all(len(fold) == 1 for fold in folds)
        self.squares = spectrum.vectors.square() if alone else None
        self.stacks = [] if folds is None or alone else stacked(folds)

    def weighted(self, alpha: float, columns: Tensor | slice = slice(None)) -> Tensor:
        s = self.spectrum
        inverse = 1 / (s.values + alpha)
        if float(s.values[0]) + alpha < s.floor:
            return torch.full((len(s.roots), s.targets[:, columns].shape[1]), torch.nan).to(s.vectors)
        residuals = s.vectors @ (inverse[:, None] * s.targets[:, columns])
        least = SINGULAR * torch.finfo(torch.float64).eps * float(inverse.max())
        if self.squares is not None:
            divisors = self.squares @ inverse
            return residuals.div_(torch.where(divisors > least, divisors, torch.nan)[:, None])
        for rows in self.stacks:
            part = s.vectors[rows]
            residuals[rows] = _solved((part * inverse) @ part.mT, residuals[rows], least)
        return residuals


def stacked(folds: Sequence[Tensor]) -> list[Tensor]:
    """Return folds of the same size as one matrix (n_folds, size) each, to be solved together."""
    by_size: dict[int, list[Tensor]] = {}
    for fold in folds:
        by_size.setdefault(len(fold), []).append(fold)
    return [torch.stack(same) for same in by_size.values()]


def _solved(systems: Tensor, right: Tensor, least: float) -> Tensor:
    """Solve positive definite systems; NaN for those with a smaller pivot than the least that can be believed."""
    factors, failed = torch.linalg.cholesky_ex(systems)
    pivots = factors.diagonal(dim1=-2, dim2=-1).amin(-1).square()
    failed = (failed != 0) | ~(pivots > least)
    solution = torch.cholesky_solve(right, factors)
    return torch.where(failed[:, None, None], torch.nan, solution)

"""Ridge over trials: a run's amplitudes as random effects around their mean, the penalty from the time series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperdecode.fmri.autoregression import BINS, bin_of
from hyperdecode.fmri.solvers import Design, orthonormal, remaining

__all__ = ["PENALTIES", "Ridge", "RidgeAR1"]

FloatArray = NDArray[np.float64]

PENALTIES = np.logspace(-2, 3, 26)
"""Penalties tried, in units of the mean squared length of a trial's column beside the common response."""


NOTHING = 1e-9


@dataclass(frozen=True)
class _Fit:
    """Amplitudes, their ratio to the posterior standard deviation, and what is left of the voxels."""

    beta: FloatArray
    ratio: FloatArray
    residual: FloatArray
    freedom: FloatArray


class _Model:
    """One design (white, or whitened for one coefficient) under every penalty.

    ``y = Z g + X d + e`` with Z the common response to all trials (and its derivatives), X the trials' columns;
    amplitude ``a_i = mu + d_i`` with mu the common response's coefficient, ``d ~ N(0, sigma^2 / lambda)``.
    """

    def __init__(self, trials: FloatArray, common: FloatArray, basis: FloatArray) -> None:
        shared = orthonormal(np.hstack([basis, common]))
        # mu = mean_row @ (y - X d): the row of Z's pseudoinverse that belongs to the common canonical response.
        rest = orthonormal(np.hstack([basis, common[:, 1:]]))
        alone = common[:, 0] - rest @ (rest.T @ common[:, 0])
        self.mean_row = alone / (alone @ alone)
        self.shared = shared
        beside = trials - shared @ (shared.T @ trials)
        squares, right = np.linalg.eigh(beside.T @ beside)
        unit = squares.sum() / squares.size
        self.penalties = PENALTIES * (unit if unit > 0 else 1.0)
        self.squares = np.maximum(squares, 0.0)
        # Directions that the smallest penalty shrinks to nothing: the sum of all trials, and what follows from it.
        self.seen = self.squares > NOTHING * self.penalties[0]
        self.sizes = np.sqrt(self.squares[self.seen])
        self.left = (beside @ right[:, self.seen]) / self.sizes
        self.mixing = right - (self.mean_row @ trials) @ right
        self.kept = self.squares[None, self.seen] / (self.squares[None, self.seen] + self.penalties[:, None])
        self.spread = (self.mean_row @ self.mean_row) + (self.mixing**2) @ (
            1 / (self.squares[:, None] + self.penalties[None, :])
        )

    def fit(self, y: FloatArray) -> _Fit:
        """Solve each voxel (n_volumes, n_voxels) under the penalty of its least generalized cross-validation score."""
        clean = y - self.shared @ (self.shared.T @ y)
        part = self.left.T @ clean
        n = y.shape[0]
        # |y - fit|^2 = |y|^2 - sum_r (1 - (1 - kept_r)^2) part_r^2
        left_over = (clean**2).sum(axis=0)[None, :] - (1 - (1 - self.kept) ** 2) @ part**2
        freedom = n - self.shared.shape[1] - self.kept.sum(axis=1)
        best = (np.maximum(left_over, 0.0) / freedom[:, None] ** 2).argmin(axis=0)
        variance = np.maximum(left_over[best, np.arange(best.size)], 0.0) / freedom[best]
        shrunk = self.kept[best].T * part
        beta = self.mean_row @ y + (self.mixing[:, self.seen] / self.sizes) @ shrunk
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = beta / np.sqrt(variance * self.spread[:, best])
        return _Fit(beta, ratio, clean - self.left @ shrunk, freedom[best])


class Ridge:
    """Ridge over trials with white noise.

    Every voxel's penalty is the one of least generalized cross-validation ``RSS / (n - edf)^2`` over the run's
    volumes. No label is used and no repeat of a stimulus, so nothing is tuned on test trials' agreement.
    """

    def __init__(self, design: Design) -> None:
        self.dof = remaining(design, design.n_kernels, "ridge")
        self.design = design
        self.trials = design.columns[0]
        common = design.columns.sum(axis=2)
        contrast = design.contrast.mean(axis=0)
        # Derivatives of the common response, orthogonal to it in the sense of `Design.of`.
        self.common = np.column_stack(
            [common[0], *(common[k] - contrast[k] * common[0] for k in range(1, len(common)))]
        )
        self.white = _Model(self.trials, self.common, design.basis)

    def solve(self, y: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return amplitude and amplitude over posterior standard deviation, each (n_trials, n_voxels)."""
        fit = self.white.fit(y)
        return fit.beta, fit.ratio


class RidgeAR1(Ridge):
    """Ridge over trials with AR(1) noise: `Ridge`'s residuals give each voxel's coefficient, then one model a bin."""

    def __init__(self, design: Design) -> None:
        super().__init__(design)
        self._models: dict[int, _Model] = {}

    def solve(self, y: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return amplitude and amplitude over posterior standard deviation, each (n_trials, n_voxels)."""
        residual = self.white.fit(y).residual
        bins = bin_of(
            np.einsum("tv,tv->v", residual, residual),
            np.einsum("tv,tv->v", residual[1:], residual[:-1]),
            y.shape[0],
        )
        beta = np.empty((y.shape[1], self.design.n_trials))
        ratio = np.empty_like(beta)
        for k in np.unique(bins):
            chosen = np.flatnonzero(bins == k)
            fit = self._model(int(k)).fit(_whiten(y[:, chosen], k / BINS))
            beta[chosen], ratio[chosen] = fit.beta.T, fit.ratio.T
        return beta.T, ratio.T

    def _model(self, k: int) -> _Model:
        if k not in self._models:
            parts = (self.trials, self.common, self.design.basis)
            self._models[k] = _Model(*(_whiten(part, k / BINS) for part in parts))
        return self._models[k]


def _whiten(x: FloatArray, rho: float) -> FloatArray:
    white = x.copy()
    white[1:] -= rho * x[:-1]
    return white

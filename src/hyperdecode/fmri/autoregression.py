"""Single-trial models with AR(1) noise: one coefficient a model and voxel, and still no model fitted one by one.

Noise of coefficient rho is whitened by ``W: y_t -> y_t - rho y_{t-1}`` (the first volume as it is), so that every
product that a whitened model needs is a quadratic in rho:
``a'W'Wb = (1 + rho^2) a'b - rho a'Lb - rho^2 a_n b_n``, where L adds a series' neighbours before and after and
``a_n`` is the last volume. ``X'y`` and ``(LX)'y`` are worked out once a voxel; then each pair of a trial and a voxel
costs a few dozen operations with small tables of its coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hyperdecode.fmri.solvers import INSEPARABLE, All, Design, inseparable, remaining

__all__ = ["AllAR1", "Products", "SeparateAR1", "SeparateWhite", "bin_of"]

FloatArray = NDArray[np.float64]

BINS = 100
"""Coefficients are cut to multiples of 1 / BINS towards zero, as nilearn does."""


def bin_of(residual_power: FloatArray, residual_lagged: FloatArray, n_volumes: int) -> NDArray[np.int64]:
    """Return 100 times the Yule-Walker coefficient of residuals e, cut towards zero.

    ``rho = (sum_t e_t e_{t+1} / (n - 1)) / (sum_t e_t^2 / n)``; 0 for residuals that are all zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = residual_lagged / residual_power * (n_volumes / (n_volumes - 1))
    bins: NDArray[np.int64] = (np.nan_to_num(rho, nan=0.0, posinf=0.0, neginf=0.0) * BINS).astype(np.int64)
    return bins


def neighbours(x: FloatArray) -> FloatArray:
    """Return Lx: each volume's neighbours summed, along the first axis."""
    summed = np.zeros_like(x)
    summed[1:] += x[:-1]
    summed[:-1] += x[1:]
    return summed


@dataclass(frozen=True)
class Whitened:
    """What a coefficient makes of the design.

    Attributes
    ----------
    gram : ndarray, shape (n_columns, n_columns)
        Whitened columns' products with the whitened basis projected out.
    project : ndarray, shape (n_columns, n_basis)
        ``X'TQ (Q'TQ)^-1`` with T = W'W.
    inverse : ndarray, shape (n_basis, n_basis)
        ``(Q'TQ)^-1``.
    """

    gram: FloatArray
    project: FloatArray
    inverse: FloatArray


class Products:
    """Products of columns X and basis Q from which `Whitened` follows for any coefficient."""

    def __init__(self, x: FloatArray, basis: FloatArray) -> None:
        self.x, self.q = x, basis
        self.lagged_x, self.lagged_q = neighbours(x), neighbours(basis)
        self.xx, self.xlx = x.T @ x, x.T @ self.lagged_x
        self.xlq, self.qlq = self.lagged_x.T @ basis, basis.T @ self.lagged_q
        self.x_last, self.q_last = x[-1], basis[-1]
        self._stacked = np.hstack([x, self.lagged_x, self.lagged_q])

    def whitened(self, rho: float) -> Whitened:
        """Return the design's products for noise of coefficient `rho`."""
        qq = (1 + rho**2) * np.eye(self.q_last.size) - rho * self.qlq - rho**2 * np.outer(self.q_last, self.q_last)
        xq = -rho * self.xlq - rho**2 * np.outer(self.x_last, self.q_last)
        xx = (1 + rho**2) * self.xx - rho * self.xlx - rho**2 * np.outer(self.x_last, self.x_last)
        inverse: FloatArray = np.asarray(np.linalg.inv(qq), dtype=np.float64)
        project = xq @ inverse
        return Whitened(xx - project @ xq.T, project, inverse)

    def with_voxels(self, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return ``y'X``, ``y'LX``, ``y'LQ``, each (n_voxels, n_columns), and ``y'Ly``."""
        every = y.T @ self._stacked
        n = self.x_last.size
        parts = (every[:, :n], every[:, n : 2 * n], every[:, 2 * n :])
        own, lagged, of_basis = (np.ascontiguousarray(part) for part in parts)
        return own, lagged, of_basis, 2 * np.einsum("tv,tv->v", y[1:], y[:-1])


class AllAR1:
    """Least squares all with AR(1) noise: ordinary residuals give a voxel's coefficient, then one model a bin."""

    def __init__(self, design: Design) -> None:
        self.white = All(design)
        self.dof = self.white.dof
        self.design = design
        self.products = Products(design.flat, design.basis)
        self._inverses: dict[int, tuple[Whitened, FloatArray, FloatArray]] = {}

    def solve(self, y: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return beta and t, each (n_trials, n_voxels)."""
        residual = y - self.white.q @ (self.white.q.T @ y)
        bins = bin_of(
            np.einsum("tv,tv->v", residual, residual),
            np.einsum("tv,tv->v", residual[1:], residual[:-1]),
            y.shape[0],
        )
        products = self.products.with_voxels(y)
        beta = np.empty((y.shape[1], self.design.n_trials))
        ratio = np.empty_like(beta)
        for k in np.unique(bins):
            chosen = np.flatnonzero(bins == k)
            beta[chosen], ratio[chosen] = self._bin(int(k), y[-1, chosen], power[chosen], products, chosen)
        return beta.T, ratio.T

    def _bin(
        self,
        k: int,
        last: FloatArray,
        power: FloatArray,
        products: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
        chosen: NDArray[np.intp],
    ) -> tuple[FloatArray, FloatArray]:
        rho = k / BINS
        white, inverse, spread = self._inverse(k)
        own, lagged, of_basis, lag = (part[chosen] for part in products)
        edge = (rho**2 * last)[:, None]
        basis = -rho * of_basis - edge * self.products.q_last
        moments = (1 + rho**2) * own
        moments -= rho * lagged
        moments -= np.hstack([basis, edge]) @ np.vstack([white.project.T, self.products.x_last])
        whole = (1 + rho**2) * power - rho * lag - edge[:, 0] * last - ((basis @ white.inverse) * basis).sum(axis=1)
        coefficients = moments @ inverse
        residual = np.maximum(whole - np.einsum("vi,vi->v", moments, coefficients), 0.0) / self.dof
        n = self.design.n_trials
        beta = coefficients[:, :n]  # a trial's canonical coefficient counts once
        for kernel in range(1, self.design.n_kernels):
            beta = beta + self.design.contrast[:, kernel] * coefficients[:, kernel * n : (kernel + 1) * n]
        with np.errstate(divide="ignore", invalid="ignore"):
            return beta, beta * (1 / np.sqrt(residual))[:, None] * (1 / np.sqrt(spread))

    def _inverse(self, k: int) -> tuple[Whitened, FloatArray, FloatArray]:
        if k not in self._inverses:
            white = self.products.whitened(k / BINS)
            inverse: FloatArray = np.asarray(np.linalg.inv(white.gram), dtype=np.float64)
            shape = (self.design.n_kernels, self.design.n_trials)
            spread = np.einsum(
                "ik,kili,il->i", self.design.contrast, inverse.reshape(*shape, *shape), self.design.contrast
            )
            self._inverses[k] = (white, inverse, spread)
        return self._inverses[k]


class SeparateAR1:
    """Least squares separate with AR(1) noise, every pair of a trial and a voxel with its own coefficient."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.dof = remaining(design, design.n_separate, "lss")
        self.products = Products(design.with_total, design.basis)
        self.inverse = self._inverses(self.products.xx)
        self.lag = _blocks(self.products.xlx, design)
        self._tables: dict[int, tuple[FloatArray, FloatArray, FloatArray]] = {}
        self.contrast = np.zeros((design.n_trials, design.n_separate))
        self.contrast[:, : design.n_kernels] = design.contrast

    def _inverses(self, gram: FloatArray) -> FloatArray:
        """Return the inverse of every model's products, (n_trials, n_separate, n_separate)."""
        blocks = _blocks(gram, self.design)
        scale = np.sqrt(np.einsum("ipp->ip", blocks))
        unit = blocks / (scale[:, :, None] * scale[:, None, :])
        bad = np.flatnonzero(~(np.linalg.eigvalsh(unit)[:, 0] > INSEPARABLE))
        if bad.size:
            raise inseparable(int(bad[0]))
        return np.asarray(np.linalg.inv(unit) / (scale[:, :, None] * scale[:, None, :]))

    def solve(self, y: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return beta and t, each (n_trials, n_voxels)."""
        own, lagged, of_basis, lag = self.products.with_voxels(y)
        bins = self._bins(own, lagged, power, lag)
        present, rows = np.unique(bins, return_inverse=True)
        tables = [self._table(int(k)) for k in present]
        project, small, inverse = (np.stack(part) for part in zip(*tables, strict=True))
        beta = np.empty((self.design.n_trials, y.shape[1]))
        ratio = np.empty_like(beta)
        shape = (self.design.n_kernels, self.design.n_separate > self.design.n_kernels)
        _whitened_models(
            own, lagged, of_basis, np.ascontiguousarray(y[-1]), power, lag,
            rows.reshape(bins.shape).astype(np.int32), present / BINS, project, small, inverse,
            self.contrast, self.products.x_last, self.products.q_last, shape[0], shape[1], self.dof, beta, ratio,
        )  # fmt: skip
        return beta, ratio

    def _bins(self, own: FloatArray, lagged: FloatArray, power: FloatArray, lag: FloatArray) -> NDArray[np.int64]:
        residual, product = (np.empty((own.shape[0], self.design.n_trials)) for _ in range(2))
        shape = (self.design.n_kernels, self.design.n_separate > self.design.n_kernels)
        _residual_products(own, lagged, power, lag, self.inverse, self.lag, shape[0], shape[1], residual, product)
        return bin_of(residual, product, self.design.n_volumes)

    def _table(self, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        if k not in self._tables:
            white = self.products.whitened(k / BINS)
            self._tables[k] = (white.project, white.inverse, self._inverses(white.gram))
        return self._tables[k]


class SeparateWhite(SeparateAR1):
    """Least squares separate for several columns a trial: `SeparateAR1` with a coefficient of 0 everywhere."""

    def _bins(self, own: FloatArray, lagged: FloatArray, power: FloatArray, lag: FloatArray) -> NDArray[np.int64]:
        return np.zeros((own.shape[0], self.design.n_trials), dtype=np.int64)


def _blocks(gram: FloatArray, design: Design) -> FloatArray:
    """Return each model's products from those of `Design.with_total`, (n_trials, n_separate, n_separate)."""
    kernels, n = design.n_kernels, design.n_trials
    table = gram.reshape(kernels, n + 1, kernels, n + 1)
    own = np.einsum("kili->ikl", table[:, :n, :, :n])
    if design.n_separate == kernels:
        return np.ascontiguousarray(own)
    to_total = np.moveaxis(table[:, :n, :, n], 1, 0) - own
    both = np.moveaxis(table[:, :n, :, n], 1, 0)
    others = table[:, n, :, n] - both - np.swapaxes(both, 1, 2) + own
    return np.block([[own, to_total], [np.swapaxes(to_total, 1, 2), others]])


@njit(cache=True, nogil=True)
def _residual_products(own, lagged, power, lag, inverse, lag_blocks, kernels, has_others, residual, product):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill in ``e'e`` and ``sum_t e_t e_{t+1}`` of the ordinary residuals of every model."""
    n_trials, size = inverse.shape[0], inverse.shape[1]
    m, near, g = np.empty(size), np.empty(size), np.empty(size)
    for v in range(own.shape[0]):
        for i in range(n_trials):
            for k in range(kernels):
                at, total = k * (n_trials + 1) + i, k * (n_trials + 1) + n_trials
                m[k], near[k] = own[v, at], lagged[v, at]
                if has_others:
                    m[kernels + k] = own[v, total] - own[v, at]
                    near[kernels + k] = lagged[v, total] - lagged[v, at]
            explained, twice = 0.0, lag[v]
            for p in range(size):
                s = 0.0
                for r in range(size):
                    s += inverse[i, p, r] * m[r]
                g[p] = s
                explained += s * m[p]
                twice -= 2 * s * near[p]
            for p in range(size):
                for r in range(size):
                    twice += g[p] * lag_blocks[i, p, r] * g[r]
            residual[v, i] = power[v] - explained
            product[v, i] = 0.5 * twice


@njit(cache=True, nogil=True)
def _whitened_models(  # type: ignore[no-untyped-def]  # pragma: no cover
    own, lagged, of_basis, last, power, lag, rows, rhos, project, small, inverse, contrast, x_last, q_last,
    kernels, has_others, dof, beta, ratio,
):  # fmt: skip
    """Solve the model of every trial and voxel in the bin of its coefficient; what depends on voxel and bin is kept."""
    n_trials, size, n_bins, n_basis = inverse.shape[1], inverse.shape[2], rhos.size, q_last.size
    spread = np.zeros((n_bins, n_trials))
    for b in range(n_bins):
        for i in range(n_trials):
            for p in range(size):
                for r in range(size):
                    spread[b, i] += contrast[i, p] * inverse[b, i, p, r] * contrast[i, r]
    seen = np.full(n_bins, -1)
    basis, whole, totals = np.empty((n_bins, n_basis)), np.empty(n_bins), np.empty((n_bins, kernels))
    m = np.empty(size)
    for v in range(own.shape[0]):
        for i in range(n_trials):
            b = rows[v, i]
            rho = rhos[b]
            square = rho * rho
            edge = square * last[v]
            if seen[b] != v:
                seen[b] = v
                for q in range(n_basis):
                    basis[b, q] = -rho * of_basis[v, q] - edge * q_last[q]
                s = (1 + square) * power[v] - rho * lag[v] - edge * last[v]
                for q in range(n_basis):
                    part = 0.0
                    for r in range(n_basis):
                        part += small[b, q, r] * basis[b, r]
                    s -= part * basis[b, q]
                whole[b] = s
                for k in range(kernels):
                    at = k * (n_trials + 1) + n_trials
                    s = (1 + square) * own[v, at] - rho * lagged[v, at] - edge * x_last[at]
                    for q in range(n_basis):
                        s -= project[b, at, q] * basis[b, q]
                    totals[b, k] = s
            for k in range(kernels):
                at = k * (n_trials + 1) + i
                s = (1 + square) * own[v, at] - rho * lagged[v, at] - edge * x_last[at]
                for q in range(n_basis):
                    s -= project[b, at, q] * basis[b, q]
                m[k] = s
                if has_others:
                    m[kernels + k] = totals[b, k] - s
            estimate, explained = 0.0, 0.0
            for p in range(size):
                s = 0.0
                for r in range(size):
                    s += inverse[b, i, p, r] * m[r]
                estimate += contrast[i, p] * s
                explained += s * m[p]
            beta[i, v] = estimate
            variance = max(whole[b] - explained, 0.0) / dof * spread[b, i]
            ratio[i, v] = estimate / np.sqrt(variance) if variance > 0 else np.inf * estimate

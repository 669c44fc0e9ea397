"""Least squares for every trial of a run from one factorization, white noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError

__all__ = ["All", "Design", "Separate", "Solver", "inseparable", "orthonormal"]

FloatArray = NDArray[np.float64]

INSEPARABLE = 1e-8


@dataclass(frozen=True)
class Design:
    """The trials' columns with everything of no interest taken out.

    Attributes
    ----------
    columns : ndarray, shape (n_kernels, n_volumes, n_trials)
        Responses under the canonical HRF first, then under its derivatives, orthogonal to `basis`.
    contrast : ndarray, shape (n_trials, n_kernels)
        Amplitude of a trial from its coefficients: ``b_i = sum_k contrast_ik g_ik``.
    basis : ndarray, shape (n_volumes, n_columns)
        Orthonormal basis of drift, constant and confounds.
    """

    columns: FloatArray
    contrast: FloatArray
    basis: FloatArray

    @classmethod
    def of(cls, columns: FloatArray, basis: FloatArray, onsets: FloatArray) -> Design:
        """Take `basis` out of the raw columns.

        nilearn makes derivatives orthogonal to the canonical response before drift is thought of. That changes
        neither the model's span nor its residual but what the canonical coefficient means, so it is done in the
        contrast: ``contrast_ik = x_i0'x_ik / x_i0'x_i0``.
        """
        canonical = columns[0]
        power = (canonical**2).sum(axis=0)
        clean = columns - np.matmul(basis, np.matmul(basis.T, columns))
        left = (clean[0] ** 2).sum(axis=0)
        unseen = np.flatnonzero((power == 0) | (left <= INSEPARABLE * power))
        if unseen.size:
            named = ", ".join(f"{i + 1} (onset {onsets[i]:g} s)" for i in unseen[:5]) + ", ..." * (unseen.size > 5)
            who = f"trial {named} leaves" if unseen.size == 1 else f"{unseen.size} trials, {named}, leave"
            raise UserError(
                f"{who} no response in the run that drift, confounds and scrubbed volumes do not already explain: drop "
                "from the events what was not measured, or use fewer confounds"
            )
        contrast = np.einsum("vi,kvi->ik", canonical, columns) / power[:, None]
        return cls(clean, contrast, basis)

    @property
    def n_kernels(self) -> int:
        """Columns of a trial."""
        return int(self.columns.shape[0])

    @property
    def n_trials(self) -> int:
        """Trials of the run."""
        return int(self.columns.shape[2])

    @property
    def n_volumes(self) -> int:
        """Volumes of the run."""
        return int(self.columns.shape[1])

    @cached_property
    def flat(self) -> FloatArray:
        """All columns side by side, kernel by kernel, (n_volumes, n_kernels * n_trials)."""
        return np.ascontiguousarray(np.moveaxis(self.columns, 0, 1).reshape(self.n_volumes, -1))

    @cached_property
    def with_total(self) -> FloatArray:
        """As `flat`, with the sum over trials after each kernel's, (n_volumes, n_kernels * (n_trials + 1))."""
        both = np.concatenate([self.columns, self.columns.sum(axis=2, keepdims=True)], axis=2)
        return np.ascontiguousarray(np.moveaxis(both, 0, 1).reshape(self.n_volumes, -1))

    @property
    def n_separate(self) -> int:
        """Columns of interest in a model of one trial: its own, and those of all others together."""
        return self.n_kernels * (1 if self.n_trials == 1 else 2)


class Solver(Protocol):
    """Turns cleaned voxels into one estimate a trial."""

    dof: int

    def solve(self, y: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the amplitude and its ratio to its standard error, each (n_trials, n_voxels).

        Parameters
        ----------
        y : ndarray, shape (n_volumes, n_voxels)
            Voxels with the design's basis taken out.
        power : ndarray, shape (n_voxels,)
            Sums of squares of y.
        """
        ...


class Separate:
    """Least squares separate for one column a trial, in closed form from the trials' products."""

    def __init__(self, design: Design) -> None:
        self.x = design.flat
        self.total = self.x.sum(axis=1)
        self.alone = design.n_trials == 1
        self.dof = remaining(design, design.n_separate, "lss")
        gram = self.x.T @ self.x
        self.a = np.diag(gram).copy()
        self.b = gram.sum(axis=1) - self.a
        self.c = gram.sum() - 2 * gram.sum(axis=1) + self.a
        if self.alone:
            self.b, self.c = np.zeros(1), np.ones(1)
        self.d = self.a * self.c - self.b**2
        bad = np.flatnonzero(self.d <= INSEPARABLE * self.a * self.c)
        if bad.size:
            raise inseparable(int(bad[0]))

    def solve(self, y: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return beta and t, each (n_trials, n_voxels)."""
        own = self.x.T @ y
        others = (self.total @ y)[None, :] - own
        if self.alone:
            others[:] = 0.0
        a, b, c, d = (v[:, None] for v in (self.a, self.b, self.c, self.d))
        beta = (c * own - b * others) / d
        explained = beta * own + (a * others - b * own) / d * others
        residual = np.maximum(power[None, :] - explained, 0.0) / self.dof
        return beta, _over(beta, residual * (c / d))


class All:
    """Least squares all: one model with every trial."""

    def __init__(self, design: Design) -> None:
        columns = design.flat
        if columns.shape[1] > columns.shape[0]:
            raise UserError(
                f"lsa needs more volumes than trials, got {columns.shape[0]} volumes and {design.n_trials} trials of "
                f"{design.n_kernels} columns: use method 'lss' or 'ridge'"
            )
        self.dof = remaining(design, columns.shape[1], "lsa")
        scale = np.linalg.norm(columns, axis=0)
        self.q, r = np.linalg.qr(columns / scale)
        weak = np.flatnonzero(np.abs(np.diag(r)) < INSEPARABLE**0.5)
        if weak.size:
            raise inseparable(int(weak[0]) % design.n_trials)
        inverse = np.linalg.inv(r) / scale[:, None]
        by_kernel = inverse.reshape(design.n_kernels, design.n_trials, -1)
        self.inverse: FloatArray = np.einsum("ik,kij->ij", design.contrast, by_kernel)
        self.spread = (self.inverse**2).sum(axis=1)[:, None]

    def solve(self, y: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return beta and t, each (n_trials, n_voxels)."""
        part = self.q.T @ y
        residual = np.maximum(power - (part**2).sum(axis=0), 0.0) / self.dof
        beta = self.inverse @ part
        return beta, _over(beta, self.spread * residual[None, :])


def remaining(design: Design, n_columns: int, method: str) -> int:
    """Return the degrees of freedom left beside the basis and some columns, at least 1."""
    dof: int = design.n_volumes - design.basis.shape[1] - n_columns
    if dof < 1:
        raise UserError(
            f"{method} on {design.n_trials} trials and {design.n_volumes} volumes leaves {dof} degrees of freedom: "
            "use method 'lss', an HRF without derivatives, fewer confounds or a lower high_pass"
        )
    return dof


def orthonormal(columns: FloatArray) -> FloatArray:
    """Return an orthonormal basis of the columns, dependent ones left out."""
    scale = np.linalg.norm(columns, axis=0)
    kept = columns[:, scale > 0] / scale[scale > 0]
    left, sizes, _ = np.linalg.svd(kept, full_matrices=False)
    basis: FloatArray = left[:, sizes > 1e-10 * sizes[0]]
    return basis


def inseparable(trial: int) -> UserError:
    """Return the error for a trial (counted from 0) whose columns depend on those of others."""
    return UserError(
        f"the response to trial {trial + 1} cannot be told from those to the other trials: "
        "check for repeated rows in the events"
    )


def _over(beta: FloatArray, variance: FloatArray) -> FloatArray:
    np.sqrt(variance, out=variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: FloatArray = np.divide(beta, variance, out=variance)
    return ratio

"""Signal and noise of each voxel, told apart by stimuli shown more than once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["RepeatVariance", "repeat_variance", "repeated_groups", "voxel_blocks"]

FloatArray = NDArray[np.float64]

BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class RepeatVariance:
    """Variance components of each voxel.

    Attributes
    ----------
    signal : ndarray of float64, shape (n_voxels,)
        Variance over stimuli of the voxel's response; unbiased, hence below 0 at times. NaN for voxels with a value
        that is not finite.
    noise : ndarray of float64, shape (n_voxels,)
        Variance over the repeats of one stimulus.
    n_stimuli, n_trials : int
        Stimuli that repeat, and their trials.
    repeats : float
        Repeats of a stimulus: their number, or, where it differs, the effective one.
    """

    signal: FloatArray
    noise: FloatArray
    n_stimuli: int
    n_trials: int
    repeats: float

    @property
    def reliability(self) -> FloatArray:
        """Share of a single trial's variance that is signal (intraclass correlation); NaN without any variance."""
        total = self.signal + self.noise
        with np.errstate(invalid="ignore", divide="ignore"):
            share: FloatArray = np.where(total > 0, self.signal / total, np.nan)
        return share


def repeat_variance(z: ArrayLike, stimuli: Sequence[str]) -> RepeatVariance:
    """Split each voxel's variance into that between stimuli and that between repeats of one.

    One-way random effects: with k_s trials of stimulus s, g stimuli and N trials in all,
    ``MSW = sum_s sum_i (z_si - mean_s)^2 / (N - g)``, ``MSB = sum_s k_s (mean_s - mean)^2 / (g - 1)``,
    ``k0 = (N - sum_s k_s^2 / N) / (g - 1)``, ``noise = MSW``, ``signal = (MSB - MSW) / k0``.
    Stimuli shown once say nothing of noise and are left out.

    Parameters
    ----------
    z : array-like, shape (n_trials, n_voxels)
        One estimate a trial.
    stimuli : sequence of str, length n_trials
        The stimulus of each row.

    Returns
    -------
    RepeatVariance

    Raises
    ------
    UserError
        When shapes do not fit, or fewer than two stimuli repeat.
    """
    values = np.asarray(z)
    rows, counts = repeated_groups(values, stimuli)
    n, g = rows.size, counts.size
    k0 = (n - float((counts.astype(np.float64) ** 2).sum()) / n) / (g - 1)
    starts = np.cumsum(counts) - counts
    signal, noise = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for block in voxel_blocks(n, values.shape[1]):
        part = values[:, block][rows].astype(np.float64)
        finite = np.isfinite(part).all(axis=0)
        part = part[:, finite]
        part -= part[0].copy()  # so that a constant voxel has a variance of exactly 0
        part -= part.mean(axis=0)
        means = np.add.reduceat(part, starts, axis=0) / counts[:, None]
        between = (counts[:, None] * means**2).sum(axis=0) / (g - 1)
        part -= np.repeat(means, counts, axis=0)
        within = (part**2).sum(axis=0) / (n - g)
        columns = block.start + np.flatnonzero(finite)
        noise[columns] = within
        signal[columns] = (between - within) / k0
    return RepeatVariance(signal, noise, g, n, k0)


def repeated_groups(values: NDArray[np.generic], stimuli: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of stimuli shown twice or more, stimulus by stimulus, and how often each was shown.

    Raises
    ------
    UserError
        When `values` is not trials x voxels, has another number of rows than there are stimuli, or fewer than
        two stimuli repeat.
    """
    if values.ndim != 2 or values.shape[0] != len(stimuli):
        raise UserError(
            f"z must be trials x voxels with one stimulus a trial, got shape {values.shape} and {len(stimuli)} stimuli"
        )
    _, group, counts = np.unique(np.asarray(stimuli, dtype=str), return_inverse=True, return_counts=True)
    if (counts > 1).sum() < 2:
        raise UserError(
            f"{int((counts > 1).sum())} of {counts.size} stimuli stand in more than one trial, at least 2 are needed: "
            "show stimuli again, or use a measure that needs no repeats"
        )
    order = np.argsort(group, kind="stable")
    return order[counts[group[order]] > 1], counts[counts > 1]


def voxel_blocks(n_rows: int, n_voxels: int) -> Iterator[slice]:
    """Yield slices of voxels of which `n_rows` rows in float64 take at most 32 MiB."""
    step = max(1, BLOCK_BYTES // (8 * max(n_rows, 1)))
    for first in range(0, n_voxels, step):
        yield slice(first, min(first + step, n_voxels))

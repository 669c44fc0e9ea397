"""Regressors of a run: one canonical response a trial, and everything that is not of interest."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import DataWarning, UserError

__all__ = ["check_trials", "cosine_drift", "frame_times", "nuisance_matrix", "trial_columns", "trial_regressors"]

FloatArray = NDArray[np.float64]

OVERSAMPLING = 50
MIN_ONSET = -24.0
SAME_TIME = 1e-6
MOST_LEADING_GAPS = 3


def frame_times(n_volumes: int, t_r: float, slice_time_ref: float = 0.0) -> FloatArray:
    """Return the time of each volume, ``(k + slice_time_ref) * t_r``, (n_volumes,), in seconds."""
    if n_volumes < 2:
        raise UserError(f"a run needs at least 2 volumes, got {n_volumes}: give the whole 4D series")
    if not np.isfinite(t_r) or t_r <= 0:
        raise UserError(f"the repetition time must be a positive number of seconds, got {t_r}: check the sidecar")
    if not 0 <= slice_time_ref <= 1:
        raise UserError(f"slice_time_ref is a part of the repetition time between 0 and 1, got {slice_time_ref}")
    times: FloatArray = (np.arange(n_volumes, dtype=np.float64) + slice_time_ref) * t_r
    return times


def trial_regressors(onsets: ArrayLike, durations: ArrayLike, times: ArrayLike) -> FloatArray:
    """Return the canonical SPM response to each trial, ``x_i(t) = (box_i * h)(t)``: `trial_columns` for one response h.

    Returns
    -------
    ndarray of float64, shape (n_volumes, n_trials)
    """
    from nilearn.glm.first_level import spm_hrf

    t_r = float(np.min(np.diff(np.asarray(times, dtype=np.float64).ravel())))
    regressors: FloatArray = trial_columns(onsets, durations, times, [np.asarray(spm_hrf(t_r, OVERSAMPLING))])[0]
    return regressors


def trial_columns(onsets: ArrayLike, durations: ArrayLike, times: ArrayLike, kernels: ArrayLike) -> FloatArray:
    """Return the response to each trial under each of some impulse responses: ``x_ki(t) = (box_i * h_k)(t)``.

    A trial is a box of height 1 from its onset to its end. On a grid of 50 steps a volume, the convolution of
    a box with h is a difference of two shifted running sums H of h, ``H(t - onset) - H(t - end)``, so all
    trials come from one running sum and no convolution. The grid, the rounding of onsets to it and the linear
    interpolation to the volumes are those of `nilearn.glm.first_level.compute_regressor`, and so are
    the values (before it makes derivatives orthogonal).

    Parameters
    ----------
    onsets : array-like, shape (n_trials,)
        Seconds from the first volume.
    durations : array-like, shape (n_trials,)
        Seconds; 0 means an impulse of one grid step.
    times : array-like, shape (n_volumes,)
        Time of each volume in seconds, evenly spaced.
    kernels : array-like, shape (n_kernels, n_steps)
        Impulse responses sampled `OVERSAMPLING` times a volume (`hyperdecode.fmri.hrf.hrf_kernels`).

    Returns
    -------
    ndarray of float64, shape (n_kernels, n_volumes, n_trials)

    Raises
    ------
    UserError
        When lengths differ, a value is not finite, a duration is negative, or an onset lies past the last
        volume's end, is in milliseconds, or lies more than 24 s before the first volume.
    """
    start, length, at = (np.asarray(a, dtype=np.float64).ravel() for a in (onsets, durations, times))
    t_r = float(np.min(np.diff(at)))
    _check_events(start, length, at, t_r)
    last = at.max() * (1 + 1.0 / (at.size - 1))
    n_steps = int(np.rint((at.size - 1) / (at.max() - at.min()) * (last - at.min() - MIN_ONSET) * OVERSAMPLING + 1))
    grid = np.linspace(at.min() + MIN_ONSET, last, n_steps)
    on = np.minimum(np.searchsorted(grid, start), n_steps - 1)
    off = np.minimum(np.searchsorted(grid, start + length), n_steps - 1)
    off = np.where((off == on) & (off < n_steps - 1), off + 1, off)
    below = np.clip(np.searchsorted(grid, at, side="right") - 1, 0, n_steps - 2)
    part = ((at - grid[below]) / (grid[below + 1] - grid[below]))[:, None]

    def response(running: FloatArray, step: NDArray[np.intp]) -> FloatArray:
        def summed(edge: NDArray[np.intp]) -> FloatArray:
            values: FloatArray = running[np.clip(step[:, None] - edge[None, :] + 1, 0, running.size - 1)]
            return values

        return summed(on) - summed(off)

    columns = []
    for kernel in np.atleast_2d(np.asarray(kernels, dtype=np.float64)):
        running = np.concatenate([[0.0], np.cumsum(kernel)])
        columns.append((1 - part) * response(running, below) + part * response(running, below + 1))
    return np.stack(columns)


def _check_events(start: FloatArray, length: FloatArray, at: FloatArray, t_r: float) -> None:
    if start.size == 0:
        raise UserError("a run needs at least one trial, got none: check the events table")
    if start.size != length.size:
        raise UserError(f"every trial needs an onset and a duration, got {start.size} onsets, {length.size} durations")
    if not (np.isfinite(start).all() and np.isfinite(length).all()):
        raise UserError("onsets and durations must be finite numbers of seconds: fill or drop the rows with n/a")
    if (length < 0).any():
        raise UserError(f"durations must not be negative, got {length.min():g} s: mend the events table")
    end = at.max() + t_r
    if start.max() >= 10 * end and np.median(start) >= end and start.max() / 1000 < end:
        raise UserError(
            f"onsets up to {start.max():g} in a run of {end:g} s ({at.size} volumes of {t_r:g} s) look like "
            "milliseconds: divide onset and duration by 1000, BIDS wants seconds"
        )
    if start.max() >= end:
        raise UserError(
            f"an onset at {start.max():g} s lies past the run's end at {end:g} s ({at.size} volumes of {t_r:g} s): "
            "check the events and the repetition time"
        )
    if start.min() < at.min() + MIN_ONSET:
        raise UserError(f"an onset at {start.min():g} s lies more than 24 s before the first volume: drop that trial")


def check_trials(onsets: ArrayLike, durations: ArrayLike) -> None:
    """Refuse trials that start together, whose responses nothing can tell apart, and warn of what is merely odd.

    Parameters
    ----------
    onsets, durations : array-like, shape (n_trials,)
        Seconds from the first volume.

    Raises
    ------
    UserError
        When two trials have the same onset.

    Warns
    -----
    DataWarning
        When trials start before the first volume (only the rest of their response is seen), or one starts before
        another is over (their responses are hard to tell apart).
    """
    start, length = (np.asarray(a, dtype=np.float64).ravel() for a in (onsets, durations))
    order = np.argsort(start, kind="stable")
    gaps = np.diff(start[order])
    same = np.flatnonzero(gaps < SAME_TIME)
    if same.size:
        one, other = sorted((int(order[same[0]]) + 1, int(order[same[0] + 1]) + 1))
        raise UserError(
            f"trials {one} and {other} both start at {start[one - 1]:g} s ({same.size + 1} rows share their onset with "
            "another), so their responses cannot be told apart: keep one row of the events for each trial"
        )
    if start.size and start.min() < 0:
        warnings.warn(
            f"{int((start < 0).sum())} trials start before the first volume (the first at {start.min():g} s): only the "
            "rest of their response is seen",
            DataWarning,
            stacklevel=3,
        )
    # A key press, of duration 0, in the middle of a trial is as it should be.
    order = order[length[order] > 0]
    over = np.flatnonzero(np.diff(start[order]) < length[order][:-1] - SAME_TIME)
    if over.size:
        k = int(over[0])
        warnings.warn(
            f"{over.size} trials start before the one before is over (trial {order[k + 1] + 1} at "
            f"{start[order[k + 1]]:g} s, trial {order[k] + 1} lasts until {start[order[k]] + length[order[k]]:g} s): "
            "check onsets and durations",
            DataWarning,
            stacklevel=3,
        )


def cosine_drift(times: ArrayLike, high_pass: float) -> FloatArray:
    """Return slow cosines: ``sqrt(2/n) cos(pi (k + 1/2) j / n)``, j = 1..floor(2 n high_pass t_r).

    Parameters
    ----------
    times : array-like, shape (n_volumes,)
        Time of each volume in seconds.
    high_pass : float
        Cut-off in Hz; slower than this is drift. 0 gives no column.

    Returns
    -------
    ndarray of float64, shape (n_volumes, n_cosines)
    """
    at = np.asarray(times, dtype=np.float64)
    if high_pass < 0:
        raise UserError(f"high_pass is a frequency in Hz, at least 0, got {high_pass}")
    n = at.size
    step = (at[-1] - at[0]) / (n - 1)
    order = min(n - 1, int(np.floor(2 * n * high_pass * step)))
    k = np.arange(n)[:, None]
    drift: FloatArray = np.sqrt(2.0 / n) * np.cos(np.pi / n * (k + 0.5) * np.arange(1, order + 1)[None, :])
    return drift


def nuisance_matrix(times: ArrayLike, high_pass: float = 0.01, confounds: ArrayLike | None = None) -> FloatArray:
    """Return the columns of no interest side by side: drift, constant, confounds.

    Parameters
    ----------
    times : array-like, shape (n_volumes,)
        Time of each volume in seconds.
    high_pass : float
        Cut-off of the cosine drift in Hz.
    confounds : array-like, shape (n_volumes, n_confounds), optional
        Motion parameters, one-hot columns of scrubbed volumes and the like; each is centred, which the constant
        makes harmless. NaN in the first rows, as fMRIPrep writes for derivatives, becomes the column's first
        number, as nilearn's `load_confounds` does.

    Returns
    -------
    ndarray of float64, shape (n_volumes, n_columns)

    Raises
    ------
    UserError
        When the confounds have another number of rows than the run has volumes, or values that are not finite
        elsewhere than in the first three rows.
    """
    at = np.asarray(times, dtype=np.float64)
    columns = [cosine_drift(at, high_pass), np.ones((at.size, 1))]
    if confounds is not None:
        extra = np.asarray(confounds, dtype=np.float64)
        extra = extra[:, None] if extra.ndim == 1 else extra
        if extra.shape[0] != at.size:
            raise UserError(
                f"the run has {at.size} volumes, the confounds have {extra.shape[0]} rows: give one a volume"
            )
        extra = _first_rows_filled(extra)
        columns.append(extra - extra.mean(axis=0))
    return np.hstack(columns)


def _first_rows_filled(confounds: FloatArray) -> FloatArray:
    gaps = ~np.isfinite(confounds)
    if not gaps.any():
        return confounds
    leading = np.logical_and.accumulate(np.isnan(confounds), axis=0)
    leading[MOST_LEADING_GAPS:] = False
    wrong = np.argwhere((gaps & ~leading).T)
    if wrong.size:
        column, row = (int(i) for i in wrong[0])
        raise UserError(
            f"confounds must be finite, got {confounds[row, column]} in row {row + 1} of column {column + 1} (n/a is "
            f"filled in the first {MOST_LEADING_GAPS} rows alone): fill it or drop the column"
        )
    first = np.argmin(leading, axis=0)
    filled: FloatArray = np.where(leading, confounds[first, np.arange(confounds.shape[1])][None, :], confounds)
    return filled

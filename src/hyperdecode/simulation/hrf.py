"""The haemodynamic response, early or late: SPM's canonical one, stretched in time."""

from __future__ import annotations

import numpy as np
from nilearn.glm.first_level import spm_hrf
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["SLICE_TIME_REF", "delayed_response", "volume_times"]

FloatArray = NDArray[np.float64]

SLICE_TIME_REF = 0.5
"""A volume is taken in the middle of its repetition time."""
OVERSAMPLING = 50
MIN_ONSET = -24.0


def volume_times(n_volumes: int, t_r: float) -> FloatArray:
    """Return the time of each volume in seconds, (n_volumes,)."""
    if n_volumes < 2 or not np.isfinite(t_r) or t_r <= 0:
        raise UserError(f"a run needs at least 2 volumes and a repetition time above 0 s, got {n_volumes} and {t_r}")
    times: FloatArray = (np.arange(n_volumes, dtype=np.float64) + SLICE_TIME_REF) * t_r
    return times


def delayed_response(onsets: ArrayLike, durations: ArrayLike, frame_times: ArrayLike, delay: float) -> FloatArray:
    """Return the response to each trial, ``x_i(t) = (box_i * h_d)(t)``, of a voxel whose HRF peaks `delay` s late.

    ``h_d(t) = h(t / k) / k`` with ``k = (p + d) / p``: SPM's canonical response h, which peaks at p (about 5 s),
    stretched so that it peaks at p + d. A late response is a wide one, an early one is narrow, and all have the same
    area. The convolution of a box is a difference of two running integrals of h; the running integral of ``h_d`` is
    that of h read at ``t / k``. Grid, rounding and interpolation are those of
    `nilearn.glm.first_level.compute_regressor`, and for ``delay = 0`` so are the values.

    Parameters
    ----------
    onsets, durations : array-like, (n_trials,)
        Seconds from the start of the run.
    frame_times : array-like, (n_volumes,)
        Time of each volume in seconds, evenly spaced.
    delay : float
        Seconds, above -p; negative for an early response.

    Returns
    -------
    ndarray of float64, (n_volumes, n_trials)

    Raises
    ------
    UserError
        When lengths differ, a value is not finite, or the delay puts the peak before the onset.
    """
    start, length, at = (np.asarray(a, dtype=np.float64).ravel() for a in (onsets, durations, frame_times))
    if start.size != length.size or not (np.isfinite(start).all() and np.isfinite(length).all()):
        raise UserError(
            f"every trial needs a finite onset and duration in seconds, got {start.size} onsets and {length.size} "
            "durations: mend the events"
        )
    t_r = float(np.min(np.diff(at)))
    kernel = np.asarray(spm_hrf(t_r, OVERSAMPLING))
    stretch = _stretch(kernel, t_r / OVERSAMPLING, delay)

    last = at.max() * (1 + 1.0 / (at.size - 1))
    n_steps = int(np.rint((at.size - 1) / (at.max() - at.min()) * (last - at.min() - MIN_ONSET) * OVERSAMPLING + 1))
    grid = np.linspace(at.min() + MIN_ONSET, last, n_steps)
    on = np.minimum(np.searchsorted(grid, start), n_steps - 1)
    off = np.minimum(np.searchsorted(grid, start + length), n_steps - 1)
    off = np.where((off == on) & (off < n_steps - 1), off + 1, off)
    running = np.concatenate([[0.0], np.cumsum(kernel)])
    # One more sample than the grid has: the volume after the last step is read between two samples.
    integral = np.interp(np.arange(n_steps + 2) / stretch, np.arange(running.size), running)

    def response_at(step: NDArray[np.intp]) -> FloatArray:
        def summed(edge: NDArray[np.intp]) -> FloatArray:
            values: FloatArray = integral[np.maximum(step[:, None] - edge[None, :] + 1, 0)]
            return values

        return summed(on) - summed(off)

    below = np.clip(np.searchsorted(grid, at, side="right") - 1, 0, n_steps - 2)
    part = ((at - grid[below]) / (grid[below + 1] - grid[below]))[:, None]
    regressors: FloatArray = (1 - part) * response_at(below) + part * response_at(below + 1)
    return regressors


def _stretch(kernel: FloatArray, step: float, delay: float) -> float:
    """Return k, by which time is stretched so that the kernel's peak moves by `delay`."""
    top = int(np.argmax(kernel))
    before, peak, after = kernel[top - 1 : top + 2]
    peak_time = (top + 0.5 * (before - after) / (before - 2 * peak + after)) * step
    if not np.isfinite(delay) or delay <= -peak_time:
        raise UserError(f"the response peaks after {peak_time:.1f} s, so its delay must be above that, got {delay} s")
    return float((peak_time + delay) / peak_time)

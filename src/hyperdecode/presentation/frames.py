"""Which frame of the display shows what: a plan in frames of the measured refresh rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError

__all__ = ["FramePlan", "Refresh", "plan_frames", "refresh_of", "visible_frames"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

SLOWEST, FASTEST = 20.0, 1000.0
"""Refresh rates in Hz that a display may have."""
STEADY = 0.1
"""Jitter, as a share of the refresh period, above which a display counts as unsteady."""


@dataclass(frozen=True)
class Refresh:
    """How a display refreshes, measured.

    Attributes
    ----------
    period : float
        Seconds between two flips, median.
    jitter : float
        Standard deviation of the interval in seconds, over intervals that are not dropped frames.
    worst : float
        Longest interval in seconds.
    dropped : int
        Frames missed while measuring.
    n : int
        Intervals measured.
    """

    period: float
    jitter: float
    worst: float
    dropped: int
    n: int

    @property
    def rate(self) -> float:
        """Refresh rate in Hz."""
        return 1 / self.period

    @property
    def steady(self) -> bool:
        """Whether frames can be counted on: little jitter, at most one frame in twenty missed."""
        return self.jitter < STEADY * self.period and self.dropped <= self.n / 20


def missed(interval: float, period: float) -> int:
    """Frames that a display went on without between two flips: ``round(interval / period) - 1``, at least 0."""
    return max(0, round(interval / period) - 1)


def refresh_of(flips: ArrayLike) -> Refresh:
    """Measure the refresh rate from the times of flips made one after the other.

    Parameters
    ----------
    flips : array-like, (n,)
        Seconds, n >= 10.

    Returns
    -------
    Refresh

    Raises
    ------
    UserError
        When there are too few flips or the rate is none that a display has (below 20 or above 1000 Hz).
    """
    intervals = np.diff(np.asarray(flips, dtype=np.float64))
    if intervals.size < 9:
        raise UserError(f"{intervals.size + 1} flips are too few to measure a refresh rate: measure 10 at least")
    period = float(np.median(intervals))
    if not SLOWEST <= 1 / max(period, 1e-9) <= FASTEST:
        raise UserError(
            f"the display flips every {1000 * period:.3f} ms, and no display does: expected {SLOWEST:.0f} to "
            f"{FASTEST:.0f} Hz, check its driver and that the window is in sight"
        )
    lost = np.array([missed(interval, period) for interval in intervals])
    kept = intervals[lost == 0]
    return Refresh(period, float(kept.std()), float(intervals.max()), int(lost.sum()), int(intervals.size))


def visible_frames(on: float, period: float, flash_hz: float, duty: float) -> BoolArray:
    """Frames of one trial in which the picture is visible.

    Flash c begins at frame ``round(c / (flash_hz period))`` and its picture goes at frame
    ``round((c + duty) / (flash_hz period))``: each edge is rounded by itself, so rounding never adds up.

    Parameters
    ----------
    on : float
        Seconds for which the picture flashes.
    period : float
        Seconds a frame.
    flash_hz : float
        Flashes a second; 0: the picture stands still.
    duty : float
        Share of each flash in which the picture is visible.

    Returns
    -------
    ndarray of bool, (round(on / period),)
        The first is True.

    Raises
    ------
    UserError
        When the trial is shorter than a frame, or picture or pause of a flash are.
    """
    n = round(on / period)
    if n < 1:
        raise UserError(
            f"timing.on = {on:g} s is shorter than a frame ({1000 * period:.1f} ms) of this display: raise it"
        )
    if flash_hz == 0 or duty == 1:
        return np.ones(n, dtype=bool)
    cycle = 1 / (flash_hz * period)
    if min(duty, 1 - duty) * cycle < 0.999:
        raise UserError(
            f"timing.flash_hz = {flash_hz:g} with flash_duty = {duty:g} asks for less than one frame of picture or "
            f"pause at {1 / period:.1f} Hz: lower flash_hz (0 for none)"
        )
    visible = np.zeros(n, dtype=bool)
    for flash in range(int(np.ceil(n / cycle))):
        visible[round(flash * cycle) : round((flash + duty) * cycle)] = True
    return visible


@dataclass(frozen=True)
class FramePlan:
    """A run in frames.

    Attributes
    ----------
    onsets : ndarray of float64, (n_trials,)
        Planned seconds from the trigger.
    visible : tuple of ndarray of bool
        For each trial, the frames from its onset in which the picture is visible (`visible_frames`).
    pictures : tuple of int
        For each trial, the number of its picture.
    end : float
        Seconds from the trigger at which the run is over.
    period : float
        Seconds a frame.
    """

    onsets: FloatArray
    visible: tuple[BoolArray, ...]
    pictures: tuple[int, ...]
    end: float
    period: float

    def due(self, trial: int, expected: float) -> bool:
        """Whether the flip expected at a time after the trigger is the one nearest to the onset of a trial.

        The clock of the trigger decides, not a count of frames: an error of the measured rate never adds up, and
        after dropped frames the next trial is on time again.
        """
        return bool(expected >= self.onsets[trial] - self.period / 2)

    def frame(self, trial: int, since_onset: float) -> int | None:
        """Frame of the trial at a time since its onset; None once it is over."""
        frame = round(since_onset / self.period)
        return frame if frame < len(self.visible[trial]) else None


def plan_frames(
    onsets: ArrayLike,
    durations: ArrayLike,
    pictures: list[int],
    *,
    end: float,
    period: float,
    flash_hz: float,
    duty: float,
) -> FramePlan:
    """Plan a run in frames of a display.

    Parameters
    ----------
    onsets, durations : array-like, (n_trials,)
        Planned seconds, onsets from the trigger and ascending.
    pictures : list of int, n_trials
        Number of the picture of each trial.
    end : float
        Seconds from the trigger at which the run is over, not before the last trial.
    period : float
        Seconds a frame.
    flash_hz, duty : float
        As in `visible_frames`.

    Returns
    -------
    FramePlan

    Raises
    ------
    UserError
        When there is no trial, onsets are negative, out of order or overlap, or a trial cannot be shown in frames.
    """
    start, length = (np.asarray(values, dtype=np.float64).ravel() for values in (onsets, durations))
    if not start.size or start.size != length.size or start.size != len(pictures):
        raise UserError(
            f"a run needs an onset, a duration and a picture for each trial, got {start.size}, {length.size} and "
            f"{len(pictures)}: make the schedule anew"
        )
    if not (np.isfinite(start).all() and np.isfinite(length).all()) or start[0] < 0:
        raise UserError(f"planned onsets must be seconds from the trigger, the first is {start[0]:g}: mend the plan")
    late = np.flatnonzero(start[1:] < start[:-1] + length[:-1] - period / 2)
    if late.size:
        k = int(late[0])
        raise UserError(
            f"trial {k + 2} is planned at {start[k + 1]:g} s, before trial {k + 1} ends at {start[k] + length[k]:g} s: "
            "make the schedule anew"
        )
    each = {on: visible_frames(on, period, flash_hz, duty) for on in map(float, np.unique(length))}
    visible = tuple(each[float(on)] for on in length)
    return FramePlan(start, visible, tuple(pictures), max(end, float(start[-1] + length[-1])), period)

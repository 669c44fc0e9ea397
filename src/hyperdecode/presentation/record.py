"""What was really shown: trials, keys, triggers, and how far from the plan they were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = [
    "COLUMNS",
    "Keys",
    "OnsetErrors",
    "Presented",
    "Shown",
    "Triggers",
    "events_table",
    "onset_errors",
    "triggers",
]

LAST = 0.25
"""A trigger due in the last quarter of a repetition time before the run's end may come too late to be heard."""
COLUMNS = (
    "onset",
    "duration",
    "trial_type",
    "stim_file",
    "planned_onset",
    "dropped_frames",
    "response",
    "response_time",
)


@dataclass(frozen=True)
class Keys:
    """Names of the keys that a run listens to, Escape aside.

    Attributes
    ----------
    trigger : str
        Key of the scanner.
    responses : tuple of str
        Keys of the participant.
    """

    trigger: str
    responses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """One trial as it was.

    Attributes
    ----------
    onset : float
        Seconds from the trigger to the flip that first showed the picture.
    duration : float
        Seconds to the flip that ended the last flash.
    dropped : int
        Frames missed from bringing the trial to the screen until the next trial.
    response : str or None
        First response key from the onset until the next trial.
    response_time : float or None
        Seconds from the onset to it.
    """

    onset: float
    duration: float
    dropped: int = 0
    response: str | None = None
    response_time: float | None = None


@dataclass(frozen=True)
class Presented:
    """One run as it was. Times are seconds from the trigger.

    Attributes
    ----------
    trials : tuple of Shown
        Trials that were begun, in order.
    whole : bool
        Whether every trial was shown to its end.
    ended : float
        When it was over, or broken off.
    broken_off : str
        Why it ended early (``"escape"`` or ``"interrupt"``), else empty.
    triggers : tuple of float
        Triggers of the scanner, the first at 0.
    responses : tuple of (str, float)
        All response keys.
    flips : int
        Flips since the trigger.
    dropped : int
        Frames missed since the trigger.
    """

    trials: tuple[Shown, ...]
    whole: bool
    ended: float
    broken_off: str
    triggers: tuple[float, ...]
    responses: tuple[tuple[str, float], ...]
    flips: int
    dropped: int


@dataclass(frozen=True)
class OnsetErrors:
    """True minus planned onset, in ms.

    Attributes
    ----------
    n : int
        Trials.
    mean, sd : float
        Over trials; 0 where there is none.
    largest : float
        Largest absolute error.
    """

    n: int
    mean: float
    sd: float
    largest: float


@dataclass(frozen=True)
class Triggers:
    """Triggers of a run against those that the repetition time promises.

    Attributes
    ----------
    received, expected : int
        Triggers, the first included.
    gaps : int
        Intervals longer than 1.5 repetition times, that after the last trigger included.
    last : float
        Seconds from the first to the last.
    """

    received: int
    expected: int
    gaps: int
    last: float

    @property
    def lost(self) -> bool:
        """Whether the scanner fell silent; one that sends its first trigger alone is not lost."""
        return self.received > 1 and self.gaps > 0


def events_table(planned: pd.DataFrame, trials: Sequence[Shown]) -> pd.DataFrame:
    """BIDS events of the trials that were shown.

    Parameters
    ----------
    planned : pandas.DataFrame
        Planned events of the run: ``onset``, ``trial_type``, ``stim_file``.
    trials : sequence of Shown
        The first of them, as they were.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, one row a trial shown; missing values are NaN (``n/a`` in the file).
    """
    rows = planned.iloc[: len(trials)]
    table = {
        "onset": [round(trial.onset, 6) for trial in trials],
        "duration": [round(trial.duration, 6) for trial in trials],
        "trial_type": list(rows["trial_type"]),
        "stim_file": list(rows["stim_file"]),
        "planned_onset": list(rows["onset"]),
        "dropped_frames": [trial.dropped for trial in trials],
        "response": [trial.response for trial in trials],
        "response_time": [None if trial.response_time is None else round(trial.response_time, 6) for trial in trials],
    }
    return pd.DataFrame(table, columns=list(COLUMNS))


def onset_errors(planned: Sequence[float], trials: Sequence[Shown]) -> OnsetErrors:
    """Compare true onsets with the first planned ones."""
    errors = 1000 * np.array([trial.onset - plan for trial, plan in zip(trials, planned, strict=False)])
    if not errors.size:
        return OnsetErrors(0, 0.0, 0.0, 0.0)
    return OnsetErrors(errors.size, float(errors.mean()), float(errors.std()), float(np.abs(errors).max()))


def triggers(run: Presented, t_r: float) -> Triggers:
    """Count a run's triggers and gaps between them.

    Parameters
    ----------
    run : Presented
    t_r : float
        Repetition time in seconds.

    Returns
    -------
    Triggers
    """
    intervals = np.diff([*run.triggers, run.ended])
    return Triggers(
        received=len(run.triggers),
        expected=max(1, math.ceil(run.ended / t_r - LAST)),
        gaps=int((intervals > 1.5 * t_r).sum()),
        last=run.triggers[-1] if run.triggers else 0.0,
    )

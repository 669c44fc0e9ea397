"""Events of a run: read as a table, checked alone and against the run that they belong to."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.study.reading import load_table, one_line
from hyperdecode.weights.limits import shown

__all__ = ["EARLIEST_ONSET", "check_events", "read_events", "read_table"]

EVENT_COLUMNS = ("onset", "duration", "trial_type")
TRIAL_NAMES = ("trial", "trial_id")
EARLIEST_ONSET = -24.0
"""Seconds before the first volume: the response to what happened earlier is over (nilearn's limit, too)."""
MILLISECONDS = 1000.0


def read_table(path: Path, what: str) -> pd.DataFrame:
    """Read a BIDS table: tab-separated with a header, ``n/a`` for missing.

    Parameters
    ----------
    path : pathlib.Path
    what : str
        What is expected, for the message when the file is missing.

    Raises
    ------
    UserError
        When the file is missing, too large, no such table, or has no rows.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: {what}")
    try:
        text = dict.fromkeys(("trial_type", "stim_file", *TRIAL_NAMES), str)
        table = load_table(path, na_values=["n/a"], keep_default_na=True, dtype=text)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a tab-separated table ({one_line(error)}): mend it") from error
    if table.empty:
        raise UserError(f"{path} has no rows: expected one a trial")
    return table


def read_events(path: Path) -> pd.DataFrame:
    """Read an events table: sorted by onset, ``onset`` and ``duration`` in seconds, ``trial_type`` str.

    Raises
    ------
    UserError
        When the file is missing, no table, or lacks a column or a value; when an onset lies more than 24 s before
        the first volume; when one trial stands in it twice: the same onset with the same duration or condition, or
        the same name in a column ``trial`` or ``trial_id``.
    """
    table = read_table(path, f"give each BOLD run an events table with {', '.join(EVENT_COLUMNS)}")
    missing = [column for column in EVENT_COLUMNS if column not in table.columns]
    if missing:
        raise UserError(
            f"{path} lacks the column {missing[0]!r}: expected {', '.join(EVENT_COLUMNS)}, got "
            f"{shown(', '.join(map(str, table.columns)))}"
        )
    for column in ("onset", "duration"):
        table[column] = _seconds(table, column, path)
    if (table["duration"] < 0).any():
        raise UserError(f"{path}: a duration is negative ({table['duration'].min():g} s): mend it")
    if (table["onset"] < EARLIEST_ONSET).any():
        raise UserError(
            f"{path}: an onset is {table['onset'].min():g} s, more than {-EARLIEST_ONSET:g} s before the first volume: "
            "onsets count from the first volume of the run, mend them"
        )
    if table["trial_type"].isna().any():
        row = int(np.flatnonzero(table["trial_type"].isna())[0])
        raise UserError(f"{path}: row {row + 1} has no trial_type: name the condition of every trial")
    _refuse_duplicates(table, path)
    return table.sort_values("onset", kind="stable").reset_index(drop=True)


def check_events(events: pd.DataFrame, path: Path, n_volumes: int, t_r: float) -> None:
    """Check events against the run that they belong to.

    Parameters
    ----------
    events : pandas.DataFrame
        From `read_events`.
    path : pathlib.Path
        Their file, for messages.
    n_volumes : int
    t_r : float
        Seconds.

    Raises
    ------
    UserError
        When an onset lies past the run's end; when most do and a thousandth of them would not, the line says that
        they look like milliseconds.

    Warns
    -----
    DataWarning
        When an event begins before another one has ended (events of duration 0, such as key presses, aside).
    """
    end = n_volumes * t_r
    onset = events["onset"].to_numpy()
    late = onset >= end
    if late.any():
        length = f"the run has {n_volumes} volumes of {t_r:g} s = {end:g} s"
        if late.mean() > 0.5 and onset.max() / MILLISECONDS < end:
            raise UserError(
                f"{path}: {int(late.sum())} of {len(onset)} onsets lie past the run's end (last {onset.max():g}, "
                f"{length}): they look like milliseconds, divide onset and duration by 1000"
            )
        raise UserError(
            f"{path}: {int(late.sum())} onsets lie past the run's end (last {onset.max():g} s, {length}): "
            "check the events and RepetitionTime"
        )
    lasting = events[events["duration"] > 0]
    ends = np.maximum.accumulate((lasting["onset"] + lasting["duration"]).to_numpy())[:-1]
    # Rounding of written times is no overlap.
    early = lasting["onset"].to_numpy()[1:] < ends - 1e-3
    if early.any():
        first = float(lasting["onset"].to_numpy()[1:][early][0])
        warnings.warn(
            f"{path}: {int(early.sum())} events begin before an earlier one has ended (the first at {first:g} s): "
            "check onset and duration; only the GLM tells their responses apart",
            DataWarning,
            stacklevel=3,
        )


def _seconds(table: pd.DataFrame, column: str, path: Path) -> pd.Series[float]:
    values = pd.to_numeric(table[column], errors="coerce")
    bad = ~np.isfinite(values.to_numpy(dtype=float))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{path}: row {row + 1} has {column} {shown(table[column].iloc[row])}, expected seconds: mend it"
        )
    return values.astype(float)


def _refuse_duplicates(table: pd.DataFrame, path: Path) -> None:
    for other in ("duration", "trial_type"):
        twice = np.flatnonzero(table.duplicated(["onset", other], keep=False))
        if twice.size:
            onset = float(table["onset"].iloc[twice[0]])
            rows = np.flatnonzero(table["onset"].to_numpy() == onset) + 1
            raise UserError(
                f"{path}: rows {rows[0]} and {rows[1]} have the same onset {onset:g} s: no GLM tells two trials of one "
                "moment apart, remove one"
            )
    for column in TRIAL_NAMES:
        if column in table.columns:
            names = table[column].dropna()
            repeated = names[names.duplicated()]
            if not repeated.empty:
                raise UserError(
                    f"{path}: {column} {shown(repeated.iloc[0])} stands in more than one row: name each trial once"
                )

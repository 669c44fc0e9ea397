"""The table beside a file of single-trial estimates: which picture was shown in each trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.stimuli.schedule import REPEAT
from hyperdecode.study.events import read_table
from hyperdecode.study.reading import printable
from hyperdecode.weights.limits import shown

__all__ = ["STIMULUS", "TrialTable", "all_trials", "read_trials"]

STIMULUS = "stim_file"


@dataclass(frozen=True)
class TrialTable:
    """The trials of one file.

    Attributes
    ----------
    path : pathlib.Path
    trials : pandas.DataFrame
        The rows that are decoding trials, with ``run`` and ``trial`` (both str) where the table had none.
    kept : ndarray of bool, (rows of the file,)
        Which rows they are.
    """

    path: Path
    trials: pd.DataFrame
    kept: NDArray[np.bool_]


def read_trials(path: Path, run: str, n_trials: int, source: Path) -> TrialTable:
    """Read the table of a file that holds a number of trials.

    Parameters
    ----------
    path : pathlib.Path
    run : str
        Name of the run where the table has no column ``run``.
    n_trials : int
        Trials that the file holds.
    source : pathlib.Path
        That file, for messages.

    Raises
    ------
    UserError
        When the table is missing, has no ``stim_file`` or no row with one, other than a row a trial, or a trial twice.
    """
    table = read_table(path, f"name the {STIMULUS} of each trial of {source.name} there")
    if STIMULUS not in table.columns:
        raise UserError(
            f"{path} lacks the column {STIMULUS}: name the picture of each trial there, got "
            f"{shown(', '.join(map(str, table.columns)))}"
        )
    if len(table) != n_trials:
        raise UserError(f"{path} has {len(table)} rows, {source.name} holds {n_trials} trials: give a row a trial")
    if "run" not in table.columns:
        table.insert(0, "run", run)
    table["run"] = table["run"].astype(str)
    if "trial" not in table.columns:
        table.insert(1, "trial", table.groupby("run").cumcount().astype(str))
    _refuse_duplicates(table, path)
    kept = table[STIMULUS].notna().to_numpy()
    if "trial_type" in table.columns:
        kept = kept & (table["trial_type"] != REPEAT).to_numpy()
    if not kept.any():
        raise UserError(f"{path} names no picture in {STIMULUS}: name the picture of each trial there")
    trials = table[kept].reset_index(drop=True)
    trials[STIMULUS] = [Path(name).name for name in trials[STIMULUS]]
    return TrialTable(path, trials, kept)


def all_trials(tables: list[TrialTable]) -> pd.DataFrame:
    """Put the trials of several files one under the other; runs of one name in two files get the file's name, too."""
    names = [name for table in tables for name in set(table.trials["run"])]
    found = []
    for table in tables:
        trials = table.trials.copy()
        if any(names.count(name) > 1 for name in set(trials["run"])):
            trials["run"] = f"{table.path.parent.name}/{table.path.stem}:" + trials["run"]
        found.append(trials)
    return pd.concat(found, ignore_index=True)


def _refuse_duplicates(table: pd.DataFrame, path: Path) -> None:
    for column in ("trial", "onset"):
        if column in table.columns:
            known = table[table[column].notna()]
            twice = known[known.duplicated(["run", column])]
            if not twice.empty:
                row = twice.iloc[0]
                raise UserError(
                    f"{path}: {column} {printable(str(row[column]), 80)} of run {printable(str(row['run']), 80)} "
                    "stands there twice: give each trial one row"
                )

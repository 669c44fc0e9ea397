"""Which face is shown when."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from hyperdecode.errors import UserError

__all__ = ["schedule_runs"]

TRIES = 1000


def schedule_runs(
    train: list[str],
    test: list[str],
    test_repeats: int,
    n_runs: int,
    *,
    on: float,
    off: float,
    lead_in: float,
    seed: int,
) -> list[pd.DataFrame]:
    """Spread training faces (once) and test faces (`test_repeats` times) over runs, in seeded random order.

    Repeats of a test face are dealt to the runs in turn, so they spread as evenly as they can; within a run no
    face follows itself.

    Parameters
    ----------
    train, test : list of str
        Names of the stimuli.
    test_repeats : int
        Presentations of each test face.
    n_runs : int
        Runs to fill.
    on, off : float
        Seconds of picture and of fixation in each trial.
    lead_in : float
        Seconds of fixation before the first trial.
    seed : int
        Seed of the order.

    Returns
    -------
    list of pandas.DataFrame
        One BIDS events table a run: ``onset``, ``duration`` (s), ``trial_type`` (``train`` or ``test``), ``stim_file``.

    Raises
    ------
    UserError
        When there are fewer trials than runs, or a run cannot avoid immediate repeats.
    """
    rng = np.random.default_rng(seed)
    shuffled_test = [test[i] for i in rng.permutation(len(test))]
    dealt = [("test", name) for _ in range(test_repeats) for name in shuffled_test]
    dealt += [("train", train[i]) for i in rng.permutation(len(train))]
    if len(dealt) < n_runs:
        raise UserError(f"{len(dealt)} trials cannot fill {n_runs} runs: lower timing.n_runs")
    # Dealing repeat by repeat, an offset of one face a repeat keeps a face from meeting the same run each time.
    runs: list[list[tuple[str, str]]] = [[] for _ in range(n_runs)]
    for k, trial in enumerate(dealt):
        runs[(k + k // max(len(test), 1) * _offset(len(test), n_runs)) % n_runs].append(trial)
    return [_timed(_ordered(run, rng), on, off, lead_in) for run in _even(runs)]


def _offset(n_test: int, n_runs: int) -> int:
    """Extra runs to skip after each round of test faces, so that rounds do not fall on the same runs."""
    return (1 - n_test) % n_runs


def _even(runs: list[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
    """Move training trials from the longest to the shortest runs until lengths differ by one at most."""
    while max(map(len, runs)) - min(map(len, runs)) > 1:
        longest, shortest = max(runs, key=len), min(runs, key=len)
        moved = next((trial for trial in reversed(longest) if trial[0] == "train"), longest[-1])
        longest.remove(moved)
        shortest.append(moved)
    return runs


def _ordered(run: list[tuple[str, str]], rng: np.random.Generator) -> list[tuple[str, str]]:
    for _ in range(TRIES):
        order = [run[i] for i in rng.permutation(len(run))]
        if all(a[1] != b[1] for a, b in pairwise(order)):
            return order
    raise UserError("a run repeats its test faces so often that some must follow themselves: raise timing.n_runs")


def _timed(run: list[tuple[str, str]], on: float, off: float, lead_in: float) -> pd.DataFrame:
    onsets = lead_in + (on + off) * np.arange(len(run))
    return pd.DataFrame(
        {
            "onset": onsets.round(6),
            "duration": on,
            "trial_type": [role for role, _ in run],
            "stim_file": [name for _, name in run],
        }
    )

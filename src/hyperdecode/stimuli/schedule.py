"""Which face is shown when: balanced over runs and halves of runs, in seeded order, built so that it cannot fail."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pandas as pd

from hyperdecode.errors import UserError

__all__ = ["REPEAT", "ScanTime", "scan_time", "schedule_runs"]

Item = TypeVar("Item", bound=Hashable)
REPEAT = "repeat"
"""Trial type of a one-back trial: the face of the trial before, again. It is never used for decoding."""
Trial = tuple[str, str]
"""Trial type and name of the face."""
Vertex = tuple[str, object]
"""``("face", its name)`` or ``("run", its number)``."""


@dataclass(frozen=True)
class ScanTime:
    """How long the scanner runs.

    Attributes
    ----------
    volumes : tuple of int
        Of each run.
    seconds : tuple of float
        Of each run, whole volumes.
    total : float
        Seconds of all runs.
    """

    volumes: tuple[int, ...]
    seconds: tuple[float, ...]
    total: float


def scan_time(runs: Sequence[pd.DataFrame], *, off: float, lead_out: float, t_r: float) -> ScanTime:
    """Work out how many volumes each run needs: until `lead_out` after the fixation that follows the last picture.

    Parameters
    ----------
    runs : sequence of pandas.DataFrame
        Events as `schedule_runs` makes them.
    off : float
        Seconds of fixation after a picture.
    lead_out : float
        Seconds of scanning after the last trial.
    t_r : float
        Repetition time in seconds.
    """
    ends = [float((run["onset"] + run["duration"]).max()) + off + lead_out for run in runs]
    # A millionth of a volume is rounding, not a reason to take one more.
    volumes = tuple(math.ceil(end / t_r - 1e-6) for end in ends)
    seconds = tuple(n * t_r for n in volumes)
    return ScanTime(volumes, seconds, sum(seconds))


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
    one_back: float = 0.0,
) -> list[pd.DataFrame]:
    """Spread training faces (once) and test faces (`test_repeats` times) over runs, in seeded random order.

    Presentations of a test face stand at equal steps through the session, so that runs hold equally many of it, or
    one more; as many fall into the first halves of runs as into the second, or one more, and so do the test trials of
    each run. Within a half the order is random, and no face follows itself. Runs are equally long, or one trial
    longer.

    With a one-back task some faces are shown again right after themselves, as extra trials of the type ``repeat``,
    which are for the participant's attention and not for the analysis. They are spread over the runs, and over each
    run in equal stretches with one at random in each; a run never begins with one and two never touch.

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
    one_back : float
        Extra trials of the one-back task as a share of the others, 0 to 0.5; rounded to whole trials of the session.

    Returns
    -------
    list of pandas.DataFrame
        One BIDS events table a run: ``onset``, ``duration`` (s), ``trial_type`` (``train``, ``test`` or ``repeat``),
        ``stim_file``.

    Raises
    ------
    UserError
        When there are fewer trials than runs, `one_back` is out of range, or a run has so few faces that one must
        follow itself.
    """
    rng = np.random.default_rng(seed)
    n_trials = len(train) + len(test) * test_repeats
    if not 1 <= n_runs <= n_trials:
        raise UserError(f"{n_trials} trials cannot fill {n_runs} runs: lower schedule.n_runs")
    if not 0 <= one_back <= 0.5:
        raise UserError(f"one_back is a share of trials between 0 and 0.5, got {one_back}: mend schedule.one_back")
    tests = _dealt_tests([test[i] for i in rng.permutation(len(test))], test_repeats, n_runs)
    lengths = _run_lengths([len(run) for run in tests], n_trials, rng)
    repeats = _repeats_per_run(lengths, round(one_back * n_trials), rng)
    firsts = _first_halves(tests, rng)
    others = iter([train[i] for i in rng.permutation(len(train))])
    runs = []
    for faces, first, length, n_repeats in zip(tests, firsts, lengths, repeats, strict=True):
        fillers = [next(others) for _ in range(length - len(faces))]
        order = _ordered_run(faces, first, fillers, rng)
        role = dict.fromkeys(faces, "test")
        trials = [(role.get(name, "train"), name) for name in order]
        runs.append(_timed(_with_repeats(trials, n_repeats, rng), on, off, lead_in))
    return runs


def _dealt_tests(test: list[str], test_repeats: int, n_runs: int) -> list[list[str]]:
    """Test faces of each run.

    Face i of n, presentation r of R stands at ``(r + i / n) / R`` of the session. These positions of one face are a
    lattice, and so are those of all, and an interval holds the floor or the ceiling of its share of a lattice's points.
    """
    runs: list[list[str]] = [[] for _ in range(n_runs)]
    for r in range(test_repeats):
        for i, name in enumerate(test):
            runs[(r * len(test) + i) * n_runs // (test_repeats * len(test))].append(name)
    return runs


def _run_lengths(n_tests: list[int], n_trials: int, rng: np.random.Generator) -> list[int]:
    """Trials of each run; those with most test faces are the longer ones, at random among equals."""
    n_runs = len(n_tests)
    order = sorted(rng.permutation(n_runs), key=lambda run: -n_tests[run])
    longer = set(order[: n_trials % n_runs])
    return [n_trials // n_runs + (run in longer) for run in range(n_runs)]


def _repeats_per_run(lengths: list[int], n_repeats: int, rng: np.random.Generator) -> list[int]:
    """One-back trials of each run; the shorter runs get the odd ones, so that totals stay within one."""
    n_runs = len(lengths)
    order = sorted(rng.permutation(n_runs), key=lambda run: lengths[run])
    more = set(order[: n_repeats % n_runs])
    return [n_repeats // n_runs + (run in more) for run in range(n_runs)]


def _first_halves(tests: list[list[str]], rng: np.random.Generator) -> list[Counter[str]]:
    """How often each test face is shown in the first half of each run.

    An even number of presentations in a run is halved. The odd ones are the edges of a graph between faces and runs,
    whose colours (first or second half) must balance at every face and at every run. A bipartite graph of even degrees
    falls into closed walks of even length: colours that alternate along them balance exactly. Vertices of odd degree
    are first joined to a spare vertex on the other side, which leaves each within one.
    """
    counts = [Counter(run) for run in tests]
    firsts = [Counter({name: n // 2 for name, n in run.items()}) for run in counts]
    odd = [(name, run) for run, faces in enumerate(counts) for name, n in faces.items() if n % 2]
    odd = [odd[i] for i in rng.permutation(len(odd))]
    for (name, run), first in zip(odd, _balanced_colours(odd, rng), strict=True):
        firsts[run][name] += first
    return firsts


def _balanced_colours(edges: list[tuple[str, int]], rng: np.random.Generator) -> list[bool]:
    """Colour the edges of a bipartite graph so that each vertex has as many of either colour, or one more."""
    ends: list[tuple[Vertex, Vertex]] = [(("face", a), ("run", b)) for a, b in edges]
    lonely = [vertex for vertex, n in Counter(vertex for edge in ends for vertex in edge).items() if n % 2]
    spare_face, spare_run = ("face", None), ("run", None)
    ends += [(vertex, spare_run) if vertex[0] == "face" else (spare_face, vertex) for vertex in lonely]
    if sum(vertex[0] == "face" for vertex in lonely) % 2:
        ends.append((spare_face, spare_run))
    at: dict[Vertex, list[int]] = {}
    for number, edge in enumerate(ends):
        for vertex in edge:
            at.setdefault(vertex, []).append(number)
    colour: list[bool | None] = [None] * len(ends)
    for start in list(at):
        here, shade = start, bool(rng.integers(2))
        while True:
            while at[here] and colour[at[here][-1]] is not None:
                at[here].pop()
            if not at[here]:
                break
            number = at[here].pop()
            colour[number] = shade
            here, shade = ends[number][1] if here == ends[number][0] else ends[number][0], not shade
    return [bool(shade) for shade in colour[: len(edges)]]


def _ordered_run(faces: list[str], first: Counter[str], fillers: list[str], rng: np.random.Generator) -> list[str]:
    """Order of a run: the halves as dealt; a run with hardly anything but one face is ordered as a whole."""
    early = list(first.elements())
    late = list((Counter(faces) - first).elements())
    length = len(faces) + len(fillers)
    n_early = min(max(length // 2 - len(early), 0), len(fillers))
    second = _apart(late + fillers[n_early:], None, rng)
    if second is not None:
        # From the middle outwards, so that what meets there differs too.
        before = _apart(early + fillers[:n_early], second[0] if second else None, rng)
        if before is not None:
            return [*reversed(before), *second]
    whole = _apart(faces + fillers, None, rng)
    if whole is None:
        raise UserError(
            f"a run of {length} trials shows one test face more than {math.ceil(length / 2)} times, so it must follow "
            "itself: raise schedule.n_runs or stimuli.n_train"
        )
    return whole


def _apart(items: list[Item], before: Item | None, rng: np.random.Generator) -> list[Item] | None:
    """Order items at random so that none follows itself or begins with `before`; None where no order does.

    n items, of which c(x) are x, have such an order after y when ``2 c(x) <= n + 1`` for every x and ``2 c(y) <= n``.
    One x of ``2 c(x) = n + 1`` must come next; else each item other than the last may, and is as likely as another.
    """
    left, pool = Counter(items), list(items)
    if any(2 * count > len(pool) + (name != before) for name, count in left.items()):
        return None
    several = [name for name, count in left.items() if count > 1]
    order: list[Item] = []
    previous = before
    while pool:
        urgent = next((name for name in several if 2 * left[name] > len(pool)), None)
        at = pool.index(urgent) if urgent is not None else int(rng.integers(len(pool)))
        while pool[at] == previous:  # at most half of the pool is
            at = int(rng.integers(len(pool)))
        previous, pool[at] = pool[at], pool[-1]
        pool.pop()
        left[previous] -= 1
        order.append(previous)
    return order


def _with_repeats(trials: list[Trial], n_repeats: int, rng: np.random.Generator) -> list[Trial]:
    """Show one face at random of each of `n_repeats` equal stretches of a run twice."""
    edges = [len(trials) * k // n_repeats for k in range(n_repeats + 1)] if n_repeats else [0]
    again = {int(rng.integers(a, b)) for a, b in pairwise(edges)}
    extended = []
    for k, trial in enumerate(trials):
        extended.append(trial)
        if k in again:
            extended.append((REPEAT, trial[1]))
    return extended


def _timed(run: list[Trial], on: float, off: float, lead_in: float) -> pd.DataFrame:
    onsets = lead_in + (on + off) * np.arange(len(run))
    return pd.DataFrame(
        {
            "onset": onsets.round(6),
            "duration": on,
            "trial_type": [role for role, _ in run],
            "stim_file": [name for _, name in run],
        }
    )

import itertools
from collections import Counter

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.stimuli.schedule import _apart, scan_time, schedule_runs

TIMING = {"on": 1.5, "off": 3.0, "lead_in": 6.0}
SIZES = [
    (1050, 36, 14, 14),
    (384, 16, 6, 6),
    (40, 5, 3, 4),
    (21, 3, 5, 2),
    (30, 4, 2, 5),
    (20, 3, 1, 1),
    (25, 7, 9, 7),
    (100, 9, 7, 3),
    (13, 3, 4, 25),
    (0, 5, 4, 2),
    (20, 3, 60, 4),
    (0, 5, 3, 4),
    (1, 5, 3, 4),
]


def schedule(n_train, n_test, repeats, n_runs, seed=0, one_back=0.0, **timing):
    train = [f"train-{i}.png" for i in range(n_train)]
    test = [f"test-{i}.png" for i in range(n_test)]
    return schedule_runs(train, test, repeats, n_runs, seed=seed, one_back=one_back, **{**TIMING, **timing})


def spread(values):
    return max(values) - min(values)


@pytest.mark.parametrize("one_back", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("n_train", "n_test", "repeats", "n_runs"), SIZES)
def test_counts_spread_and_order(n_train, n_test, repeats, n_runs, one_back):
    runs = schedule(n_train, n_test, repeats, n_runs, one_back=one_back)
    assert len(runs) == n_runs and spread([len(run) for run in runs]) <= 1
    kept = [run[run["trial_type"] != "repeat"] for run in runs]
    shown = Counter(name for run in kept for name in run["stim_file"])
    assert shown == {f"train-{i}.png": 1 for i in range(n_train)} | {f"test-{i}.png": repeats for i in range(n_test)}
    assert spread([len(run) for run in kept]) <= 1
    for run in kept:
        names = run["stim_file"].tolist()
        assert all(a != b for a, b in itertools.pairwise(names))
        assert [name.split("-")[0] for name in names] == run["trial_type"].tolist()
    for i in range(n_test):
        assert spread([run["stim_file"].tolist().count(f"test-{i}.png") for run in kept]) <= 1
    assert spread([(run["trial_type"] == "test").sum() for run in kept]) <= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n_train", "n_test", "repeats", "n_runs"), [size for size in SIZES if size[0] >= size[3]])
def test_halves_of_runs(n_train, n_test, repeats, n_runs, seed):
    """Each face, and each run, has as many test trials in first halves as in second ones, or one more."""
    faces = Counter()
    for run in schedule(n_train, n_test, repeats, n_runs, seed):
        half = np.where(np.arange(len(run)) < len(run) // 2, 1, -1)
        is_test = (run["trial_type"] == "test").to_numpy()
        assert abs(half[is_test].sum()) <= 1
        for name, which in zip(run["stim_file"][is_test], half[is_test], strict=True):
            faces[name] += which
    assert max(map(abs, faces.values())) <= 1


@pytest.mark.parametrize(("repeats", "n_runs"), [(14, 14), (3, 12), (6, 4), (5, 20)])
def test_repeats_stand_at_equal_steps_through_the_session(repeats, n_runs):
    runs = schedule(20 * n_runs, 6, repeats, n_runs)
    for i in range(6):
        at = [k for k, run in enumerate(runs) for name in run["stim_file"] if name == f"test-{i}.png"]
        assert np.abs(np.diff(at) - n_runs / repeats).max() <= 1


def test_the_papers_runs_hold_every_test_face_once():
    for run in schedule(1050, 36, 14, 14):
        assert (run["trial_type"] == "test").sum() == 36
        assert run.loc[run["trial_type"] == "test", "stim_file"].is_unique


def test_onsets():
    for run in schedule(30, 4, 2, 3, on=2.0, off=0.7, lead_in=4.0, one_back=0.2):
        assert (run["onset"] - [4.0 + 2.7 * k for k in range(len(run))]).abs().max() < 1e-6
        assert (run["duration"] == 2.0).all()
        assert list(run.columns) == ["onset", "duration", "trial_type", "stim_file"]


def test_the_order_is_random():
    """Roles are mixed within a run, and which face follows which differs from run to run."""
    runs = schedule(1050, 36, 14, 14)
    for run in runs:
        changes = sum(a != b for a, b in itertools.pairwise(run["trial_type"]))
        assert changes > 30  # 36 test faces among 111: about 48 changes by chance, 2 when dealt in blocks
    orders = [run.loc[run["trial_type"] == "test", "stim_file"].tolist() for run in runs]
    pairs = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert max(pairs.values()) <= 5  # 490 pairs of 1260 possible ones
    places = np.array([[order.index(f"test-{i}.png") for order in orders] for i in range(36)])
    assert np.abs(places.mean(1) - 17.5).max() < 9 and places.std(1).min() > 5


@pytest.mark.parametrize("one_back", [0.03, 0.1, 0.3, 0.5])
@pytest.mark.parametrize(("n_train", "n_test", "repeats", "n_runs"), SIZES)
def test_one_back_trials(n_train, n_test, repeats, n_runs, one_back):
    runs = schedule(n_train, n_test, repeats, n_runs, one_back=one_back)
    assert sum((run["trial_type"] == "repeat").sum() for run in runs) == round(one_back * (n_train + n_test * repeats))
    assert spread([(run["trial_type"] == "repeat").sum() for run in runs]) <= 1
    for run in runs:
        kinds, names = run["trial_type"].tolist(), run["stim_file"].tolist()
        assert kinds[0] != "repeat"
        for k, kind in enumerate(kinds):
            if kind == "repeat":
                assert names[k] == names[k - 1] and kinds[k - 1] != "repeat"
            elif k:
                assert names[k] != names[k - 1]


def test_one_back_trials_are_spread_over_the_run():
    for run in schedule(1050, 36, 14, 14, one_back=0.1):
        at = np.flatnonzero(run["trial_type"] == "repeat")
        assert len(at) in (11, 12) and np.diff(at).max() <= 2 * (111 / 11 + 1)
        quarters = np.histogram(at, bins=4, range=(0, len(run)))[0]
        assert quarters.min() >= 2
    kinds = Counter()
    for run in schedule(1050, 36, 14, 14, one_back=0.1):
        kinds.update(run["trial_type"][np.flatnonzero(run["trial_type"] == "repeat") - 1])
    assert 0.2 < kinds["test"] / kinds.total() < 0.45  # a third of the trials are tests


def test_the_one_back_task_changes_nothing_else():
    for plain, task in zip(schedule(60, 5, 4, 3), schedule(60, 5, 4, 3, one_back=0.2), strict=True):
        kept = task[task["trial_type"] != "repeat"]
        assert sorted(kept["stim_file"].tolist()) and len(kept) in (len(plain) - 1, len(plain), len(plain) + 1)


def test_the_seed_makes_the_order():
    one, again, other = (schedule(40, 5, 3, 4, seed=s, one_back=0.1) for s in (1, 1, 2))
    assert all(a.equals(b) for a, b in zip(one, again, strict=True))
    assert not any(a.equals(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_has_one_order_only_gets_it(seed):
    """Five times the same face among four others: every second trial."""
    (run,) = schedule(4, 1, 5, 1, seed)
    assert run["trial_type"].tolist() == ["test", "train"] * 4 + ["test"]
    (run,) = schedule(0, 2, 9, 1, seed)
    assert all(a != b for a, b in itertools.pairwise(run["stim_file"]))


@pytest.mark.parametrize("seed", range(30))
def test_any_items_that_can_stand_apart_do(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, size=rng.integers(1, 5))
    items = [k for k, n in enumerate(counts) for _ in range(n)]
    before = int(rng.integers(-1, len(counts)))
    possible = [
        order
        for order in set(itertools.permutations(items[:8]))
        if all(a != b for a, b in itertools.pairwise((before, *order)))
    ]
    found = _apart(items[:8], before, rng)
    assert tuple(found) in possible if possible else found is None


def test_every_order_that_can_be_comes_up():
    rng = np.random.default_rng(0)
    seen = Counter(tuple(_apart(["a", "a", "b", "c", "d"], None, rng)) for _ in range(6000))
    assert len(seen) == 36  # 60 orders of which 24 have the a's together
    assert min(seen.values()) > 0.5 * 6000 / 36
    firsts = Counter(order[0] for order in seen.elements())
    assert firsts["a"] / 6000 == pytest.approx(2 / 5, abs=0.03)


def test_many_trials_take_no_time():
    assert len(schedule(20_000, 200, 20, 2)[0]) == 12_000


def test_what_cannot_be_scheduled():
    with pytest.raises(UserError, match=r"3 trials cannot fill 4 runs: lower schedule\.n_runs"):
        schedule(0, 3, 1, 4)
    with pytest.raises(UserError, match=r"6 trials shows one test face more than 3 times.*raise schedule\.n_runs"):
        schedule(1, 1, 5, 1)
    with pytest.raises(UserError, match=r"between 0 and 0\.5, got 0\.6"):
        schedule(20, 3, 1, 1, one_back=0.6)


def test_scan_time():
    runs = schedule(1050, 36, 14, 14)
    found = scan_time(runs, off=3.0, lead_out=15.0, t_r=1.5)
    assert found.volumes == (347,) * 14  # 6 + 111 x 4.5 + 15 = 520.5 s
    assert found.seconds == (520.5,) * 14 and found.total == 14 * 520.5
    odd = scan_time(schedule(5, 3, 1, 2, on=0.1, off=0.2, lead_in=0.1), off=0.2, lead_out=0.0, t_r=0.4)
    assert odd.volumes == (4, 4)  # 0.1 + 4 x 0.3 = 1.3 s
    exact = scan_time(schedule(5, 3, 1, 2, on=0.1, off=0.2, lead_in=0.0), off=0.2, lead_out=0.0, t_r=0.1)
    assert exact.volumes == (12, 12)

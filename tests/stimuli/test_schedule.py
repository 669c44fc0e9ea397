import itertools
from collections import Counter

import pytest

from hyperdecode.errors import UserError
from hyperdecode.stimuli.schedule import schedule_runs

TIMING = {"on": 1.5, "off": 3.0, "lead_in": 6.0}


def schedule(n_train, n_test, repeats, n_runs, seed=0, **timing):
    train = [f"train-{i}.png" for i in range(n_train)]
    test = [f"test-{i}.png" for i in range(n_test)]
    return schedule_runs(train, test, repeats, n_runs, seed=seed, **{**TIMING, **timing})


@pytest.mark.parametrize(
    ("n_train", "n_test", "repeats", "n_runs"),
    [(1050, 36, 14, 14), (384, 16, 6, 6), (40, 5, 3, 4), (21, 3, 5, 2), (30, 4, 2, 5), (20, 3, 1, 1), (25, 7, 9, 7)],
)
def test_counts_spread_and_order(n_train, n_test, repeats, n_runs):
    runs = schedule(n_train, n_test, repeats, n_runs)
    assert len(runs) == n_runs
    shown = Counter(name for run in runs for name in run["stim_file"])
    assert shown == {f"train-{i}.png": 1 for i in range(n_train)} | {f"test-{i}.png": repeats for i in range(n_test)}
    lengths = [len(run) for run in runs]
    assert max(lengths) - min(lengths) <= 1
    for run in runs:
        names = run["stim_file"].tolist()
        assert all(a != b for a, b in itertools.pairwise(names))
        assert [name.split("-")[0] for name in names] == run["trial_type"].tolist()
    for i in range(n_test):
        per_run = [run["stim_file"].tolist().count(f"test-{i}.png") for run in runs]
        assert max(per_run) - min(per_run) <= 1


def test_the_papers_runs_hold_every_test_face_once():
    for run in schedule(1050, 36, 14, 14):
        assert (run["trial_type"] == "test").sum() == 36
        assert run.loc[run["trial_type"] == "test", "stim_file"].is_unique


def test_onsets():
    for run in schedule(30, 4, 2, 3, on=2.0, off=0.7, lead_in=4.0):
        assert (run["onset"] - [4.0 + 2.7 * k for k in range(len(run))]).abs().max() < 1e-6
        assert (run["duration"] == 2.0).all()


def test_roles_are_mixed_within_a_run():
    run = schedule(1050, 36, 14, 14)[0]["trial_type"].tolist()
    changes = sum(a != b for a, b in itertools.pairwise(run))
    assert changes > 20  # 36 test faces among 75: about 48 changes by chance, 2 when dealt in blocks


def test_the_seed_makes_the_order():
    one, again, other = (schedule(40, 5, 3, 4, seed=s) for s in (1, 1, 2))
    assert all(a.equals(b) for a, b in zip(one, again, strict=True))
    assert not any(a.equals(b) for a, b in zip(one, other, strict=True))


def test_what_cannot_be_scheduled():
    with pytest.raises(UserError, match="3 trials cannot fill 4 runs"):
        schedule(0, 3, 1, 4)
    with pytest.raises(UserError, match=r"raise timing\.n_runs"):
        schedule(1, 1, 5, 1)

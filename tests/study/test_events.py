from __future__ import annotations

import warnings
from functools import partial

import pandas as pd
import pytest

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.study.events import check_events, read_events
from hyperdecode.study.reading import load_table

N_VOLUMES, T_R = 200, 1.5


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sub-01_task-faces_events.tsv"


def write(path, onset, duration=1.5, **columns):
    table = pd.DataFrame({"onset": onset, "duration": duration, "trial_type": "train"} | columns)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")


def check(path):
    events = read_events(path)
    check_events(events, path, N_VOLUMES, T_R)
    return events


def refused(path, words):
    with pytest.raises(UserError, match=words) as error:
        check(path)
    assert path.name in str(error.value) and "\n" not in str(error.value)


def test_onsets_in_milliseconds(path):
    write(path, [0, 4500, 9000, 270_000], 1500)
    refused(path, "3 of 4 onsets .* look like milliseconds, divide onset and duration by 1000")
    # One that is late, and many that no factor of a thousand explains, are something else.
    write(path, [0, 4.5, 9, 301])
    refused(path, "1 onsets lie past the run's end .* check the events and RepetitionTime")
    write(path, [0, 4500, 9000, 301_000])
    refused(path, "3 onsets lie past the run's end .* check the events and RepetitionTime")
    write(path, [0, 4.5, 9, 299])
    assert len(check(path)) == 4


def test_onsets_before_the_first_volume(path):
    write(path, [-24.0, -3.0, 6.0])
    assert check(path)["onset"].tolist() == [-24.0, -3.0, 6.0]
    write(path, [-24.1, 6.0])
    refused(path, r"an onset is -24\.1 s, more than 24 s before the first volume")


def test_a_trial_that_stands_there_twice(path):
    write(path, [3.0, 9.0, 3.0])
    refused(path, r"rows 1 and 3 have the same onset 3 s")
    write(path, [3.0, 9.0, 9.0], [1.5, 1.5, 3.0])
    refused(path, "rows 2 and 3 have the same onset 9 s")
    write(path, [3.0, 9.0, 9.0], 1.5, trial_type=["a", "b", "c"])
    refused(path, "rows 2 and 3 have the same onset 9 s")


@pytest.mark.parametrize("column", ["trial", "trial_id"])
def test_names_of_trials(path, column):
    write(path, [3.0, 9.0, 15.0], **{column: ["001", "002", "001"]})
    refused(path, f"{column} '001' stands in more than one row")
    write(path, [3.0, 9.0, 15.0, 18.0], **{column: ["01", "1", None, None]})
    assert check(path)[column].tolist()[:2] == ["01", "1"]


def test_overlapping_events(path):
    write(path, [3.0, 6.0, 9.0, 20.0], [3.0, 4.0, 1.5, 1.0])
    with pytest.warns(DataWarning, match=r"events\.tsv: 1 events begin before .* \(the first at 9 s\)") as caught:
        assert len(check(path)) == 4
    assert "\n" not in str(caught[0].message)
    # A long one over several others.
    write(path, [3.0, 6.0, 9.0], [30.0, 1.5, 1.5])
    with pytest.warns(DataWarning, match="2 events begin before"):
        check(path)


def test_events_that_do_not_overlap(path):
    # Back to back, with the rounding of written times, and a key press during a picture.
    write(path, [3.0, 4.4996, 6.0, 7.0], [1.5, 1.5, 1.5, 0.0], trial_type=["train", "train", "train", "press"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(path)


def test_a_table_of_absurd_size(path, monkeypatch):
    monkeypatch.setattr("hyperdecode.study.events.load_table", partial(load_table, limit=20))
    write(path, [3.0, 4.5])
    refused(path, "is not a tab-separated table")

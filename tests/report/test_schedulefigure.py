import io

import numpy as np
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.figures import BLUE, GREY, ORANGE
from hyperdecode.report.schedulefigure import schedule_caption, schedule_figure
from hyperdecode.stimuli.schedule import schedule_runs


def schedule(n_train=40, n_test=5, repeats=4, n_runs=3, one_back=0.0):
    train, test = [f"train-{i}.png" for i in range(n_train)], [f"test-{i}.png" for i in range(n_test)]
    return schedule_runs(train, test, repeats, n_runs, on=1.5, off=3.0, lead_in=6.0, seed=0, one_back=one_back)


def pixels(png, colour):
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return (np.abs(picture - wanted) < 12).all(-1)


def bands(mask):
    """How many runs of rows hold the colour."""
    rows = np.concatenate([[False], mask.sum(1) > 30, [False]])
    return int((np.diff(rows.astype(int)) == 1).sum())


def test_a_row_for_each_run():
    for n_runs in (2, 5):
        png = schedule_figure(schedule(n_train=100, n_runs=n_runs), dpi=80)
        assert Image.open(io.BytesIO(png)).size[0] == 800
        assert bands(pixels(png, GREY)[: 40 + 200]) >= n_runs


def test_colours_are_the_trial_types():
    few, many = (schedule_figure(schedule(n_test=n), dpi=80) for n in (2, 8))
    assert 0 < pixels(few, ORANGE).sum() < pixels(many, ORANGE).sum()
    none, some = (schedule_figure(schedule(one_back=share), dpi=80) for share in (0.0, 0.2))
    assert pixels(none, BLUE).sum() == 0 < pixels(some, BLUE).sum()
    assert pixels(schedule_figure([run[run["trial_type"] == "train"] for run in schedule()]), ORANGE).sum() == 0


def test_repeats_of_a_test_face_stand_in_its_row():
    png = schedule_figure(schedule(n_train=30, n_test=2, repeats=6, n_runs=1), dpi=100)
    lower = pixels(png, ORANGE)[-200:]
    rows = np.flatnonzero(lower.sum(1) > 0)
    assert np.count_nonzero(np.diff(rows) > 5) == 1  # two rows of dots


def test_caption():
    assert schedule_caption(schedule(one_back=0.1)) == (
        "3 runs: 40 training trials and 20 trials of 5 test faces. 6 one-back trials repeat the face before (rings). "
        "Below, each dot is one presentation of a test face: they stand evenly through the session."
    )
    assert schedule_caption(schedule(n_runs=1)).startswith("1 run: 40 training trials and 20 trials of 5 test faces. B")


def test_refused():
    with pytest.raises(UserError, match="trials in them"):
        schedule_figure([])
    with pytest.raises(UserError, match="trials in them"):
        schedule_figure([run.iloc[:0] for run in schedule()])

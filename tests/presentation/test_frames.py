import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.presentation.frames import missed, plan_frames, refresh_of, visible_frames

PERIOD = 1 / 60


def runs_of(visible):
    """Lengths of the stretches of equal values."""
    edges = np.flatnonzero(np.diff(visible.astype(int))) + 1
    return np.diff([0, *edges, visible.size]).tolist()


def test_the_papers_flashing_at_60_hz():
    visible = visible_frames(1.5, PERIOD, 3.33, 0.5)
    assert runs_of(visible) == [9] * 10 and visible[0]


@pytest.mark.parametrize("rate", [59.94, 60.0, 75.0, 100.0, 144.0])
@pytest.mark.parametrize(("hz", "duty"), [(3.33, 0.5), (2.0, 0.3), (7.7, 0.5)])
def test_no_edge_is_more_than_half_a_frame_off_however_many_flashes(rate, hz, duty):
    visible = visible_frames(6.0, 1 / rate, hz, duty)
    on = np.flatnonzero(np.diff(np.r_[0, visible.astype(int)]) == 1) / rate
    off = np.flatnonzero(np.diff(np.r_[visible.astype(int), 0]) == -1) / rate + 1 / rate
    assert len(on) == sum(round(flash * rate / hz) < visible.size for flash in range(99))
    np.testing.assert_allclose(on, np.arange(len(on)) / hz, atol=0.5001 / rate)
    whole = off[: len(off) - 1]
    np.testing.assert_allclose(whole, (np.arange(len(whole)) + duty) / hz, atol=0.5001 / rate)


@pytest.mark.parametrize(("hz", "duty"), [(0, 0.5), (3.33, 1.0)])
def test_a_picture_that_stands_still(hz, duty):
    assert visible_frames(1.5, PERIOD, hz, duty).tolist() == [True] * 90


@pytest.mark.parametrize(
    ("on", "hz", "duty", "words"),
    [
        (0.005, 0, 1, "timing.on = 0.005 s is shorter than a frame"),
        (1, 40, 0.5, "less than one frame"),
        (1, 5, 0.99, "less than one frame"),
    ],
)
def test_what_a_display_cannot_show(on, hz, duty, words):
    with pytest.raises(UserError, match=words):
        visible_frames(on, PERIOD, hz, duty)


def test_refresh_is_measured_through_dropped_frames_and_jitter():
    rng = np.random.default_rng(0)
    beats = np.delete(np.arange(62), [20, 40, 41])
    refresh = refresh_of(beats * PERIOD + rng.normal(0, 2e-4, beats.size))
    assert refresh.rate == pytest.approx(60, rel=0.01) and refresh.dropped == 3 and refresh.n == 58
    assert 1e-4 < refresh.jitter < 5e-4 and refresh.worst == pytest.approx(3 * PERIOD, rel=0.05)
    assert not refresh.steady and refresh_of(np.arange(60) * PERIOD).steady
    assert not refresh_of(np.cumsum(rng.uniform(0.012, 0.02, 60))).steady


@pytest.mark.parametrize(
    ("flips", "words"), [(np.arange(5), "too few"), (np.zeros(60), "no display"), (np.arange(60), "no display")]
)
def test_nonsense_is_no_refresh_rate(flips, words):
    with pytest.raises(UserError, match=words):
        refresh_of(flips)


@pytest.mark.parametrize(("intervals", "n"), [(0.4, 0), (1.0, 0), (1.4, 0), (1.6, 1), (3.1, 2)])
def test_missed_frames(intervals, n):
    assert missed(intervals * PERIOD, PERIOD) == n


def plan(onsets, durations, pictures=None, end=20.0):
    pictures = list(range(len(onsets))) if pictures is None else pictures
    return plan_frames(onsets, durations, pictures, end=end, period=PERIOD, flash_hz=0, duty=1)


def test_each_onset_belongs_to_the_nearest_flip():
    run = plan([6.0, 10.5], [1.5, 1.5])
    assert not run.due(0, 6 - 0.51 * PERIOD) and run.due(0, 6 - 0.49 * PERIOD) and not run.due(1, 6.0)
    assert run.frame(0, 0.49 * PERIOD) == 0 and run.frame(0, 1.5 - PERIOD) == 89 and run.frame(0, 1.5) is None
    assert plan([6.0], [1.5], end=1.0).end == 7.5


@pytest.mark.parametrize(
    ("onsets", "durations", "pictures", "words"),
    [
        ([], [], [], "got 0, 0 and 0"),
        ([1.0, 9.0], [1.5, 1.5], [0], "got 2, 2 and 1"),
        ([-1.0], [1.5], [0], "the first is -1"),
        ([np.nan], [1.5], [0], "the first is nan"),
        ([6.0, 7.0], [1.5, 1.5], [0, 1], "trial 2 is planned at 7 s, before trial 1 ends at 7.5 s"),
        ([9.0, 6.0], [1.5, 1.5], [0, 1], "trial 2 is planned at 6 s"),
    ],
)
def test_a_plan_that_cannot_be(onsets, durations, pictures, words):
    with pytest.raises(UserError, match=words):
        plan(onsets, durations, pictures)

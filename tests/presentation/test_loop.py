"""The run on a display whose clock is the test's: everything here is exact."""

import numpy as np
import pandas as pd
import pytest

from hyperdecode.presentation.frames import plan_frames
from hyperdecode.presentation.loop import listening_share, show_run, wait_for_trigger
from hyperdecode.presentation.record import Keys, events_table, onset_errors, triggers
from hyperdecode.presentation.screen import KeyPress, SimulatedScanner
from tests.presentation.fakes import FakeScreen

PERIOD = 1 / 60
KEYS = Keys("5", ("1", "2"))
ON, OFF, LEAD_IN, END = 0.6, 0.9, 0.5, 6.0
ONSETS = LEAD_IN + (ON + OFF) * np.arange(3)


def make_plan(period=PERIOD, flash_hz=0.0, onsets=ONSETS, end=END, on=ON):
    return plan_frames(
        onsets, [on] * len(onsets), list(range(len(onsets))), end=end, period=period, flash_hz=flash_hz, duty=0.5
    )


def show(screen, plan=None, trigger=0.0, **kwargs):
    screen.time = max(screen.time, trigger)
    return show_run(screen, plan or make_plan(), KEYS, trigger, **kwargs)


def onsets_of(run):
    return np.array([trial.onset for trial in run.trials])


def test_what_the_log_says_is_what_the_display_did():
    screen = FakeScreen(phase=0.003)
    run = show(screen)
    pictures = [(a, b, p) for a, b, p in screen.visible() if p is not None]
    assert [p for *_, p in pictures] == [0, 1, 2]
    np.testing.assert_allclose([t.onset for t in run.trials], [a for a, *_ in pictures])
    np.testing.assert_allclose([t.onset + t.duration for t in run.trials], [b for _, b, _ in pictures])
    assert run.whole and run.dropped == 0 and run.broken_off == "" and run.flips == len(screen.seen)
    assert run.ended == pytest.approx(END, abs=PERIOD / 2)


@pytest.mark.parametrize("phase", np.linspace(0, 1, 7, endpoint=False))
def test_onsets_are_within_half_a_frame_of_the_plan(phase):
    run = show(FakeScreen(phase=phase * PERIOD))
    assert np.abs(onsets_of(run) - ONSETS).max() <= PERIOD / 2 + 1e-9
    np.testing.assert_allclose([t.duration for t in run.trials], ON, atol=1e-9)


def test_the_trigger_may_come_between_two_flips():
    trigger = 12.3456
    screen = FakeScreen()
    run = show(screen, trigger=trigger)
    assert np.abs(onsets_of(run) - ONSETS).max() <= PERIOD / 2
    np.testing.assert_allclose(onsets_of(run) + trigger, [a for a, _, p in screen.visible() if p is not None])


def test_a_wrong_refresh_rate_does_not_add_up():
    """The display runs 1 % faster than was measured: counted in frames, trial 60 would come 0.9 s early."""
    onsets = LEAD_IN + 1.5 * np.arange(60)
    run = show(FakeScreen(period=PERIOD * 0.99), make_plan(onsets=onsets, end=91))
    assert np.abs(onsets_of(run) - onsets).max() < 0.6 * PERIOD
    np.testing.assert_allclose([t.duration for t in run.trials], ON, atol=PERIOD)


def test_flashes():
    screen = FakeScreen()
    run = show(screen, make_plan(flash_hz=5.0))
    first = [(round((b - a) / PERIOD), p) for a, b, p in screen.visible() if a >= run.trials[0].onset - 1e-9][:6]
    assert first == [(6, 0), (6, None), (6, 0), (6, None), (6, 0), (6 + 54, None)]
    np.testing.assert_allclose([t.duration for t in run.trials], ON, atol=1e-9)  # the pause of the last flash counts


def test_a_late_flip_is_counted_and_the_next_trial_is_on_time():
    clean = show(FakeScreen())
    in_first = round((ONSETS[0] + 0.2) / PERIOD)
    run = show(FakeScreen(late={in_first: 4}))
    assert [t.dropped for t in run.trials] == [4, 0, 0] and run.dropped == 4
    np.testing.assert_allclose(onsets_of(run), onsets_of(clean), atol=1e-9)
    np.testing.assert_allclose([t.duration for t in run.trials], ON, atol=1e-9)


def test_the_first_flip_after_the_trigger_cannot_be_late():
    run = show(FakeScreen(late={0: 5}))
    assert run.dropped == 0 and np.abs(onsets_of(run) - ONSETS).max() <= PERIOD / 2 + 1e-9


def test_keys_from_before_the_trigger_are_no_responses():
    assert show(FakeScreen(keys=[KeyPress("1", 0.2), KeyPress("2", 0.8)]), trigger=0.5).responses == (
        ("2", pytest.approx(0.3)),
    )


def test_a_late_onset_is_logged_late_and_shown_in_full():
    at = round(ONSETS[1] / PERIOD) - 1
    run = show(FakeScreen(late={at: 6}))
    assert run.trials[1].onset == pytest.approx(ONSETS[1] + 6 * PERIOD) and run.trials[1].dropped == 6
    assert run.trials[1].duration == pytest.approx(ON) and run.trials[2].onset == pytest.approx(ONSETS[2])
    errors = onset_errors(ONSETS, run.trials)
    assert errors.largest == pytest.approx(100.0) and errors.mean == pytest.approx(100 / 3) and errors.n == 3


def test_a_stall_of_seconds_loses_no_trial():
    run = show(FakeScreen(late={60: 120}))
    assert run.whole and len(run.trials) == 3 and run.dropped == 120
    ends = np.array([t.onset + t.duration for t in run.trials])
    assert (onsets_of(run)[1:] >= ends[:-1] - 1e-9).all() and [t.duration for t in run.trials[1:]] == pytest.approx(
        [ON] * 2
    )


def test_trials_without_a_pause():
    onsets = ON * np.arange(4)
    done = []
    screen = FakeScreen()
    run = show(screen, make_plan(onsets=onsets, end=0), after_trial=lambda trials: done.append(len(trials)))
    assert [p for *_, p in screen.visible()] == [None, 0, 1, 2, 3, None] or [p for *_, p in screen.visible()] == [
        0,
        1,
        2,
        3,
        None,
    ]
    assert run.whole and done == [1, 2, 3, 4]
    np.testing.assert_allclose([t.duration for t in run.trials], ON, atol=1e-9)


def test_responses_belong_to_the_trial_before_them():
    gap = ONSETS[0] + ON + 0.3
    presses = [("2", 0.1), ("1", gap), ("2", gap + 0.1), ("9", ONSETS[1] + 0.1), ("2", ONSETS[1] + 0.25)]
    run = show(FakeScreen(keys=[KeyPress(*press) for press in presses]))
    assert [t.response for t in run.trials] == ["1", "2", None]
    assert run.trials[0].response_time == pytest.approx(gap - run.trials[0].onset)
    assert run.trials[1].response_time == pytest.approx(0.25, abs=PERIOD / 2)
    assert [name for name, _ in run.responses] == ["2", "1", "2", "2"]


@pytest.mark.parametrize(
    ("at", "n", "duration", "whole"),
    [
        (0.2, 0, None, False),
        (ONSETS[1] + 0.2, 2, 0.2, False),
        (ONSETS[1] + ON + 0.2, 2, ON, False),
        (ONSETS[2] + 0.2, 3, 0.2, False),
        (ONSETS[2] + ON + 0.5, 3, ON, True),
    ],
)
def test_escape(at, n, duration, whole):
    screen = FakeScreen(keys=[KeyPress("escape", at)])
    run = show(screen)
    assert run.broken_off == "escape" and len(run.trials) == n and run.whole is whole
    assert run.ended == pytest.approx(at, abs=2 * PERIOD)
    assert screen.seen[-1][1] is None
    if n:
        assert run.trials[-1].duration == pytest.approx(duration, abs=2 * PERIOD)


def test_an_interrupt_keeps_what_was_shown():
    class Interrupted(FakeScreen):
        def draw(self, picture):
            if len(self.seen) == 60 and not self.broken:
                self.broken = True
                raise KeyboardInterrupt
            super().draw(picture)

        broken = False

    run = show(Interrupted())
    assert run.broken_off == "interrupt" and len(run.trials) == 1 and not run.whole
    assert run.trials[0].duration == pytest.approx(60 * PERIOD - ONSETS[0], abs=2 * PERIOD)


def test_trials_are_handed_over_in_the_pause_after_them():
    screen, calls = FakeScreen(), []
    show(screen, after_trial=lambda trials: calls.append((screen.time, screen.seen[-1][1], trials)))
    assert [len(trials) for *_, trials in calls] == [1, 2, 3] and all(picture is None for _, picture, _ in calls)
    np.testing.assert_allclose([time for time, *_ in calls], ONSETS + ON, atol=1e-9)
    assert all(trial.duration == pytest.approx(ON) for *_, trials in calls for trial in trials)


def test_waiting_for_the_trigger():
    screen = FakeScreen(keys=[KeyPress("1", 0.5), KeyPress("5", 3.2)])
    assert wait_for_trigger(screen, KEYS) == 3.2 and not screen.seen
    assert wait_for_trigger(FakeScreen(keys=[KeyPress("escape", 1.0), KeyPress("5", 2.0)]), KEYS) is None


def test_a_simulated_scanner_sends_its_triggers_in_time():
    screen = FakeScreen(keys=[KeyPress("1", 2.0)], time=0.25)
    scanner = SimulatedScanner(screen, "5", t_r=1.5, delay=1.0)
    trigger = wait_for_trigger(scanner, KEYS)
    assert trigger == 1.25
    run = show_run(scanner, make_plan(), KEYS, trigger)
    np.testing.assert_allclose(run.triggers[:4], [0, 1.5, 3, 4.5], atol=1e-9)
    assert run.responses == (("1", pytest.approx(0.75)),)
    assert not triggers(run, 1.5).lost


@pytest.mark.parametrize(
    ("sent", "received", "gaps", "lost"),
    [([1.5, 3.0, 4.5], 4, 0, False), ([1.5], 2, 1, True), ([1.5, 4.5], 3, 1, True), ([], 1, 1, False)],
)
def test_a_scanner_that_falls_silent(sent, received, gaps, lost):
    found = triggers(show(FakeScreen(keys=[KeyPress("5", at) for at in sent], phase=-0.004)), 1.5)
    assert (found.received, found.gaps, found.lost) == (received, gaps, lost)
    assert found.expected == 4 and found.last == (sent[-1] if sent else 0)


def test_the_events_are_bids():
    run = show(FakeScreen(keys=[KeyPress("2", ONSETS[1] + 0.25), KeyPress("escape", 2.8)]))
    planned = pd.DataFrame(
        {
            "onset": ONSETS,
            "duration": ON,
            "trial_type": ["test", "train", "repeat"],
            "stim_file": ["a.png", "b.png", "b.png"],
        }
    )
    events = events_table(planned, run.trials)
    assert list(events) == [
        "onset", "duration", "trial_type", "stim_file", "planned_onset", "dropped_frames", "response", "response_time",
    ]  # fmt: skip
    assert list(events["trial_type"]) == ["test", "train"] and list(events["planned_onset"]) == list(ONSETS[:2])
    lines = events.to_csv(sep="\t", index=False, na_rep="n/a").splitlines()
    assert lines[1].split("\t")[2:] == ["test", "a.png", "0.5", "0", "n/a", "n/a"]
    assert lines[2].split("\t")[6] == "2" and float(lines[2].split("\t")[7]) == pytest.approx(0.25, abs=PERIOD)
    assert list(events_table(planned, ())) == list(events) and onset_errors(ONSETS, ()).n == 0


@pytest.mark.parametrize(("drawing", "share"), [(0.002, 0.5), (0.007, 0.5), (0.010, 0.25), (0.015, 0.0), (0.030, 0.0)])
def test_a_slow_computer_listens_less_and_misses_no_frame(drawing, share):
    screen = FakeScreen(drawing=drawing)
    assert listening_share(screen, PERIOD) == share
    run = show(FakeScreen(drawing=drawing), listen=share)
    assert (run.dropped == 0) == (drawing < PERIOD) and run.whole
    assert np.abs(onsets_of(run) - ONSETS).max() < (0.51 if drawing < PERIOD else 2.01) * PERIOD

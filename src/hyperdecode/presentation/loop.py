"""The run itself: wait for the scanner, then one flip after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

from hyperdecode.presentation.frames import FramePlan, missed
from hyperdecode.presentation.record import Keys, Presented, Shown
from hyperdecode.presentation.screen import ESCAPE, KeyPress, Screen

__all__ = ["listening_share", "show_run", "wait_for_trigger"]

TrialsDone = Callable[[tuple[Shown, ...]], None]

LISTEN = (0.5, 0.25, 0.0)
"""Shares of a frame in which keys may be listened to, the rest being left for drawing; 0: one look a frame."""
TRIALS = 20
"""Frames for which a share is tried; it is too long when more than one of them is missed."""
NAP = 0.001
"""Seconds between two looks at the keyboard."""


def listening_share(screen: Screen, period: float) -> float:
    """Find how long keys can be listened to in each frame without missing the flip that follows.

    A key that goes down while the screen draws and flips is timed after the flip: late by what is left of the frame.

    Parameters
    ----------
    screen : Screen
        It shows the fixation target meanwhile.
    period : float
        Seconds a frame.

    Returns
    -------
    float
        The largest of `LISTEN` that is fast enough on this computer; 0 also when none is.
    """
    for share in LISTEN:
        last, lost = screen.flip(), 0
        for _ in range(TRIALS):
            while screen.now() < last + share * period:
                screen.wait(NAP)
            screen.draw(None)
            flipped = screen.flip()
            last, lost = flipped, lost + missed(flipped - last, period)
        if lost <= 1:
            return share
    return 0.0


def wait_for_trigger(screen: Screen, keys: Keys) -> float | None:
    """Wait for the scanner's first trigger.

    Nothing is flipped meanwhile, so that the time of the key is good to about a millisecond. Garbage is collected
    before the wait: it can take a tenth of a second, and nothing may after the trigger.

    Parameters
    ----------
    screen : Screen
    keys : Keys

    Returns
    -------
    float or None
        Time of the trigger on the clock of the screen; None when Escape was pressed.
    """
    gc.collect()
    while True:
        for press in screen.poll():
            if press.name == ESCAPE:
                return None
            if press.name == keys.trigger:
                return press.time
        screen.wait(NAP)


def show_run(
    screen: Screen,
    plan: FramePlan,
    keys: Keys,
    trigger: float,
    *,
    listen: float = LISTEN[0],
    after_trial: TrialsDone | None = None,
) -> Presented:
    """Show a run from its trigger to its end, or until Escape is pressed.

    Parameters
    ----------
    screen : Screen
        Its pictures are prepared.
    plan : FramePlan
    keys : Keys
    trigger : float
        Time of the first trigger on the clock of the screen: time 0 of the run.
    listen : float
        Share of each frame in which keys are listened to (`listening_share`).
    after_trial : callable, optional
        Called with all trials so far, right after the flip that ends a trial; it must return fast.

    Returns
    -------
    Presented
        Also when the run was broken off, by Escape or an interrupt: then with what was shown until then.
    """
    run = _Run(screen, plan, keys, trigger, listen, after_trial)
    collecting = gc.isenabled()
    gc.disable()
    try:
        while not run.over:
            run.next_frame()
    except KeyboardInterrupt:
        run.broken_off = "interrupt"
    finally:
        if collecting:
            gc.enable()
    return run.close()


@dataclass
class _Run:
    """State of a run between two flips; `last` is the time of the last flip."""

    screen: Screen
    plan: FramePlan
    keys: Keys
    trigger: float
    listen: float
    after_trial: TrialsDone | None

    def __post_init__(self) -> None:
        self.last = self.trigger
        self.showing = False
        self.trials: list[Shown] = []
        self.triggers = [0.0]
        self.responses: list[tuple[str, float]] = []
        self.flips = self.dropped = 0
        self.broken_off = ""

    @property
    def over(self) -> bool:
        if self.broken_off:
            return True
        shown = not self.showing and len(self.trials) == len(self.plan.onsets)
        return shown and self.last - self.trigger >= self.plan.end - self.plan.period / 2

    def next_frame(self) -> None:
        """Listen to the keys for a part of the frame, then draw what the coming flip shows."""
        self._listen()
        if self.broken_off:
            return
        expected = self.last + self.plan.period - self.trigger
        ends = self.showing and self._frame(expected) is None
        starts = (ends or not self.showing) and self._next_is_due(expected)
        if starts:
            self._flip(self.plan.pictures[len(self.trials)], begins=True, ends=ends)
        elif ends or not self.showing:
            self._flip(None, ends=ends)
        else:
            trial = len(self.trials) - 1
            frame = self._frame(expected)
            self._flip(self.plan.pictures[trial] if self.plan.visible[trial][frame] else None)

    def close(self) -> Presented:
        """End the trial that is still on the screen, if any, and sum up."""
        whole = not self.showing and len(self.trials) == len(self.plan.onsets)
        if self.showing:
            self._flip(None, ends=True)
        return Presented(
            trials=tuple(self.trials),
            whole=whole,
            ended=self.last - self.trigger,
            broken_off=self.broken_off,
            triggers=tuple(self.triggers),
            responses=tuple(self.responses),
            flips=self.flips,
            dropped=self.dropped,
        )

    def _frame(self, expected: float) -> int | None:
        return self.plan.frame(len(self.trials) - 1, expected - self.trials[-1].onset)

    def _next_is_due(self, expected: float) -> bool:
        return len(self.trials) < len(self.plan.onsets) and self.plan.due(len(self.trials), expected)

    def _flip(self, picture: int | None, *, begins: bool = False, ends: bool = False) -> None:
        self.screen.draw(picture)
        flipped = self.screen.flip()
        # The first flip comes whenever the display is ready after the trigger: it cannot be late.
        lost = missed(flipped - self.last, self.plan.period) if self.flips else 0
        self.last, self.flips, self.dropped = flipped, self.flips + 1, self.dropped + lost
        at = flipped - self.trigger
        if ends:
            self._change(duration=at - self.trials[-1].onset)
            self.showing = False
        if begins:
            self.trials.append(Shown(onset=at, duration=0.0))
            self.showing = True
        if self.trials:
            self._change(dropped=self.trials[-1].dropped + lost)
        if ends and self.after_trial:
            self.after_trial(tuple(self.trials[:-1] if begins else self.trials))

    def _change(self, **values: float | str | None) -> None:
        self.trials[-1] = replace(self.trials[-1], **values)  # type: ignore[arg-type]

    def _listen(self) -> None:
        until = self.last + self.listen * self.plan.period
        while True:
            for press in self.screen.poll():
                self._heard(press)
            if self.broken_off or self.screen.now() >= until:
                return
            self.screen.wait(NAP)

    def _heard(self, press: KeyPress) -> None:
        at = press.time - self.trigger
        if press.name == ESCAPE:
            self.broken_off = ESCAPE
        elif press.name == self.keys.trigger:
            self.triggers.append(at)
        elif press.name in self.keys.responses and at >= 0:
            self.responses.append((press.name, at))
            if self.trials and self.trials[-1].response is None:
                self._change(response=press.name, response_time=at - self.trials[-1].onset)

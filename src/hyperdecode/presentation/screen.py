"""What the presentation asks of a display and its keyboard, and a scanner that only pretends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["ESCAPE", "KeyPress", "Screen", "SimulatedScanner"]

ESCAPE = "escape"
"""Name of the key that ends a run; closing the window counts as it."""


@dataclass(frozen=True)
class KeyPress:
    """A key that went down.

    Attributes
    ----------
    name : str
        Name of the key, as `study.toml` names it.
    time : float
        Seconds on the clock of the screen.
    """

    name: str
    time: float


class Screen(Protocol):
    """A display with a clock and a keyboard; the fixation target is always on it."""

    def now(self) -> float:
        """Seconds on the clock that times flips and keys."""

    def draw(self, picture: int | None) -> None:
        """Prepare the next frame: a picture by its number, or the fixation target alone."""

    def flip(self) -> float:
        """Show the prepared frame, wait until it is visible and return that time."""

    def poll(self) -> list[KeyPress]:
        """Keys that went down since the last call."""

    def wait(self, seconds: float) -> None:
        """Let a moment pass."""


class SimulatedScanner:
    """A screen whose keyboard also receives the triggers of a scanner that is not there.

    Parameters
    ----------
    screen : Screen
        The screen itself; all it does is passed on.
    key : str
        Name of the trigger key.
    t_r : float
        Seconds between triggers.
    delay : float
        Seconds from the first poll to the first trigger.
    """

    def __init__(self, screen: Screen, key: str, t_r: float, delay: float = 1.0) -> None:
        self._screen, self._key, self._t_r, self._delay = screen, key, t_r, delay
        self._first: float | None = None
        self._sent = 0
        self.now, self.draw, self.flip, self.wait = screen.now, screen.draw, screen.flip, screen.wait

    def poll(self) -> list[KeyPress]:
        """Keys that went down since the last call, and triggers that were due."""
        now = self._screen.now()
        if self._first is None:
            self._first = now + self._delay
        presses = self._screen.poll()
        while (due := self._first + self._sent * self._t_r) <= now:
            presses.append(KeyPress(self._key, due))
            self._sent += 1
        return sorted(presses, key=lambda press: press.time)

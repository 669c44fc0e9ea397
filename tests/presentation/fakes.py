"""A display on a clock of its own, which moves only when the program waits or flips."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.presentation.frames import Refresh, refresh_of
from hyperdecode.presentation.pictures import Viewing
from hyperdecode.presentation.screen import KeyPress


@dataclass
class FakeScreen:
    """Refreshes at `phase + k period`; `late` makes the flips with these numbers miss so many refreshes."""

    period: float = 1 / 60
    phase: float = 0.0
    keys: Sequence[KeyPress] = ()
    late: dict[int, int] = field(default_factory=dict)
    time: float = 0.0
    drawing: float = 0.002
    seen: list[tuple[float, int | None]] = field(default_factory=list)
    drawn: int | None = None

    def __post_init__(self) -> None:
        self.keys = sorted(self.keys, key=lambda press: press.time)
        self._read = 0

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.time += seconds

    def draw(self, picture: int | None) -> None:
        self.time += self.drawing
        self.drawn = picture

    def flip(self) -> float:
        k = int((self.time - self.phase) / self.period + 1e-9) + 1 + self.late.get(len(self.seen), 0)
        self.time = self.phase + k * self.period
        self.seen.append((self.time, self.drawn))
        return self.time

    def poll(self) -> list[KeyPress]:
        end = bisect.bisect_right([press.time for press in self.keys], self.time)
        found = list(self.keys[self._read : end])
        self._read = end
        return found

    def visible(self) -> list[tuple[float, float, int | None]]:
        """(from, to, picture) of every stretch in which the display showed the same thing."""
        stretches: list[tuple[float, float, int | None]] = []
        ends = [time for time, _ in self.seen[1:]] + [self.seen[-1][0]]
        for (start, picture), end in zip(self.seen, ends, strict=True):
            if stretches and stretches[-1][2] == picture:
                stretches[-1] = (stretches[-1][0], end, picture)
            else:
                stretches.append((start, end, picture))
        return stretches


class FakeSdl(FakeScreen):
    """The rest of `SdlScreen`: `script` gives keys by seconds after the last message."""

    paced = False

    def __init__(self, script: Sequence[tuple[str, float]] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.script = script
        self.messages: list[list[str]] = []
        self.prepared: list[NDArray[np.uint8]] = []
        self.asked: dict[str, Any] = {}

    @contextmanager
    def open(self, view: Viewing, **asked: Any) -> Iterator[FakeSdl]:
        """Stand in for `open_screen`."""
        self.asked = {"view": view, **asked}
        yield self

    def describe(self) -> dict[str, Any]:
        return {"driver": "fake", "size": [800, 600], "driver_rate_hz": 60, "keyboard_lost": 0}

    def measure(self, n: int = 60) -> Refresh:
        return refresh_of([self.flip() for _ in range(n)])

    def prepare(self, pictures: Iterable[NDArray[np.uint8]]) -> None:
        self.prepared = list(pictures)

    def message(self, lines: Sequence[str]) -> None:
        self.messages.append(list(lines))
        presses = [KeyPress(name, self.time + after) for name, after in self.script]
        self.keys = sorted(presses, key=lambda press: press.time)
        self._read = 0

    def clear(self) -> None:
        self.seen.clear()

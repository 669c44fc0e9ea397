"""A screen through SDL2 (pygame-ce): full-screen or a window, flips in step with the display where it gives that."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.presentation.frames import Refresh, refresh_of
from hyperdecode.presentation.pictures import Viewing, blank, enlarged
from hyperdecode.presentation.screen import ESCAPE, KeyPress

if TYPE_CHECKING:
    import pygame

__all__ = ["SdlScreen", "open_screen"]

WARM_UP = 10
BUFFERS = 3
"""Flips after which every buffer of the driver shows what was drawn."""
FREE_RUNNING = 1.2
"""A driver whose flips come this much faster than the display refreshes does not wait for it."""
FASTEST_KNOWN = 500.0
"""Same, in Hz, where the driver does not say how fast the display refreshes."""
DEFAULT_RATE = 60.0
SPIN = 0.002
"""Last seconds of a wait that are spent looking at the clock: sleep is not more exact than that."""
NO_CARD = "no fast renderer"
MARGIN = 0.9
"""Share of the desktop that a window may take."""
ENVIRONMENT = {
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    "SDL_VIDEO_MINIMIZE_ON_FOCUS_LOSS": "0",
    "SDL_WINDOWS_DPI_AWARENESS": "permonitorv2",
}
"""Quiet; full screen stays when the operator clicks elsewhere; pixels are the screen's own."""
TEXT = 0.035
"""Height of text as a share of the screen's."""


@contextmanager
def open_screen(
    view: Viewing, *, screen: int = 0, fullscreen: bool = True, keys: Sequence[str] = ()
) -> Iterator[SdlScreen]:
    """Open a screen and close it at the end, whatever happens.

    Parameters
    ----------
    view : Viewing
    screen : int
        Number of the screen.
    fullscreen : bool
        Take the whole screen at the desktop's own resolution; else a window.
    keys : sequence of str
        Names of the keys that are listened to; Escape always is.

    Yields
    ------
    SdlScreen

    Raises
    ------
    UserError
        When pygame or a display is absent, there is no such screen or key, or the picture does not fit.
    """
    pg = _pygame()
    try:
        _start(pg)
        yield SdlScreen(pg, view, screen, fullscreen, keys)
    except pg.error as error:
        raise UserError(
            f"the display failed ({' '.join(str(error).split())}): check the screen, its driver and --windowed"
        ) from None
    finally:
        pg.quit()


class SdlScreen:
    """An open screen; made by `open_screen`. It obeys `hyperdecode.presentation.screen.Screen`."""

    def __init__(self, pg: ModuleType, view: Viewing, screen: int, fullscreen: bool, keys: Sequence[str]) -> None:
        self._pg, self._view = pg, view
        self._keys = _codes(pg, keys)
        self._surface, self._accelerated = _window(pg, view, screen, fullscreen)
        self._fullscreen = fullscreen
        self._corner = tuple((whole - view.side) // 2 for whole in self._surface.get_size())
        self._blank = self._prepared(blank(view))
        self._pictures: list[pygame.Surface] = []
        self._pace = self._next = 0.0
        self._focus_lost = 0
        self.clear()

    @property
    def paced(self) -> bool:
        """Whether flips wait by this program's clock because the driver does not wait for the display."""
        return self._pace > 0

    def describe(self) -> dict[str, Any]:
        """Driver, size, versions, how flips are timed, how often another window took the keyboard."""
        pg = self._pg
        return {
            "driver": pg.display.get_driver(),
            "size": list(self._surface.get_size()),
            "fullscreen": self._fullscreen,
            "accelerated": self._accelerated,
            "driver_rate_hz": int(pg.display.get_current_refresh_rate()),
            "paced_by_program": self.paced,
            "keyboard_lost": self._focus_lost,
            "pygame": str(pg.version.ver),
            "sdl": ".".join(map(str, pg.get_sdl_version())),
        }

    def measure(self, n: int = 60) -> Refresh:
        """Measure the refresh rate over `n` flips; where flips do not wait for the display, pace them from here on.

        Raises
        ------
        UserError
            When the rate is none that a display has.
        """
        stated = float(self._pg.display.get_current_refresh_rate())
        flips = self._flips(n)
        period = float(np.median(np.diff(flips)))
        free = 1 / max(period, 1e-9) > (FREE_RUNNING * stated if stated else FASTEST_KNOWN)
        if not self.paced and (free or not self._accelerated):
            self._pace = 1 / (stated or DEFAULT_RATE)
            flips = self._flips(n)
        return refresh_of(flips)

    def prepare(self, pictures: Iterable[NDArray[np.uint8]]) -> None:
        """Make the pictures ready to be drawn, by number: enlarged, with the fixation target."""
        self._pictures = [self._prepared(picture) for picture in enlarged(pictures, self._view)]

    def message(self, lines: Sequence[str]) -> None:
        """Show lines of text instead of the fixation target."""
        pg, surface = self._pg, self._surface
        level = 0 if self._view.background > 127 else 255
        size = max(12, round(TEXT * surface.get_height()))
        font = pg.font.Font(None, size)
        surface.fill((self._view.background,) * 3)
        top = surface.get_height() // 2 - len(lines) * size
        for k, line in enumerate(lines):
            text = font.render(line, True, (level,) * 3)
            surface.blit(text, ((surface.get_width() - text.get_width()) // 2, top + k * 2 * size))
        for _ in range(BUFFERS):
            self.flip()
        # Triggers of an earlier scan are no start of this run, and opening a window shuffles the focus.
        self.poll()
        self._focus_lost = 0

    def clear(self) -> None:
        """Draw the background and the fixation target over whatever was there."""
        self._surface.fill((self._view.background,) * 3)
        self.draw(None)

    def now(self) -> float:
        """Seconds on the computer's steady clock."""
        return time.perf_counter()

    def draw(self, picture: int | None) -> None:
        """Draw a prepared picture, or the fixation target alone."""
        self._surface.blit(self._blank if picture is None else self._pictures[picture], self._corner)

    def flip(self) -> float:
        """Show what was drawn and return when."""
        self._pg.display.flip()
        return self._paced() if self._pace else time.perf_counter()

    def poll(self) -> list[KeyPress]:
        """Keys listened to that went down since the last call; closing the window is Escape."""
        pg, presses = self._pg, []
        for event in pg.event.get():
            if event.type == pg.WINDOWFOCUSLOST:
                self._focus_lost += 1
            elif event.type == pg.QUIT:
                presses.append(KeyPress(ESCAPE, time.perf_counter()))
            elif event.type == pg.KEYDOWN:
                name = self._keys.get(("key", event.key)) or self._keys.get(("scancode", event.scancode))
                if name:
                    presses.append(KeyPress(name, time.perf_counter()))
        return presses

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def _flips(self, n: int) -> list[float]:
        """Flip `n` times after a warm-up and return when."""
        times = []
        for _ in range(WARM_UP + n):
            self._pg.event.pump()
            times.append(self.flip())
        return times[WARM_UP:]

    def _paced(self) -> float:
        """Wait for the next beat of a display that is not there; who misses a beat waits for the next one."""
        self._next += self._pace
        late = time.perf_counter() - self._next
        if late > 0:
            self._next += self._pace * math.ceil(late / self._pace)
        while (left := self._next - time.perf_counter()) > 0:
            if left > SPIN:
                time.sleep(left - SPIN)
        return time.perf_counter()

    def _prepared(self, picture: NDArray[np.uint8]) -> pygame.Surface:
        data = np.ascontiguousarray(picture).tobytes()
        surface: pygame.Surface = self._pg.image.frombytes(data, picture.shape[1::-1], "RGB").convert(self._surface)
        return surface


def _pygame() -> ModuleType:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import pygame
        import pygame.font
    except ImportError:
        raise UserError(
            "showing pictures needs pygame-ce, which is not installed: pip install 'hyperdecode[present]'"
        ) from None
    return pygame


def _start(pg: ModuleType) -> None:
    """Start SDL's display, and refuse the ones that nobody sees unless they were asked for by name."""
    no_display = "log in at the screen (or set DISPLAY); SDL_VIDEODRIVER=dummy rehearses without one"
    try:
        pg.display.init()
        pg.font.init()
    except pg.error as error:
        raise UserError(f"no display ({' '.join(str(error).split())}): {no_display}") from None
    driver = pg.display.get_driver()
    if driver in ("offscreen", "dummy", "evdev") and not os.environ.get("SDL_VIDEODRIVER"):
        raise UserError(f"no display (SDL found its driver {driver!r} only): {no_display}")


def _window(pg: ModuleType, view: Viewing, screen: int, fullscreen: bool) -> tuple[pygame.Surface, bool]:
    """Open the window; the second value is False where SDL has no graphics card and would only feign to wait for it."""
    desktops = pg.display.get_desktop_sizes()
    if not 0 <= screen < len(desktops):
        raise UserError(
            f"presentation.screen = {screen}, but there are {len(desktops)} screens (the first is 0): choose one"
        )
    size = desktops[screen] if fullscreen else tuple(int(MARGIN * side) for side in desktops[screen])
    if view.side > min(size):
        raise UserError(
            f"a picture of {view.picture_deg:g} deg at {view.pixels_per_deg:g} pixels a degree is {view.side} px wide, "
            f"screen {screen} shows {size[0]} x {size[1]} px{'' if fullscreen else ' in a window'}: measure "
            "viewing.pixels_per_deg at your screen"
        )
    # SDL gives vertical sync to scaled windows alone; the size is the desktop's own, so nothing is scaled.
    flags = pg.SCALED | (pg.FULLSCREEN if fullscreen else 0)
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        try:
            surface: pygame.Surface = pg.display.set_mode(size, flags, display=screen, vsync=1)
        except pg.error:
            surface = pg.display.set_mode(size, flags, display=screen)
    accelerated = not any(NO_CARD in str(complaint.message) for complaint in complaints)
    if not accelerated:
        pg.display.quit()
        pg.display.init()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            surface = pg.display.set_mode(size, flags, display=screen)
    pg.display.set_caption("hyperdecode present")
    pg.mouse.set_visible(not fullscreen)
    return surface, accelerated


def _codes(pg: ModuleType, names: Sequence[str]) -> dict[tuple[str, int], str]:
    """Find SDL's codes of keys; a digit is that key of the number row or pad, whatever the keyboard's layout."""
    codes: dict[tuple[str, int], str] = {("key", pg.K_ESCAPE): ESCAPE}
    for name in names:
        try:
            code = int(pg.key.key_code(name))
        except ValueError:
            raise UserError(
                f"no key is called {name!r}: give the name on it, as 5, t, space, return or left (study.toml, "
                "[presentation])"
            ) from None
        if ("key", code) in codes:
            raise UserError(f"[presentation] gives the key {name!r} two uses, or it is Escape: give each use its own")
        codes["key", code] = name
        if len(name) == 1 and name.isdigit():
            codes["key", getattr(pg, f"K_KP{name}")] = name
            codes["scancode", getattr(pg, f"KSCAN_{name}")] = name
    return codes

"""SDL itself: its dummy driver in this process, and Xvfb in another."""

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.presentation.frames import plan_frames
from hyperdecode.presentation.loop import show_run, wait_for_trigger
from hyperdecode.presentation.pictures import Viewing
from hyperdecode.presentation.record import Keys
from hyperdecode.presentation.sdl import open_screen

pygame = pytest.importorskip("pygame")

VIEW = Viewing(picture_deg=10, target_deg=1, pixels_per_deg=20)
PICTURES = [np.full((20, 20, 3), level, np.uint8) for level in (30, 220)]
KEYS = Keys("5", ("1", "space"))
NAMES = ("5", "1", "space")


@pytest.fixture
def dummy(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@contextmanager
def opened(**kwargs):
    with open_screen(VIEW, keys=kwargs.pop("keys", NAMES), **kwargs) as screen:
        yield screen


def pixels():
    return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)


def press(key, **kwargs):
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key, scancode=kwargs.get("scancode", 0)))


def test_a_real_run_is_as_the_log_says_by_another_clock(dummy, monkeypatch):
    """Five trials in real time; what the display holds at each flip is read from it, timed by the system's clock."""
    onsets, seen, sent = 0.3 + 0.4 * np.arange(5), [], []
    with opened() as screen:
        refresh = screen.measure(20)
        assert screen.paced and refresh.rate == pytest.approx(60, rel=0.05)
        screen.prepare(PICTURES)
        plan = plan_frames(onsets, [0.2] * 5, [0, 1, 0, 1, 0], end=0, period=refresh.period, flash_hz=0, duty=1)
        screen.message(["Waiting"])
        inner = screen.flip

        def flip():
            at = inner()
            seen.append((time.monotonic(), int(pygame.display.get_surface().get_at((512 - 90, 384))[0])))
            return at

        monkeypatch.setattr(screen, "flip", flip)

        def trigger():
            time.sleep(0.2)
            sent.append(time.monotonic())
            press(pygame.K_5)

        thread = threading.Thread(target=trigger)
        thread.start()
        start = wait_for_trigger(screen, KEYS)
        screen.clear()
        run = show_run(screen, plan, KEYS, start)
        thread.join()
    times, levels = np.array([time for time, _ in seen]) - sent[0], np.array([level for _, level in seen])
    begins = times[1:][(levels[1:] != 128) & (levels[:-1] == 128)]
    ends = times[1:][(levels[1:] == 128) & (levels[:-1] != 128)]
    logged = np.array([(trial.onset, trial.onset + trial.duration) for trial in run.trials])
    assert run.whole and set(levels) == {128, 30, 220} and len(begins) == 5
    # A busy computer may see the trigger some time after it was sent; from then on both clocks agree.
    late = np.median(begins - logged[:, 0])
    assert -0.001 < late < 0.5
    off = np.abs(begins - logged[:, 0] - late)
    assert np.median(off) < 0.002 and off.max() < 0.1
    assert np.median(np.abs(ends - logged[:, 1] - late)) < 0.002
    assert np.median(np.abs(begins - late - onsets)) < refresh.period + 0.005


def test_what_is_drawn(dummy):
    with opened() as screen:
        screen.prepare(PICTURES)
        screen.draw(1)
        shown = pixels()
        assert shown.shape == (768, 1024, 3) and (shown[384 - 100, 512 - 100] == 220).all()
        assert (shown[384 - 101, 512] == 128).all() and (shown[384 + 100, 512] == 128).all()
        assert (shown[384, 512] == 0).all()  # the target's dot
        screen.draw(None)
        alone = pixels()
        assert (alone[384, 512] == 0).all() and (alone == 128).all(-1).mean() > 0.999
        screen.message(["Waiting for the scanner", "sub-01"])
        assert (pixels() == 0).any() and not (pixels() == alone).all()
        screen.clear()
        np.testing.assert_array_equal(pixels(), alone)


def test_keys(dummy):
    with opened() as screen:
        screen.poll()
        for key in (pygame.K_5, pygame.K_KP5, pygame.K_SPACE, pygame.K_ESCAPE, pygame.K_x):
            press(key)
        press(pygame.K_LEFTPAREN, scancode=pygame.KSCAN_5)  # the scanner's 5 on a French keyboard
        pygame.event.post(pygame.event.Event(pygame.QUIT))
        before = time.perf_counter()
        presses = screen.poll()
        assert [found.name for found in presses] == ["5", "5", "space", "escape", "5", "escape"]
        assert all(before <= found.time <= screen.now() for found in presses) and screen.poll() == []
        press(pygame.K_5)
        screen.message(["Waiting"])
        assert screen.poll() == []  # a trigger from before the wait does not start a run


def test_frames_are_paced_where_the_driver_does_not_wait(dummy):
    with opened() as screen:
        flips = np.array([screen.flip() for _ in range(20)])
        assert np.median(np.diff(flips)) < 0.012 and not screen.paced
        screen.measure(20)
        flips = np.array([screen.flip() for _ in range(30)])
        assert np.median(np.diff(flips)) == pytest.approx(1 / 60, abs=5e-4)
        time.sleep(0.04)
        late = screen.flip() - flips[0]
        # A missed beat is made up for by none that come early: the grid stays.
        assert abs(late * 60 - round(late * 60)) < 0.3 and late - (flips[-1] - flips[0]) > 0.04
        assert screen.describe()["paced_by_program"] and screen.describe()["driver"] == "dummy"


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"keys": ("5", "nonsense")}, "no key is called 'nonsense'"),
        ({"keys": ("t", "T")}, "the key 'T' two uses"),
        ({"keys": ("5", "escape")}, "'escape' two uses, or it is Escape"),
        ({"screen": 3}, "presentation.screen = 3, but there are 1 screens"),
    ],
)
def test_refusals(dummy, kwargs, words):
    with pytest.raises(UserError, match=words), opened(**kwargs):
        raise AssertionError


def test_a_picture_must_fit(dummy):
    big = Viewing(picture_deg=20, pixels_per_deg=40)
    with pytest.raises(UserError, match="is 800 px wide, screen 0 shows 1024 x 768 px: measure"), open_screen(big):
        raise AssertionError
    small = Viewing(picture_deg=18, pixels_per_deg=40)
    with pytest.raises(UserError, match="921 x 691 px in a window"), open_screen(small, fullscreen=False):
        raise AssertionError
    with open_screen(small) as screen:
        assert screen.describe()["size"] == [1024, 768]


def test_no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("only Linux goes without a display")
    with pytest.raises(UserError, match="no display"), opened():
        raise AssertionError
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    with pytest.raises(UserError, match="no display"), opened():
        raise AssertionError


def test_without_pygame(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UserError, match=r"needs pygame-ce.*pip install 'hyperdecode\[present\]'"), opened():
        raise AssertionError


XVFB = """
import pygame, numpy as np
from PIL import ImageGrab
from hyperdecode.presentation.pictures import Viewing
from hyperdecode.presentation.sdl import open_screen
with open_screen(Viewing(10, 1, 20), keys=("5",)) as screen:
    screen.prepare([np.full((20, 20, 3), 220, np.uint8)])
    refresh = screen.measure(20)
    found = []
    for picture in (0, None):
        screen.draw(picture)
        for _ in range(4):
            screen.poll(), screen.flip(), screen.wait(0.02)
        shown = np.asarray(ImageGrab.grab(xdisplay="").convert("RGB")).astype(int)
        found += [shown[240 - 90, 320, 0], shown[240, 320, 0], shown[5, 5, 0]]
    print(screen.describe()["driver"], refresh.rate, *found)
"""


def test_what_a_real_x_server_shows():
    """A picture, then fixation, read back from the X server; not from this process."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("no Xvfb on this machine")
    read, write = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(write), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as stream:
            display = f":{stream.readline().strip()}"
        environment = {**os.environ, "DISPLAY": display}
        environment.pop("SDL_VIDEODRIVER", None)
        done = subprocess.run(
            [sys.executable, "-c", XVFB], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        server.terminate()
        server.wait()
    assert done.returncode == 0, done.stderr
    driver, rate, *levels = done.stdout.split()[-8:]
    assert driver == "x11" and 20 < float(rate) < 1000
    assert list(map(int, levels)) == [220, 0, 128, 128, 0, 128]

"""The experiment for a journal: trials as they are seen, the order of faces (Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from hyperdecode.report.publication.style import (
    TWO_COLUMNS,
    Plate,
    new_canvas,
    panel_letter,
    place_picture,
    print_type,
    styled,
)
from hyperdecode.report.schedulefigure import draw_schedule, panel_heights, schedule_caption

__all__ = ["Trials", "experiment_plate"]

Pictures = NDArray[np.uint8]

TRIALS, EDGE, LINE, FLASHES, AXIS, MARGIN = 4, 9.0, 1.0, 3.6, 9.0, 5.0
"""Trials in panel A; millimetres left and right of it, between its parts, of the flashes, of the axis, above."""
SLIT = 2.0
"""Millimetres that a picture between two faces leaves free of them."""
SCHEDULE = 14.0
"""Millimetres an inch of the report's schedule, and no panel less than 18."""
INK = "#222222"


@dataclass(frozen=True, eq=False)
class Trials:
    """The first trials of a run, as they are seen.

    Attributes
    ----------
    pictures : uint8 array of shape (n, side, side, 3)
        With the fixation target, at most `TRIALS` of them.
    blank : uint8 array of shape (side, side, 3)
        What is seen between them.
    onsets : sequence of float
        Seconds from the first volume.
    on, off : float
        Seconds that a face and what follows it are seen.
    flash_hz : float
        Flashes a second while a face is on; 0 for none.
    duty : float
        Share of a flash in which the face is visible.
    """

    pictures: Pictures
    blank: Pictures
    onsets: Sequence[float]
    on: float
    off: float
    flash_hz: float
    duty: float


def experiment_plate(trials: Trials, runs: Sequence[pd.DataFrame], label: str, words: str) -> Plate:
    """Draw Figure 2: A trials as they are seen, B what each run shows when, C where test faces come again.

    Parameters
    ----------
    trials : Trials
    runs : sequence of pandas.DataFrame
        As for `hyperdecode.report.schedulefigure.schedule_figure`.
    label : str
        The subject.
    words : str
        How faces were made and shown, in sentences.
    """
    first = float(trials.onsets[0])
    last = float(trials.onsets[-1]) + trials.on + trials.off
    a_second = (TWO_COLUMNS - 2 * EDGE) / (last - first)
    side = min(trials.on * a_second, 24.0)
    upper = MARGIN + side + LINE + FLASHES + AXIS
    heights = [max(SCHEDULE * height, 18.0) + 11.0 for height in panel_heights(runs)]
    with styled():
        canvas = new_canvas(TWO_COLUMNS, upper + sum(heights), constrained=True)
        parts = canvas.subfigures(2, 1, squeeze=False, height_ratios=[upper, sum(heights)])
        panels = draw_schedule(parts[1, 0], runs)
        _trials(canvas, trials, first, a_second, side)
        print_type(canvas, 0.8)
        panel_letter(canvas, "A", 0.003, 0.995)
        for letter, axes in zip("BC", panels, strict=False):
            axes.set_title(letter, loc="left", x=-0.045, fontsize=8, fontweight="bold", pad=3)
    caption = (
        f"The experiment, {label}. {words} A, the first {len(trials.pictures)} trials of a run on the screen; "
        f"each face is on for {trials.on:g} s{_flashing(trials)}, then the fixation target for {trials.off:g} s. B, "
        f"{schedule_caption(runs)}"
    )
    if len(panels) > 1:
        caption = caption.replace("Below, each dot", "C, each dot")
    return Plate(canvas, caption)


def _flashing(trials: Trials) -> str:
    return f", flashing at {trials.flash_hz:.3g} Hz" if trials.flash_hz else ""


def _trials(canvas: Canvas, trials: Trials, first: float, a_second: float, side: float) -> None:
    """Draw faces at their times, flashes below them, and seconds."""
    height = canvas.get_figheight() * 25.4
    for picture, onset in zip(trials.pictures, trials.onsets, strict=True):
        at = EDGE + (onset - first) * a_second
        place_picture(canvas, picture, at, MARGIN, side)
        free = trials.off * a_second
        if free > SLIT:
            left = at + trials.on * a_second + (free - min(side, free - SLIT)) / 2
            place_picture(canvas, trials.blank, left, MARGIN, min(side, free - SLIT))
    axes = canvas.add_axes(
        (
            EDGE / TWO_COLUMNS,
            1 - (MARGIN + side + LINE + FLASHES) / height,
            1 - 2 * EDGE / TWO_COLUMNS,
            FLASHES / height,
        )
    )
    for onset in trials.onsets:
        for start, stop in _lit(trials):
            axes.add_patch(Rectangle((onset + start, 0), stop - start, 1, color=INK, linewidth=0))
    axes.set(xlim=(first, float(trials.onsets[-1]) + trials.on + trials.off), ylim=(0, 1.02), yticks=[])
    axes.set_xlabel("seconds from the first volume (black: the face is on)", fontsize=9, labelpad=1.5)
    axes.tick_params(labelsize=8)
    for edge in ("top", "left", "right"):
        axes.spines[edge].set_visible(False)


def _lit(trials: Trials) -> list[tuple[float, float]]:
    """Seconds from a trial's onset between which its face is visible."""
    if not trials.flash_hz:
        return [(0.0, trials.on)]
    period = 1 / trials.flash_hz
    starts = np.arange(0.0, trials.on - 1e-6, period).tolist()
    return [(start, min(start + trials.duty * period, trials.on)) for start in starts]

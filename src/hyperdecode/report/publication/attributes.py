"""Faces from decoded to true with bars of their attributes (Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from hyperdecode.report.interpolation import mixed
from hyperdecode.report.publication.faces import ChosenFaces, score_words, short_names
from hyperdecode.report.publication.style import (
    SMALLEST,
    TWO_COLUMNS,
    Plate,
    new_canvas,
    place_picture,
    styled,
)

__all__ = ["attributes_plate"]

Pictures = NDArray[np.uint8]
Array = NDArray[np.float64]

NAMES, HEAD, FOOT, GAP, BETWEEN = 14.0, 4.2, 8.5, 0.7, 1.8
"""Millimetres: names on the left, headings, the axis below, between two faces, between two rows."""
FACES, WORDS = 92.0, 17.0
"""Millimetres of a row's faces, and of the attributes' names beside its bars."""
LETTERS = 10
"""That a name has room for."""
LIGHT = "#c3c8cf"


def attributes_plate(
    ways: Pictures, scores: Array, attributes: Sequence[str], chosen: ChosenFaces, label: str
) -> Plate:
    """Draw Figure 6: each face from decoded to true, with bars of its attributes at each step.

    Parameters
    ----------
    ways : uint8 array of shape (n_faces, n_steps, side, side, 3)
        From decoded (first) to true (last).
    scores : ndarray of shape (n_faces, n_steps, n_attributes)
        In standard deviations over the generator's faces.
    attributes : sequence of str
    chosen : ChosenFaces
    label : str
        The subject.
    """
    n, steps = ways.shape[:2]
    side = (FACES - (steps - 1) * GAP) / steps
    height = HEAD + n * (side + BETWEEN) - BETWEEN + FOOT
    span = float(np.ceil(2 * np.abs(scores).max(initial=1.0)) / 2)
    names = short_names(chosen.names, LETTERS)
    with styled():
        canvas = new_canvas(TWO_COLUMNS, height)
        _headings(canvas, steps, side, height)
        for row in range(n):
            top = HEAD + row * (side + BETWEEN)
            name = f"{names[row]}\n{score_words(chosen.scores[row])}"
            canvas.text(0, 1 - (top + side / 2) / height, name, ha="left", va="center", fontsize=SMALLEST)
            for step in range(steps):
                place_picture(canvas, ways[row, step], NAMES + step * (side + GAP), top, side)
            left = NAMES + FACES + WORDS
            room = (left / TWO_COLUMNS, 1 - (top + side) / height, 1 - (left + 2.5) / TWO_COLUMNS, side / height)
            _bars(canvas.add_axes(room), scores[row], attributes, span, last=row == n - 1)
    away = np.abs(scores[:, -1] - scores[:, 0]).mean(axis=0)
    distances = ", ".join(f"{name} {value:.2f}" for name, value in zip(attributes, away, strict=True))
    caption = (
        f"From decoded to true, {label}. Left the face decoded from the responses, right the face of the true latent, "
        "between them faces of latents at even steps of the straight line from one to the other. Bars: scores of the "
        "same latents on each attribute, from decoded (orange, top) to true (blue, bottom), in standard deviations "
        f"over the generator's faces. {chosen.words}. Mean distance between decoded and true over these faces: "
        f"{distances}. "
        "How well attributes agree is tested over all test faces, not here."
    )
    return Plate(canvas, caption)


def _headings(canvas: Canvas, steps: int, side: float, height: float) -> None:
    for step in range(steps):
        words = {0: "decoded", steps - 1: "true"}.get(step, f"{step / (steps - 1):.0%}")
        colour = [level / 255 for level in mixed(step / (steps - 1))] if step in (0, steps - 1) else "black"
        x = (NAMES + step * (side + GAP) + side / 2) / TWO_COLUMNS
        canvas.text(x, 1 - (HEAD - 1.0) / height, words, ha="center", va="bottom", fontsize=7, color=colour)


def _bars(axes: Any, scores: Array, attributes: Sequence[str], span: float, *, last: bool) -> None:
    """Draw the attributes of one face from top to bottom, each with a bar a step."""
    steps = len(scores)
    thick = 0.8 / steps
    for step in range(steps):
        places = np.arange(len(attributes)) + (step - (steps - 1) / 2) * thick
        axes.barh(places, scores[step], thick, color=[level / 255 for level in mixed(step / (steps - 1))], linewidth=0)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(xlim=(-span, span), ylim=(len(attributes) - 0.5, -0.5))
    axes.set_yticks(range(len(attributes)), attributes, fontsize=SMALLEST)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALLEST, labelbottom=last)
    axes.grid(axis="x", color=LIGHT, linewidth=0.4)
    axes.set_axisbelow(True)
    for edge in ("top", "right", "left"):
        axes.spines[edge].set_visible(False)
    if last:
        axes.set_xlabel("score (SD over the generator's faces)", fontsize=7, labelpad=1.5)

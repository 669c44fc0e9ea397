"""Whether test faces are near-duplicates of training faces, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperdecode.errors import UserError
from hyperdecode.report.figures import BLUE, GREY, ORANGE, new_figure, png_bytes, quiet_axes
from hyperdecode.stimuli.duplicates import NeighbourCheck

__all__ = ["duplicates_caption", "duplicates_figure"]

BINS = 36


def duplicates_figure(checks: Mapping[str, NeighbourCheck], dpi: int = 110) -> bytes:
    """Draw the distances to the nearest training face, a panel for each space.

    Grey bars are training faces, each against the others; marks below the axis are test faces. Left of the dashed line
    a test face would be a near-duplicate; such are blue.

    Parameters
    ----------
    checks : mapping of str to NeighbourCheck
        Name of the space to its check.
    dpi : int
        Resolution; the figure is 10 x 3.2 inches.

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    UserError
        When there is no check.
    """
    if not checks:
        raise UserError("a picture of near-duplicates needs at least one check: give one a space")
    figure = new_figure(10, 3.2, dpi)
    for axes, (space, check) in zip(figure.subplots(1, len(checks), squeeze=False)[0], checks.items(), strict=True):
        _draw(axes, space, check)
    return png_bytes(figure)


def duplicates_caption(checks: Mapping[str, NeighbourCheck], names: Sequence[str]) -> str:
    """Say what the figure shows and what was found.

    Parameters
    ----------
    checks : mapping of str to NeighbourCheck
        Name of the space to its check.
    names : sequence of str
        Test faces in the order of the checks.
    """
    found = [
        f"{names[i]} in {space} ({check.distance[i]:.2f})" for space, check in checks.items() for i in check.flagged
    ]
    limits = " and ".join(f"{check.limit:.2f} in {space}" for space, check in checks.items())
    text = (
        "Distance of each test face to the nearest training face, beside the distance of each training face to the "
        "nearest other one; 1 is the distance of two random training faces. A test face nearer than half of the "
        f"typical distance ({limits}) counts as a near-duplicate. "
    )
    if found:
        return text + f"Near-duplicates: {', '.join(found)}. Decoding these may be recognition: replace them."
    nearest = ", ".join(f"{check.distance.min():.2f} in {space}" for space, check in checks.items())
    return text + f"There is none: the nearest are at {nearest}."


def _draw(axes: Any, space: str, check: NeighbourCheck) -> None:
    end = max(float(check.train_distance.max()), float(check.distance.max())) * 1.05
    heights, *_ = axes.hist(check.train_distance, np.linspace(0, end, BINS + 1), color=GREY, label="training faces")
    top = float(max(heights.max(), 1))
    near = np.zeros(len(check.distance), bool)
    near[check.flagged] = True
    for chosen, colour, label in ((~near, ORANGE, "test faces"), (near, BLUE, "near-duplicates")):
        if chosen.any():
            axes.vlines(check.distance[chosen], -0.16 * top, -0.03 * top, color=colour, linewidth=1.4, label=label)
    axes.axvline(check.limit, color="#333333", linestyle="--", linewidth=1)
    axes.text(check.limit, top * 1.06, " near-duplicate below ", fontsize=8, ha="right", va="top")
    quiet_axes(axes, "Distance to the nearest training face", "Training faces")
    axes.set_title(space.capitalize(), fontsize=10, loc="left")
    axes.set_xlim(0, end)
    axes.set_ylim(-0.2 * top, top * 1.1)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top * 1.1])
    axes.legend(frameon=False, fontsize=8, loc="upper right")

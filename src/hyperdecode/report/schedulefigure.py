"""The schedule as a picture: what each run shows when, and where each test face comes again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.report.figures import BLUE, GREY, ORANGE, new_figure, png_bytes, quiet_axes
from hyperdecode.stimuli.schedule import REPEAT

__all__ = ["draw_schedule", "panel_heights", "schedule_caption", "schedule_figure"]

COLOURS = {"train": GREY, "test": ORANGE, REPEAT: BLUE}
LABELS = {"train": "training face", "test": "test face", REPEAT: "one-back trial"}
ROW, LEAST, MOST = 0.24, 1.6, 6.0
"""Inches of a run's row; least and most inches of a panel."""


def schedule_figure(runs: Sequence[pd.DataFrame], dpi: int = 110) -> bytes:
    """Draw the events of a subject's runs.

    Above, a run a row, each trial a bar from its onset to its end. Below, a test face a row, each presentation a dot at
    its trial in the session and each one-back trial a ring: dots evenly along a row, and no column of dots, are what a
    good schedule looks like.

    Parameters
    ----------
    runs : sequence of pandas.DataFrame
        ``onset``, ``duration``, ``trial_type``, ``stim_file`` of each run.
    dpi : int
        Resolution; the figure is 10 inches wide.

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    UserError
        When there is no trial.
    """
    heights = panel_heights(runs)
    figure = new_figure(10, sum(heights) + 0.7 * len(heights), dpi)
    draw_schedule(figure, runs)
    return png_bytes(figure)


def panel_heights(runs: Sequence[pd.DataFrame]) -> list[float]:
    """Return inches that the panels want: of runs, and of test faces where there are any.

    Raises
    ------
    UserError
        When there is no trial.
    """
    if not len(runs) or any(run.empty for run in runs):
        raise UserError("a picture of the schedule needs runs with trials in them: make the plan first")
    n_faces = len(_test_faces(pd.concat(runs, ignore_index=True)))
    heights = [float(np.clip(ROW * len(runs), LEAST, MOST)), float(np.clip(0.09 * n_faces, LEAST, MOST))]
    return heights if n_faces else heights[:1]


def draw_schedule(figure: Any, runs: Sequence[pd.DataFrame]) -> list[Any]:
    """Draw the panels of `schedule_figure` into a figure or a part of one, and return their axes."""
    heights, session = panel_heights(runs), pd.concat(runs, ignore_index=True)
    panels = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    _draw_runs(panels[0], runs)
    if len(panels) > 1:
        _draw_faces(panels[1], session, _test_faces(session), np.cumsum([len(run) for run in runs]))
    return panels


def _test_faces(session: pd.DataFrame) -> list[str]:
    return sorted(session.loc[session["trial_type"] == "test", "stim_file"].unique())


def schedule_caption(runs: Sequence[pd.DataFrame]) -> str:
    """Say in one or two sentences what the figure shows."""
    session = pd.concat(runs, ignore_index=True)
    n = {kind: int((session["trial_type"] == kind).sum()) for kind in COLOURS}
    tests = session.loc[session["trial_type"] == "test", "stim_file"]
    extra = f" {n[REPEAT]} one-back trials repeat the face before (rings)." if n[REPEAT] else ""
    return (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {n['train']} training trials and {n['test']} trials of "
        f"{tests.nunique()} test faces.{extra} Below, each dot is one presentation of a test face: they stand evenly "
        "through the session."
    )


def _draw_runs(axes: Any, runs: Sequence[pd.DataFrame]) -> None:
    for row, run in enumerate(runs, start=1):
        for kind, colour in COLOURS.items():
            chosen = run[run["trial_type"] == kind]
            spans = list(zip(chosen["onset"], chosen["duration"].clip(lower=0.2), strict=True))
            axes.broken_barh(spans, (row - 0.38, 0.76), facecolors=colour, linewidth=0, snap=False)
    quiet_axes(axes, "Seconds from the first volume", "Run")
    axes.set_xlim(0, max(float((run["onset"] + run["duration"]).max()) for run in runs) * 1.01)
    _rows_downwards(axes, len(runs))
    there = {kind for run in runs for kind in run["trial_type"]}
    handles = [Patch(color=colour, label=LABELS[kind]) for kind, colour in COLOURS.items() if kind in there]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)


def _draw_faces(axes: Any, session: pd.DataFrame, faces: list[str], ends: NDArray[np.int64]) -> None:
    row_of = {name: row for row, name in enumerate(faces, start=1)}
    for kind, size, inside, line in (("test", 8, ORANGE, 0.0), (REPEAT, 26, "none", 0.9)):
        chosen = session[(session["trial_type"] == kind) & session["stim_file"].isin(row_of)]
        rows = [row_of[name] for name in chosen["stim_file"]]
        axes.scatter(chosen.index + 1, rows, s=size, facecolors=inside, edgecolors=COLOURS[kind], linewidths=line)
    for end in ends[:-1]:
        axes.axvline(end + 0.5, color=GREY, linewidth=0.8, zorder=0)
    quiet_axes(axes, "Trial of the session (lines stand between runs)", "Test face")
    axes.set_xlim(0, len(session) + 1)
    _rows_downwards(axes, len(faces))


def _rows_downwards(axes: Any, n: int) -> None:
    axes.set_ylim(n + 0.7, 0.3)
    step = max(math.ceil(n / 14), 1)
    axes.set_yticks(range(1, n + 1, step))

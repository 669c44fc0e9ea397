"""How a score grows with averaged repeats of a test face, below its noise ceiling, and with training trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from hyperdecode.errors import UserError
from hyperdecode.report.figures import SUBJECT_COLOURS, Figure, new_figure, png_bytes, quiet_axes
from hyperdecode.report.words import METRICS

__all__ = ["ceiling_figure", "learning_figure"]

MARKERS = "osD^vP"
MOST_TICKS = 8


def ceiling_figure(
    table: pd.DataFrame,
    ceilings: Mapping[tuple[str, str], float] | None = None,
    chance: Mapping[str, float] | None = None,
    dpi: int = 110,
    *,
    ceiling_words: str = "the noise ceiling that the scatter of repeats leaves",
    interval_words: str = "95% intervals over test faces",
) -> Figure:
    """Draw score against the number of averaged repeats: one panel a metric, one line a subject.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``subject``, ``metric``, ``n_repeats``, ``score``, ``low``, ``high`` (NaN draws no interval).
    ceilings : mapping of (subject, metric) to float, optional
        Drawn dashed in the subject's colour; NaN or missing draws none.
    chance : mapping of str to float, optional
        Metric to what is reached without the brain, drawn dotted.
    dpi : int
        Resolution.
    ceiling_words, interval_words : str
        What ceilings and intervals are, for the caption.

    Returns
    -------
    Figure
        A PNG with caption and alternative text.

    Raises
    ------
    UserError
        When the table is empty or lacks a column, or a number of repeats occurs twice or is no positive integer.
    """
    _check(table, "n_repeats")
    limits, floor = dict(ceilings or {}), dict(chance or {})
    figure, drawn = _panels(table, limits, floor, dpi, "n_repeats", "Averaged repeats")
    metrics = list(dict.fromkeys(map(str, table["metric"])))
    has_ceiling = "ceiling" in drawn
    caption = f"Score against the number of repeats of a test face that are averaged, with {interval_words}. "
    caption += f"Dashed: {ceiling_words}. " if has_ceiling else "No noise ceiling was given. "
    caption += _chance_words(floor, metrics)
    caption += (
        "A line that still climbs at its end says that more repeats would help; one that has flattened says that they "
        "would not. Points of one line share trials, so their intervals are not independent of each other."
    )
    return Figure("More repeats", png_bytes(figure), caption, _alt(table, limits, "n_repeats", "averaged repeats"))


def learning_figure(table: pd.DataFrame, chance: Mapping[str, float] | None = None, dpi: int = 110) -> Figure:
    """Draw score against the number of training trials: one panel a metric, one line a subject.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``subject``, ``metric``, ``n_trials``, ``score``, ``low``, ``high``.
    chance, dpi
        As for `ceiling_figure`.

    Returns
    -------
    Figure
        A PNG with caption and alternative text.

    Raises
    ------
    UserError
        As `ceiling_figure`.
    """
    _check(table, "n_trials")
    floor = dict(chance or {})
    figure, _ = _panels(table, {}, floor, dpi, "n_trials", "Training trials")
    metrics = list(dict.fromkeys(map(str, table["metric"])))
    caption = (
        "Score of the averaged test faces against the number of training trials that the decoder was fitted to, with "
        f"95% intervals over test faces. {_chance_words(floor, metrics)}Each set of trials holds the smaller ones; the "
        "voxel mask is that of all training trials, which helps the smaller sets a little. A line that still climbs at "
        "its end says that more training trials would help."
    )
    return Figure("More training trials", png_bytes(figure), caption, _alt(table, {}, "n_trials", "training trials"))


def _panels(
    table: pd.DataFrame,
    limits: Mapping[tuple[str, str], float],
    floor: Mapping[str, float],
    dpi: int,
    across: str,
    label: str,
) -> tuple[Any, dict[str, Any]]:
    """Draw the panels; return the figure and what its legend names."""
    metrics, subjects = (list(dict.fromkeys(map(str, table[key]))) for key in ("metric", "subject"))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = new_figure(max(5.0, 3.6 * columns), 3.1 * lines + 0.4, dpi)
    panels = figure.subplots(lines, columns, squeeze=False)
    drawn: dict[str, Any] = {}
    for axes, metric in zip(panels.flat, metrics, strict=False):
        for place, subject in enumerate(subjects):
            part = table[(table["metric"] == metric) & (table["subject"] == subject)].sort_values(across)
            if len(part):
                colour = SUBJECT_COLOURS[place % len(SUBJECT_COLOURS)]
                drawn[subject] = _line(axes, part, across, colour, MARKERS[place % len(MARKERS)])
                ceiling = limits.get((subject, metric), float("nan"))
                if not np.isnan(ceiling):
                    axes.axhline(ceiling, color=colour, linewidth=1.2, linestyle="--")
                    # In the legend dashes stand for all subjects.
                    drawn["ceiling"] = Line2D([], [], color="#333333", linewidth=1.2, linestyle="--")
        if metric in floor:
            drawn["without the brain"] = axes.axhline(floor[metric], color="#555555", linewidth=1.1, linestyle=":")
        quiet_axes(axes, label, METRICS.get(metric, (metric, ""))[0])
        tried = sorted({int(n) for n in table.loc[table["metric"] == metric, across]})
        axes.set_xlim(tried[0] - 0.04 * tried[-1], 1.04 * tried[-1])
        # From the last one backwards, so that the largest number has its tick.
        axes.set_xticks(tried[:: -max(1, -(-len(tried) // MOST_TICKS))])
        axes.margins(y=0.08)
    for axes in panels.flat[len(metrics) :]:
        axes.set_visible(False)
    order = [*subjects, *(name for name in ("ceiling", "without the brain") if name in drawn)]
    figure.legend(
        [drawn[name] for name in order], order, loc="outside upper center", ncols=6, fontsize=8, frameon=False
    )
    return figure, drawn


def _line(axes: Any, part: pd.DataFrame, across: str, colour: str, marker: str) -> Any:
    x, score = part[across].to_numpy(int), part["score"].to_numpy(float)
    axes.fill_between(
        x, part["low"].to_numpy(float), part["high"].to_numpy(float), color=colour, alpha=0.16, linewidth=0
    )
    return axes.plot(x, score, marker=marker, color=colour, markersize=4, linewidth=1.6)[0]


def _chance_words(floor: Mapping[str, float], metrics: Sequence[str]) -> str:
    words = ", ".join(f"{METRICS.get(name, (name, ''))[0]} {floor[name]:.3g}" for name in metrics if name in floor)
    return f"Dotted: what is reached without the brain ({words}). " if words else ""


def _alt(table: pd.DataFrame, ceilings: Mapping[tuple[str, str], float], across: str, what: str) -> str:
    words = []
    for (metric, subject), found in table.groupby(["metric", "subject"], sort=False):
        part = found.sort_values(across)
        first, last = part.iloc[0], part.iloc[-1]
        top = ceilings.get((str(subject), str(metric)), float("nan"))
        words.append(
            f"{METRICS.get(str(metric), (metric, ''))[0]} of {subject} from {first['score']:.3f} at {first[across]} to "
            f"{last['score']:.3f} at {last[across]}" + ("" if np.isnan(top) else f", ceiling {top:.3f}")
        )
    return f"Scores by number of {what}. {'; '.join(words)}."


def _check(table: pd.DataFrame, across: str) -> None:
    columns = ("subject", "metric", across, "score", "low", "high")
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(f"scores to draw lack the column {missing[0]!r}: give {', '.join(columns)}")
    if not len(table):
        raise UserError("there is nothing to draw: the table of scores is empty")
    numbers = table[across].to_numpy(float)
    if not np.all((numbers >= 1) & (numbers == np.round(numbers))):
        raise UserError(f"numbers to draw scores against must be whole and at least 1: mend the column {across}")
    twice = table.duplicated(["subject", "metric", across])
    if twice.any():
        row = table[twice].iloc[0]
        raise UserError(f"{row['subject']}, {row['metric']}: {across} {row[across]} has more than one score: give one")

"""How a score grows with the number of averaged repeats, below its noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from hyperdecode.errors import UserError
from hyperdecode.report.figures import SUBJECT_COLOURS, Figure, new_figure, png_bytes, quiet_axes
from hyperdecode.report.words import METRICS

__all__ = ["ceiling_figure"]

MARKERS = "osD^vP"
MOST_TICKS = 8
COLUMNS = ("subject", "metric", "n_repeats", "score", "low", "high")


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
    _check(table)
    limits, floor = dict(ceilings or {}), dict(chance or {})
    metrics, subjects = (list(dict.fromkeys(map(str, table[key]))) for key in ("metric", "subject"))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = new_figure(max(5.0, 3.6 * columns), 3.1 * lines + 0.4, dpi)
    panels = figure.subplots(lines, columns, squeeze=False)
    drawn: dict[str, Any] = {}
    for axes, metric in zip(panels.flat, metrics, strict=False):
        for place, subject in enumerate(subjects):
            part = table[(table["metric"] == metric) & (table["subject"] == subject)].sort_values("n_repeats")
            if len(part):
                colour = SUBJECT_COLOURS[place % len(SUBJECT_COLOURS)]
                drawn[subject] = _line(axes, part, colour, MARKERS[place % len(MARKERS)])
                ceiling = limits.get((subject, metric), float("nan"))
                if not np.isnan(ceiling):
                    axes.axhline(ceiling, color=colour, linewidth=1.2, linestyle="--")
                    # In the legend dashes stand for all subjects.
                    drawn["ceiling"] = Line2D([], [], color="#333333", linewidth=1.2, linestyle="--")
        if metric in floor:
            drawn["without the brain"] = axes.axhline(floor[metric], color="#555555", linewidth=1.1, linestyle=":")
        quiet_axes(axes, "Averaged repeats", METRICS.get(metric, (metric, ""))[0])
        averaged = sorted({int(n) for n in table.loc[table["metric"] == metric, "n_repeats"]})
        axes.set_xlim(0.5, averaged[-1] + 0.5)
        # From the last one backwards, so that all repeats together have their tick.
        axes.set_xticks(averaged[:: -max(1, -(-len(averaged) // MOST_TICKS))])
        axes.margins(y=0.08)
    for axes in panels.flat[len(metrics) :]:
        axes.set_visible(False)
    order = [*subjects, *(name for name in ("ceiling", "without the brain") if name in drawn)]
    figure.legend(
        [drawn[name] for name in order], order, loc="outside upper center", ncols=6, fontsize=8, frameon=False
    )
    has_ceiling = "ceiling" in drawn
    caption = f"Score against the number of repeats of a test face that are averaged, with {interval_words}. "
    caption += f"Dashed: {ceiling_words}. " if has_ceiling else "No noise ceiling was given. "
    caption += f"Dotted: what is reached without the brain ({_floor_words(floor, metrics)}). " if floor else ""
    caption += (
        "A line that still climbs at its end says that more repeats would help; one that has flattened says that they "
        "would not. Points of one line share trials, so their intervals are not independent of each other."
    )
    return Figure("More repeats", png_bytes(figure), caption, _alt(table, limits, metrics, subjects))


def _line(axes: Any, part: pd.DataFrame, colour: str, marker: str) -> Any:
    x, score = part["n_repeats"].to_numpy(int), part["score"].to_numpy(float)
    axes.fill_between(
        x, part["low"].to_numpy(float), part["high"].to_numpy(float), color=colour, alpha=0.16, linewidth=0
    )
    return axes.plot(x, score, marker=marker, color=colour, markersize=4, linewidth=1.6)[0]


def _floor_words(floor: Mapping[str, float], metrics: Sequence[str]) -> str:
    return ", ".join(f"{METRICS.get(name, (name, ''))[0]} {floor[name]:.3g}" for name in metrics if name in floor)


def _alt(
    table: pd.DataFrame, ceilings: Mapping[tuple[str, str], float], metrics: Sequence[str], subjects: Sequence[str]
) -> str:
    words = []
    for metric in metrics:
        for subject in subjects:
            part = table[(table["metric"] == metric) & (table["subject"] == subject)].sort_values("n_repeats")
            if not len(part):
                continue
            first, last = part.iloc[0], part.iloc[-1]
            top = ceilings.get((subject, metric), float("nan"))
            words.append(
                f"{METRICS.get(metric, (metric, ''))[0]} of {subject} from {first['score']:.3f} at "
                f"{first['n_repeats']} to {last['score']:.3f} at {last['n_repeats']}"
                + ("" if np.isnan(top) else f", ceiling {top:.3f}")
            )
    return f"Scores by number of averaged repeats. {'; '.join(words)}."


def _check(table: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise UserError(f"scores by repeats lack the column {missing[0]!r}: give {', '.join(COLUMNS)}")
    if not len(table):
        raise UserError("there is nothing to draw: no score by number of repeats was given")
    repeats = table["n_repeats"].to_numpy(float)
    if not np.all((repeats >= 1) & (repeats == np.round(repeats))):
        raise UserError("numbers of averaged repeats must be whole and at least 1: mend the column n_repeats")
    twice = table.duplicated(["subject", "metric", "n_repeats"])
    if twice.any():
        row = table[twice].iloc[0]
        raise UserError(
            f"{row['subject']}, {row['metric']}: {row['n_repeats']} repeats have more than one score: give one"
        )

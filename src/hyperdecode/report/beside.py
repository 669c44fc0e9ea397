"""Models of one study beside each other as bars, and methods beside each other as pictures (Figures 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.figures import SUBJECT_COLOURS, Figure, jpeg_bytes, new_figure, png_bytes, quiet_axes
from hyperdecode.report.strips import GAP, PAPER, reconstruction_strip
from hyperdecode.report.words import METRICS

__all__ = ["beside_figure", "draw_models", "models_figure"]

Pictures = NDArray[np.uint8]

MODEL_COLUMNS = ("model", "subject", "metric", "score", "low", "high", "best_blind_score")
FACES_A_ROW = 8
WIDEST = 0.25
"""Of a bar, where models and subjects are few; models lie 1 apart."""


def models_figure(table: pd.DataFrame, dpi: int = 110, *, level: float = 0.95) -> Figure:
    """Draw a study's models side by side: one panel a metric, bars with intervals, and the best blind predictor.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``model``, ``subject``, ``metric``, ``score``, ``low`` and ``high`` (bootstrap over test faces; NaN
        draws no interval), ``best_blind_score`` (NaN draws no line). Bars start at zero and follow the table's order.
    dpi : int
        Resolution.
    level : float
        Coverage of the intervals, for the caption.

    Returns
    -------
    Figure
        The paper's Figure 5 with intervals and blind predictors.

    Raises
    ------
    UserError
        When the table is empty or lacks a column, or an interval lies beside its score.
    """
    _check_models(table)
    metrics, models, subjects = (list(dict.fromkeys(table[key])) for key in ("metric", "model", "subject"))
    columns = min(2, len(metrics))
    width = max(4.4, 0.8 + len(models) * (0.3 + 0.24 * len(subjects)))
    figure = new_figure(columns * width, 2.6 * -(-len(metrics) // columns) + 1.3, dpi)
    draw_models(figure, table, columns, tilted=max(map(len, map(str, models))) * len(models) > 9 * width)
    caption = (
        f"Scores of the study's models; higher is better. Bars are means over test faces and start at zero, whiskers "
        f"their {level:.0%} bootstrap intervals over faces, dashed lines the best predictor that never saw the brain, "
        "for each bar its own. The intervals are of each model alone: whether two models differ cannot be read off "
        "their overlap, it takes a test of the difference on the same faces."
    )
    return Figure("Models side by side", png_bytes(figure), caption, _models_alt(table, metrics))


def draw_models(figure: Any, table: pd.DataFrame, columns: int, *, tilted: bool) -> None:
    """Draw the panels and the legend of `models_figure` into a figure, or a part of one.

    Parameters
    ----------
    figure : matplotlib Figure or SubFigure
        With a constrained layout.
    table : pandas.DataFrame
        As for `models_figure`.
    columns : int
        Panels in a row.
    tilted : bool
        Whether the names of models have no room side by side.

    Raises
    ------
    UserError
        As `models_figure` does.
    """
    _check_models(table)
    metrics, models, subjects = (list(dict.fromkeys(table[key])) for key in ("metric", "model", "subject"))
    panels = figure.subplots(-(-len(metrics) // columns), columns, squeeze=False)
    for axes, metric in zip(panels.flat, metrics, strict=False):
        part = table[table["metric"] == metric]
        # A metric that only some models have is drawn of these alone.
        own = [model for model in models if (part["model"] == model).any()]
        _bars(axes, part, own, subjects)
        quiet_axes(axes, "", METRICS.get(str(metric), (str(metric), ""))[0])
        axes.set_xlim(-0.6, len(own) - 0.4)
        axes.set_xticks(range(len(own)), own, fontsize=8, **({"rotation": 35, "ha": "right"} if tilted else {}))
    for axes in panels.flat[len(metrics) :]:
        axes.set_visible(False)
    handles: list[Any] = [Patch(color=_colour(place), alpha=0.75) for place in range(len(subjects))]
    handles.append(Line2D([], [], color="#222222", linestyle=(0, (3, 1.5)), linewidth=1.4))
    labels = [*map(str, subjects), "best predictor without the brain"]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), fontsize=8, frameon=False)


def beside_figure(
    stimuli: Pictures,
    decoded: Mapping[str, Pictures],
    best_possible: Mapping[str, Pictures],
    names: Sequence[str] | None = None,
    size: int = 112,
    *,
    label: str = "",
) -> Figure:
    """Lay out what methods make of the brain's answers beside the best that each could make of the face itself.

    Parameters
    ----------
    stimuli : uint8 array of shape (n_faces, height, width, 3)
        Faces that were shown.
    decoded : mapping of str to uint8 array of shape (n_faces, height, width, 3)
        Method to its pictures of the brain's answers; each method has a size of its own.
    best_possible : mapping of str to uint8 array of shape (n_faces, height, width, 3)
        Method to what it makes of the stimulus' own code, without the brain. Methods may be missing.
    names : sequence of str, optional
        One a face, written above.
    size : int
        Pixels of a face's side; smaller pictures are enlarged.
    label : str
        The subject, for title and caption.

    Returns
    -------
    Figure
        The paper's Figure 7 as a JPEG: at most eight faces a row of the sheet, all of them on it.

    Raises
    ------
    UserError
        When there is no face or method, or a method has not one picture a face.
    """
    if not len(stimuli) or not decoded:
        raise UserError(
            f"a comparison of methods needs faces and methods, got {len(stimuli)} faces and {len(decoded)} methods: "
            "decode at least one face"
        )
    rows = {f"{method}, from the brain": pictures for method, pictures in decoded.items()}
    rows |= {f"{method}, best possible": pictures for method, pictures in best_possible.items()}
    sheets = []
    for start in range(0, len(stimuli), FACES_A_ROW):
        part = slice(start, start + FACES_A_ROW)
        for method, pictures in rows.items():
            if len(pictures) != len(stimuli):
                raise UserError(f"{method}: got {len(pictures)} pictures of {len(stimuli)} faces, give one a face")
        short = [_short_name(name) for name in names[part]] if names is not None else None
        here = {method: pictures[part] for method, pictures in rows.items()}
        sheets.append(reconstruction_strip(stimuli[part], here, short, size))
    who = f" of {label}" if label else ""
    caption = (
        f"Top row: the face that was shown. Then what each method makes of the answers{who}, and below that, without "
        "the brain, the best that it could do: what it makes of the shown face's own code. A method cannot be better "
        "than its best possible picture; what is lost from there to the picture from the brain is what decoding lost. "
        "For a generator that made the stimuli from known latents the best possible picture is the stimulus itself."
    )
    alt = f"{len(stimuli)} faces in columns; rows: shown; {'; '.join(rows)}."
    return Figure(f"Methods beside each other{who}", jpeg_bytes(_stacked(sheets)), caption, alt)


def _check_models(table: pd.DataFrame) -> None:
    missing = [name for name in MODEL_COLUMNS if name not in table]
    if missing:
        raise UserError(f"the table of models lacks the column {missing[0]!r}: give {', '.join(MODEL_COLUMNS)}")
    if not len(table):
        raise UserError("there is nothing to draw: the table of models is empty")
    outside = table[(table["low"] > table["score"]) | (table["high"] < table["score"])]
    if len(outside):
        row = outside.iloc[0]
        raise UserError(
            f"{row['model']}, {row['subject']}, {row['metric']}: the interval {row['low']:g} to {row['high']:g} does "
            f"not hold the score {row['score']:g}: give limits of the same scores"
        )


def _bars(axes: Any, part: pd.DataFrame, models: Sequence[str], subjects: Sequence[str]) -> None:
    width = min(0.8 / len(subjects), WIDEST)
    for _, row in part.iterrows():
        subject = subjects.index(row["subject"])
        x = models.index(row["model"]) + width * (subject + 0.5 - len(subjects) / 2)
        score, low, high, blind = (float(row[key]) for key in ("score", "low", "high", "best_blind_score"))
        axes.bar(x, score, width * 0.9, color=_colour(subject), alpha=0.75)
        if not np.isnan([low, high]).any():
            axes.errorbar(x, score, [[score - low], [high - score]], color="#333333", capsize=2.5, linewidth=1.1)
        if not np.isnan(blind):
            half = width / 2
            axes.plot([x - half, x + half], [blind, blind], color="#222222", linestyle=(0, (3, 1.5)), linewidth=1.4)
    axes.axhline(0, color="#555555", linewidth=0.8)


def _models_alt(table: pd.DataFrame, metrics: Sequence[str]) -> str:
    best = []
    for metric in metrics:
        means = table[table["metric"] == metric].groupby("model", sort=False)["score"].mean()
        words = ", ".join(f"{model} {score:.3f}" for model, score in means.items())
        best.append(f"{METRICS.get(metric, (metric, ''))[0]}: {words}")
    return f"Bars of models' scores, means over subjects. {'; '.join(best)}."


def _colour(place: int) -> str:
    return SUBJECT_COLOURS[place % len(SUBJECT_COLOURS)]


def _short_name(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    size = max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets) + 2 * GAP * (len(sheets) - 1)
    whole = Image.new("RGB", size, PAPER)
    y = 0
    for sheet in sheets:
        whole.paste(sheet, (0, y))
        y += sheet.height + 2 * GAP
    return whole

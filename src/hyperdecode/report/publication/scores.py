"""Scores of decoders beside predictors without the brain, and how attributes agree (Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from hyperdecode.report.beside import draw_models
from hyperdecode.report.figures import SUBJECT_COLOURS, quiet_axes
from hyperdecode.report.publication.style import TWO_COLUMNS, Plate, new_canvas, panel_letter, print_type, styled
from hyperdecode.report.words import metric_label, score_text

__all__ = ["scores_plate"]

COLUMNS, LINE, LEGEND, ATTRIBUTES = 3, 40.0, 6.0, 46.0
"""Panels in a row; millimetres of a row of panels, of the legend, of the attributes."""
LINE_OF_MODELS = 38
"""Letters of models' names that a panel has room for side by side."""
WIDEST = 0.3


def scores_plate(models: pd.DataFrame, attributes: Mapping[str, pd.DataFrame], level: float = 0.95) -> Plate:
    """Draw Figure 5: A decoders by metric with intervals and blind predictors, B correlations of attributes.

    Parameters
    ----------
    models : pandas.DataFrame
        As for `hyperdecode.report.beside.models_figure`.
    attributes : mapping of str to pandas.DataFrame
        Subject to its ``attribute``, ``r``, ``low``, ``high``, ``p_value``, ``q_value``, and ``ceiling`` (NaN where it
        is not known); none leaves panel B out.
    level : float
        Of the intervals.
    """
    metrics, names = (list(dict.fromkeys(models[key])) for key in ("metric", "model"))
    upper = LEGEND + LINE * -(-len(metrics) // COLUMNS)
    lower = ATTRIBUTES if attributes else 0.0
    with styled():
        canvas = new_canvas(TWO_COLUMNS, upper + lower, constrained=True)
        parts = canvas.subfigures(2 if lower else 1, 1, squeeze=False, height_ratios=[upper, lower][: 1 + bool(lower)])
        tilted = sum(len(str(name)) + 2 for name in names) > LINE_OF_MODELS
        draw_models(parts[0, 0], models, min(COLUMNS, len(metrics)), tilted=tilted)
        panel_letter(parts[0, 0], "A", 0.0, 1.0)
        if lower:
            _attributes(parts[1, 0], attributes)
            panel_letter(parts[1, 0], "B", 0.0, 1.0)
        print_type(canvas, 0.8)
    caption = (
        "Scores. A, means over test faces with "
        f"{level:.0%} bootstrap intervals over faces; higher is better. Dashed: the best predictor that never saw the "
        f"brain, for each bar its own. {_in_words(models)}"
    )
    if lower:
        caption += (
            " B, Pearson correlation of decoded with true attribute scores over test faces, with 95% intervals; "
            "predictors without the brain have 0 on average. Dashed: noise ceiling, where it is known. "
            f"{_attributes_in_words(attributes)}"
        )
    return Plate(canvas, caption)


def _attributes(figure: Any, attributes: Mapping[str, pd.DataFrame]) -> None:
    axes = figure.subplots()
    names = list(dict.fromkeys(name for table in attributes.values() for name in table["attribute"]))
    width = min(0.8 / len(attributes), WIDEST)
    for place, table in enumerate(attributes.values()):
        colour = SUBJECT_COLOURS[place % len(SUBJECT_COLOURS)]
        for _, row in table.iterrows():
            x = names.index(row["attribute"]) + width * (place + 0.5 - len(attributes) / 2)
            r, low, high, ceiling = (float(row.get(key, np.nan)) for key in ("r", "low", "high", "ceiling"))
            if np.isnan(r):
                continue
            axes.bar(x, r, width * 0.9, color=colour, alpha=0.75)
            if low <= r <= high:
                axes.errorbar(x, r, [[r - low], [high - r]], color="#333333", capsize=2, linewidth=0.8)
            if not np.isnan(ceiling):
                half = width / 2
                axes.plot([x - half, x + half], [ceiling] * 2, color="#222222", linestyle=(0, (3, 1.5)), linewidth=1.0)
    axes.axhline(0, color="#555555", linewidth=0.6)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xticks(range(len(names)), names)
    quiet_axes(axes, "", "r, decoded and true")
    ceilings = any(
        np.isfinite(table.get("ceiling", pd.Series(dtype=float)).to_numpy(float)).any() for table in attributes.values()
    )
    if ceilings:
        line = Line2D([], [], color="#222222", linestyle=(0, (3, 1.5)), linewidth=1.0)
        figure.legend([line], ["noise ceiling"], loc="outside upper right", frameon=False)


def _in_words(models: pd.DataFrame) -> str:
    said = []
    for (model, subject), rows in models.groupby(["model", "subject"], sort=False):
        scores = []
        for _, row in rows.iterrows():
            score, low, high, blind = (
                score_text(row["metric"], float(row[key])) for key in ("score", "low", "high", "best_blind_score")
            )
            scores.append(f"{metric_label(row['metric'])} {score} ({low} to {high}; without the brain {blind})")
        said.append(f"{subject}, {model}: {', '.join(scores)}.")
    return " ".join(said)


def _attributes_in_words(attributes: Mapping[str, pd.DataFrame]) -> str:
    said = []
    for subject, table in attributes.items():
        parts = [
            f"{row['attribute']} r = {row['r']:.2f} ({row['low']:.2f} to {row['high']:.2f}), q = {row['q_value']:.2g}"
            for _, row in table.iterrows()
            if np.isfinite(row["r"])
        ]
        said.append(f"{subject}: {'; '.join(parts)}.")
    return (
        " ".join(said).replace("-0.", "\N{MINUS SIGN}0.") + " q: p corrected over attributes (Benjamini and Hochberg)."
    )

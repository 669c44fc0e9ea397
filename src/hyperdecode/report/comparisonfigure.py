"""Bars of several decoders' scores at several noise levels, as the paper's Figure 5 sets its models side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.report.figures import BLUE, GREY, ORANGE, new_figure, png_bytes, quiet_axes
from hyperdecode.report.words import METRICS

__all__ = ["comparison_figure"]

PANELS = ("identification", "cosine", "lsim", "attribute_r")
LABELS = {"attribute_r": "Attribute scores, r"}
CHANCE = {"identification": 0.5}
COLOURS = {"w": ORANGE, "z": BLUE}


def comparison_figure(table: pd.DataFrame, dpi: int = 110) -> bytes:
    """Draw a panel a metric and noise ceiling: one bar a decoder and latent space, mean over subjects, each a dot.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a fit: ``noise_ceiling``, ``space``, ``subject``, ``model``, the metrics, ``lsim_blind``.
    dpi : int

    Returns
    -------
    bytes
        A PNG. The dashed line is what is reached without the brain: chance, or the best blind predictor.

    Raises
    ------
    UserError
        When the table is empty.
    """
    if not len(table):
        raise UserError("there is nothing to draw: the comparison has no fits")
    ceilings = sorted(table["noise_ceiling"].unique())
    spaces = sorted(table["space"].unique())
    metrics = [name for name in PANELS if table[name].notna().any()]
    order = list(dict.fromkeys(table["model"]))
    # Where a decoder was not fitted it takes no place.
    fitted = {c: set(table.loc[table["noise_ceiling"] == c, "model"]) for c in ceilings}
    models = {c: [name for name in order if name in fitted[c]] for c in ceilings}
    widths = [max(3.0, 0.26 * len(models[c]) * len(spaces) + 0.8) for c in ceilings]
    figure = new_figure(sum(widths) + 0.6, 2.1 * len(metrics) + 1.4, dpi)
    panels = figure.subplots(
        len(metrics), len(ceilings), squeeze=False, sharey="row", sharex="col", width_ratios=widths
    )
    for row, metric in enumerate(metrics):
        for column, ceiling in enumerate(ceilings):
            axes = panels[row][column]
            part = table[table["noise_ceiling"] == ceiling]
            _bars(axes, part, metric, models[ceiling], spaces)
            quiet_axes(axes, "", _label(metric) if column == 0 else "")
            if row == 0:
                axes.set_title(f"noise ceiling {ceiling:g}", fontsize=10)
            if row == len(metrics) - 1:
                axes.set_xticks(range(len(models[ceiling])), models[ceiling], rotation=60, ha="right", fontsize=8)
        panels[row][0].set_ylim(*_limits(table, metric))
    if len(spaces) > 1:
        handles = [_patch(COLOURS.get(space, GREY)) for space in spaces]
        figure.legend(handles, spaces, loc="outside upper right", ncols=len(spaces), fontsize=9, frameon=False)
    return png_bytes(figure)


def _bars(axes: Any, part: pd.DataFrame, metric: str, models: list[str], spaces: list[str]) -> None:
    width = 0.8 / len(spaces)
    for k, space in enumerate(spaces):
        here = part[part["space"] == space]
        for place, model in enumerate(models):
            values = here.loc[here["model"] == model, metric].to_numpy(float)
            x = place - 0.4 + width * (k + 0.5)
            if values.size and not np.isnan(values).all():
                axes.bar(x, np.nanmean(values), width * 0.92, color=COLOURS.get(space, GREY), alpha=0.75)
                axes.plot(np.full(values.size, x), values, ".", color="#333333", markersize=4)
    if metric != "lsim":
        axes.axhline(CHANCE.get(metric, 0.0), color="#555555", linewidth=1, linestyle="--")
        return
    for space in spaces:
        # Of each space: the best blind predictor, which differs a little between fits by their own noise.
        blind = part.loc[part["space"] == space, "lsim_blind"].max()
        axes.axhline(blind, color=COLOURS.get(space, GREY), linewidth=1.2, linestyle="--")


def _limits(table: pd.DataFrame, metric: str) -> tuple[float, float]:
    values = table[metric].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    if metric == "identification":
        return min(0.4, low - 0.05), 1.03
    if metric == "lsim":
        low = min(low, table["lsim_blind"].min())
        return low - 0.15 * (high - low) - 0.01, high + 0.1 * (high - low) + 0.01
    return min(0.0, low - 0.05), max(high + 0.05, 0.1)


def _label(metric: str) -> str:
    return LABELS.get(metric, METRICS.get(metric, (metric, ""))[0])


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, alpha=0.75)

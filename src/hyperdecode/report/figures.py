"""What the figures of the report share."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "ORANGE", "new_figure", "png_bytes", "quiet_axes"]

ORANGE, BLUE, GREY = "#e4572e", "#1f4e9c", "#c3c8cf"


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """Return a white figure of so many inches; its parts keep clear of each other."""
    return Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def quiet_axes(axes: Any, along: str, down: str) -> None:
    """Name the axes of a panel and leave out what holds no data."""
    axes.set_xlabel(along, fontsize=9)
    axes.set_ylabel(down, fontsize=9)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

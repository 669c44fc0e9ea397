"""What figures for a journal share: widths, type, and how they become files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.errors import UserError

__all__ = [
    "FORMATS",
    "INCH",
    "LARGEST",
    "ONE_COLUMN",
    "SMALLEST",
    "TWO_COLUMNS",
    "Plate",
    "new_canvas",
    "panel_letter",
    "place_picture",
    "print_type",
    "styled",
    "written",
]

ONE_COLUMN, TWO_COLUMNS = 88.0, 180.0
"""Millimetres; Nature journals, Scientific Reports among them, print columns of 88 or 89 and 180 to 183 mm."""
INCH = 25.4
SMALLEST, LARGEST = 6.0, 8.0
"""Points of type; journals ask for 5 to 8 in print."""
PICTURE = "picture"
"""Mark of what `place_picture` placed."""
FACE_DPI = 400
"""Pixels an inch of faces: what print shows of them."""
METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": "hyperdecode"},
    "png": {"Software": "hyperdecode"},
}
FORMATS = tuple(METADATA)
STYLE: dict[str, Any] = {
    # It comes with matplotlib: figures are the same bytes wherever they are made.
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 0.8,
    "patch.linewidth": 0.6,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    # TrueType as it is, so that text stays text that can be searched and edited.
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "svg.fonttype": "none",
}


@dataclass(frozen=True, eq=False)
class Plate:
    """A figure as it is drawn, with its caption.

    Attributes
    ----------
    canvas : matplotlib Figure
        Of its final size.
    caption : str
        Ready to paste; its numbers come from the study.
    """

    canvas: Canvas
    caption: str


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the type and the lines of a journal while the block runs."""
    with matplotlib.rc_context(STYLE):
        yield


def new_canvas(width: float, height: float, *, constrained: bool = False) -> Canvas:
    """Return a white figure of so many millimetres; `constrained` keeps its parts clear of each other."""
    size = (width / INCH, height / INCH)
    return Canvas(figsize=size, facecolor="white", layout="constrained" if constrained else None)


def place_picture(canvas: Canvas, picture: NDArray[np.uint8], left: float, top: float, side: float) -> Axes:
    """Put a picture on a figure: millimetres from its left and upper edge, and of the picture's side."""
    width, height = (INCH * size for size in canvas.get_size_inches())
    axes = canvas.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
    pixels = round(side / INCH * FACE_DPI)
    if picture.shape[0] > pixels:
        picture = np.asarray(Image.fromarray(picture).resize((pixels, pixels), Image.Resampling.LANCZOS))
    axes.imshow(picture, gid=PICTURE)
    axes.set_axis_off()
    return axes


def print_type(canvas: Canvas, scale: float = 1.0) -> None:
    """Bring all type of a figure between `SMALLEST` and `LARGEST` points, after scaling it."""
    for text in canvas.findobj(Text):
        text.set_fontsize(min(max(scale * float(text.get_fontsize()), SMALLEST), LARGEST))


def panel_letter(canvas: Any, letter: str, x: float, y: float) -> None:
    """Write a panel's letter, bold, its upper left corner at a place in shares of the figure."""
    canvas.text(x, y, letter, fontsize=LARGEST, fontweight="bold", ha="left", va="top")


def written(canvas: Canvas, form: str, dpi: int) -> bytes:
    """Return a figure as a file: the same bytes each time, for no date goes into it.

    Parameters
    ----------
    canvas : matplotlib Figure
    form : {"pdf", "png"}
    dpi : int
        Of a PNG, and of what a PDF holds as pixels.

    Raises
    ------
    UserError
        For another format.
    """
    if form not in FORMATS:
        raise UserError(f"figures are written as {' or '.join(FORMATS)}, not {form!r}")
    stream = io.BytesIO()
    FigureCanvasAgg(canvas)
    for image in canvas.findobj(AxesImage):
        if image.get_gid() == PICTURE:
            # A PDF keeps its pixels as they are; a PNG has others, and takes means of them.
            image.set_interpolation("none" if form == "pdf" else "hanning")
    with styled():
        canvas.savefig(stream, format=form, dpi=dpi, metadata=METADATA[form])
    return stream.getvalue()

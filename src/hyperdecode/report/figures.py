"""What the figures of the report share: a picture with its words, and how they are drawn."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

from hyperdecode.report.uris import data_uri

__all__ = ["BLUE", "GREY", "ORANGE", "SUBJECT_COLOURS", "Figure", "jpeg_bytes", "new_figure", "png_bytes", "quiet_axes"]

ORANGE, BLUE, GREY = "#e4572e", "#1f4e9c", "#c3c8cf"

SUBJECT_COLOURS = (ORANGE, BLUE, "#56b4e9", "#e69f00", "#009e73", "#cc79a7")
"""One a subject, in their order; they begin again after the last. Told apart also by who sees fewer colours."""


@dataclass(frozen=True)
class Figure:
    """A picture of the report with what it shows in words.

    Attributes
    ----------
    title : str
        Heading.
    png : bytes
        The picture: a PNG, or a JPEG where it shows faces.
    caption : str
        What it shows, and what to conclude.
    alt : str
        What is drawn, for readers who do not see it; the title where nothing was given.
    """

    title: str
    png: bytes
    caption: str
    alt: str = ""

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(self.png, "jpeg" if self.png[:2] == b"\xff\xd8" else "png")

    def html(self, about: str = "") -> Markup:
        """Return picture and caption as a fragment of HTML; all text is escaped.

        `about` names the subject in the alternative text of a figure that has none of its own.
        """
        alt = self.alt or (f"{self.title} of {about}" if about else self.title)
        return Markup(
            '<figure class="mask"><img src="{}" alt="{}" loading="lazy"><figcaption>{}</figcaption></figure>'
        ).format(self.uri, alt, self.caption)


def new_figure(width: float, height: float, dpi: int) -> Canvas:
    """Return a white figure of so many inches; its parts keep clear of each other."""
    return Canvas(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")


def png_bytes(figure: Canvas) -> bytes:
    """Return a figure as a PNG."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def jpeg_bytes(image: Image.Image, quality: int = 88) -> bytes:
    """Return a sheet of pictures with labels as a JPEG whose colours are not subsampled, so that text stays sharp."""
    stream = io.BytesIO()
    # Pillow's buffer for an optimised file is too small for busy pictures whose colours are not subsampled.
    image.save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def quiet_axes(axes: Any, along: str, down: str) -> None:
    """Name the axes of a panel and leave out what holds no data."""
    axes.set_xlabel(along, fontsize=9)
    axes.set_ylabel(down, fontsize=9)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

"""Strips of pictures with labels: a row a face, a column a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["picture_strip"]

INK, PAPER = (32, 32, 32), (255, 255, 255)
GAP = 4


def picture_strip(
    pictures: NDArray[np.uint8], columns: Sequence[str], rows: Sequence[str] = (), title: str = ""
) -> Image.Image:
    """Lay pictures out in rows and columns with labels above and beside them.

    Parameters
    ----------
    pictures : ndarray of uint8, (n_rows, n_columns, side, side, 3)
    columns : sequence of str
        One label a column, written above it.
    rows : sequence of str
        One label a row, written on its left; none for no labels.
    title : str
        One line above all.

    Returns
    -------
    PIL.Image.Image
    """
    n_rows, n_columns, side = pictures.shape[:3]
    height = max(10, side // 14)
    font = ImageFont.load_default(height)
    line = round(height * 1.6)
    margin = max((round(font.getlength(label)) for label in rows), default=-2 * GAP) + 2 * GAP
    top = line * (bool(title) + bool(any(columns))) + GAP
    size = (margin + n_columns * (side + GAP), top + n_rows * (side + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((margin, line // 2), title, INK, font, "lm")
    for column, label in enumerate(columns):
        pen.text((margin + column * (side + GAP) + side // 2, top - GAP - line // 2), label, INK, font, "mm")
    for row in range(n_rows):
        y = top + row * (side + GAP)
        if rows:
            pen.text((margin - GAP, y + side // 2), rows[row], INK, font, "rm")
        for column in range(n_columns):
            sheet.paste(Image.fromarray(pictures[row, column]), (margin + column * (side + GAP), y))
    return sheet

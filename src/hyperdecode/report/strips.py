"""Strips of pictures with labels: a row a face, a column a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hyperdecode.errors import UserError

__all__ = ["picture_strip", "reconstruction_strip"]

INK, PAPER = (32, 32, 32), (255, 255, 255)
GAP = 6


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
    height = max(12, side // 12)
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


def reconstruction_strip(
    stimuli: NDArray[np.uint8],
    reconstructions: Mapping[str, NDArray[np.uint8]],
    names: Sequence[str] | None = None,
    size: int = 160,
) -> Image.Image:
    """Lay stimuli out in a row, with each subject's reconstructions in a row below.

    Parameters
    ----------
    stimuli : uint8 array of shape (n, height, width, 3)
        Top row.
    reconstructions : mapping of str to uint8 array of shape (n, height, width, 3)
        Subject -> pictures in the order of the stimuli, one row each.
    names : sequence of str, length n, optional
        Written above the stimuli.
    size : int
        Pixels of a picture's side.

    Returns
    -------
    PIL.Image.Image
        RGB contact sheet.

    Raises
    ------
    UserError
        When a row has not one picture for each stimulus.
    """
    rows = {"shown": stimuli, **reconstructions}
    for label, pictures in rows.items():
        if len(pictures) != len(stimuli) or pictures.dtype != np.uint8:
            raise UserError(f"{label}: got {len(pictures)} {pictures.dtype} pictures for {len(stimuli)} stimuli")
    if names is not None and len(names) != len(stimuli):
        raise UserError(f"got {len(names)} names for {len(stimuli)} stimuli: give one a stimulus")
    small = [[_resized(picture, size) for picture in pictures] for pictures in rows.values()]
    return picture_strip(np.array(small, np.uint8), names or (), list(rows))


def _resized(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))

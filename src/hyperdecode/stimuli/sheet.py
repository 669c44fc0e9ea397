"""Contact sheets: many small faces with a label under each, in sections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hyperdecode.errors import UserError

__all__ = ["Section", "contact_sheet"]

INK, QUIET, PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)
GAP = 6
MAX_PICTURES = 1000


@dataclass(frozen=True)
class Section:
    """One part of a sheet.

    Parameters
    ----------
    title : str
        One line above the pictures.
    pictures : iterable of ndarray of uint8, (height, width, 3)
        Square pictures; taken one at a time, so that they need not all lie in memory.
    labels : sequence of str
        One a picture, written under it.
    """

    title: str
    pictures: Iterable[NDArray[np.uint8]]
    labels: Sequence[str]


def contact_sheet(sections: Sequence[Section], *, side: int = 112, columns: int = 18) -> Image.Image:
    """Lay pictures out in rows, section by section.

    Parameters
    ----------
    sections : sequence of Section
        From top to bottom; empty ones are left out.
    side : int
        Pixels of a picture's side on the sheet.
    columns : int
        Pictures a row.

    Returns
    -------
    PIL.Image.Image
        RGB; (`side` + 6) x `columns` + 6 px wide.

    Raises
    ------
    UserError
        When there is nothing to show, more than 1,000 pictures, or a section without a label for each picture.
    """
    filled = [section for section in sections if len(section.labels)]
    total = sum(len(section.labels) for section in filled)
    if not 0 < total <= MAX_PICTURES:
        raise UserError(f"a contact sheet holds 1 to {MAX_PICTURES} pictures, got {total}: choose among them")
    heading, label = (ImageFont.load_default(max(10, side // part)) for part in (6, 9))
    title_height, label_height = 2 * max(10, side // 6), round(1.5 * max(10, side // 9))
    row_height = side + label_height + GAP
    rows = [math.ceil(len(section.labels) / columns) for section in filled]
    height = GAP + sum(title_height + n * row_height for n in rows)
    sheet = Image.new("RGB", (GAP + columns * (side + GAP), height), PAPER)
    pen, top = ImageDraw.Draw(sheet), GAP
    for section, n_rows in zip(filled, rows, strict=True):
        pen.text((GAP, top + title_height // 2), section.title, INK, heading, "lm")
        top += title_height
        for k, (picture, name) in enumerate(_pairs(section)):
            x, y = GAP + k % columns * (side + GAP), top + k // columns * row_height
            sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x, y))
            pen.text((x + side // 2, y + side + label_height // 2), name, QUIET, label, "mm")
        top += n_rows * row_height
    return sheet


def _pairs(section: Section) -> Iterable[tuple[NDArray[np.uint8], str]]:
    try:
        yield from zip(section.pictures, section.labels, strict=True)
    except ValueError:
        raise UserError(f"{section.title!r} must have one label a picture, got {len(section.labels)} labels") from None

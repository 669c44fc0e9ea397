"""Contact sheet of decoded faces, with the faces that were shown above them where they are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.stimuli.sheet import Section, contact_sheet

__all__ = ["MAX_ON_SHEET", "prediction_sheet", "thumbnail"]

SIDE, COLUMNS = 160, 8
MAX_ON_SHEET = 400
MAX_CAPTION = 18
BLANK = np.full((SIDE, SIDE, 3), 235, np.uint8)


def thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring a square picture to the side that it has on the sheet."""
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def prediction_sheet(
    decoded: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    shown: Sequence[NDArray[np.uint8] | None],
    subject: str,
) -> Image.Image:
    """Lay decoded faces out in rows, each under a row of what was shown where any of that is known.

    Parameters
    ----------
    decoded : sequence of ndarray of uint8, (n of side x side x 3)
        At most `MAX_ON_SHEET`; see `thumbnail`.
    captions : sequence of str, length n
        Cut to 18 characters.
    shown : sequence of ndarray of uint8 or None, length n
    subject : str
        ``"sub-01"``.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    UserError
        When there is no face, or too many.
    """
    columns = min(COLUMNS, max(len(decoded), 1))
    sections = []
    for first in range(0, len(decoded), columns):
        part = slice(first, first + columns)
        faces = [caption[:MAX_CAPTION] for caption in captions[part]]
        numbers = f"{first + 1} to {first + len(faces)}" if len(faces) > 1 else str(first + 1)
        if any(picture is not None for picture in shown[part]):
            above = [BLANK if picture is None else picture for picture in shown[part]]
            sections.append(Section(f"Shown: {numbers}", above, [""] * len(above)))
        sections.append(Section(f"Decoded from {subject}: {numbers}", decoded[part], faces))
    return contact_sheet(sections, side=SIDE, columns=columns)

"""Pictures at the size of the screen: enlarged, with the fixation target drawn over them at screen resolution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.stimuli.target import draw_target

__all__ = ["Viewing", "blank", "enlarged", "require_memory"]

MAX_BYTES = 2 * 1024**3
BYTES_PER_PIXEL = 4


@dataclass(frozen=True)
class Viewing:
    """What the eye meets.

    Attributes
    ----------
    picture_deg, target_deg : float
        Side of the picture and diameter of the fixation target in degrees of visual angle.
    pixels_per_deg : float
        Screen pixels a degree.
    background : int
        Grey level around the picture, 0-255.
    """

    picture_deg: float = 15.0
    target_deg: float = 0.6
    pixels_per_deg: float = 40.0
    background: int = 128

    @property
    def side(self) -> int:
        """Side of the picture in screen pixels."""
        return max(1, round(self.picture_deg * self.pixels_per_deg))


def enlarged(pictures: Iterable[NDArray[np.uint8]], view: Viewing) -> Iterator[NDArray[np.uint8]]:
    """Bring pictures to their side on the screen (Lanczos) and draw the fixation target over them.

    Parameters
    ----------
    pictures : iterable of ndarray of uint8, (h, w, 3)
        Clean pictures, without target.
    view : Viewing

    Yields
    ------
    ndarray of uint8, (view.side, view.side, 3)
    """
    for picture in pictures:
        scaled = Image.fromarray(picture).resize((view.side, view.side), Image.Resampling.LANCZOS)
        yield _with_target(np.asarray(scaled), view)


def blank(view: Viewing) -> NDArray[np.uint8]:
    """Return the fixation target alone on the background, (view.side, view.side, 3)."""
    return _with_target(np.full((view.side, view.side, 3), view.background, dtype=np.uint8), view)


def _with_target(picture: NDArray[np.uint8], view: Viewing) -> NDArray[np.uint8]:
    return draw_target(picture, view.pixels_per_deg, view.target_deg, view.background)


def require_memory(n: int, view: Viewing) -> None:
    """Refuse a run whose pictures take more than 2 GiB on the screen: all are prepared before the trigger.

    Raises
    ------
    UserError
        When they do.
    """
    needed = n * view.side**2 * BYTES_PER_PIXEL
    if needed > MAX_BYTES:
        raise UserError(
            f"{n} pictures of {view.side} px need {needed / 1024**3:.1f} GiB, more than {MAX_BYTES / 1024**3:.0f}: "
            "raise schedule.n_runs, or lower viewing.pixels_per_deg"
        )

"""Square windows of square maps: what a crop of one layer needs of the layers before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperdecode.errors import UserError

__all__ = ["Window", "require_crop"]


class Window(NamedTuple):
    """Rows, and the same columns, of a square map: from `start` to before `stop`."""

    start: int
    stop: int

    @classmethod
    def centre(cls, side: int, crop: int | None) -> Window:
        """Centre crop of a map of `side` px, which begins at ``(side - crop) // 2``; the whole map if it is smaller."""
        crop = side if crop is None else min(crop, side)
        start = (side - crop) // 2
        return cls(start, start + crop)

    def hull(self, other: Window | None) -> Window:
        """Smallest window around both."""
        return self if other is None else Window(min(self.start, other.start), max(self.stop, other.stop))

    def grown(self, side: int) -> Window:
        """Return what a 3 x 3 convolution reads for it inside a map of `side` px."""
        return Window(max(self.start - 1, 0), min(self.stop + 1, side))

    def shrunk(self, factor: int) -> Window:
        """Return what it depends on in a map smaller by `factor`."""
        return Window(self.start // factor, -(-self.stop // factor))

    def doubled(self) -> Window:
        """Return where it lies in a map of twice the side."""
        return Window(2 * self.start, 2 * self.stop)

    def cut(self, x: Tensor, inner: Window) -> Tensor:
        """Cut the window `inner` from x (n, channels, h, w), a map on this window."""
        if inner == self:
            return x
        rows = slice(inner.start - self.start, inner.stop - self.start)
        return x[:, :, rows, rows]

    def around(self, x: Tensor, wanted: Window, side: int) -> tuple[Tensor, int]:
        """Cut from x, a map of `side` px on this window, what a 3 x 3 convolution reads for the window `wanted`.

        Returns
        -------
        x : Tensor
            Zeros are added where, and only where, the map's own border lies on some sides alone.
        padding : int
            What the convolution is to be called with: its own padding does all four borders of a map at once.
        """
        reach = wanted.grown(side)
        before, behind = reach.start + 1 - wanted.start, wanted.stop + 1 - reach.stop
        x = self.cut(x, reach)
        if before == behind:
            return x, before
        return F.pad(x, (before, behind, before, behind)), 0

    def enlarged(self, x: Tensor, factor: int, inner: Window) -> Tensor:
        """Cut the window `inner` of the map enlarged by nearest neighbour from x, the smaller map on this window."""
        if factor == 1:
            return self.cut(x, inner)
        index = torch.arange(inner.start, inner.stop, device=x.device) // factor - self.start
        return x.index_select(2, index).index_select(3, index)


def require_crop(crop: int | None) -> None:
    """Refuse a centre crop that holds nothing."""
    if crop is not None and crop < 1:
        raise UserError(f"a centre crop of {crop} px holds nothing: give a side of 1 px or more")

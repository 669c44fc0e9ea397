"""PGGAN on a CPU in strips that stay in the cache: the same numbers as the batch, several times sooner."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperdecode.generators.pggan_parts import EPSILON, SLOPE, layer_at

__all__ = ["PGGANStrips"]

STRIP_BYTES = 4 * 2**20
WIDE = 128


class _Level(NamedTuple):
    """Weights of the two convolutions of a side; the first as four of 2 x 2, one for each place in a block of four."""

    phases: Tensor
    phases_bias: Tensor
    weight: Tensor
    bias: Tensor


class _Wanted(NamedTuple):
    """What a side shall give: the maps of its two convolutions, and its colours."""

    first: bool
    second: bool
    colours: bool


class _Made(NamedTuple):
    """What a side gave, maps as (height, width, channels) inside a border of one zero; empty where not wanted."""

    first: Tensor
    second: Tensor
    colours: Tensor


class PGGANStrips:
    """Make one picture at a time, channels last, in horizontal strips.

    Enlarging by nearest neighbour makes blocks of four equal pixels, so a 3 x 3 convolution behind it reads only four
    different ones. In rows 2 m and 2 m + 1, and likewise in columns,

        ``y[2 m] = k_0 x[m - 1] + (k_1 + k_2) x[m]``, ``y[2 m + 1] = (k_0 + k_1) x[m] + k_2 x[m + 1]``.

    The enlarged map is never made, and 4 of 9 products remain. All steps of a side are done on a strip of a few
    megabytes while it is in the cache; each strip takes the rows beyond its edges that the second convolution
    reaches.

    Parameters
    ----------
    weights, biases : sequence of Tensor
        Of the convolutions: the first (out, latent, 4, 4), the others (out, in, 3, 3).
    colours : mapping of int to (Tensor, Tensor)
        Weight (3, in) and bias (3,) of the colours of a side.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], colours: Mapping[int, tuple[Tensor, Tensor]]
    ) -> None:
        self.dense, self.dense_bias = weights[0].permute(2, 3, 0, 1).flatten(0, 2), biases[0]
        self.weight, self.bias = _arranged(weights[1]), biases[1]
        self.levels = [
            _Level(_arranged(_phases(weights[k])), biases[k].repeat(4), _arranged(weights[k + 1]), biases[k + 1])
            for k in range(2, len(weights), 2)
        ]
        self.colours = dict(colours)

    def run(
        self, z: Tensor, layers: Collection[int], sides: Collection[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Run one face as far as the last of the layers and sides.

        Parameters
        ----------
        z : Tensor, (latent,)
            Normalised.
        layers : collection of int
            Convolutions, counted from 1, whose activations are wanted.
        sides : collection of int
            Sides whose colours are wanted.

        Returns
        -------
        maps : dict of int to Tensor, (channels, side, side)
        colours : dict of int to Tensor, (3, side, side)
        """
        maps: dict[int, Tensor] = {}
        colours: dict[int, Tensor] = {}
        last = max([*layers, *(layer_at(side) for side in sides)])
        side, made = 4, self._smallest(z, 4 in sides)
        while True:
            k = layer_at(side)
            maps |= {number: made[number - k + 1] for number in (k - 1, k) if number in layers}
            if side in sides:
                colours[side] = made.colours
            if k >= last:
                return {number: value[1:-1, 1:-1].permute(2, 0, 1) for number, value in maps.items()}, colours
            side, k = 2 * side, k + 2
            wanted = _Wanted(k - 1 in layers, k in layers or k < last, side in sides)
            made = self._doubled(made.second, side, wanted)

    def _smallest(self, z: Tensor, colours: bool) -> _Made:
        """Layers 1 and 2."""
        y = (self.dense @ z).view(4, 4, -1) + self.dense_bias
        first = _bordered(4, 4, y.shape[2], y)
        first[1:-1, 1:-1] = y.mul_(_scale(F.leaky_relu_(y, SLOPE)))
        y = F.leaky_relu_(_convolve(first, self.weight, self.bias), SLOPE)
        second = _bordered(4, 4, y.shape[2], y)
        second[1:-1, 1:-1] = y.mul_(_scale(y))
        picture = y.new_empty(3, 4, 4)
        if colours:
            self._paint(picture, 4, 0, y, torch.ones_like(y[:, :, :1]))
        return _Made(first, second, picture)

    def _doubled(self, x: Tensor, side: int, wanted: _Wanted) -> _Made:
        """Run the two layers of a side on the map x of half that side, strip by strip."""
        level = self.levels[side.bit_length() - 4]
        channels = (len(level.phases_bias) // 4, len(level.bias))
        rows = max(2, STRIP_BYTES // (x.element_size() * side * max(channels)) // 2 * 2)
        made = _Made(
            _bordered(side, side, channels[0], x) if wanted.first else x.new_empty(0),
            _bordered(side, side, channels[1], x) if wanted.second else x.new_empty(0),
            x.new_empty(3, side, side) if wanted.colours else x.new_empty(0),
        )
        strip = _bordered(min(rows + 4, side), side, channels[0], x)
        for start in range(0, side, rows):
            stop = min(start + rows, side)
            begin, end = max(start - 2, 0), min(stop + 2, side)
            self._enlarge(x[begin // 2 : end // 2 + 2], level, strip[: end - begin + 2])
            if end == side:
                strip[end - begin + 1].zero_()
            if wanted.first:
                made.first[1 + start : 1 + stop, 1:-1] = strip[1 + start - begin : 1 + stop - begin, 1:-1]
            if not (wanted.second or wanted.colours):
                continue
            y = _convolve(strip[start - begin : stop - begin + 2], level.weight, level.bias)
            scale = _scale(F.leaky_relu_(y, SLOPE))
            if wanted.second:
                torch.mul(y, scale, out=made.second[1 + start : 1 + stop, 1:-1])
            if wanted.colours:
                self._paint(made.colours, side, start, y, scale)
        return made

    def _enlarge(self, x: Tensor, level: _Level, out: Tensor) -> None:
        """Run the first layer of a side on rows x, the two beside them included, into `out` inside its border."""
        y = F.leaky_relu_(_convolve(x, level.phases, level.phases_bias), SLOPE)
        height, width = y.shape[0] - 1, y.shape[1] - 1
        y = y.view(height + 1, width + 1, 4, -1)
        scale = _scale(y)
        inner = out[1:-1, 1:-1]
        for i in (0, 1):
            for j in (0, 1):
                place = (slice(i, i + height), slice(j, j + width), 2 * i + j)
                torch.mul(y[place], scale[place], out=inner[i::2, j::2])

    def _paint(self, picture: Tensor, side: int, start: int, y: Tensor, scale: Tensor) -> None:
        """Put the colours of features y, still to be scaled, into the rows of the picture from `start` on."""
        weight, bias = self.colours[side]
        height, width, channels = y.shape
        colours = (weight @ y.view(-1, channels).T).view(3, height, width)
        torch.mul(colours, scale[:, :, 0], out=picture[:, start : start + height]).add_(bias[:, None, None])


def _phases(weight: Tensor) -> Tensor:
    """Kernels (4 out, in, 2, 2) of the four places of a block of equal pixels, from one (out, in, 3, 3)."""
    rows = (
        torch.stack([weight[:, :, 0], weight[:, :, 1] + weight[:, :, 2]], 2),
        torch.stack([weight[:, :, 0] + weight[:, :, 1], weight[:, :, 2]], 2),
    )
    kernels = []
    for kernel in rows:
        left, middle, right = kernel.unbind(3)
        kernels += [torch.stack([left, middle + right], 3), torch.stack([left + middle, right], 3)]
    return torch.cat(kernels)


def _arranged(weight: Tensor) -> Tensor:
    """Channels last, but not for wide layers, where torch then sums thousands of products at once and rounds worse."""
    last = weight.shape[1] < WIDE
    return weight.detach().contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _bordered(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Empty map inside a border of one zero."""
    x = like.new_empty(height + 2, width + 2, channels)
    x[0], x[-1], x[:, 0], x[:, -1] = 0, 0, 0, 0
    return x


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve a map (height, width, channels) without padding."""
    x = x.permute(2, 0, 1)[None]
    y = F.conv2d(x if len(weight[0]) < WIDE else x.contiguous(), weight, bias)
    return y[0].permute(1, 2, 0).contiguous()


def _scale(x: Tensor) -> Tensor:
    """Return what pixel normalisation multiplies with, (..., 1)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().div_(x.shape[-1]).add_(EPSILON).rsqrt_()

"""Synthesis on a CPU in strips that stay in the cache: the same numbers as the batch, several times sooner."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperdecode.generators.layers import SLOPE, Style, StyledConvolution

if TYPE_CHECKING:
    from hyperdecode.generators.mobilestylegan import MobileStyleGAN

__all__ = ["TiledSynthesis"]

STRIP_BYTES = 4 * 2**20
WHOLE_BYTES = 4 * STRIP_BYTES
"""A map no larger is made in one piece: what its strips would compute twice costs more than main memory."""


class _Layer(NamedTuple):
    """Weights of a styled convolution, its output channels in the order of the wavelet bands where asked."""

    style: Style
    depthwise: Tensor | None
    weight: Tensor
    noise: Tensor
    bias: Tensor

    @classmethod
    def of(cls, module: StyledConvolution, banded: bool, dtype: torch.dtype) -> _Layer:
        weight: Tensor = module.weight
        bias: Tensor = module.bias
        if banded:
            order = _band_order(len(bias))
            weight, bias = weight[order], bias[order]
        weight = weight.to(dtype, memory_format=torch.channels_last)
        depthwise = None if module.depthwise is None else module.depthwise.to(dtype)
        return cls(module.style, depthwise, weight, module.noise.to(dtype), bias.to(dtype))

    def run(self, x: Tensor, w: Tensor, rows: slice) -> Tensor:
        """Run on `rows` of the picture, zero-padded at the strip's edges."""
        style = self.style(w)[0].to(x.dtype)
        if self.depthwise is None:
            x = F.conv2d(x * style, self.weight, self.bias, padding=1)
        else:
            x = F.conv2d(x, self.depthwise * style[..., None], padding=1, groups=x.shape[1])
            x = F.conv2d(x, self.weight, self.bias)
        return F.leaky_relu_(x.add_(self.noise[rows]), SLOPE)


class _Block(NamedTuple):
    """A block of the network, and its second convolution as it is when an early exit reads it."""

    up: Style
    conv1: _Layer
    conv2: _Layer
    plain_conv2: _Layer
    name: str


class TiledSynthesis:
    """Make one picture at a time, channels last, in horizontal strips.

    A feature map of 64 channels at 512 px is 64 MB: every step of a plain forward pass reads and writes main
    memory. Strips of a few megabytes go through upsampling, both convolutions and the colour layer while they
    are in the cache. Each strip takes the rows beyond its edges that its convolutions reach.

    Parameters
    ----------
    generator : MobileStyleGAN
        Its weights are used; the convolutions in front of each upsampling have their output channels rearranged so
        that the four wavelet bands lie side by side.
    dtype : torch.dtype
        Of weights and features; styles are computed in float32.
    """

    def __init__(self, generator: MobileStyleGAN, dtype: torch.dtype = torch.float32) -> None:
        self.generator = generator
        self.input = generator.input.to(dtype)
        self.conv0 = _Layer.of(generator.conv0, True, dtype)
        self.blocks = []
        for block in generator.blocks:
            last = block is generator.blocks[-1]
            plain = _Layer.of(block.conv2, False, dtype)
            banded = plain if last else _Layer.of(block.conv2, True, dtype)
            name = f"b{block.conv2.noise.shape[-1]}"
            self.blocks.append(_Block(block.up, _Layer.of(block.conv1, False, dtype), banded, plain, name))
        order = _band_order(len(generator.to_rgb_bias))
        self.rgb_style = generator.to_rgb_style
        self.rgb_weight, self.rgb_bias = (
            generator.to_rgb_weight[order].to(dtype),
            generator.to_rgb_bias[order].to(dtype),
        )

    def image(self, w: Tensor, side: int) -> Tensor:
        """Make the picture of one latent.

        Parameters
        ----------
        w : Tensor, (1, latent_dim)
        side : int
            The full side, or that of an early exit.

        Returns
        -------
        Tensor, (1, 3, side, side)
        """
        head = None if side == self.generator.resolution else self.generator.head(side)
        exit_block, _, exit_layer = head.layer.partition(".") if head is not None else ("", "", "")
        x = self.conv0.run(self.input[None], w, slice(None)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks[:-1]:
            if block.name == exit_block and head is not None:
                layers = [block.conv1] if exit_layer == "conv1" else [block.conv1, block.plain_conv2]
                picture: Tensor = head(self._run(block, layers, x, w), w)
                return picture
            x = self._run(block, [block.conv1, block.conv2], x, w)
        return self._run(self.blocks[-1], [self.blocks[-1].conv1, self.blocks[-1].conv2], x, w, to_rgb=True)

    def activations(self, w: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Run one face as far as the last of `layers` and return these activations.

        Parameters
        ----------
        w : Tensor, (1, latent_dim)
        layers : collection of str
            Of the generator. The first convolution of a block is run once more for itself.

        Returns
        -------
        dict of str to Tensor, (1, channels, height, width)
        """
        found: dict[str, Tensor] = {}
        x = self.conv0.run(self.input[None], w, slice(None)).contiguous(memory_format=torch.channels_last)
        if "b4.conv" in layers:
            found["b4.conv"] = x[:, _band_order(x.shape[1]).argsort()]
        last = self.blocks[-1]
        for block in self.blocks:
            if f"{block.name}.conv1" in layers:
                found[f"{block.name}.conv1"] = self._run(block, [block.conv1], x, w)
            if len(found) == len(layers):
                return found
            if block is not last:
                x = self._run(block, [block.conv1, block.conv2], x, w)
                if f"{block.name}.conv2" in layers:
                    found[f"{block.name}.conv2"] = x[:, _band_order(x.shape[1]).argsort()]
        if f"{last.name}.conv2" in layers:
            found[f"{last.name}.conv2"] = self._run(last, [last.conv1, last.conv2], x, w)
        if "image" in layers:
            found["image"] = self._run(last, [last.conv1, last.conv2], x, w, to_rgb=True)
        return found

    def _run(self, block: _Block, layers: list[_Layer], x: Tensor, w: Tensor, to_rgb: bool = False) -> Tensor:
        """Run a block strip by strip, as far as `layers` go, on to the colours when asked."""
        style = (block.up(w)[:, _band_order(x.shape[1])] * 0.5).to(x.dtype)
        height = width = 2 * x.shape[2]
        channels = len(layers[-1].bias)
        factor, depth = (2, len(self.rgb_bias) // 4) if to_rgb else (1, channels)
        layout = torch.contiguous_format if to_rgb else torch.channels_last
        out = torch.empty((1, depth, factor * height, factor * width), dtype=x.dtype, memory_format=layout)
        rgb_weight = self.rgb_weight * self.rgb_style(w).to(x.dtype) if to_rgb else None
        row_bytes = x.element_size() * channels * width
        strip = height if height * row_bytes <= WHOLE_BYTES else max(2, STRIP_BYTES // row_bytes)
        for start in range(0, height, strip):
            stop = min(start + strip, height)
            # Each of the two convolutions spoils one row at an inner edge, so begin two rows outside.
            first, end = max(start - 2, 0) // 2, min((stop + 3) // 2, x.shape[2])
            rows = slice(2 * first, 2 * end)
            y = _haar_upsample(x[:, :, first:end] * style)
            for layer in layers:
                y = layer.run(y, w, rows)
            y = y[:, :, start - 2 * first : stop - 2 * first]
            if rgb_weight is not None:
                y = _haar_upsample(F.conv2d(y, rgb_weight, self.rgb_bias) * 0.5)
            if stop - start == height:
                return y.contiguous(memory_format=layout)  # one strip is the whole map: nothing to put together
            out[:, :, factor * start : factor * stop] = y
        return out


def _band_order(channels: int) -> Tensor:
    """Order that puts channels (low of all, then 3 bands of each) as low, lh, hl, hh of all."""
    quarter = channels // 4
    return torch.cat([torch.arange(quarter), quarter + torch.arange(3 * quarter).reshape(quarter, 3).T.reshape(-1)])


def _haar_upsample(x: Tensor) -> Tensor:
    """Inverse Haar transform (without the factor 1/2) of channels-last features whose bands lie side by side."""
    _, channels, h, w = x.shape
    low, lh, hl, hh = x.permute(0, 2, 3, 1).reshape(h, w, 4, channels // 4).unbind(2)
    out = x.new_empty(h, 2, w, 2, channels // 4)
    top, bottom, left, right = low + lh, low - lh, hl + hh, hl - hh
    torch.add(top, left, out=out[:, 0, :, 0])
    torch.sub(top, left, out=out[:, 0, :, 1])
    torch.add(bottom, right, out=out[:, 1, :, 0])
    torch.sub(bottom, right, out=out[:, 1, :, 1])
    return out.reshape(1, 2 * h, 2 * w, channels // 4).permute(0, 3, 1, 2)

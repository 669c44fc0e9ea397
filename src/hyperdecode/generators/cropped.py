"""Centre crops of MobileStyleGAN's layers for many faces at once, on a CPU and without gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperdecode.generators.layers import SLOPE, Style, StyledConvolution
from hyperdecode.generators.windows import Window

if TYPE_CHECKING:
    from hyperdecode.generators.mobilestylegan import MobileStyleGAN

__all__ = ["CroppedSynthesis"]


class _Layer(NamedTuple):
    """Weights of a separable styled convolution, channels last, its outputs in the order asked for."""

    style: Style
    depthwise: Tensor
    weight: Tensor
    bias: Tensor
    noise: Tensor

    @classmethod
    def of(cls, module: StyledConvolution, order: Tensor | slice) -> _Layer:
        assert module.depthwise is not None
        weight = module.weight[order].contiguous(memory_format=torch.channels_last)
        return cls(module.style, module.depthwise, weight, module.bias[order], module.noise)

    def run(self, x: Tensor, w: Tensor, held: Window, wanted: Window) -> Tensor:
        """Run on the window `wanted` of x, which lies on the window `held`."""
        x, padding = held.around(x, wanted, int(self.noise.shape[-1]))
        x = F.conv2d(x * self.style(w), self.depthwise, padding=padding, groups=x.shape[1])
        x = F.conv2d(x, self.weight, self.bias)
        return F.leaky_relu_(x.add_(self.noise[slice(*wanted), slice(*wanted)]), SLOPE)


class _Block(NamedTuple):
    """A block of the network."""

    name: str
    scale: Tensor
    offset: Tensor
    conv1: _Layer
    conv2: _Layer


class CroppedSynthesis:
    """Make crops of many faces.

    The first convolution reads a constant, each channel scaled by an affine function of w: what it gives is affine in w
    too, and one matrix product instead of a 3 x 3 convolution of all channels, the dearest part of a small crop. Maps
    are channels last and the four wavelet bands lie side by side, as in `hyperdecode.generators.tiled`.

    Parameters
    ----------
    generator : MobileStyleGAN
        Its weights are copied where they are rearranged.
    windows : mapping of str to Window
        Window of each layer that is computed, as far as the deepest of `wanted`.
    wanted : mapping of str to Window
        Window of each layer that is given back, inside that of `windows`.
    """

    def __init__(self, generator: MobileStyleGAN, windows: Mapping[str, Window], wanted: Mapping[str, Window]) -> None:
        self.windows, self.wanted = dict(windows), dict(wanted)
        with torch.no_grad():
            self.first, self.first_bias = _folded(generator)
            self.blocks = []
            for block in generator.blocks:
                last = block is generator.blocks[-1]
                up = _band_order(len(block.up.bias))
                self.blocks.append(
                    _Block(
                        f"b{block.conv2.noise.shape[-1]}",
                        block.up.weight[up] * 0.5,
                        block.up.bias[up] * 0.5,
                        _Layer.of(block.conv1, slice(None)),
                        _Layer.of(block.conv2, slice(None) if last else _band_order(len(block.conv2.bias))),
                    )
                )
            order = _band_order(len(generator.to_rgb_bias))
            self.rgb_style = generator.to_rgb_style
            # Contiguous after the halving, which the wavelet leaves to its input.
            self.rgb_weight = (generator.to_rgb_weight[order] * 0.5).contiguous(memory_format=torch.channels_last)
            self.rgb_bias = generator.to_rgb_bias[order] * 0.5

    def activations(self, w: Tensor) -> dict[str, Tensor]:
        """Run faces as far as the deepest layer wanted.

        Parameters
        ----------
        w : Tensor, (n, latent_dim)

        Returns
        -------
        dict of str to Tensor, (n, channels, height, width)
            In the order of the forward pass.
        """
        found: dict[str, Tensor] = {}
        side = round((self.first.shape[1] / len(self.blocks[0].scale)) ** 0.5)
        x = F.leaky_relu_(torch.addmm(self.first_bias, w, self.first), SLOPE)
        x = x.view(len(w), side, side, -1).permute(0, 3, 1, 2)
        held = self.windows["b4.conv"]
        x = Window(0, side).cut(x, held)
        self._take(found, "b4.conv", x, banded=True)
        for block in self.blocks:
            if len(found) == len(self.wanted):
                return found
            x = _haar_upsample(x * F.linear(w, block.scale, block.offset)[:, :, None, None])
            held = held.doubled()
            for k, layer in enumerate((block.conv1, block.conv2), 1):
                name = f"{block.name}.conv{k}"
                if name not in self.windows:
                    return found
                x, held = layer.run(x, w, held, self.windows[name]), self.windows[name]
                self._take(found, name, x, banded=k == 2 and block is not self.blocks[-1])
        if "image" in self.wanted:
            bands = _haar_upsample(F.conv2d(x * self.rgb_style(w), self.rgb_weight, self.rgb_bias))
            found["image"] = held.doubled().cut(bands, self.wanted["image"])
        return found

    def _take(self, found: dict[str, Tensor], name: str, x: Tensor, banded: bool) -> None:
        if name in self.wanted:
            x = self.windows[name].cut(x, self.wanted[name])
            found[name] = x[:, _band_order(x.shape[1]).argsort()] if banded else x


def _folded(generator: MobileStyleGAN) -> tuple[Tensor, Tensor]:
    """First convolution as a function of w: weights (latent_dim, pixels x channels) and what goes with them."""
    first = generator.conv0
    order = _band_order(len(first.bias))
    weight = first.weight[order]
    if first.depthwise is None:
        read = generator.input[:, None]
        each = torch.stack([F.conv2d(read[c][None], weight[:, c : c + 1], padding=1)[0] for c in range(len(read))])
    else:
        read = F.conv2d(generator.input[None], first.depthwise, padding=1, groups=len(generator.input))[0]
        each = weight[:, :, 0, 0].T[:, :, None, None] * read[:, None]
    # (channels read, pixels x channels given)
    by_channel = each.permute(0, 2, 3, 1).flatten(1).double()
    constant = (first.noise[:, :, None] + first.bias[order]).flatten().double()
    style = first.style
    folded, offset = style.weight.double().T @ by_channel, style.bias.double() @ by_channel + constant
    return folded.to(weight.dtype), offset.to(weight.dtype)


def _band_order(channels: int) -> Tensor:
    """Order that puts channels (low of all, then 3 bands of each) as low, lh, hl, hh of all."""
    quarter = channels // 4
    return torch.cat([torch.arange(quarter), quarter + torch.arange(3 * quarter).reshape(quarter, 3).T.reshape(-1)])


def _haar_upsample(x: Tensor) -> Tensor:
    """Inverse Haar transform (without the factor 1/2) of channels-last features whose bands lie side by side."""
    n, channels, h, w = x.shape
    low, lh, hl, hh = x.permute(0, 2, 3, 1).reshape(n, h, w, 4, channels // 4).unbind(3)
    out = x.new_empty(n, h, 2, w, 2, channels // 4)
    top, bottom, left, right = low + lh, low - lh, hl + hh, hl - hh
    torch.add(top, left, out=out[:, :, 0, :, 0])
    torch.sub(top, left, out=out[:, :, 0, :, 1])
    torch.add(bottom, right, out=out[:, :, 1, :, 0])
    torch.sub(bottom, right, out=out[:, :, 1, :, 1])
    return out.reshape(n, 2 * h, 2 * w, channels // 4).permute(0, 3, 1, 2)

"""StyleGAN2 (Karras 2020, arXiv:1912.04958; ADA: arXiv:2006.06676): z -> w -> modulated convolutions -> picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators.stylegan_base import StyleGAN, fingerprint_of
from hyperdecode.generators.stylegan_layers import (
    SLOPE,
    Affine,
    as_picture,
    below,
    clamped,
    constant,
    count_layers,
    downsample,
    filter_taps,
    modulated_convolution,
    require_tensors,
    setting,
    upsample,
)

__all__ = ["StyleGAN2"]

GAIN = 2**0.5
MAX_SIDE = 4096
DEFAULT_FILTER = (1, 3, 3, 1)
OPTIONAL = ("w_avg", ".noise", ".noise_strength")


class StyleGAN2(StyleGAN):
    """StyleGAN2 config F and its ADA successor, with skip connections, unconditional, in plain torch.

    ``w = f(z / rms(z))``. From a constant of 4 px on, each block doubles the side, and each of its convolutions gives
    ``y = clamp(sqrt(2) lrelu(d (W s) * x + strength noise + b))`` with style ``s = A w + a`` and d from
    `modulated_convolution`. A block's first convolution is transposed and followed by the low-pass filter. Colours
    ``clamp(V t * y + c)``, with style t, of every block are added up, each sum upsampled by the filter.

    The noise inputs are constants: those of the file, or drawn from a seed, or zero. No picture is random.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        All learning-rate gains folded in. For each layer k of the mapping network ``mapping.k.weight`` (out, in),
        ``mapping.k.bias`` (out,); ``w_avg`` (latent_dim,), optional; ``b4.const`` (channels, 4, 4). For each
        convolution c among ``b4.conv1``, ``b8.conv0``, ``b8.conv1``, ``b16.conv0``, ...: ``c.weight`` (out, in, 3, 3)
        (of a transposed convolution where k = 0), ``c.bias`` (out,), ``c.affine.weight`` (in, latent_dim),
        ``c.affine.bias`` (in,), and, both or neither, ``c.noise_strength`` (1,) and ``c.noise`` (side, side; may
        be absent alone). For each side ``b4.to_rgb.weight`` (3, in, 1, 1), ``b4.to_rgb.bias`` (3,),
        ``b4.to_rgb.affine.weight`` (in, latent_dim), ``b4.to_rgb.affine.bias`` (in,).
    settings : mapping, optional
        ``conv_clamp`` (number or None, the default) and ``resample_filter`` (taps; default 1, 3, 3, 1).
    name : str
        Name in manifests.
    noise : {"file", "zero"} or int
        ``"file"``: the constants of the file, or those of seed 0 where it has none. An integer: drawn from N(0, 1)
        by that seed.

    Attributes
    ----------
    fingerprint : str
        SHA-256 over tensors, settings and the choice of noise.

    Raises
    ------
    WeightFileError
        For tensors that are absent, unknown or do not fit the others, and for settings out of range.
    UserError
        For an unknown choice of noise.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        settings: Mapping[str, Any] | None = None,
        name: str = "stylegan2",
        noise: str | int = "file",
    ) -> None:
        if not isinstance(noise, int) and noise not in ("file", "zero"):
            raise UserError(f"noise is {noise!r}, expected 'file', 'zero' or the seed of one to draw")
        sides = _sides(tensors)
        require_tensors(tensors, _expected_shapes(tensors, sides), OPTIONAL, "StyleGAN2")
        settings = settings or {}
        clamp = settings.get("conv_clamp")
        clamp = None if clamp is None else setting(settings, "conv_clamp", 256, 1e-3, 1e6)
        taps = settings.get("resample_filter", DEFAULT_FILTER)
        chosen = {"conv_clamp": clamp, "resample_filter": filter_taps(taps).tolist(), "noise": noise}
        super().__init__(tensors, name, fingerprint_of(tensors, chosen))
        self.resolution, self.num_ws, self.clamp = sides[-1], 2 * len(sides), clamp
        places = _places(sides)
        self.layer_names = (*places, "image")
        self.const = constant(tensors["b4.const"])
        self.filter_: Tensor
        self.register_buffer("filter_", filter_taps(taps), persistent=False)
        fields = _noise_fields(tensors, places, noise)
        self.convolutions = nn.ModuleList(
            _Convolution(below(tensors, place), fields.get(place), place.endswith("conv0"), clamp) for place in places
        )
        self.colours = nn.ModuleList(_Colours(below(tensors, f"b{side}.to_rgb"), clamp) for side in sides)
        self.requires_grad_(False)
        self.train(False)

    def _layers(self, ws: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = self.const.expand(len(ws), -1, -1, -1)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        picture: Tensor | None = None
        for k, convolution in enumerate(self.convolutions):
            x = convolution(x, ws[:, k], self.filter_)
            yield self.layer_names[k], x
            if k % 2 == 0:  # the last convolution of its block; the colours share their w with the next one
                picture = self._with_colours(cast(_Colours, self.colours[k // 2]), picture, x, ws[:, k + 1])
        assert picture is not None
        yield "image", picture.contiguous()

    def _with_colours(self, colours: _Colours, below_: Tensor | None, x: Tensor, w: Tensor) -> Tensor:
        """Add the colours of a block to the sum of those below, in float32 at least."""
        y = colours(x, w)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        if below_ is None:
            return cast(Tensor, y)
        taps = len(self.filter_)
        before, after = (taps + 1) // 2, (taps - 2) // 2
        return cast(Tensor, y + upsample(below_, self.filter_, 2, (before, after, before, after)))


class _Convolution(nn.Module):
    """One modulated convolution with its noise, bias and activation.

    The activation's gain sqrt(2) is folded into what it multiplies: leaky ReLU commutes with positive factors.
    """

    def __init__(self, tensors: Mapping[str, Tensor], noise: Tensor | None, up: bool, clamp: float | None) -> None:
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = Affine(below(tensors, "affine"))
        self.weight = constant(tensors["weight"])
        self.bias = constant(tensors["bias"] * GAIN)
        self.noise = None if noise is None else constant(noise * GAIN)

    def forward(self, x: Tensor, w: Tensor, taps: Tensor) -> Tensor:
        def convolve(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if not self.up:
                return F.conv2d(features, weight, bias, padding=1)
            y = F.conv_transpose2d(features, weight.transpose(0, 1), stride=2)
            before, after = (len(taps) - 1) // 2, (len(taps) - 2) // 2
            both = max(min(before, after), 0)
            first, last = before - both, after - both
            y = F.pad(y, (first, last, first, last)) if first or last else y
            return downsample(y, 2 * taps, 1, bias, padding=both)

        y = modulated_convolution(x, self.weight, self.affine(w), self.bias, convolve, GAIN)
        if self.noise is not None:
            y = y.add_(self.noise)
        return clamped(F.leaky_relu(y, SLOPE, inplace=True), self.clamp)


class _Colours(nn.Module):
    """Features of a block to the colours that it adds."""

    def __init__(self, tensors: Mapping[str, Tensor], clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = Affine(below(tensors, "affine"))
        self.weight, self.bias = constant(tensors["weight"]), constant(tensors["bias"])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return clamped(as_picture(x, self.weight, self.affine(w), self.bias), self.clamp)


def _sides(tensors: Mapping[str, Tensor]) -> list[int]:
    """Sides of the blocks in a file: 4, 8, ... as far as there are convolutions for them."""
    sides = [4]
    while f"b{2 * sides[-1]}.conv1.weight" in tensors and 2 * sides[-1] <= MAX_SIDE:
        sides.append(2 * sides[-1])
    if "b4.const" not in tensors or "mapping.0.weight" not in tensors:
        raise WeightFileError("these tensors hold no StyleGAN2 (no mapping.0.weight or no b4.const)")
    return sides


def _places(sides: list[int]) -> tuple[str, ...]:
    return ("b4.conv1", *(f"b{side}.conv{k}" for side in sides[1:] for k in (0, 1)))


def _expected_shapes(tensors: Mapping[str, Tensor], sides: list[int]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, given the widths: the first dimension of weights and constant."""

    def width(name: str) -> int:
        value = tensors.get(name)
        return len(value) if value is not None and value.ndim else 0

    depth = count_layers(tensors, "mapping")
    first = tensors["mapping.0.weight"]
    latent = first.shape[1] if first.ndim == 2 else 0
    shapes: dict[str, tuple[int, ...]] = {"w_avg": (latent,)}
    inward = latent
    for k in range(depth):
        outward = latent if k == depth - 1 else width(f"mapping.{k}.weight")
        shapes |= {f"mapping.{k}.weight": (outward, inward), f"mapping.{k}.bias": (outward,)}
        inward = outward
    inward = width("b4.const")
    shapes["b4.const"] = (inward, 4, 4)
    for place in _places(sides):
        side, outward = int(place[1:].split(".")[0]), width(f"{place}.weight")
        shapes |= _affine(place, inward, latent)
        shapes |= {f"{place}.weight": (outward, inward, 3, 3), f"{place}.bias": (outward,)}
        shapes |= {f"{place}.noise": (side, side), f"{place}.noise_strength": (1,)}
        inward = outward
        if place.endswith("conv1"):
            colours = f"b{side}.to_rgb"
            shapes |= _affine(colours, inward, latent)
            shapes |= {f"{colours}.weight": (3, inward, 1, 1), f"{colours}.bias": (3,)}
    return shapes


def _affine(place: str, channels: int, latent: int) -> dict[str, tuple[int, ...]]:
    return {f"{place}.affine.weight": (channels, latent), f"{place}.affine.bias": (channels,)}


def _noise_fields(tensors: Mapping[str, Tensor], places: tuple[str, ...], noise: str | int) -> dict[str, Tensor]:
    """Noise times its strength of each convolution that has any."""
    generator = torch.Generator().manual_seed(noise if isinstance(noise, int) else 0)
    fields = {}
    for place in places:
        side = int(place[1:].split(".")[0])
        drawn = torch.randn(side, side, generator=generator)
        constants = tensors.get(f"{place}.noise", drawn) if noise == "file" else drawn
        if noise != "zero" and f"{place}.noise_strength" in tensors:
            fields[place] = constants * tensors[f"{place}.noise_strength"]
    return fields

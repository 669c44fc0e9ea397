"""StyleGAN3 (Karras 2021, arXiv:2106.12423), configs T and R: Fourier features -> alias-free layers -> picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import WeightFileError
from hyperdecode.generators.stylegan3_design import Design, LayerDesign
from hyperdecode.generators.stylegan_base import StyleGAN, fingerprint_of
from hyperdecode.generators.stylegan_layers import (
    SLOPE,
    Affine,
    FullPrecision,
    as_picture,
    below,
    clamped,
    constant,
    count_layers,
    downsample,
    modulated_convolution,
    require_tensors,
    setting,
    upsample,
)

__all__ = ["StyleGAN3"]

GAIN = 2**0.5
CHUNK_BYTES = {"cpu": 16 * 2**20}
CHUNK_BYTES_ELSEWHERE = 2**30
LEAST_CHANNELS = 16  # what one instruction of a CPU works on
OPTIONAL = ("w_avg", ".up_filter", ".down_filter", ".transform")


class StyleGAN3(StyleGAN):
    """StyleGAN3, unconditional, in plain torch.

    ``w = f(z / rms(z))``. Sines of frequencies and phases, turned and shifted by an affine function of w, are mixed
    into the first features. Each layer is ``y = down(clamp(sqrt(2) lrelu(up(gain d (W s) * x + b))))`` with style
    ``s = A w + a``, d from `modulated_convolution`, and low-pass filters around the nonlinearity; the last makes
    the colours without filters.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        All learning-rate gains folded in. For each layer k of the mapping network ``mapping.k.weight`` (out, in),
        ``mapping.k.bias`` (out,); ``w_avg`` (latent_dim,), optional. ``input.freqs`` (channels, 2), ``input.phases``
        (channels,), ``input.weight`` (channels, channels), ``input.affine.weight`` (4, latent_dim),
        ``input.affine.bias`` (4,), ``input.transform`` (3, 3), optional. For each layer ``L0``, ``L1``, ...:
        ``L0.weight`` (out, in, k, k) of unit norm for each output, ``L0.bias`` (out,), ``L0.gain`` (1,),
        ``L0.affine.weight`` (in, latent_dim), ``L0.affine.bias`` (in,), and, where they are not to be designed
        anew, ``L0.up_filter`` and ``L0.down_filter``. The same, without gain and filters and with weights
        (3, in, 1, 1), under ``to_rgb``.
    settings : mapping
        ``resolution``, and what differs from the defaults of `Design`, by the names of NVIDIA's constructor
        (``num_critical``, ``first_cutoff``, ``first_stopband``, ``last_stopband_rel``, ``margin_size``,
        ``filter_size``, ``lrelu_upsampling``, ``use_radial_filters``), ``output_scale`` (0.25), ``conv_clamp``
        (256; None for none).
    name : str
        Name in manifests.

    Attributes
    ----------
    layer_names : tuple of str
        ``L{index}_{side}_{channels}`` as NVIDIA names them, and ``"image"``.

    Raises
    ------
    WeightFileError
        For tensors that are absent, unknown or do not fit the others, and for settings out of range.
    """

    def __init__(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], name: str = "stylegan3") -> None:
        depth = next(k for k in range(len(tensors) + 1) if f"L{k}.weight" not in tensors)
        if not depth or "input.freqs" not in tensors or "mapping.0.weight" not in tensors:
            raise WeightFileError("these tensors hold no StyleGAN3 (no L0.weight, input.freqs or mapping.0.weight)")
        design = Design.from_settings(settings, depth)
        kernel = tensors["L0.weight"].shape[-1] if tensors["L0.weight"].ndim == 4 else 3
        if kernel not in (1, 3):
            raise WeightFileError(f"StyleGAN3 weights have kernels of {kernel} px, expected 1 or 3")
        plans = [design.layer(k, kernel) for k in range(depth)]
        require_tensors(tensors, _expected_shapes(tensors, plans, kernel), OPTIONAL, "StyleGAN3")
        clamp = settings.get("conv_clamp", 256)
        clamp = None if clamp is None else setting(settings, "conv_clamp", 256, 1e-3, 1e6)
        scale = setting(settings, "output_scale", 0.25, 1e-6, 1e6)
        chosen = {**design.as_settings(), "conv_clamp": clamp, "output_scale": scale}
        super().__init__(tensors, name, fingerprint_of(tensors, chosen))
        self.resolution, self.num_ws, self.clamp, self.scale = design.resolution, depth + 2, clamp, scale
        self.input = _FourierFeatures(
            below(tensors, "input"), design.sizes[0], design.rates[0], float(design.cutoffs[0])
        )
        self.layers = nn.ModuleList(_Layer(below(tensors, f"L{k}"), plans[k], clamp) for k in range(depth))
        widths = [len(tensors[f"L{k}.weight"]) for k in range(depth)]
        self.layer_names = (*(f"L{k}_{plans[k].out_size}_{widths[k]}" for k in range(depth)), "image")
        colours = below(tensors, "to_rgb")
        self.to_rgb_affine = Affine(below(colours, "affine"))
        self.to_rgb_weight, self.to_rgb_bias = constant(colours["weight"]), constant(colours["bias"])
        self.requires_grad_(False)
        self.train(False)

    def _layers(self, ws: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = self.input(ws[:, 0]).to(self.to_rgb_weight.dtype)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        for k, layer in enumerate(self.layers):
            x = layer(x, ws[:, k + 1])
            yield self.layer_names[k], x
        y = clamped(as_picture(x, self.to_rgb_weight, self.to_rgb_affine(ws[:, -1]), self.to_rgb_bias), self.clamp)
        y = y.to(torch.promote_types(y.dtype, torch.float32)) * self.scale
        yield "image", y.contiguous()


class _FourierFeatures(FullPrecision):
    """Sines over the plane, moved by w: ``W sin(2 pi (f . p + phase))``."""

    def __init__(self, tensors: Mapping[str, Tensor], size: int, rate: float, bandwidth: float) -> None:
        super().__init__()
        self.rate, self.bandwidth = rate, bandwidth
        self.affine = Affine(below(tensors, "affine"))
        self.freqs, self.phases = constant(tensors["freqs"]), constant(tensors["phases"])
        self.weight = constant(tensors["weight"])
        self.transform = constant(tensors.get("transform", torch.eye(3)))
        self.places: Tensor
        places = (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2) / rate
        self.register_buffer("places", places.float(), persistent=False)

    def forward(self, w: Tensor) -> Tensor:
        """Features (n, channels, size, size) of w (n, latent_dim)."""
        # The affine layer gives (cos, sin, x, y), of any length: turn, then shift, then the file's own transform.
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        turn = torch.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2)
        shift = self.transform[:2, 2] - torch.stack([x, y], 1) * self.transform[2, 2]
        phases = self.phases + (turn @ shift[:, :, None])[:, None, :, 0].mul(self.freqs).sum(2)
        linear = self.transform[:2, :2] - torch.stack([x, y], 1)[:, :, None] * self.transform[2:, :2]
        freqs = self.freqs @ (turn @ linear)
        # Frequencies that the transform pushes out of the band fade.
        excess = (freqs.norm(dim=2) - self.bandwidth) / (self.rate / 2 - self.bandwidth)
        along = freqs[:, :, 0, None] * self.places
        down = freqs[:, :, 1, None] * self.places
        angles = along[:, :, None, :] + down[:, :, :, None] + phases[:, :, None, None]
        sines = torch.sin(2 * math.pi * angles) * (1 - excess).clamp(0, 1)[:, :, None, None]
        return F.conv2d(sines, self.weight[:, :, None, None])


class _Layer(nn.Module):
    """One modulated convolution and its filtered leaky ReLU, whose gain sqrt(2) is folded into what it multiplies."""

    def __init__(self, tensors: Mapping[str, Tensor], plan: LayerDesign, clamp: float | None) -> None:
        super().__init__()
        self.plan, self.clamp = plan, clamp
        self.affine = Affine(below(tensors, "affine"))
        self.weight = constant(tensors["weight"])
        self.bias = constant(tensors["bias"] * GAIN)
        self.gain = float(tensors["gain"]) * GAIN
        self.up_filter = _filter(tensors.get("up_filter"), plan.up_filter)
        self.down_filter = _filter(tensors.get("down_filter"), plan.down_filter)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        def convolve(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return F.conv2d(features, weight, bias, padding=weight.shape[-1] - 1)

        x = modulated_convolution(x, self.weight, self.affine(w), self.bias, convolve, self.gain)
        if torch.is_grad_enabled() and x.requires_grad:
            return self._filtered(x)
        # Channels do not meet here, and the maps between the filters are large.
        side = self.plan.down * self.plan.out_size + 64
        limit = CHUNK_BYTES.get(x.device.type, CHUNK_BYTES_ELSEWHERE)
        channels = max(limit // max(len(x) * side**2 * x.element_size(), 1), LEAST_CHANNELS)
        return torch.cat([self._filtered(part) for part in torch.split(x, channels, 1)], 1)

    def _filtered(self, x: Tensor) -> Tensor:
        first, last = self.plan.padding
        padding = (first, last, first, last)
        x = F.pad(x, padding) if self.up_filter is None else upsample(x, self.up_filter, self.plan.up, padding)
        x = clamped(F.leaky_relu(x, SLOPE, inplace=not x.requires_grad), self.clamp)
        return x if self.down_filter is None else downsample(x, self.down_filter, self.plan.down)


def _filter(given: Tensor | None, designed: Any) -> nn.Parameter | None:
    if given is not None:
        return constant(given)
    return None if designed is None else constant(torch.from_numpy(designed))


def _expected_shapes(
    tensors: Mapping[str, Tensor], plans: list[LayerDesign], kernel: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, given the widths: the first dimension of weights and frequencies."""

    def width(name: str) -> int:
        value = tensors.get(name)
        return len(value) if value is not None and value.ndim else 0

    first = tensors["mapping.0.weight"]
    latent = first.shape[1] if first.ndim == 2 else 0
    shapes: dict[str, tuple[int, ...]] = {"w_avg": (latent,)}
    depth, inward = count_layers(tensors, "mapping"), latent
    for k in range(depth):
        outward = latent if k == depth - 1 else width(f"mapping.{k}.weight")
        shapes |= {f"mapping.{k}.weight": (outward, inward), f"mapping.{k}.bias": (outward,)}
        inward = outward
    inward = width("input.freqs")
    shapes |= {"input.freqs": (inward, 2), "input.phases": (inward,), "input.weight": (inward, inward)}
    shapes |= {"input.affine.weight": (4, latent), "input.affine.bias": (4,), "input.transform": (3, 3)}
    for k, plan in enumerate(plans):
        outward = width(f"L{k}.weight")
        shapes |= {f"L{k}.weight": (outward, inward, kernel, kernel), f"L{k}.bias": (outward,), f"L{k}.gain": (1,)}
        shapes |= {f"L{k}.affine.weight": (inward, latent), f"L{k}.affine.bias": (inward,)}
        for side, filter_ in (("up", plan.up_filter), ("down", plan.down_filter)):
            if filter_ is not None:
                shapes[f"L{k}.{side}_filter"] = filter_.shape
        inward = outward
    shapes |= {"to_rgb.weight": (3, inward, 1, 1), "to_rgb.bias": (3,)}
    return shapes | {"to_rgb.affine.weight": (inward, latent), "to_rgb.affine.bias": (inward,)}

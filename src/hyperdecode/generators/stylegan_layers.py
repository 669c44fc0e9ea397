"""What StyleGAN2 and StyleGAN3 share: mapping network, styles, modulated convolution, resampling, checks of shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import WeightFileError

__all__ = [
    "SLOPE", "Affine", "FullPrecision", "MappingNetwork", "as_picture", "below", "clamped", "constant",
    "count_layers", "downsample", "filter_taps", "modulated_convolution", "require_tensors", "setting", "upsample",
]  # fmt: skip

SLOPE = 0.2
HALF = (torch.float16, torch.bfloat16)
MAX_LAYERS = 64
MAX_TAPS = 64


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose name starts with ``prefix.``, under the rest of their name."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def constant(value: Tensor) -> nn.Parameter:
    """Copy a tensor into a parameter that is not trained."""
    return nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


def count_layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Count the mapping layers ``prefix.0.weight``, ``prefix.1.weight``, ... of a file, at most 64."""
    return next((k for k in range(MAX_LAYERS) if f"{prefix}.{k}.weight" not in tensors), MAX_LAYERS)


def require_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], optional: Sequence[str], family: str
) -> None:
    """Refuse tensors that do not fit together before one of them is broadcast, or fails, far from its cause.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    expected : mapping of str to shape
        Every tensor that the network can have.
    optional : sequence of str
        Names, or ends of names, that may be absent.
    family : str
        Named in messages.

    Raises
    ------
    WeightFileError
        For a tensor that is absent, unknown or of another shape.
    """
    for name, shape in expected.items():
        if name not in tensors and not name.endswith(tuple(optional)):
            raise WeightFileError(f"{family} weights lack the tensor {name}: import the file anew")
        if name in tensors and tuple(tensors[name].shape) != shape:
            raise WeightFileError(
                f"{family} weights do not fit together: {name} has shape {tuple(tensors[name].shape)}, "
                f"expected {shape}: import the file anew"
            )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise WeightFileError(f"{family} weights hold a tensor that the network has no place for: {unknown[0]}")


def setting(settings: Mapping[str, Any], key: str, default: float, least: float, most: float) -> float:
    """Read a number of the settings that came with a file; a `WeightFileError` unless least <= it <= most."""
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise WeightFileError(f"setting {key} is {str(value)[:40]!r}, expected a number from {least:g} to {most:g}")
    return value


def filter_taps(taps: Any) -> Tensor:
    """Low-pass filter with a sum of 1 from the taps in the settings; a `WeightFileError` when they are none."""
    fits = isinstance(taps, list | tuple) and 1 <= len(taps) <= MAX_TAPS
    if not fits or not all(isinstance(tap, int | float) and math.isfinite(tap) for tap in taps) or not sum(taps):
        raise WeightFileError(f"setting resample_filter is {str(taps)[:40]!r}, expected taps such as [1, 3, 3, 1]")
    filter_ = torch.tensor(taps, dtype=torch.float64)
    return (filter_ / filter_.sum()).float()


class FullPrecision(nn.Module):
    """A module whose parameters stay in float32 when the network goes to half precision.

    The maps from z to w and from w to styles cost little, and an error there shifts the whole picture.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def kept(value: Tensor) -> Tensor:
            moved = fn(value)
            return value.to(moved.device) if moved.dtype in HALF else moved

        return super()._apply(kept, recurse)  # type: ignore[no-any-return,no-untyped-call]


class Affine(FullPrecision):
    """Style of one layer: ``s = A w + b``, (n, latent_dim) -> (n, channels)."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weight, self.bias = constant(tensors["weight"]), constant(tensors["bias"])

    def forward(self, w: Tensor) -> Tensor:
        """Styles (n, channels) of w (n, latent_dim)."""
        return F.linear(w, self.weight, self.bias)


class MappingNetwork(FullPrecision):
    """From z to w: ``x = z / rms(z)``, then layers ``x = sqrt(2) lrelu(A x + b)``.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        ``k.weight`` (out, in) and ``k.bias`` (out,) of each layer; learning-rate gains folded in.
    mean : Tensor, (latent_dim,), optional
        The mean w that the file brings along.
    """

    def __init__(self, tensors: Mapping[str, Tensor], mean: Tensor | None = None) -> None:
        super().__init__()
        self.mean = None if mean is None else constant(mean)
        depth = len(tensors) // 2
        self.weights = nn.ParameterList(constant(tensors[f"{k}.weight"]) for k in range(depth))
        self.biases = nn.ParameterList(constant(tensors[f"{k}.bias"]) for k in range(depth))

    @property
    def dtype(self) -> torch.dtype:
        """Number format that z and w are computed in."""
        dtype: torch.dtype = self.weights[0].dtype
        return dtype

    def forward(self, z: Tensor) -> Tensor:
        """Latents w (n, latent_dim) of z (n, latent_dim)."""
        x = z.to(self.dtype)
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = F.leaky_relu(F.linear(x, weight, bias), SLOPE) * 2**0.5
        return x


def modulated_convolution(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    gain: float = 1.0,
) -> Tensor:
    """Convolve with weights that each picture's style scales, output channels brought back to unit variance.

    ``y_o = gain d_o sum_i (s_i w_oi) * x_i + b_o`` with ``d_o = (sum_ik (s_i w_oik)^2 + 1e-8)^(-1/2)``; computed with
    ``sum_i s_i^2 (sum_k w_oik^2)``, in float32 at least. For one picture whose weights are fewer than its features
    the weights are scaled, else the features before and after: equal but for rounding.

    Parameters
    ----------
    x : Tensor, (n, in, h, w)
    weight : Tensor, (out, in, k, k)
    styles : Tensor, (n, in)
    bias : Tensor, (out,)
    convolve : callable
        From features, weights and bias (or None) to a map, linear in the first two.
    gain : float

    Returns
    -------
    Tensor, (n, out, h', w')
        In the number format of `x`.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if x.dtype == torch.float16:
        # d undoes these scales; without them sums of products pass the largest float16, 65504.
        wide = wide / (wide.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) * wide[0].numel() ** 0.5)
        styles = styles / styles.abs().amax(1, keepdim=True).clamp_min(1e-12)
    energy = wide.square().sum((2, 3))
    after = gain * torch.rsqrt(F.linear(styles.square(), energy) + 1e-8)
    if len(x) == 1 and weight.numel() < x.numel():
        scaled = wide * styles[0, None, :, None, None] * after[0, :, None, None, None]
        return convolve(x, scaled.to(x.dtype), bias)
    y = convolve(x * styles.to(x.dtype)[:, :, None, None], wide.to(x.dtype), None)
    return y * after.to(x.dtype)[:, :, None, None] + bias[:, None, None]


def as_picture(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
    """Colours of features: ``y_o = sum_i s_i w_oi x_i + b_o``, (n, channels, h, w) -> (n, 3, h, w)."""
    scaled = (weight[None, :, :, 0, 0].to(styles.dtype) * styles[:, None]).to(x.dtype)
    return torch.einsum("nihw,noi->nohw", x, scaled) + bias[:, None, None]


def clamped(x: Tensor, limit: float | None) -> Tensor:
    """Cut values off at +-limit, where there is one; in place unless a gradient will pass."""
    if limit is None:
        return x
    return x.clamp(-limit, limit) if x.requires_grad else x.clamp_(-limit, limit)


def upsample(x: Tensor, taps: Tensor, factor: int, padding: tuple[int, int, int, int]) -> Tensor:
    """Put `factor` - 1 zeros behind each pixel, pad, filter along rows and columns, keep the mean brightness.

    Each output pixel meets only the taps that do not fall on zeros: one small filter a phase.

    Parameters
    ----------
    x : Tensor, (n, channels, h, w)
    taps : Tensor, (t,)
        Low-pass filter with a sum of 1; convolved, so it acts reversed.
    factor : int
    padding : left, right, top, bottom
        Zeros around the map with zeros put in; negative numbers cut off.

    Returns
    -------
    Tensor, (n, channels, factor h + top + bottom - t + 1, factor w + left + right - t + 1)
    """
    taps = taps.to(x) * factor
    left, right, top, bottom = padding
    x = _upsample_axis(x, taps, factor, left, right, axis=3)
    return _upsample_axis(x, taps, factor, top, bottom, axis=2)


def _upsample_axis(x: Tensor, taps: Tensor, factor: int, before: int, after: int, axis: int) -> Tensor:
    # y[j] = sum_i x[i] f[j + first - factor i]; with j + first = factor q + r the taps of phase r are f[r::factor].
    first = len(taps) - 1 - before
    length = factor * x.shape[axis] + before + after - len(taps) + 1
    q, last_q = first // factor, (first + length - 1) // factor
    taps = F.pad(taps, (0, -len(taps) % factor))
    reach = len(taps) // factor - 1
    pad = (reach - q, last_q - x.shape[axis] + 1)
    x = F.pad(x, (*pad, 0, 0) if axis == 3 else (0, 0, *pad))
    shape = (1, 1, 1, -1) if axis == 3 else (1, 1, -1, 1)
    kernels = [taps[r::factor].flip(0).reshape(shape).expand(x.shape[1], -1, -1, -1) for r in range(factor)]
    # Channels last all the way: depthwise convolutions are many times faster so, and phases interleave in one copy.
    phases = [F.conv2d(x, kernel, groups=x.shape[1]).movedim(1, -1) for kernel in kernels]
    y = torch.stack(phases, axis).flatten(axis - 1, axis).movedim(-1, 1)
    return y.narrow(axis, first - factor * q, length)


def downsample(x: Tensor, taps: Tensor, factor: int, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """Filter and keep one pixel of `factor` along rows and columns.

    Parameters
    ----------
    x : Tensor, (n, channels, h, w)
    taps : Tensor, (t,) or (t, t)
        Convolved, so it acts reversed; a vector acts along rows and columns.
    factor : int
        1 filters only.
    bias : Tensor, (channels,), optional
        Added to the result.
    padding : int
        Zeros on each side.

    Returns
    -------
    Tensor, (n, channels, (h + 2 padding - t) // factor + 1, (w + 2 padding - t) // factor + 1)
    """
    channels, taps = x.shape[1], taps.to(x)
    if taps.ndim == 1 and len(taps) > 4:
        row = taps.flip(0).expand(channels, 1, 1, -1)
        x = F.conv2d(x, row, None, (1, factor), (0, padding), groups=channels)
        return F.conv2d(x, row.transpose(2, 3), bias, (factor, 1), (padding, 0), groups=channels)
    square = (torch.outer(taps, taps) if taps.ndim == 1 else taps).flip(0, 1)
    return F.conv2d(x, square.expand(channels, 1, -1, -1), bias, factor, padding, groups=channels)

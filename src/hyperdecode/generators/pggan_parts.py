"""What a PGGAN is made of: the names and shapes of its tensors, the sides of its layers, pixel normalisation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from hyperdecode.errors import WeightFileError

__all__ = ["EPSILON", "SLOPE", "layer_at", "pixel_norm", "require_shapes", "side_of"]

SLOPE = 0.2
EPSILON = 1e-8
MAX_RESOLUTION = 1024


def pixel_norm(x: Tensor) -> Tensor:
    """Scale the channels (axis 1) of each pixel to a mean square of one.

    ``x / sqrt(mean_channels x^2 + 1e-8)``, the mean taken in float32 where x is narrower.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return x * torch.rsqrt(wide.square().mean(1, keepdim=True) + EPSILON).to(x.dtype)


def side_of(layer: int) -> int:
    """Return the side of the map of a convolution, numbered from 1: 4, 4, 8, 8, 16, ..."""
    return 1 << ((layer + 3) // 2)


def layer_at(side: int) -> int:
    """Return the number of the last convolution at a side."""
    return 2 * side.bit_length() - 4


def require_shapes(tensors: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...], float]:
    """Refuse tensors that are no PGGAN.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By the names that `PGGAN` takes.

    Returns
    -------
    depth : int
        Number of convolutions.
    sides : tuple of int
        Sides whose colours the tensors hold, lowest first.
    lod : float
        Level of detail, 0 where none is given.

    Raises
    ------
    WeightFileError
        When a tensor is absent, unknown, or has a shape that does not fit the others.
    """
    depth = sum(re.fullmatch(r"conv\.\d+\.weight", name) is not None for name in tensors)
    if not depth:
        raise WeightFileError("these tensors hold no PGGAN (no conv.1.weight): convert the file anew")
    side = side_of(depth)
    if depth % 2 or side > MAX_RESOLUTION:
        raise WeightFileError(
            f"PGGAN weights hold {depth} convolutions, expected two a side from 4 to at most {MAX_RESOLUTION} px: "
            "convert the file anew"
        )
    sides = [s for s in (1 << n for n in range(2, side.bit_length())) if s == side or f"to_rgb.{s}.weight" in tensors]
    expected = _expected_shapes(tensors, depth, sides)
    for name in (*tensors, *expected):
        if name not in expected:
            raise WeightFileError(f"PGGAN weights hold an unknown tensor {name}: convert the file anew")
        if name not in tensors:
            raise WeightFileError(f"PGGAN weights lack the tensor {name}: convert the file anew")
        if tuple(tensors[name].shape) != expected[name]:
            raise WeightFileError(
                f"PGGAN weights do not fit together: {name} has shape {tuple(tensors[name].shape)}, "
                f"expected {expected[name]}: convert the file anew"
            )
    lod = _level_of_detail(tensors, side)
    for level in {math.floor(lod), math.ceil(lod)}:
        if side >> level not in sides:
            raise WeightFileError(
                f"PGGAN weights lack the tensor to_rgb.{side >> level}.weight, which lod {lod:g} at {side} px reads: "
                "convert the file anew"
            )
    return depth, tuple(sides), lod


def _expected_shapes(tensors: Mapping[str, Tensor], depth: int, sides: list[int]) -> dict[str, tuple[int, ...]]:
    def length(name: str, axis: int) -> int:
        # A tensor that is absent, or has another number of axes, is refused by its own name, so any number serves.
        return max(int(tensors[name].shape[axis]), 1) if name in tensors and tensors[name].ndim == 4 else 1

    expected: dict[str, tuple[int, ...]] = {"lod": ()} if "lod" in tensors else {}
    inward = length("conv.1.weight", 1)
    for k in range(1, depth + 1):
        outward, kernel = length(f"conv.{k}.weight", 0), 4 if k == 1 else 3
        expected |= {f"conv.{k}.weight": (outward, inward, kernel, kernel), f"conv.{k}.bias": (outward,)}
        inward = outward
    for side in sides:
        channels = length(f"conv.{layer_at(side)}.weight", 0)
        expected |= {f"to_rgb.{side}.weight": (3, channels), f"to_rgb.{side}.bias": (3,)}
    return expected


def _level_of_detail(tensors: Mapping[str, Tensor], side: int) -> float:
    lod, highest = float(tensors["lod"]) if "lod" in tensors else 0.0, side.bit_length() - 3
    if not 0 <= lod <= highest:
        raise WeightFileError(
            f"PGGAN weights have lod {lod:g}, expected 0 to {highest} at {side} px: convert the file anew"
        )
    return lod

"""The layout of VGGFace2's ResNet50 in Keras, turned into the tensors that `features.ResNet50` takes."""

from __future__ import annotations

import numpy as np

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import Tensors, WeightContents, Weights

__all__ = ["BLOCKS", "LICENCE", "from_keras", "recognise"]

BLOCKS = (3, 4, 6, 3)
"""Residual blocks of each stage."""

LICENCE = "VGGFace2 and its networks are for non-commercial research only (Cao et al. 2018)"
EPSILON = 1e-3  # the default of Keras, which its port keeps
STEM = "conv1/7x7_s2"


def recognise(contents: WeightContents) -> str | None:
    """Say whether a file has this layout, by the names of its tensors: ``"keras"``, or None."""
    names = _plain(contents).keys()
    squeezed = any("_1x1_down" in name for name in names)  # SENet50 has every layer of ResNet50, and more
    return "keras" if f"{STEM}/kernel" in names and "conv5_3_1x1_increase/kernel" in names and not squeezed else None


def from_keras(contents: WeightContents) -> Weights:
    """Convert the weights of rcmalli/keras-vggface's ResNet50, with or without its classifier.

    Each convolution comes without a bias and is followed by a batch normalisation, which is folded in:
    ``y = k (W * x) + beta - k mean`` with ``k = gamma / sqrt(variance + 0.001)``.

    Parameters
    ----------
    contents : WeightContents
        Tensors ``conv{stage}_{block}_{1x1_reduce | 3x3 | 1x1_increase | 1x1_proj}/kernel`` (height, width, in, out) and
        ``.../bn/{gamma | beta | moving_mean | moving_variance}``, stages 2 to 5, blocks from 1, behind
        ``conv1/7x7_s2``; ``:0`` may follow each name.

    Returns
    -------
    Weights
        ``stem.weight | bias``, ``stages.{s}.{b}.{reduce | middle | increase | project}.weight | bias``, s and b from 0,
        weights (out, in, height, width).

    Raises
    ------
    WeightFileError
        When a tensor is absent or misshapen.

    Notes
    -----
    Source: `keras_vggface/models.py`, function `RESNET50`, of rcmalli/keras-vggface.
    """
    file = _File(contents)
    width = file.outputs(STEM)
    tensors = file.convolution(STEM, "stem", 7, 3, width)
    inward = width
    for s, blocks in enumerate(BLOCKS):
        narrow = file.outputs(f"conv{s + 2}_1_1x1_reduce")
        wide = file.outputs(f"conv{s + 2}_1_1x1_increase")
        for b in range(blocks):
            theirs, ours = f"conv{s + 2}_{b + 1}", f"stages.{s}.{b}"
            tensors |= file.convolution(f"{theirs}_1x1_reduce", f"{ours}.reduce", 1, inward, narrow)
            tensors |= file.convolution(f"{theirs}_3x3", f"{ours}.middle", 3, narrow, narrow)
            tensors |= file.convolution(f"{theirs}_1x1_increase", f"{ours}.increase", 1, narrow, wide)
            if b == 0:
                tensors |= file.convolution(f"{theirs}_1x1_proj", f"{ours}.project", 1, inward, wide)
            inward = wide
    return Weights("resnet50-vggface2", "ResNet50 (VGGFace2), keras-vggface .h5", tensors, licence=LICENCE)


class _File:
    """The tensors of a Keras file by their plain names, and what a layer asks of them."""

    def __init__(self, contents: WeightContents) -> None:
        self.source, self.tensors = contents.source, _plain(contents)

    def take(self, name: str, *shape: int | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Return a tensor in double precision; None in `shape` takes any length but zero."""
        if name not in self.tensors:
            raise WeightFileError(f"{self.source}: no tensor {name!r}, this is no ResNet50 of keras-vggface")
        value = self.tensors[name]
        fits = len(value.shape) == len(shape) and all(
            length == wanted or (wanted is None and length) for length, wanted in zip(value.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise WeightFileError(f"{self.source}: {name} has shape {value.shape}, expected ({wanted})")
        return value.astype(np.float64)

    def outputs(self, layer: str) -> int:
        """Return the channels that a convolution gives."""
        return self.take(f"{layer}/kernel", None, None, None, None).shape[3]

    def convolution(self, layer: str, ours: str, side: int, inward: int, outward: int) -> Tensors:
        """Return a convolution with the normalisation behind it folded in."""
        kernel = self.take(f"{layer}/kernel", side, side, inward, outward)
        gamma, beta, mean, variance = (
            self.take(f"{layer}/bn/{part}", outward) for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        if not (variance >= 0).all():
            raise WeightFileError(f"{self.source}: {layer}/bn/moving_variance is negative, the file is damaged")
        scale = gamma / np.sqrt(variance + EPSILON)
        weight = (kernel * scale).transpose(3, 2, 0, 1)
        return {
            f"{ours}.weight": np.ascontiguousarray(weight, np.float32),
            f"{ours}.bias": (beta - scale * mean).astype(np.float32),
        }


def _plain(contents: WeightContents) -> Tensors:
    """Tensors by their names without Keras' ``:0``."""
    return {name.removesuffix(":0"): value for name, value in contents.tensors.items()}

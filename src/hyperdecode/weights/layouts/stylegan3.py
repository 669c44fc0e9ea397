"""StyleGAN3 weights: NVIDIA's PyTorch pickles, configs T and R."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hyperdecode.weights.contents import Tensors, WeightContents, Weights
from hyperdecode.weights.layouts.stylegan_parts import (
    LICENCE,
    Source,
    constructor_arguments,
    contiguous,
    nvidia_mapping,
    refuse_other_than,
    scaled,
)

__all__ = ["LAYOUTS", "from_nvidia", "recognise"]

LAYER = re.compile(r"synthesis\.(L(\d{1,2})_(\d{1,4})_\d{1,4})\.")
DESIGN = (
    "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel", "margin_size", "filter_size",
    "lrelu_upsampling", "use_radial_filters", "output_scale", "conv_clamp",
)  # fmt: skip


def recognise(contents: WeightContents) -> str | None:
    """Name the layout of a file: ``"nvidia"``, or None for no StyleGAN3."""
    return "nvidia" if "synthesis.input.freqs" in contents.tensors else None


def from_nvidia(contents: WeightContents) -> Weights:
    """Read StyleGAN3 of NVIDIA's repository stylegan3.

    Parameters
    ----------
    contents : WeightContents
        The state of ``G_ema`` (``synthesis.L0_36_512.affine.weight``) and the constructor's arguments. The filters
        that the file holds are taken over.

    Returns
    -------
    Weights
        Family ``"stylegan3"``: the tensors that `hyperdecode.generators.stylegan3.StyleGAN3` takes.

    Raises
    ------
    WeightFileError
        For a conditional network and a file that lacks tensors.
    """
    source, arguments = Source(contents, "StyleGAN3 by NVIDIA"), constructor_arguments(contents)
    if arguments.get("c_dim") or any(name.startswith("mapping.embed.") for name in contents.tensors):
        raise source.refuse("the network is conditional (it has class labels), only unconditional ones are supported")
    refuse_other_than(source, arguments, {"img_channels": 3}, "use another model")
    found = sorted({(int(m[2]), int(m[3]), m[1]) for m in map(LAYER.match, contents.tensors) if m})
    if len(found) < 2 or [index for index, _, _ in found] != list(range(len(found))):
        raise source.refuse("its layers L0, L1, ... are not all there")
    tensors = nvidia_mapping(source, arguments) | _fourier_features(source)
    for index, _, name in found[:-1]:
        tensors |= _layer(source, f"synthesis.{name}", f"L{index}")
    *_, (_, side, name) = found
    theirs = f"synthesis.{name}"
    gain = 1 / np.sqrt(_magnitude(source, theirs))
    tensors["to_rgb.weight"] = (scaled(source.take(f"{theirs}.weight", 4)) * gain).astype(np.float32)
    tensors["to_rgb.bias"] = source.take(f"{theirs}.bias", 1)
    tensors |= source.affine(f"{theirs}.affine", "to_rgb.affine")
    settings: dict[str, Any] = {key: arguments[key] for key in DESIGN if key in arguments}
    # Nothing but the filters' shape tells the config of a file without its constructor's arguments.
    radial = any(name.endswith(".down_filter") and value.ndim == 2 for name, value in tensors.items())
    settings |= {"resolution": arguments.get("img_resolution", side), "use_radial_filters": radial}
    return Weights(
        "stylegan3", f"StyleGAN3-{'R' if radial else 'T'}, NVIDIA pickle", contiguous(tensors), settings, LICENCE
    )


def _fourier_features(source: Source) -> Tensors:
    tensors = {
        "input.freqs": source.take("synthesis.input.freqs", 2),
        "input.phases": source.take("synthesis.input.phases", 1),
        "input.weight": scaled(source.take("synthesis.input.weight", 2)),
        **source.affine("synthesis.input.affine", "input.affine"),
    }
    if "synthesis.input.transform" in source.tensors:
        tensors["input.transform"] = source.take("synthesis.input.transform", 2)
    return tensors


def _layer(source: Source, theirs: str, ours: str) -> Tensors:
    weight = source.take(f"{theirs}.weight", 4)
    norm = np.sqrt(np.square(weight.astype(np.float64)).sum((1, 2, 3), keepdims=True))
    if not (norm > 0).all():
        raise source.refuse(f"{theirs}.weight has an output whose weights are all zero")
    tensors = {
        f"{ours}.weight": (weight / norm).astype(np.float32),
        f"{ours}.bias": source.take(f"{theirs}.bias", 1),
        f"{ours}.gain": (1 / np.sqrt(_magnitude(source, theirs))).astype(np.float32),
        **source.affine(f"{theirs}.affine", f"{ours}.affine"),
    }
    for which in ("up_filter", "down_filter"):
        if f"{theirs}.{which}" in source.tensors:
            tensors[f"{ours}.{which}"] = source.tensors[f"{theirs}.{which}"]
    return tensors


def _magnitude(source: Source, theirs: str) -> Any:
    magnitude = source.number(f"{theirs}.magnitude_ema")
    if not magnitude > 0:
        raise source.refuse(f"{theirs}.magnitude_ema is {float(magnitude[0])}, expected a positive number")
    return magnitude


LAYOUTS: Mapping[str, Callable[[WeightContents], Weights]] = {"nvidia": from_nvidia}
"""What `recognise` returns -> how to convert it."""

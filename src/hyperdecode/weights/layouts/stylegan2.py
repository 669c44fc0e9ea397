"""StyleGAN2 weights: NVIDIA's PyTorch (ADA) pickles, NVIDIA's TensorFlow pickles, rosinality's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.weights.contents import Tensors, WeightContents, Weights
from hyperdecode.weights.layouts.stylegan_parts import (
    LICENCE,
    MAPPING_RATE,
    Source,
    constructor_arguments,
    contiguous,
    nvidia_mapping,
    refuse_other_than,
    scaled,
)

__all__ = ["LAYOUTS", "from_dnnlib", "from_nvidia", "from_rosinality", "recognise"]

REMEDY = "use another model"
DEFAULT_FILTER = [1, 3, 3, 1]
STYLEGAN3_CLAMP = 256  # the default of the stylegan3 repository, whose files hold synthesis arguments unnested


def recognise(contents: WeightContents) -> str | None:
    """Name the layout of a file: ``"nvidia"``, ``"dnnlib"``, ``"rosinality"``, or None for no StyleGAN2."""
    names = contents.tensors.keys()
    if "synthesis.b4.const" in names:
        return "nvidia"
    if any(f"{prefix}synthesis/4x4/Conv/mod_weight" in names for prefix in ("", "G_")):
        return "dnnlib"
    if any(f"{prefix}input.input" in names and f"{prefix}to_rgb1.conv.weight" in names for prefix in ("", "g_ema.")):
        return "rosinality"
    return None


def from_nvidia(contents: WeightContents) -> Weights:
    """Read StyleGAN2 of NVIDIA's PyTorch repositories (stylegan2-ada-pytorch, stylegan3).

    Parameters
    ----------
    contents : WeightContents
        The state of ``G_ema`` (``synthesis.b8.conv0.affine.weight``) and the constructor's arguments.

    Returns
    -------
    Weights
        Family ``"stylegan2"``: the tensors that `hyperdecode.generators.stylegan2.StyleGAN2` takes.

    Raises
    ------
    WeightFileError
        For a conditional network, another architecture than ``skip``, and a file that lacks tensors.
    """
    source, arguments = Source(contents, "StyleGAN2 by NVIDIA, PyTorch"), constructor_arguments(contents)
    synthesis = arguments.get("synthesis_kwargs")
    unnested = "z_dim" in arguments and not isinstance(synthesis, Mapping)
    options: dict[str, Any] = {**arguments, **(synthesis if isinstance(synthesis, Mapping) else {})}
    _refuse_variants(source, options)
    if any(name.startswith("mapping.embed.") for name in contents.tensors):
        raise source.refuse("the network is conditional (it has class labels), only unconditional ones are supported")
    tensors = nvidia_mapping(source, arguments)
    tensors["b4.const"] = source.take("synthesis.b4.const", 3)
    for side in source.sides(r"synthesis\.b(\d{1,4})\.", options.get("img_resolution")):
        for k in (1,) if side == 4 else (0, 1):
            place, theirs = f"b{side}.conv{k}", f"synthesis.b{side}.conv{k}"
            tensors[f"{place}.weight"] = source.take(f"{theirs}.weight", 4)
            tensors[f"{place}.bias"] = source.take(f"{theirs}.bias", 1)
            tensors |= source.affine(f"{theirs}.affine", f"{place}.affine")
            if f"{theirs}.noise_strength" in contents.tensors:
                tensors[f"{place}.noise_strength"] = source.number(f"{theirs}.noise_strength")
                tensors[f"{place}.noise"] = source.take(f"{theirs}.noise_const", 2)
        place, theirs = f"b{side}.to_rgb", f"synthesis.b{side}.torgb"
        tensors[f"{place}.weight"] = scaled(source.take(f"{theirs}.weight", 4))
        tensors[f"{place}.bias"] = source.take(f"{theirs}.bias", 1)
        tensors |= source.affine(f"{theirs}.affine", f"{place}.affine")
    settings = {
        "conv_clamp": options.get("conv_clamp", STYLEGAN3_CLAMP if unnested else None),
        "resample_filter": _taps_of(source, "synthesis.b4.conv1.resample_filter", options),
    }
    return Weights("stylegan2", "StyleGAN2, NVIDIA PyTorch pickle", contiguous(tensors), settings, LICENCE)


def from_dnnlib(contents: WeightContents) -> Weights:
    """Read StyleGAN2 of NVIDIA's TensorFlow repositories (stylegan2, stylegan2-ada).

    Convolutions are stored (k, k, in, out); those that upsample are stored the other way round in both directions;
    a style's bias lacks the 1 that is added to it.

    Parameters
    ----------
    contents : WeightContents
        The variables of ``Gs``, those of its components under ``G_mapping/`` and ``G_synthesis/`` (or without
        ``G_``), and its ``static_kwargs``.

    Returns
    -------
    Weights

    Raises
    ------
    WeightFileError
        As `from_nvidia`.
    """
    source, options = Source(contents, "StyleGAN2 by NVIDIA, TensorFlow"), constructor_arguments(contents)
    synthesis, mapping = (f"{_dnnlib_prefix(contents)}{part}" for part in ("synthesis", "mapping"))
    _refuse_variants(source, options)
    if any("/LabelConcat/" in name or "/LabelEmbed/" in name for name in contents.tensors):
        raise source.refuse("the network is conditional (it has class labels), only unconditional ones are supported")
    refuse_other_than(source, options, {"mapping_nonlinearity": "lrelu", "normalize_latents": True}, REMEDY)
    rate = options.get("mapping_lrmul", MAPPING_RATE)
    tensors: Tensors = {"b4.const": source.take(f"{synthesis}/4x4/Const/const", 4)[0]}
    for k in range(source.count(rf"{mapping}/Dense(\d{{1,2}})/", "mapping layers")):
        theirs = f"{mapping}/Dense{k}"
        weight, bias = source.take(f"{theirs}/weight", 2).T, source.take(f"{theirs}/bias", 1)
        tensors |= source.dense(weight, bias, rate, f"mapping.{k}")
    if "dlatent_avg" in contents.tensors:
        tensors["w_avg"] = source.take("dlatent_avg", 1)
    for side in source.sides(rf"{synthesis}/(\d{{1,4}})x\1/", options.get("resolution")):
        theirs = f"{synthesis}/{side}x{side}"
        index = 2 * side.bit_length() - 7  # of the noise of the block's first convolution
        if side > 4:
            tensors |= _dnnlib_convolution(source, f"{theirs}/Conv0_up", f"b{side}.conv0", f"{synthesis}/noise{index}")
        last = "Conv" if side == 4 else "Conv1"
        tensors |= _dnnlib_convolution(source, f"{theirs}/{last}", f"b{side}.conv1", f"{synthesis}/noise{index + 1}")
        tensors |= _dnnlib_modulated(source, f"{theirs}/ToRGB", f"b{side}.to_rgb")
    settings = {
        "conv_clamp": options.get("conv_clamp"),
        "resample_filter": options.get("resample_kernel", DEFAULT_FILTER) or [1],
    }
    return Weights("stylegan2", "StyleGAN2, NVIDIA TensorFlow pickle", contiguous(tensors), settings, LICENCE)


def from_rosinality(contents: WeightContents) -> Weights:
    """Read StyleGAN2 of rosinality/stylegan2-pytorch: the state of ``g_ema``, and ``latent_avg`` if it is there.

    Files whose noise inputs were not kept get those that the network draws from seed 0.

    Parameters
    ----------
    contents : WeightContents
        Names with or without ``g_ema.`` in front.

    Returns
    -------
    Weights

    Raises
    ------
    WeightFileError
        For a file that lacks tensors.
    """
    theirs = {name.removeprefix("g_ema."): value for name, value in contents.tensors.items()}
    source = Source(WeightContents(contents.format, theirs, contents.source), "StyleGAN2 by rosinality")
    tensors: Tensors = {"b4.const": source.take("input.input", 4)[0]}
    for k in range(source.count(r"style\.(\d{1,2})\.", "mapping layers", first=1)):
        layer = f"style.{k + 1}"
        weight, bias = source.take(f"{layer}.weight", 2), source.take(f"{layer}.bias", 1)
        tensors |= source.dense(weight, bias, MAPPING_RATE, f"mapping.{k}")
    if "latent_avg" in theirs:
        tensors["w_avg"] = source.take("latent_avg", theirs["latent_avg"].ndim).reshape(-1)
    tensors |= _rosinality_convolution(source, "conv1", "b4.conv1", 0)
    tensors |= _rosinality_colours(source, "to_rgb1", "b4.to_rgb")
    for index in range(source.count(r"convs\.(\d{1,2})\.", "convolutions")):
        block, k = divmod(index, 2)
        side = 8 * 2**block
        tensors |= _rosinality_convolution(source, f"convs.{index}", f"b{side}.conv{k}", index + 1)
        if k:
            tensors |= _rosinality_colours(source, f"to_rgbs.{block}", f"b{side}.to_rgb")
    kernel = "convs.0.conv.blur.kernel"
    settings = {"conv_clamp": None, "resample_filter": _taps_of(source, kernel, {})}
    return Weights("stylegan2", "StyleGAN2, rosinality .pt", contiguous(tensors), settings, LICENCE)


def _refuse_variants(source: Source, options: Mapping[str, Any]) -> None:
    for key in ("c_dim", "label_size"):
        if options.get(key):
            raise source.refuse(
                f"the network is conditional ({key} {str(options[key])[:40]}), only unconditional ones are supported"
            )
    same = {
        "architecture": "skip",
        "activation": "lrelu",
        "nonlinearity": "lrelu",
        "img_channels": 3,
        "num_channels": 3,
    }
    refuse_other_than(source, options, same, REMEDY)
    odd = next(
        (n for n in source.tensors if re.search(r"(\.skip\.weight|/Skip/weight|/ToRGB_lod\d+/weight)$", n)), None
    )
    if odd:
        raise source.refuse(f"{odd[:60]} belongs to an architecture other than 'skip' (config E or F); {REMEDY}")


def _taps_of(source: Source, name: str, options: Mapping[str, Any]) -> Any:
    """Taps of the low-pass filter whose outer product with itself the file holds; else those of its settings."""
    if name not in source.tensors:
        return options.get("resample_filter", DEFAULT_FILTER) or [1]
    square = source.tensors[name].astype(np.float64)
    if square.size == 0 or not np.isfinite(square).all() or square.sum() == 0:
        raise source.refuse(f"{name} is no low-pass filter")
    square = square / square.sum()
    taps = square if square.ndim == 1 else square.sum(0)
    if square.ndim == 2 and not np.allclose(square, np.outer(taps, taps), atol=1e-6):
        raise source.refuse(f"{name} is no outer product of one filter with itself; {REMEDY}")
    return [float(np.float32(tap)) for tap in taps]


def _dnnlib_prefix(contents: WeightContents) -> str:
    return "G_" if any(name.startswith("G_synthesis/") for name in contents.tensors) else ""


def _dnnlib_modulated(source: Source, theirs: str, ours: str) -> Tensors:
    weight: NDArray[np.float32] = source.take(f"{theirs}/weight", 4)
    if theirs.endswith("_up"):
        weight = weight[::-1, ::-1]
    return {
        f"{ours}.weight": scaled(weight.transpose(3, 2, 0, 1)),
        f"{ours}.bias": source.take(f"{theirs}/bias", 1),
        f"{ours}.affine.weight": scaled(source.take(f"{theirs}/mod_weight", 2).T),
        f"{ours}.affine.bias": source.take(f"{theirs}/mod_bias", 1) + np.float32(1),
    }


def _dnnlib_convolution(source: Source, theirs: str, ours: str, noise: str) -> Tensors:
    tensors = _dnnlib_modulated(source, theirs, ours)
    if f"{theirs}/noise_strength" in source.tensors:
        tensors[f"{ours}.noise_strength"] = source.number(f"{theirs}/noise_strength")
        tensors[f"{ours}.noise"] = source.take(noise, 4)[0, 0]
    return tensors


def _rosinality_modulated(source: Source, theirs: str, ours: str) -> Tensors:
    return {
        f"{ours}.weight": scaled(source.take(f"{theirs}.conv.weight", 5)[0]),
        **source.affine(f"{theirs}.conv.modulation", f"{ours}.affine"),
    }


def _rosinality_convolution(source: Source, theirs: str, ours: str, index: int) -> Tensors:
    tensors = _rosinality_modulated(source, theirs, ours)
    tensors[f"{ours}.bias"] = source.take(f"{theirs}.activate.bias", 1)
    tensors[f"{ours}.noise_strength"] = source.number(f"{theirs}.noise.weight")
    if f"noises.noise_{index}" in source.tensors:
        tensors[f"{ours}.noise"] = source.take(f"noises.noise_{index}", 4)[0, 0]
    return tensors


def _rosinality_colours(source: Source, theirs: str, ours: str) -> Tensors:
    return {
        **_rosinality_modulated(source, theirs, ours),
        f"{ours}.bias": source.take(f"{theirs}.bias", 4).reshape(-1),
    }


LAYOUTS: Mapping[str, Callable[[WeightContents], Weights]] = {
    "nvidia": from_nvidia,
    "dnnlib": from_dnnlib,
    "rosinality": from_rosinality,
}
"""What `recognise` returns -> how to convert it."""

"""The layouts in which PGGAN generators are kept, each turned into the tensors that `generators.PGGAN` takes.

Equalised learning rate keeps weights of unit variance and multiplies each by ``gain / sqrt(inputs)`` when it is used.
That factor is folded in here, as is every other (scales that a file holds, kernels that its framework turns round).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import Tensors, WeightContents, Weights

__all__ = ["LAYOUTS", "LICENCE", "from_dnnlib", "from_genforce", "from_mxnet", "from_ptrblck", "recognise"]

Array = NDArray[np.float32]

LICENCE = "CelebA-HQ and NVIDIA's PGGAN weights are CC BY-NC 4.0: non-commercial use only (Karras et al. 2018)"
MAX_RESOLUTION = 1024

_REQUIRED_SETTINGS = {
    "label_size": 0,
    "num_channels": 3,
    "normalize_latents": True,
    "use_pixelnorm": True,
    "pixelnorm_epsilon": 1e-8,
    "use_leakyrelu": True,
}


def from_dnnlib(contents: WeightContents) -> Weights:
    """Convert the variables of Karras' TensorFlow network.

    ``{side}x{side}/Dense | Conv | Conv0 | Conv0_up | Conv1 / weight | bias``, ``ToRGB_lod{n}/weight | bias``, ``lod``.
    A dense weight is (latent, 16 out) with the columns of a channel together; a convolution is (3, 3, in, out); one
    fused with the upsampling in front of it is (3, 3, out, in), applied as a transposed convolution.

    Parameters
    ----------
    contents : WeightContents
        Its settings are the network's static arguments.

    Returns
    -------
    Weights

    Raises
    ------
    WeightFileError
        When a tensor is absent or misshapen, or the settings describe another network.

    Notes
    -----
    Source: `networks.py` of tkarras/progressive_growing_of_gans, `G_paper`.
    """
    file = _File(contents)
    file.require_settings()
    equalised = contents.settings.get("use_wscale", True) is not False
    resolution = file.resolution(file.highest(r"(\d+)x\1/.+"))
    tensors: Tensors = {}

    def add(k: int, scope: str, weight: Array, gain: float, inputs: int) -> int:
        tensors[f"conv.{k}.weight"] = weight * _scale(gain, inputs, equalised)
        tensors[f"conv.{k}.bias"] = file.take(f"{scope}/bias", len(weight))
        return len(weight)

    dense = file.take("4x4/Dense/weight", None, None)
    latent, columns = dense.shape
    if not latent or not columns or columns % 16:
        raise file.misshapen("4x4/Dense/weight", dense, "(latent, 16 x channels)")
    channels = add(1, "4x4/Dense", dense.reshape(latent, -1, 4, 4).transpose(1, 0, 2, 3), math.sqrt(2) / 4, latent)
    k = 2
    for side in _sides(resolution):
        scopes = ["4x4/Conv"] if side == 4 else [f"{side}x{side}/Conv0", f"{side}x{side}/Conv1"]
        for scope in scopes:
            if f"{scope}_up/weight" in file.tensors:
                scope = f"{scope}_up"
                weight = file.take(f"{scope}/weight", 3, 3, None, channels).transpose(2, 3, 0, 1)[:, :, ::-1, ::-1]
            else:
                weight = file.take(f"{scope}/weight", 3, 3, channels, None).transpose(3, 2, 0, 1)
            channels = add(k, scope, weight, math.sqrt(2), 9 * channels)
            k += 1
        scope = f"ToRGB_lod{int(math.log2(resolution // side))}"
        colours = file.take(f"{scope}/weight", 1, 1, channels, 3)[0, 0].T * _scale(1.0, channels, equalised)
        tensors |= {f"to_rgb.{side}.weight": colours, f"to_rgb.{side}.bias": file.take(f"{scope}/bias", 3)}
    return file.weights("PGGAN, TensorFlow network (Karras)", tensors, file.level_of_detail("lod", resolution))


def from_genforce(contents: WeightContents) -> Weights:
    """Convert the state of the PyTorch PGGAN of genforce, or of InterFaceGAN before it.

    genforce: ``layer{k}.weight | bias``, ``output{k}.weight | bias``, ``lod``; (in, out, 3, 3) where fused with the
    upsampling. InterFaceGAN: ``layer{k}.conv.weight``, ``layer{k}.wscale.bias`` and so on; fused ``layer{k}.weight``
    (3, 3, in, out). They may lie below ``generator_smooth.`` (preferred) or ``generator.``. The first weight
    (out, latent, 4, 4) is of a convolution over a padded pixel, which turns it round.

    Parameters
    ----------
    contents : WeightContents
        The files do not say whether their convolutions are fused: a layer whose two widths differ tells it. Where there
        is none, the setting ``fused_scale`` decides, else they are taken as not fused, the default of both.

    Returns
    -------
    Weights

    Raises
    ------
    WeightFileError
        When a tensor is absent or misshapen.

    Notes
    -----
    Sources: `models/pggan_generator.py` of genforce/genforce and `models/pggan_generator_model.py` of
    genforce/interfacegan. Below a whole level of detail the latter does not blend as Karras and the former do.
    """
    file = _File(contents, _genforce_prefix(contents.tensors))
    file.require_settings()
    depth = file.depth(r"layer(\d+)\..+")
    interfacegan = "layer0.conv.weight" in file.tensors
    conv, bias = (".conv.weight", ".wscale.bias") if interfacegan else (".weight", ".bias")
    equalised = contents.settings.get("use_wscale", True) is not False
    fused = not interfacegan and _is_fused(file, depth)
    tensors: Tensors = {}
    first = file.take(f"layer0{conv}", None, None, 4, 4)
    channels = first.shape[1]
    for k in range(depth):
        name = f"layer{k}{conv}"
        inputs = 16 * channels if k == 0 else 9 * channels
        if k == 0:
            weight = first[:, :, ::-1, ::-1]
        elif interfacegan and name not in file.tensors and f"layer{k}.weight" in file.tensors:
            weight = file.take(f"layer{k}.weight", 3, 3, channels, None).transpose(3, 2, 0, 1)[:, :, ::-1, ::-1]
        elif fused and k % 2 == 0:
            weight = file.take(name, channels, None, 3, 3).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        else:
            weight = file.take(name, None, channels, 3, 3)
        tensors[f"conv.{k + 1}.weight"] = weight * _scale(math.sqrt(2), inputs, equalised)
        channels = len(weight)
        tensors[f"conv.{k + 1}.bias"] = file.take(f"layer{k}{bias}", channels)
        if k % 2:
            side, output = 2 << (k + 1) // 2, f"output{k // 2}"
            colours = file.take(f"{output}{conv}", 3, channels, 1, 1)[:, :, 0, 0] * _scale(1.0, channels, equalised)
            tensors |= {f"to_rgb.{side}.weight": colours, f"to_rgb.{side}.bias": file.take(f"{output}{bias}", 3)}
    layout = f"PGGAN, {'InterFaceGAN' if interfacegan else 'genforce'} .pth"
    return file.weights(layout, tensors, file.level_of_detail("lod", 2 << depth // 2))


def from_ptrblck(contents: WeightContents) -> Weights:
    """Convert the state of ptrblck's PyTorch PGGAN, which came from the first, Theano, networks.

    ``features.{k}.conv.weight``, ``features.{k}.wscale.scale`` (1,), ``features.{k}.wscale.b``, ``output.*`` likewise;
    the first weight (out, latent, 4, 4) is of a convolution over a padded pixel, which turns it round. Colours of
    the full side alone.

    Parameters
    ----------
    contents : WeightContents

    Returns
    -------
    Weights

    Raises
    ------
    WeightFileError
        When a tensor is absent or misshapen.

    Notes
    -----
    Source: `model.py` of ptrblck/prog_gans_pytorch_inference at 10c4a2c.
    """
    file = _File(contents)
    depth = file.depth(r"features\.(\d+)\..+")
    resolution = 2 << depth // 2
    tensors: Tensors = {}
    weight = file.take("features.0.conv.weight", None, None, 4, 4)[:, :, ::-1, ::-1]
    for k in range(depth):
        if k:
            weight = file.take(f"features.{k}.conv.weight", None, len(weight), 3, 3)
        tensors[f"conv.{k + 1}.weight"] = weight * file.take(f"features.{k}.wscale.scale", 1)
        tensors[f"conv.{k + 1}.bias"] = file.take(f"features.{k}.wscale.b", len(weight))
    colours = file.take("output.conv.weight", 3, len(weight), 1, 1)[:, :, 0, 0]
    tensors[f"to_rgb.{resolution}.weight"] = colours * file.take("output.wscale.scale", 1)
    tensors[f"to_rgb.{resolution}.bias"] = file.take("output.wscale.b", 3)
    return file.weights("PGGAN, ptrblck .pth", tensors, 0.0)


def from_mxnet(contents: WeightContents) -> Weights:
    """Convert the Gluon parameters of the HYPER authors' `generator.params`.

    ``1.weight`` (16 out, latent), ``2.b``, ``5.weight | bias`` (the 4 px convolution), ``{8 + k}.0 | 3.weight | bias``
    (the two of block k), and the colours of the full side as the last ``{n}.weight | bias``; or the same in Gluon's
    older names, ``dense0_weight``, ``bias0_b``, ``conv0_weight``, ``block0_conv0_weight``, ..., ``conv1_weight``.
    All scales are in the weights.

    Parameters
    ----------
    contents : WeightContents

    Returns
    -------
    Weights

    Raises
    ------
    WeightFileError
        When a tensor is absent or misshapen.

    Notes
    -----
    Source: `hyper.ipynb` of neuralcodinglab/HYPER, class `Generator`.
    """
    file = _File(WeightContents(contents.format, _gluon_names(contents.tensors), contents.source, contents.settings))
    last = file.highest(r"(\d+)\..+")
    resolution = file.resolution(4 << last - 8 if 8 <= last <= 16 else 0)
    dense = file.take("1.weight", None, None)
    rows, latent = dense.shape
    if not latent or not rows or rows % 16:
        raise file.misshapen("1.weight", dense, "(16 x channels, latent)")
    weight = dense.reshape(-1, 4, 4, latent).transpose(0, 3, 1, 2)
    tensors: Tensors = {"conv.1.weight": weight, "conv.1.bias": file.take("2.b", len(weight))}
    names = ["5", *(f"{8 + block}.{place}" for block in range(last - 8) for place in (0, 3))]
    for k, name in enumerate(names, 2):
        weight = file.take(f"{name}.weight", None, len(weight), 3, 3)
        tensors |= {f"conv.{k}.weight": weight, f"conv.{k}.bias": file.take(f"{name}.bias", len(weight))}
    tensors[f"to_rgb.{resolution}.weight"] = file.take(f"{last}.weight", 3, len(weight), 1, 1)[:, :, 0, 0]
    tensors[f"to_rgb.{resolution}.bias"] = file.take(f"{last}.bias", 3)
    return file.weights("PGGAN, MXNet .params (HYPER)", tensors, 0.0)


LAYOUTS: Mapping[str, Callable[[WeightContents], Weights]] = {
    "dnnlib": from_dnnlib,
    "genforce": from_genforce,
    "ptrblck": from_ptrblck,
    "mxnet": from_mxnet,
}
"""Name of a layout, as `recognise` gives it -> its reader."""


def recognise(contents: WeightContents) -> str | None:
    """Say which layout of PGGAN a file has, by the names of its tensors: a key of `LAYOUTS`, None for none of them."""
    names = contents.tensors
    if "4x4/Dense/weight" in names and "ToRGB_lod0/weight" in names:
        return "dnnlib"
    if "features.0.wscale.scale" in names and "output.wscale.scale" in names:
        return "ptrblck"
    below = _below(names, _genforce_prefix(names))
    for suffix in ("", ".conv"):
        first = below.get(f"layer0{suffix}.weight")
        if first is not None and first.shape[2:] == (4, 4) and f"output0{suffix}.weight" in below:
            return "genforce"
    return "mxnet" if {"1.weight", "2.b", "5.weight"} <= _gluon_names(names).keys() else None


class _File:
    """The tensors of a file, handed out with the shapes that they must have."""

    def __init__(self, contents: WeightContents, prefix: str = "") -> None:
        self.source, self.settings = contents.source, contents.settings
        self.tensors = _below(contents.tensors, prefix)

    def highest(self, pattern: str) -> int:
        """Return the highest number that the group of `pattern` stands for in a name, -1 where no name fits."""
        found = (re.fullmatch(pattern, name) for name in self.tensors)
        return max((int(match[1]) for match in found if match and len(match[1]) < 6), default=-1)

    def depth(self, pattern: str) -> int:
        """Return the number of convolutions, which are counted from 0, two a side."""
        depth = 1 + self.highest(pattern)
        if depth % 2 or depth > _layers(MAX_RESOLUTION):
            raise WeightFileError(
                f"{self.source} holds {depth} PGGAN layers, expected 2 to {_layers(MAX_RESOLUTION)}, two a side: "
                "fetch it anew"
            )
        return depth

    def take(self, name: str, *shape: int | None) -> Array:
        """Return a tensor whose shape is the given one, None standing for any length but 0."""
        if name not in self.tensors:
            raise WeightFileError(f"{self.source} is no whole PGGAN: it lacks the tensor {name}: fetch it anew")
        value = np.asarray(self.tensors[name], np.float32)
        fits = value.ndim == len(shape) and all(
            found > 0 and asked in (None, found) for asked, found in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise self.misshapen(name, value, f"({', '.join('any' if n is None else str(n) for n in shape)})")
        return value

    def misshapen(self, name: str, value: Array, expected: str) -> WeightFileError:
        """Return the error of a tensor of another shape."""
        return WeightFileError(
            f"{self.source} is no PGGAN that fits together: {name} has shape {value.shape}, expected {expected}: "
            "fetch it anew"
        )

    def resolution(self, side: int) -> int:
        """Return the side of the picture, if it is one that a PGGAN can have."""
        if side not in _sides(MAX_RESOLUTION):
            raise WeightFileError(
                f"{self.source} is no PGGAN of a side from 4 to {MAX_RESOLUTION} px that is a power of 2: fetch it anew"
            )
        return side

    def level_of_detail(self, name: str, resolution: int) -> float:
        """Return how far the network is from having grown, 0 where the file does not say."""
        lod, highest = float(self.take(name)) if name in self.tensors else 0.0, resolution.bit_length() - 3
        if not 0 <= lod <= highest:
            raise WeightFileError(f"{self.source} has lod {lod:g}, expected 0 to {highest}: fetch it anew")
        return lod

    def require_settings(self) -> None:
        """Refuse a network whose settings make it another one than ours."""
        for name, needed in _REQUIRED_SETTINGS.items():
            if self.settings.get(name, needed) != needed:
                found = ascii(self.settings[name])[:40]
                raise WeightFileError(
                    f"{self.source} holds a PGGAN with {name} = {found}, only {needed} is supported: give another file"
                )

    def weights(self, layout: str, tensors: Tensors, lod: float) -> Weights:
        """Gather what was read; a level of detail of 0 is left out, so that all files of one network agree."""
        if lod:
            tensors["lod"] = np.asarray(lod, np.float32)
        tensors = {name: np.array(value, np.float32, order="C") for name, value in tensors.items()}
        return Weights("pggan", layout, tensors, licence=LICENCE)


def _scale(gain: float, inputs: int, equalised: bool) -> np.float32:
    return np.float32(gain / math.sqrt(inputs) if equalised else 1.0)


def _layers(resolution: int) -> int:
    return 2 * resolution.bit_length() - 4


def _sides(resolution: int) -> list[int]:
    return [1 << n for n in range(2, resolution.bit_length())]


def _below(tensors: Mapping[str, Array], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _genforce_prefix(tensors: Mapping[str, Array]) -> str:
    """Find what stands in front of ``layer0``: that of the averaged generator where there are several."""
    found = (re.fullmatch(r"(.*?)layer0(\.conv)?\.weight", name) for name in tensors)
    prefixes = [match[1] for match in found if match and "discriminator" not in match[1]]
    return min(prefixes, key=lambda prefix: ("generator_smooth" not in prefix, len(prefix), prefix), default="")


def _is_fused(file: _File, depth: int) -> bool:
    """Tell by the first upsampling layer whose two widths differ."""
    for k in range(2, depth, 2):
        channels = len(file.take(f"layer{k - 1}.weight", None, None, 3, 3))
        first, second = file.take(f"layer{k}.weight", None, None, 3, 3).shape[:2]
        if first != second:
            return bool(first == channels)
    return file.settings.get("fused_scale", False) is True


def _gluon_names(tensors: Mapping[str, Array]) -> Tensors:
    """Names of Gluon's present format for those of the older one, where a file has these."""
    plain = {name.removeprefix("arg:"): value for name, value in tensors.items()}
    old = re.compile(r"(?:generator\d+_)?(?:block(\d+)_)?(dense0|bias0|conv[01])_(weight|bias|b)")
    matches = {name: old.fullmatch(name) for name in plain}
    blocks = [int(match[1]) for match in matches.values() if match and match[1] and len(match[1]) < 6]
    last = 9 + max(blocks, default=-1)
    places = {"dense0": "1", "bias0": "2", "conv0": "5", "conv1": f"{last}"}
    renamed = {}
    for name, value in plain.items():
        if match := matches[name]:
            block, layer, kind = match.groups()
            place = (
                places[layer] if block is None else f"{8 + int(block)}.{ {'conv0': 0, 'conv1': 3}.get(layer, layer) }"
            )
            name = f"{place}.{kind}"
        renamed[name] = value
    return renamed

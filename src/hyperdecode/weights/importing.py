"""From a weight file of any known format to weights in the cache: recognise, read, convert, keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperdecode.errors import WeightFileError
from hyperdecode.files import sha256_file
from hyperdecode.weights.contents import WeightContents, Weights
from hyperdecode.weights.dnnlib import read_dnnlib
from hyperdecode.weights.hdf5 import SIGNATURE
from hyperdecode.weights.hyper_data import read_hyper_data
from hyperdecode.weights.imported import checked_name, imported_path, name_for, save_imported, taken, weights_of
from hyperdecode.weights.keras_hdf5 import read_keras
from hyperdecode.weights.layouts import pggan, resnet50, stylegan2, stylegan3
from hyperdecode.weights.limits import read_bytes, shown
from hyperdecode.weights.mxnet_params import LIST_MAGIC, read_mxnet
from hyperdecode.weights.nvidia import read_nvidia
from hyperdecode.weights.openvino_files import MAPPING_XML, read_openvino
from hyperdecode.weights.safetensors_files import read_safetensors
from hyperdecode.weights.store import SOURCES
from hyperdecode.weights.torch_files import read_torch

__all__ = ["FORMATS", "LAYOUTS", "Imported", "convert", "import_weights", "read_weights", "recognise"]

Reader = Callable[[str | os.PathLike[str]], WeightContents]

FORMATS: Mapping[str, Reader] = {
    "torch": read_torch,
    "nvidia-torch": read_nvidia,
    "dnnlib": read_dnnlib,
    "mxnet": read_mxnet,
    "keras-hdf5": read_keras,
    "openvino-ir": read_openvino,
    "safetensors": read_safetensors,
}
"""Format, as `recognise` names it -> its reader."""

EXPECTED = (
    "PGGAN (Karras .pkl, genforce, InterFaceGAN or ptrblck .pth, MXNet .params), StyleGAN2 (NVIDIA .pkl, rosinality "
    ".pt), StyleGAN3 (NVIDIA .pkl), MobileStyleGAN (OpenVINO), or ResNet50 of VGGFace2 (Keras .h5)"
)
LEGACY_HEAD = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""How every protocol from 2 on spells the magic number of PyTorch's older format."""
HEAD_BYTES = 2**20
"""How much of a pickle is searched for the name that tells its format: it stands in front of the first tensor."""


def recognise(path: str | os.PathLike[str]) -> str:
    """Name the format of a weight file by what is in it, whatever it is called.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
        A key of `FORMATS`, or ``"hyper-data"`` for a pickle that is none of them.

    Raises
    ------
    UserError
        When there is no such file.
    WeightFileError
        When its first bytes are those of no format known here.
    """
    source, data = Path(path).name, read_bytes(path)
    if data[:2] == b"PK":
        return "openvino-ir" if MAPPING_XML.encode() in data[-HEAD_BYTES:] else "torch"
    if data[257:262] == b"ustar":
        return "torch"
    if data[:8] == SIGNATURE:
        return "keras-hdf5"
    if data[:8] == LIST_MAGIC.to_bytes(8, "little"):
        return "mxnet"
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):
        return "safetensors"
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:5] in (b"<?xml", b"<net "):
        return "openvino-ir"
    if data[:1] in b"\x80(c]}" and data[:1]:
        return _pickle_format(data[:HEAD_BYTES])
    raise WeightFileError(
        f"{source}: its first bytes {data[:8]!r} are those of no format known here; expected {EXPECTED}"
    )


def _pickle_format(head: bytes) -> str:
    if LEGACY_HEAD in head[:32]:
        return "torch"
    if b"_reconstruct_persistent_obj" in head:
        return "nvidia-torch"
    return "dnnlib" if b"Network" in head else "hyper-data"


def read_weights(path: str | os.PathLike[str]) -> WeightContents:
    """Read a weight file of any format in `FORMATS`.

    Raises
    ------
    UserError
        When there is no such file.
    WeightFileError
        When it is damaged, hostile, or holds no weights.
    """
    found = recognise(path)
    if found == "hyper-data":
        read_hyper_data(path)
        raise WeightFileError(f"{Path(path).name}: responses and latents of a study, not weights; expected {EXPECTED}")
    return FORMATS[found](path)


@dataclass(frozen=True)
class _Family:
    """How the layouts of one family of networks are told apart and converted."""

    recognise: Callable[[WeightContents], str | None]
    convert: Mapping[str, Callable[[WeightContents], Weights]]


def _mobilestylegan(contents: WeightContents) -> Weights:
    licence = SOURCES["mobilestylegan-ffhq"].licence
    return Weights("mobilestylegan", "MobileStyleGAN, OpenVINO IR", contents.tensors, licence=licence)


LAYOUTS: Mapping[str, _Family] = {
    "pggan": _Family(pggan.recognise, pggan.LAYOUTS),
    "stylegan2": _Family(stylegan2.recognise, stylegan2.LAYOUTS),
    "stylegan3": _Family(stylegan3.recognise, stylegan3.LAYOUTS),
    "resnet50-vggface2": _Family(resnet50.recognise, {"keras": resnet50.from_keras}),
    "mobilestylegan": _Family(
        lambda contents: "openvino" if contents.format == "openvino-ir" else None, {"openvino": _mobilestylegan}
    ),
    "saved": _Family(
        lambda contents: "saved" if contents.format == "safetensors" and "family" in contents.settings else None,
        {"saved": weights_of},
    ),
}
"""Family -> its layouts; the first that recognises a file has it."""


def convert(contents: WeightContents) -> Weights:
    """Find out which network a file holds, and give its tensors our names.

    Raises
    ------
    WeightFileError
        When it is none that is known, or not whole.
    """
    for family in LAYOUTS.values():
        layout = family.recognise(contents)
        if layout is not None:
            return family.convert[layout](contents)
    names = ", ".join(shown(name) for name in list(contents.tensors)[:3])
    raise WeightFileError(
        f"{contents.source}: {len(contents.tensors)} tensors ({names}{', ...' if len(contents.tensors) > 3 else ''}) "
        f"of no network known here; expected {EXPECTED}"
    )


@dataclass(frozen=True)
class Imported:
    """What `import_weights` found and where it is now.

    Attributes
    ----------
    name : str
        The name in the cache.
    format : str
        A key of `FORMATS`.
    weights : Weights
    path : pathlib.Path
        The safetensors file.
    """

    name: str
    format: str
    weights: Weights
    path: Path

    @property
    def parameters(self) -> int:
        """How many numbers the tensors hold."""
        return sum(int(np.prod(value.shape)) for value in self.weights.tensors.values())


def import_weights(
    path: str | os.PathLike[str],
    name: str | None = None,
    force: bool = False,
    inspect: Callable[[Weights, str], object] | None = None,
) -> Imported:
    """Read a weight file, find out what it holds, and keep it in the cache; nothing in it is executed.

    Parameters
    ----------
    path : path-like
        The file that its authors published.
    name : str, optional
        What the weights shall be called; default: made of the file's name.
    force : bool
        Replace weights of that name.
    inspect : callable, optional
        Called with the weights and their name before they are kept; an error there keeps them out of the cache.

    Returns
    -------
    Imported

    Raises
    ------
    UserError
        When there is no such file, or the name cannot be used or is taken.
    WeightFileError
        When the file is damaged, hostile, or holds no network known here.
    """
    path = Path(path)
    name = name_for(path) if name is None else checked_name(name)
    if imported_path(name).exists() and not force:
        raise taken(name)
    contents = read_weights(path)
    weights = convert(contents)
    if inspect is not None:
        inspect(weights, name)
    target = save_imported(weights, name, path.name, sha256_file(path), force)
    return Imported(name, contents.format, weights, target)

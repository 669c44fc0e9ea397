"""Attribute normals on disk: InterFaceGAN's `.npy` boundaries, and our safetensors of several attributes."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import atomic_path
from hyperdecode.weights.imported import is_name
from hyperdecode.weights.limits import shown
from hyperdecode.weights.store import cache_dir

__all__ = [
    "MAX_BYTES",
    "attributes_path",
    "boundary_name",
    "read_attribute_tensors",
    "read_boundary",
    "write_attribute_tensors",
]

MAX_BYTES = 16 * 2**20
PARTS = ("normal", "bias", "scale")
REASON_LENGTH = 120
UNREADABLE = (
    ValueError, OSError, EOFError, SyntaxError, TokenError, MemoryError, OverflowError, TypeError, RecursionError,
)  # fmt: skip
"""The header is Python text to NumPy: what is no Python fails in its tokenizer, what is nested deeply in its parser."""
Array = NDArray[np.float32]


def read_boundary(path: str | os.PathLike[str]) -> Array:
    """Read the unit normal of one attribute from an InterFaceGAN boundary file.

    Parameters
    ----------
    path : path-like
        A `.npy` file with one vector, (d,) or (1, d). Pickled objects in it are refused, not loaded.

    Returns
    -------
    ndarray of float32, (d,)
        Of length one.

    Raises
    ------
    WeightFileError
        When the file is no such array, holds values that are not finite, or its vector is zero.
    """
    source = Path(path)
    if not source.is_file():
        raise WeightFileError(f"no file {source}: give an InterFaceGAN boundary (.npy)")
    if source.stat().st_size > MAX_BYTES:
        raise WeightFileError(f"{source} has {source.stat().st_size} bytes, a boundary has at most {MAX_BYTES}")
    try:
        with source.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of odd escapes in the header
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:REASON_LENGTH] or type(error).__name__
        raise WeightFileError(f"{source} is no readable .npy array of numbers ({reason})") from None
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] != 1):
        raise WeightFileError(
            f"{source} holds {array.dtype} of shape {array.shape}, expected one vector of numbers, (d,) or (1, d)"
        )
    vector = array.reshape(-1).astype(np.float64)
    with np.errstate(over="ignore"):
        length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise WeightFileError(f"{source}: the normal is zero or not finite, so it points nowhere")
    return (vector / length).astype(np.float32)


def boundary_name(path: str | os.PathLike[str]) -> str:
    """Attribute that a boundary file is named after: ``pggan_celebahq_age_boundary.npy`` -> ``age``."""
    stem = Path(path).stem.removesuffix("_boundary").removesuffix("_w")
    return re.sub(r"^(pggan_celebahq|stylegan_celebahq|stylegan_ffhq|stylegan2_ffhq)_", "", stem)


def attributes_path(generator: str) -> Path:
    """Return where a user's attribute normals of a generator are kept.

    Raises
    ------
    UserError
        When no generator can have that name.
    """
    if not is_name(generator):
        raise UserError(f"{shown(generator)} cannot name a generator: `hyperdecode weights list` shows the names")
    return cache_dir() / "attributes" / f"{generator}.safetensors"


def write_attribute_tensors(
    path: str | os.PathLike[str],
    spaces: Mapping[str, Mapping[str, Mapping[str, Array]]],
    metadata: Mapping[str, str],
    *,
    replace: bool = True,
) -> None:
    """Write attributes by space and name; each has `normal` (d,), `bias` () and `scale` ().

    Raises
    ------
    FileExistsError
        When there is a file and it may not be replaced.
    """
    tensors = {
        f"{space}.{name}.{part}": np.asarray(parts[part], np.float32)
        for space, attributes in spaces.items()
        for name, parts in attributes.items()
        for part in PARTS
    }
    with atomic_path(path, replace=replace) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata))


def read_attribute_tensors(data: bytes, source: str) -> dict[str, dict[str, dict[str, Array]]]:
    """Read what `write_attribute_tensors` wrote: space -> attribute -> normal, bias, scale.

    Raises
    ------
    WeightFileError
        When the bytes are damaged, a part is absent, or a value is not finite.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise WeightFileError(f"{source} is damaged ({shown(str(error))}): fit or import the attributes anew") from None
    spaces: dict[str, dict[str, dict[str, Array]]] = {}
    for key, value in tensors.items():
        parts = key.split(".")
        if len(parts) != 3 or parts[2] not in PARTS or not np.isfinite(value).all():
            raise WeightFileError(f"{source}: {shown(key)} is no attribute's normal, bias or scale, or not finite")
        spaces.setdefault(parts[0], {}).setdefault(parts[1], {})[parts[2]] = value.astype(np.float32)
    for space, attributes in spaces.items():
        for name, found in attributes.items():
            shapes = [found[part].ndim if part in found else -1 for part in PARTS]
            if shapes != [1, 0, 0]:
                raise WeightFileError(
                    f"{source}: {shown(f'{space}.{name}')} lacks its normal, bias or scale: fit it anew"
                )
    return spaces

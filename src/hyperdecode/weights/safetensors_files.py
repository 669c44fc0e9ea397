"""Read safetensors files: tensors and the texts in their header."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.limits import TensorTable, read_bytes, shown

__all__ = ["read_header", "read_safetensors"]

MAX_HEADER_BYTES = 16 * 2**20


def read_safetensors(path: str | os.PathLike[str]) -> WeightContents:
    """Read a safetensors file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    WeightContents
        Format ``"safetensors"``; the settings are the texts of its header.

    Raises
    ------
    WeightFileError
        When the file is damaged or cut off, or holds values that are not finite real numbers.
    """
    source, data = Path(path).name, read_bytes(path)
    settings = _metadata(data[8 : 8 + _header_bytes(data, source)], source)
    try:
        found = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightFileError(f"{source}: not readable as safetensors ({shown(str(error))}), fetch it anew") from None
    table = TensorTable(source, len(data))
    for name, value in found.items():
        table.add(name, value)
    return WeightContents("safetensors", table.tensors, source, settings)


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the texts in the header of a safetensors file, and not its tensors.

    Raises
    ------
    WeightFileError
        When it has no readable header.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            size = _header_bytes(stream.read(8), path.name)
            return _metadata(stream.read(size), path.name)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None


def _header_bytes(data: bytes, source: str) -> int:
    size: int = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= size <= MAX_HEADER_BYTES:
        raise WeightFileError(f"{source}: no safetensors file (its header is missing)")
    return size


def _metadata(header: bytes, source: str) -> dict[str, str]:
    try:
        content = json.loads(header)
        texts = content.get("__metadata__", {})
        return {str(key): str(value) for key, value in texts.items()}
    except (ValueError, AttributeError, RecursionError):
        raise WeightFileError(f"{source}: its safetensors header is damaged, fetch it anew") from None

"""Read MXNet ``.params`` files: a list of arrays and a list of names, little-endian, nothing to execute.

The layout (`NDArray::Save` and `NDArray::Load` in ``src/ndarray/ndarray.cc`` of Apache MXNet):

    uint64 0x112, uint64 0; uint64 n, n arrays; uint64 n (or 0), n names (uint64 length, bytes)

An array is one of

    version 0   uint32 ndim, ndim x uint32 shape,                                     context, type, values
    version 1   uint32 0xF993FAC8, int32 ndim, ndim x int64 shape,                    context, type, values
    version 2   uint32 0xF993FAC9, int32 storage type, int32 ndim, ndim x int64 shape, context, type, values
    version 3   uint32 0xF993FACA, then as version 2 (0 dimensions mean a scalar instead of no array)

with context = int32 device type, int32 device id, and type = int32. Storage types other than 0 are sparse.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.limits import MAX_DIMENSIONS, TensorTable, checked_shape, read_bytes, shown

__all__ = ["LIST_MAGIC", "read_mxnet"]

LIST_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8", 7: "?", 8: "<i2"}
MAX_ARRAYS = 20_000
MAX_NAME_BYTES = 512


def read_mxnet(path: str | os.PathLike[str]) -> WeightContents:
    """Read a ``.params`` file of MXNet or Gluon, dense arrays of any version.

    Parameters
    ----------
    path : path-like
        What ``save_parameters``, ``mx.nd.save`` or ``export`` wrote.

    Returns
    -------
    WeightContents
        Format ``"mxnet"``; the prefixes ``arg:`` and ``aux:`` of exported files are taken off; arrays without names are
        named by their number.

    Raises
    ------
    WeightFileError
        When the file is damaged or cut off, sparse, or no such file.
    """
    source, data = Path(path).name, read_bytes(path)
    cursor = _Cursor(data, source)
    magic, reserved, count = cursor.take("<QQQ")
    if magic != LIST_MAGIC or reserved != 0:
        raise WeightFileError(f"{source}: no MXNet parameter file (its magic number is missing)")
    if count > MAX_ARRAYS:
        raise WeightFileError(f"{source}: claims {count} arrays, no generator has so many")
    arrays = [_array(cursor, f"array {k}") for k in range(count)]
    names = _names(cursor, count)
    table = TensorTable(source, len(data))
    for name, array in zip(names, arrays, strict=True):
        if array is not None:
            table.add(name.removeprefix("arg:").removeprefix("aux:"), array)
    return WeightContents("mxnet", table.tensors, source)


class _Cursor:
    """A position in the bytes that never leaves them."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.position = data, source, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        """Read numbers by a `struct` layout."""
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))

    def bytes(self, count: int) -> memoryview:
        """Read `count` bytes without a copy."""
        if count > len(self.data) - self.position:
            raise WeightFileError(
                f"{self.source}: ends at byte {len(self.data)} within an array or name: it is cut off"
            )
        self.position += count
        return memoryview(self.data)[self.position - count : self.position]


def _array(cursor: _Cursor, what: str) -> NDArray[np.generic] | None:
    """Read one array; None for one that was never given a shape."""
    (magic,) = cursor.take("<I")
    if magic in (V2, V3):
        (storage,) = cursor.take("<i")
        if storage != 0:
            raise WeightFileError(f"{cursor.source}: {what} is sparse, which no generator's weights are")
    shape = _shape(cursor, magic, what)
    if (magic == V3 and -1 in shape) or (magic != V3 and not shape):
        return None
    sizes = checked_shape(shape, what, cursor.source)
    _, _, flag = cursor.take("<iii")
    if flag not in DTYPES:
        raise WeightFileError(f"{cursor.source}: {what} has the unknown type number {flag}, the file is damaged")
    dtype = np.dtype(DTYPES[flag])
    return np.frombuffer(cursor.bytes(math.prod(sizes) * dtype.itemsize), dtype).reshape(sizes)


def _shape(cursor: _Cursor, magic: int, what: str) -> tuple[int, ...]:
    """Read a shape: in version 0 the magic number itself is the number of dimensions."""
    ndim, number = (magic, "I") if magic not in (V1, V2, V3) else (cursor.take("<i")[0], "q")
    if ndim == -1 and magic == V3:
        return (-1,)
    if not 0 <= ndim <= MAX_DIMENSIONS:
        raise WeightFileError(f"{cursor.source}: {what} claims {ndim} dimensions, the file is damaged")
    return cursor.take(f"<{ndim}{number}")


def _names(cursor: _Cursor, count: int) -> list[str]:
    (claimed,) = cursor.take("<Q")
    if claimed not in (0, count):
        raise WeightFileError(f"{cursor.source}: {count} arrays and {claimed} names, the file is damaged")
    names = [str(k) for k in range(count)] if claimed == 0 else [_name(cursor) for _ in range(claimed)]
    if cursor.position != len(cursor.data):
        raise WeightFileError(f"{cursor.source}: {len(cursor.data) - cursor.position} bytes behind the last name")
    return names


def _name(cursor: _Cursor) -> str:
    (length,) = cursor.take("<Q")
    if length > MAX_NAME_BYTES:
        raise WeightFileError(f"{cursor.source}: a name of {length} bytes, the file is damaged")
    raw = bytes(cursor.bytes(length))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise WeightFileError(f"{cursor.source}: {shown(str(raw))} is no name, the file is damaged") from None

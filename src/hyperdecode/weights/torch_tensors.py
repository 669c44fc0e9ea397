"""What the inert notes of a PyTorch pickle stand for: views into storages, checked before any is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.limits import MAX_DIMENSIONS, checked_shape
from hyperdecode.weights.pickles import Call, Symbol

__all__ = ["DTYPES", "TORCH_SYMBOLS", "Storage", "is_tensor", "storage_class", "tensor_of", "widened"]

Storage = Callable[[Any], NDArray[np.generic]]
"""From a note of a storage (a persistent id, or nested bytes) to its values, one dimension."""

DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
"""Storage class -> how its values lie in the file. NumPy has no bfloat16: its 16 bits are widened by `widened`."""

_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_DTYPES = {
    "float16", "half", "bfloat16", "float32", "float", "float64", "double",
    "int8", "uint8", "int16", "int32", "int64", "long", "bool",
}  # fmt: skip

TORCH_SYMBOLS = frozenset(
    {
        *_TENSORS,
        *_PARAMETERS,
        *(f"torch.{name}" for name in DTYPES),
        *(f"torch.cuda.{name}" for name in DTYPES),
        *(f"torch.{name}" for name in _DTYPES),
        "torch.Size",
        "torch.device",
    }
)
"""Globals in a pickle of tensors."""


def is_tensor(node: object) -> bool:
    """Whether a note stands for a tensor or parameter."""
    return isinstance(node, Call) and node.function.path in _TENSORS | _PARAMETERS


def storage_class(symbol: object, source: str) -> str:
    """Return the name of a storage class, among `DTYPES`."""
    if not isinstance(symbol, Symbol) or symbol.name not in DTYPES:
        raise WeightFileError(f"{source}: a storage is of no type that weights have, such as torch.FloatStorage")
    return symbol.name


def widened(values: NDArray[np.generic], storage: str) -> NDArray[np.generic]:
    """Turn the bits of bfloat16 into float32 (the upper half of it); leave other types as they are."""
    if storage != "BFloat16Storage":
        return values
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def tensor_of(node: Any, storage: Storage, source: str, what: str) -> NDArray[np.generic]:
    """Build the array that the note of a tensor or parameter stands for.

    Parameters
    ----------
    node : Call
        For which `is_tensor` holds.
    storage : callable
        Finds the values of a storage.
    source, what : str
        For messages.

    Returns
    -------
    ndarray
        A view of the storage: element (i, j, ...) is ``storage[offset + i * stride[0] + j * stride[1] + ...]``.

    Raises
    ------
    WeightFileError
        When the view reaches beyond its storage, or has more elements than it (overlapping strides).
    """
    for _ in range(2):
        if node.function.path in _PARAMETERS and node.args and is_tensor(node.args[0]):
            node = node.args[0]
    if node.function.path not in _TENSORS or len(node.args) < 4:
        raise WeightFileError(f"{source}: {what} is not laid out as PyTorch pickles tensors")
    values = storage(node.args[0])
    (offset,), size, stride = (_numbers(value, what, source) for value in ((node.args[1],), *node.args[2:4]))
    checked_shape(size, what, source)
    if len(size) != len(stride):
        raise WeightFileError(f"{source}: {what} has {len(size)} dimensions and {len(stride)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    elements = math.prod(size)
    if elements > len(values) or (elements and last >= len(values)) or offset > len(values):
        raise WeightFileError(
            f"{source}: {what} of shape {size} at {offset} with strides {stride} leaves its storage of "
            f"{len(values)} values"
        )
    if not elements:
        return np.zeros(size, values.dtype)
    steps = tuple(step * values.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True))
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


def _numbers(value: Any, what: str, source: str) -> tuple[int, ...]:
    """Read a shape or strides: few non-negative integers, bounded one by one (their reach is checked elsewhere)."""
    if isinstance(value, Call) and value.function.path == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > MAX_DIMENSIONS:
        raise WeightFileError(f"{source}: {what} has no shape and strides that a tensor can have")
    return tuple(checked_shape([number], what, source)[0] for number in value)

"""What the inert notes of a pickle stand for: NumPy arrays and plain settings, by closed tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.limits import checked_shape, shown
from hyperdecode.weights.pickles import Call, Symbol

__all__ = ["DICT_SYMBOLS", "NUMPY_SYMBOLS", "SET_SYMBOLS", "array_of", "bytes_of", "is_array", "plain", "plain_dict"]

MAX_DEPTH = 32
MAX_NODES = 100_000
_RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_FROMBUFFER = {"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"}
_SCALAR = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
_ENCODE = "_codecs.encode"
_DTYPE, _NDARRAY = "numpy.dtype", "numpy.ndarray"
SET_SYMBOLS = frozenset({"builtins.set", "__builtin__.set"})
_NO_BYTES = {"builtins.bytes", "__builtin__.bytes"}

NUMPY_SYMBOLS = frozenset({*_RECONSTRUCT, *_FROMBUFFER, *_SCALAR, *_NO_BYTES, _ENCODE, _DTYPE, _NDARRAY})
"""Globals in a pickle of NumPy arrays and scalars (NumPy 1 and 2, protocols 0 to 5, Python 2 and 3)."""

DICT_SYMBOLS = frozenset({"collections.OrderedDict", "dnnlib.EasyDict", "dnnlib.util.EasyDict"})
"""Dictionaries by another name."""

DTYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def is_array(node: object) -> bool:
    """Whether a note stands for a NumPy array."""
    return isinstance(node, Call) and node.function.path in _RECONSTRUCT | _FROMBUFFER


def array_of(node: Any, source: str, what: str = "an array") -> NDArray[np.generic]:
    """Build the NumPy array, or scalar, that a note stands for.

    Parameters
    ----------
    node : Call
        Of one of `NUMPY_SYMBOLS`.
    source, what : str
        For messages.

    Returns
    -------
    ndarray
        A view of the pickle's bytes, in the pickle's byte order.

    Raises
    ------
    WeightFileError
        When the note is no array of numbers, or its bytes are not as many as shape and type ask for.
    """
    name = node.function.path if isinstance(node, Call) else None
    if name in _RECONSTRUCT:
        state = node.state
        if not isinstance(state, tuple) or len(state) != 5:
            raise WeightFileError(f"{source}: {what} is not laid out as NumPy pickles arrays")
        _, shape, dtype, fortran, raw = state
        return _array(raw, dtype, shape, "F" if fortran else "C", source, what)
    if name in _FROMBUFFER and len(node.args) == 4:
        raw, dtype, shape, order = node.args
        return _array(raw, dtype, shape, order, source, what)
    if name in _SCALAR and len(node.args) == 2:
        dtype, raw = node.args
        return _array(raw, dtype, (), "C", source, what)
    raise WeightFileError(f"{source}: {what} is no NumPy array")


def _array(raw: Any, dtype: Any, shape: Any, order: Any, source: str, what: str) -> NDArray[np.generic]:
    kind, data = _dtype(dtype, source, what), bytes_of(raw, source, what)
    sizes = checked_shape(shape if isinstance(shape, tuple | list) else [None], what, source)
    if order not in ("C", "F") or math.prod(sizes) * kind.itemsize != len(data):
        raise WeightFileError(f"{source}: {what} has {len(data)} bytes, not those of shape {sizes} and type {kind}")
    return np.frombuffer(data, kind).reshape(sizes, order=order)


def _dtype(node: Any, source: str, what: str) -> np.dtype[np.generic]:
    """Read a pickled dtype: a code such as ``f4``, its byte order in the state."""
    if isinstance(node, Call) and node.function.path == _DTYPE and node.args:
        code, state = _text(node.args[0]), node.state
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else "="
        if code in DTYPES and order in ("<", ">", "=", "|"):
            dtype: np.dtype[np.generic] = np.dtype(("<" if order == "=" else order) + code)
            return dtype
    raise WeightFileError(f"{source}: {what} is not of plain numbers, such as float32")


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def bytes_of(raw: Any, source: str, what: str) -> bytes | bytearray:
    """Read a byte string: as such, as Python 2 wrote it (latin-1 text), or as protocols below 3 spell it.

    Raises
    ------
    WeightFileError
        When it is none.
    """
    if isinstance(raw, Call) and raw.function.path == _ENCODE and raw.args and _text(raw.args[-1]) == "latin1":
        raw = raw.args[0]
    elif isinstance(raw, Call) and raw.function.path in _NO_BYTES and not raw.args:
        raw = b""
    if isinstance(raw, str):
        try:
            return raw.encode("latin-1")
        except UnicodeEncodeError:
            raise WeightFileError(f"{source}: {what} has text where its bytes should be") from None
    if not isinstance(raw, bytes | bytearray):
        raise WeightFileError(f"{source}: {what} has no bytes")
    return raw


def plain_dict(node: Any, source: str, what: str) -> dict[Any, Any]:
    """Read a dictionary, whatever its class, from its note.

    Raises
    ------
    WeightFileError
        When `node` is no dictionary.
    """
    if isinstance(node, dict):
        return node
    if isinstance(node, Call) and node.function.path in DICT_SYMBOLS:
        pairs = node.pairs
        if not pairs and len(node.args) == 1 and isinstance(node.args[0], list):
            # Protocols 0 and 1 hand an OrderedDict its pairs as lists of two.
            pairs = [tuple(pair) for pair in node.args[0] if isinstance(pair, list | tuple) and len(pair) == 2]
        if all(isinstance(key, str | bytes | int | float | None) for key, _ in pairs):
            return dict(pairs)
    raise WeightFileError(f"{source}: {what} is no dictionary")


def plain(node: Any, source: str, what: str) -> Any:
    """Turn settings into numbers, texts, booleans, None, and lists and dicts of them.

    NumPy scalars and arrays become numbers and lists, a torch dtype its name.

    Raises
    ------
    WeightFileError
        For anything else, for nesting deeper than 32, and for more than 100,000 values once references are followed.
    """
    return _Plain(source, what).value(node, 0)


class _Plain:
    """One conversion to plain values; counts them: references can unfold a small file without end."""

    def __init__(self, source: str, what: str) -> None:
        self.source, self.what, self.count = source, what, 0

    def value(self, node: Any, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            raise WeightFileError(f"{self.source}: {self.what} are nested without end, refusing to unfold them")
        if isinstance(node, float) and not math.isfinite(node):
            return str(node)
        if isinstance(node, str | int | float | bool | None):
            return node
        if isinstance(node, bytes):
            return node.decode("latin-1")
        if isinstance(node, list | tuple | set | frozenset):
            return [self.value(item, depth + 1) for item in node]
        if isinstance(node, Symbol) and node.module == "torch":
            return node.path
        if isinstance(node, Call) and node.function.path in NUMPY_SYMBOLS:
            return self.value(array_of(node, self.source, f"an array among {self.what}").tolist(), depth + 1)
        if isinstance(node, Call) and node.function.path in SET_SYMBOLS:
            return self.value(node.args[0], depth + 1) if node.args else []
        return self.pairs(node, depth)

    def pairs(self, node: Any, depth: int) -> dict[str, Any]:
        if not isinstance(node, dict) and not (isinstance(node, Call) and node.function.path in DICT_SYMBOLS):
            name = node.function.path if isinstance(node, Call) else type(node).__name__
            raise WeightFileError(f"{self.source}: {self.what} hold {shown(name)}, expected numbers and texts")
        found = plain_dict(node, self.source, self.what)
        return {key if isinstance(key, str) else str(key): self.value(value, depth + 1) for key, value in found.items()}

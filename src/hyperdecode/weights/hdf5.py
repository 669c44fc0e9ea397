"""Read the HDF5 files that Keras writes: groups, text attributes and contiguous arrays of numbers.

A small part of the format (superblock version 0 or 1, object headers version 1, symbol-table groups), the one that
h5py chooses unless told otherwise; all else is refused by name. The format is made of addresses that point anywhere in
the file, so each is checked, no node is visited twice in a walk, and the entries and messages read are counted.

Source: "HDF5 File Format Specification Version 3.0", The HDF Group.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.limits import checked_shape, shown

__all__ = ["SIGNATURE", "HDF5File"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1
MAX_STEPS = 500_000
DATASPACE, DATATYPE, LAYOUT, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 0x01, 0x03, 0x08, 0x0C, 0x10, 0x11
FIXED, FLOATING, STRING, VARIABLE = 0, 1, 3, 9
CONTIGUOUS, COMPACT = 1, 0
FLOAT_SIZES = {2: (5, 10), 4: (8, 23), 8: (11, 52)}
"""Bytes of a float -> bits of its exponent and mantissa in IEEE 754."""


@dataclass(frozen=True)
class _Message:
    kind: int
    start: int
    size: int


class HDF5File:
    """An HDF5 file in memory.

    Parameters
    ----------
    data : bytes
    source : str
        The file, for messages.

    Attributes
    ----------
    root : int
        Address of the root group.

    Raises
    ------
    WeightFileError
        Here and in every method: when the file is damaged, cut off, or uses a part of HDF5 that Keras does not.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source = data, source
        self._steps = 0
        self._headers: dict[int, list[_Message]] = {}
        self._groups: dict[int, dict[bytes, int]] = {}
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        if data[:8] != SIGNATURE:
            raise WeightFileError(f"{source}: no HDF5 file (its signature is missing)")
        version, offsets, lengths = self._at("<B", 8)[0], *self._at("<BB", 13)
        if version not in (0, 1) or (offsets, lengths) != (8, 8):
            raise WeightFileError(
                f"{source}: HDF5 superblock {version} with {offsets}-byte addresses, expected 0 or 1 with 8; save the "
                "weights anew with h5py's default settings"
            )
        start = 24 if version == 0 else 28
        base = self._at("<Q", start)[0]
        if base != 0:
            self._refuse("the HDF5 data do not start at the first byte")
        self.root: int = self._at("<Q", start + 40)[0]

    # What a user asks for

    def child(self, group: int, name: str) -> int | None:
        """Return the address of the object `name`, a path with slashes, below a group; None when there is none."""
        for part in name.encode("utf-8", "surrogateescape").split(b"/"):
            found = self._children(group).get(part)
            if found is None:
                return None
            group = found
        return group

    def texts(self, address: int, name: str) -> list[str] | None:
        """Return an attribute that is a list of texts; None when there is none of that name."""
        for message in self._messages(address):
            self._step()
            if message.kind == ATTRIBUTE:
                attribute = self._attribute(message, name.encode())
                if attribute is not None:
                    return attribute
        return None

    def array(self, address: int, what: str) -> NDArray[np.generic]:
        """Return a dataset of numbers as a view of the file."""
        messages: dict[int, _Message] = {}
        for message in self._messages(address):
            self._step()
            messages[message.kind] = message
        if not {DATASPACE, DATATYPE, LAYOUT} <= messages.keys():
            self._refuse(f"{what} is no array")
        shape = self._shape(messages[DATASPACE].start, what)
        dtype = self._number_type(messages[DATATYPE].start, what)
        start, size = self._extent(messages[LAYOUT], what)
        needed = math.prod(shape) * dtype.itemsize
        if needed == 0:
            return np.zeros(shape, dtype)
        if size != needed:
            self._refuse(f"{what} has {size} bytes, not the {needed} of shape {shape} and type {dtype}")
        return np.frombuffer(self._bytes(start, size), dtype).reshape(shape)

    # Bytes and numbers, bounded

    def _refuse(self, reason: str) -> NoReturn:
        raise WeightFileError(f"{self.source}: {reason}; the file is damaged, or not one that Keras wrote")

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            self._refuse("its groups go round in circles")

    def _bytes(self, start: int, size: int) -> memoryview:
        if start < 0 or size < 0 or start + size > len(self.data):
            self._refuse(f"points to {size} bytes at {start}, and has {len(self.data)}")
        return memoryview(self.data)[start : start + size]

    def _at(self, layout: str, start: int) -> tuple[Any, ...]:
        return struct.unpack(layout, self._bytes(start, struct.calcsize(layout)))

    def _signed(self, signature: bytes, start: int) -> None:
        if bytes(self._bytes(start, 4)) != signature:
            self._refuse(f"has no {signature.decode()} at {start}")

    # Object headers and groups

    def _messages(self, address: int) -> list[_Message]:
        """Messages of an object header, version 1."""
        if address not in self._headers:
            version, count, size = *self._at("<BxH", address), self._at("<I", address + 8)[0]
            if version != 1:
                self._refuse(f"an object header of version {version}, expected 1")
            found: list[_Message] = []
            blocks = [(address + 16, size)]
            for start, length in blocks:
                self._bytes(start, length)
                self._block(start, start + length, count, found, blocks)
            self._headers[address] = found
        return self._headers[address]

    def _block(self, start: int, end: int, count: int, found: list[_Message], blocks: list[tuple[int, int]]) -> None:
        """Read the messages of one block; a continuation adds a block to the list being walked."""
        while start + 8 <= end and len(found) < count:
            self._step()
            kind, size, flags = self._at("<HHB", start)
            if start + 8 + size > end or flags & 2:
                self._refuse("a header message leaves its block, or is shared")
            found.append(_Message(kind, start + 8, size))
            if kind == CONTINUATION:
                blocks.append(self._at("<QQ", start + 8))
            start += 8 + size

    def _children(self, group: int) -> dict[bytes, int]:
        if group not in self._groups:
            table = next((message for message in self._messages(group) if message.kind == SYMBOL_TABLE), None)
            if table is None:
                self._refuse("something taken for a group is none")
            tree, heap = self._at("<QQ", table.start)
            self._signed(b"HEAP", heap)
            size, _, names = self._at("<QQQ", heap + 8)
            self._bytes(names, size)
            self._groups[group] = self._entries(tree, names, names + size)
        return self._groups[group]

    def _entries(self, tree: int, names: int, end: int) -> dict[bytes, int]:
        """Walk over a version 1 B-tree of symbol nodes; their names lie between two addresses."""
        children: dict[bytes, int] = {}
        waiting, visited = [tree], set()
        while waiting:
            self._step()
            node = waiting.pop()
            if node in visited:
                self._refuse("its groups go round in circles")
            visited.add(node)
            if bytes(self._bytes(node, 4)) == b"TREE":
                kind, _, used = self._at("<BBH", node + 4)
                if kind != 0:
                    self._refuse("a group is kept in a tree of chunks")
                waiting.extend(self._at("<" + "8xQ" * used, node + 24))
            else:
                self._signed(b"SNOD", node)
                for k in range(self._at("<H", node + 6)[0]):
                    self._step()
                    offset, header = self._at("<QQ", node + 8 + 40 * k)
                    children[self._name(names + offset, end)] = header
        return children

    def _name(self, start: int, end: int) -> bytes:
        stop = self.data.find(b"\0", start, min(end, start + 1024)) if start < end else -1
        if stop < 0:
            self._refuse("a name has no end")
        return self.data[start:stop]

    # Messages

    def _attribute(self, message: _Message, wanted: bytes) -> list[str] | None:
        version, name_size, type_size, space_size = self._at("<BxHHH", message.start)
        if version not in (1, 2, 3):
            self._refuse(f"an attribute of version {version}")
        unit = 8 if version == 1 else 1
        start = message.start + (9 if version == 3 else 8)
        if bytes(self._bytes(start, name_size)).rstrip(b"\0") != wanted:
            return None
        datatype = start + _padded(name_size, unit)
        dataspace = datatype + _padded(type_size, unit)
        data, what = dataspace + _padded(space_size, unit), f"attribute {shown(wanted.decode())}"
        count = math.prod(self._shape(dataspace, what))
        if count == 0:
            return []
        kind, bits, length = self._at("<BBxxI", datatype)
        variable = kind & 15 == VARIABLE and bits & 15 == 1 and length == 16
        if (kind & 15 != STRING and not variable) or not 0 < count * length <= message.start + message.size - data:
            self._refuse(f"{what} is no list of texts")
        starts = range(data, data + count * length, length)
        raw = [self._variable(start) if variable else bytes(self._bytes(start, length)) for start in starts]
        return [text.partition(b"\0")[0].decode("utf-8", "surrogateescape") for text in raw]

    def _variable(self, start: int) -> bytes:
        """Read a text of variable length: its length, and the number of an object in a global heap."""
        length, heap, number = self._at("<IQI", start)
        if heap not in self._heaps:
            self._heaps[heap] = self._heap(heap)
        found, size = self._heaps[heap].get(number, (0, 0))
        if length > size:
            self._refuse("a text is longer than the object that holds it")
        return bytes(self._bytes(found, length))

    def _heap(self, start: int) -> dict[int, tuple[int, int]]:
        """Where the objects of a global heap lie, by their number, and their sizes."""
        self._signed(b"GCOL", start)
        (size,) = self._at("<Q", start + 8)
        self._bytes(start, size)
        objects, at, end = {}, start + 16, start + size
        while at + 16 <= end:
            self._step()
            number, length = self._at("<H6xQ", at)
            if number == 0:
                break
            objects[number] = (at + 16, length)
            at += 16 + _padded(length, 8)
        return objects

    def _shape(self, start: int, what: str) -> tuple[int, ...]:
        version, dimensions, kind = self._at("<BBxB", start)
        if version not in (1, 2) or (version == 2 and kind == 2) or dimensions > 32:
            self._refuse(f"{what} has no shape")
        return checked_shape(self._at(f"<{dimensions}Q", start + (8 if version == 1 else 4)), what, self.source)

    def _number_type(self, start: int, what: str) -> np.dtype[np.generic]:
        """Read a plain integer or IEEE 754 type."""
        head, bits, size = self._at("<BBxxI", start)
        order = ">" if bits & 1 else "<"
        if head & 15 == FIXED and size in (1, 2, 4, 8) and self._at("<HH", start + 8) == (0, 8 * size):
            return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
        if head & 15 == FLOATING and size in FLOAT_SIZES and not bits & 64:
            exponent, mantissa = FLOAT_SIZES[size]
            bias = 2 ** (exponent - 1) - 1
            if self._at("<HHBBBBI", start + 8) == (0, 8 * size, mantissa, exponent, 0, mantissa, bias):
                return np.dtype(f"{order}f{size}")
        self._refuse(f"{what} is of no plain type of numbers")

    def _extent(self, message: _Message, what: str) -> tuple[int, int]:
        """Where the bytes of a dataset lie."""
        version, kind = self._at("<BB", message.start)
        if version == 3 and kind == CONTIGUOUS:
            start, size = self._at("<QQ", message.start + 2)
            return (0, 0) if start == UNDEFINED else (start, size)
        if version == 3 and kind == COMPACT:
            return message.start + 4, self._at("<H", message.start + 2)[0]
        self._refuse(f"{what} is stored in chunks, expected one piece")


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit

"""Read PyTorch weight files, the zip format (1.6 and later) and the one before, and run nothing that is in them."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.limits import MAX_FILE_BYTES, TensorTable, read_bytes, shown
from hyperdecode.weights.pickled_values import DICT_SYMBOLS, NUMPY_SYMBOLS, SET_SYMBOLS, array_of, is_array, plain_dict
from hyperdecode.weights.pickles import Call, PersistentId, read_pickle
from hyperdecode.weights.torch_tensors import DTYPES, TORCH_SYMBOLS, is_tensor, storage_class, tensor_of, widened

__all__ = ["LEGACY_MAGIC", "open_archive", "read_legacy_storage", "read_torch"]

KIND = "PyTorch weight file"
# The arguments of a training script often lie beside the states; they stay a note that nobody reads.
ALLOWED = frozenset({"argparse.Namespace"}) | TORCH_SYMBOLS | NUMPY_SYMBOLS | DICT_SYMBOLS | SET_SYMBOLS
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_MEMBERS = 20_000
MAX_DEPTH = 16
MAX_NODES = 100_000
# Weights hardly compress; an archive that claims much more than it weighs is a bomb.
MAX_INFLATION, SPARE_BYTES = 20, 2**20
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    OverflowError,
)


def read_torch(path: str | os.PathLike[str]) -> WeightContents:
    """Read the tensors of a ``.pth`` or ``.pt`` file.

    Parameters
    ----------
    path : path-like
        What ``torch.save`` wrote: a state dict, or dicts of state dicts. Nested names are joined by dots.

    Returns
    -------
    WeightContents
        Format ``"torch"``. Numbers and texts beside the tensors are in the settings.

    Raises
    ------
    WeightFileError
        For a file that is damaged, of another format, or names a global that no state dict needs.
    """
    source, data = Path(path).name, read_bytes(path)
    if data[:2] == b"PK":
        root, storages = _read_zip(data, source)
    elif data[257:262] == b"ustar":
        raise WeightFileError(
            f"{source}: the tar format of PyTorch before 0.1.10; open and save it with a newer PyTorch"
        )
    else:
        root, storages = _read_legacy(data, source, KIND, ALLOWED)
    table = TensorTable(source, len(data))
    settings: dict[str, Any] = {}
    _Flattening(table, storages, settings).walk("", root, 0)
    return WeightContents("torch", table.tensors, source, settings)


class _Flattening:
    """The walk through nested dictionaries; counts its steps: references can unfold a small file without end."""

    def __init__(self, table: TensorTable, storages: _Storages, settings: dict[str, Any]) -> None:
        self.table, self.storages, self.settings, self.count = table, storages, settings, 0

    def walk(self, name: str, node: Any, depth: int) -> None:
        source = self.table.source
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            raise WeightFileError(f"{source}: dictionaries nested without end, refusing to unfold them")
        what = f"tensor {shown(name)}"
        if is_tensor(node):
            self.table.add(name, tensor_of(node, self.storages.values, source, what))
        elif is_array(node):
            self.table.add(name, array_of(node, source, what))
        elif isinstance(node, dict) or (isinstance(node, Call) and node.function.path in DICT_SYMBOLS):
            for key, value in plain_dict(node, source, what).items():
                self.walk(f"{name}.{key}" if name else str(key), value, depth + 1)
        elif name and isinstance(node, str | int | float | bool | None):
            self.settings[name] = node
        elif depth == 0:
            raise WeightFileError(f"{source}: holds no dictionary of tensors; save `model.state_dict()` to a file")


class _Storages:
    """The storages that a pickle refers to, found by their key."""

    def __init__(self, source: str) -> None:
        self.source = source

    def values(self, node: Any) -> NDArray[np.generic]:
        """Return the values behind a persistent id ``("storage", class, key, location, elements, ...)``."""
        parts = node.value if isinstance(node, PersistentId) else None
        if not isinstance(parts, tuple) or len(parts) < 5 or parts[0] not in ("storage", b"storage"):
            raise WeightFileError(f"{self.source}: a tensor refers to no storage of this file")
        kind, key, elements = storage_class(parts[1], self.source), parts[2], parts[4]
        if isinstance(key, int):
            key = str(key)
        if not isinstance(key, str) or not isinstance(elements, int) or elements < 0:
            raise WeightFileError(f"{self.source}: a tensor refers to no storage of this file")
        if len(parts) > 5 and parts[5] is not None:
            raise WeightFileError(
                f"{self.source}: a storage that views another one; save the file with a newer PyTorch"
            )
        raw = self.raw(key, kind, elements)
        itemsize = np.dtype(DTYPES[kind]).itemsize
        if len(raw) != elements * itemsize:
            raise WeightFileError(
                f"{self.source}: storage {shown(key)} claims {elements} values of {itemsize} bytes and has {len(raw)}"
            )
        return widened(np.frombuffer(raw, DTYPES[kind]), kind)

    def raw(self, key: str, kind: str, elements: int) -> bytes | memoryview:
        raise NotImplementedError


# The zip format: NAME/data.pkl, NAME/data/KEY, NAME/version, NAME/byteorder


class _ZipStorages(_Storages):
    def __init__(self, archive: zipfile.ZipFile, folder: str, source: str) -> None:
        super().__init__(source)
        self.archive, self.folder = archive, folder
        self._read: dict[str, bytes] = {}

    def raw(self, key: str, kind: str, elements: int) -> bytes:
        if key not in self._read:
            self._read[key] = read_member(self.archive, f"{self.folder}/data/{key}", self.source)
        return self._read[key]


def open_archive(data: bytes, source: str) -> zipfile.ZipFile:
    """Open a zip archive whose directory has been checked: how many members, how large, under which names.

    Raises
    ------
    WeightFileError
        For an archive that is damaged, claims far more bytes than it weighs, is encrypted, uses a compression other
        than deflate, or has a name twice, an absolute one, or one with ``..``.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (*ZIP_ERRORS, ValueError) as error:
        raise WeightFileError(f"{source}: not readable as an archive ({shown(str(error))}), fetch it anew") from None
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise WeightFileError(f"{source}: {len(members)} members, no weight file has so many")
    if len({member.filename for member in members}) != len(members):
        raise WeightFileError(f"{source}: an archive with two members of one name, refusing to choose")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise WeightFileError(f"{source}: member {shown(member.filename)} points out of the archive, refused")
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightFileError(
                f"{source}: member {shown(member.filename)} is encrypted or oddly compressed, refused"
            )
    claimed = sum(member.file_size for member in members)
    if claimed > min(MAX_INFLATION * len(data) + SPARE_BYTES, MAX_FILE_BYTES):
        raise WeightFileError(f"{source}: claims {claimed} bytes in an archive of {len(data)}, refusing to inflate it")
    return archive


def read_member(archive: zipfile.ZipFile, name: str, source: str) -> bytes:
    """Read one member in memory and check its CRC.

    Raises
    ------
    WeightFileError
        When there is none of that name, or its bytes are not those that were stored.
    """
    try:
        member = archive.getinfo(name)
        with archive.open(member) as stream:
            content = stream.read(member.file_size)
            if len(content) != member.file_size or stream.read(1):
                raise EOFError("its size is not the one claimed")
    except KeyError:
        raise WeightFileError(f"{source}: no member {shown(name)} in the archive") from None
    except (*ZIP_ERRORS, ValueError) as error:
        raise WeightFileError(f"{source}: member {shown(name)} is damaged ({shown(str(error))})") from None
    return content


def _read_zip(data: bytes, source: str) -> tuple[Any, _Storages]:
    archive = open_archive(data, source)
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightFileError(f"{source}: an archive with no data.pkl, so no {KIND}")
    folder = pickles[0].partition("/")[0]
    byteorder = f"{folder}/byteorder"
    if byteorder in archive.namelist() and read_member(archive, byteorder, source) != b"little":
        raise WeightFileError(f"{source}: written on a machine of the other byte order; save it anew on a usual one")
    stream = io.BytesIO(read_member(archive, pickles[0], source))
    return read_pickle(stream, ALLOWED, source, KIND), _ZipStorages(archive, folder, source)


# The format before: pickles of a magic number, a protocol version, the machine, the object, the storage keys;
# then for each key the number of elements (int64) and the values


class _LegacyStorages(_Storages):
    def __init__(self, data: memoryview, source: str) -> None:
        super().__init__(source)
        self._data = data
        self._found: dict[str, tuple[int, int]] = {}

    def locate(self, position: int, keys: list[Any], persistent: list[PersistentId]) -> None:
        """Walk over the storages in file order; the type of each comes from the tensors that refer to it."""
        kinds = {
            str(node.value[2]): storage_class(node.value[1], self.source)
            for node in persistent
            if isinstance(node.value, tuple) and len(node.value) >= 5 and isinstance(node.value[2], str | int)
        }
        for key in keys:
            start = position + 8
            if not isinstance(key, str) or key not in kinds or key in self._found or start > len(self._data):
                raise WeightFileError(f"{self.source}: the list of its storages is damaged, or the file is cut off")
            (elements,) = struct.unpack_from("<q", self._data, position)
            size = elements * np.dtype(DTYPES[kinds[key]]).itemsize
            if elements < 0 or start + size > len(self._data):
                raise WeightFileError(f"{self.source}: ends within storage {shown(key)}, the file is cut off")
            self._found[key] = (start, size)
            position = start + size

    def raw(self, key: str, kind: str, elements: int) -> memoryview:
        if key not in self._found:
            raise WeightFileError(f"{self.source}: a tensor refers to storage {shown(key)}, which is not in the file")
        start, size = self._found[key]
        return self._data[start : start + size]


def _read_legacy(data: bytes | bytearray, source: str, kind: str, allowed: frozenset[str]) -> tuple[Any, _Storages]:
    stream = io.BytesIO(data)
    head = [read_pickle(stream, (), source, kind) for _ in range(3)]
    if head[0] != LEGACY_MAGIC or head[1] != LEGACY_PROTOCOL or not isinstance(head[2], dict):
        raise WeightFileError(f"{source}: no {kind} (its magic number is missing)")
    if head[2].get("little_endian") is not True:
        raise WeightFileError(f"{source}: written on a machine of the other byte order; save it anew on a usual one")
    persistent: list[PersistentId] = []
    root = read_pickle(stream, allowed, source, kind, persistent)
    keys = read_pickle(stream, (), source, kind)
    if not isinstance(keys, list):
        raise WeightFileError(f"{source}: the list of its storages is damaged, or the file is cut off")
    storages = _LegacyStorages(memoryview(data), source)
    storages.locate(stream.tell(), keys, persistent)
    return root, storages


def read_legacy_storage(data: bytes | bytearray, source: str) -> NDArray[np.generic]:
    """Read a file of the older format that holds one storage and nothing else, as pickled tensors embed it.

    Raises
    ------
    WeightFileError
        When it holds anything else.
    """
    root, storages = _read_legacy(data, source, "PyTorch storage", TORCH_SYMBOLS)
    return storages.values(root)

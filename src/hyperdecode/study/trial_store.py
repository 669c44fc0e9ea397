"""Trials x voxels in one file that is written run by run and read by blocks of trials or of voxels.

The file is Zarr version 3 in a zip archive, whose chunks are stored as they are: the group has ``z`` (trials x voxels,
float32) and ``voxels`` (places on the grid, int64). Any Zarr program opens it. Here it is written and read without one:
a chunk is a piece of the file whose place the archive's directory gives, so no compiled library meets a file that
someone else has made, and there is nothing to unpack. Time stamps are fixed: the same values make the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.memory import refuse_too_large
from hyperdecode.study.reading import one_line

__all__ = ["CHUNK_ROWS", "STEP", "StoreWriter", "TrialStore", "open_store", "write_store"]

CHUNK_ROWS, CHUNK_COLUMNS = 64, 4096
"""The largest chunk is 1 MiB: voxels of all trials are read in such pieces, one trial in pieces of 16 KiB."""
STEP = 1024
"""Chunks of a part of the voxels are this many wide, or a multiple."""

MAX_TRIALS, MAX_VOXELS, MAX_CHUNK_BYTES = 10_000_000, 2**24, 16 * 2**20
MAX_METADATA, MAX_DIRECTORY = 2**16, 2**28
SPARSE = 8
"""Where fewer than one in so many rows of a chunk are wanted, they alone are read (and not compared with its CRC)."""

Z, VOXELS = np.dtype("<f4"), np.dtype("<i8")
EPOCH = (1980, 1, 1, 0, 0, 0)
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
DAMAGED = (zipfile.BadZipFile, OSError, ValueError, KeyError, struct.error, EOFError, RuntimeError, OverflowError)


class StoreWriter:
    """Takes trials in their order; see `write_store`."""

    def __init__(self, archive: zipfile.ZipFile, n_trials: int, voxels: NDArray[np.int64]) -> None:
        self.shape = (n_trials, len(voxels))
        self.n_added = 0
        self._archive, self._chunk = archive, _chunk_shape(self.shape)
        self._rows = np.zeros((self._chunk[0], _padded(self.shape[1], self._chunk[1])), Z)
        self._put("zarr.json", _text(GROUP))
        self._put("voxels/zarr.json", _text(_array_metadata((len(voxels),), (len(voxels),))))
        self._put("voxels/c/0", voxels.astype(VOXELS).tobytes())
        self._put("z/zarr.json", _text(_array_metadata(self.shape, self._chunk)))

    def add(self, z: NDArray[Any]) -> None:
        """Add trials, (n, n_voxels); they are kept as float32."""
        if z.ndim != 2 or z.shape[1] != self.shape[1] or self.n_added + len(z) > self.shape[0]:
            raise ValueError(f"trials of shape {z.shape} do not fit after {self.n_added} of {self.shape}")
        while len(z):
            first = self.n_added % self._chunk[0]
            part = z[: self._chunk[0] - first]
            self._rows[first : first + len(part), : self.shape[1]] = part
            self.n_added += len(part)
            z = z[len(part) :]
            if self.n_added % self._chunk[0] == 0 or self.n_added == self.shape[0]:
                self._write_rows()

    def _write_rows(self) -> None:
        row, width = (self.n_added - 1) // self._chunk[0], self._chunk[1]
        for column in range(self._rows.shape[1] // width):
            block = self._rows[:, column * width : (column + 1) * width]
            self._put(f"z/c/{row}/{column}", block.tobytes())
        self._rows[:] = 0

    def _put(self, name: str, data: bytes) -> None:
        entry = zipfile.ZipInfo(name, EPOCH)
        entry.create_system = 3
        self._archive.writestr(entry, data, zipfile.ZIP_STORED)


@contextmanager
def write_store(path: str | os.PathLike[str], n_trials: int, voxels: NDArray[np.integer[Any]]) -> Iterator[StoreWriter]:
    """Yield a writer for a store that is there, whole, when the block ends without an error.

    Parameters
    ----------
    path : path-like
        Ends in ``.zarr.zip``.
    n_trials : int
        How many will be added.
    voxels : ndarray of int, (n_voxels,)
        Their places on the grid, flat in C order.

    Yields
    ------
    StoreWriter

    Raises
    ------
    UserError
        When there are no trials or no voxels, or more than a store has.
    ValueError
        When fewer trials were added.
    """
    problem = _problem_of_shape((n_trials, len(voxels)))
    if problem:
        raise UserError(f"trials x voxels cannot be kept ({problem}): look at the runs and the voxel mask")
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            writer = StoreWriter(archive, n_trials, voxels.astype(np.int64))
            yield writer
        if writer.n_added != n_trials:
            raise ValueError(f"{writer.n_added} trials were added to a store of {n_trials}")


class TrialStore:
    """Trials x voxels on disk, sliced as an array is; open it by `open_store`.

    ``store[rows]`` and ``store[rows, start:stop]`` read that part alone; `rows` is a slice or an array of numbers.

    Attributes
    ----------
    path : pathlib.Path
    shape : tuple of int
        (n_trials, n_voxels).
    dtype : numpy.dtype
        float32.
    voxels : ndarray of int64, (n_voxels,)
        Places on the grid, flat in C order.
    """

    ndim = 2

    def __init__(self, path: Path, shape: tuple[int, int], chunk: tuple[int, int], places: _Places) -> None:
        self.path, self.shape = path, shape
        self.dtype = np.dtype(np.float32)
        self._chunk, self._places = chunk, places
        self.voxels = np.frombuffer(places.whole("voxels/c/0"), VOXELS).astype(np.int64)
        if self.voxels.min() < 0 or len(np.unique(self.voxels)) < len(self.voxels):
            raise ValueError("its voxels are no different places on a grid")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Read trials, or some voxels of them; a `UserError` where the file is damaged."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if not isinstance(columns, slice) or columns.step not in (None, 1):
            raise TypeError("voxels are read from start to stop: give a slice")
        start, stop, _ = columns.indices(self.shape[1])
        if isinstance(rows, slice):
            wanted = np.arange(self.shape[0])[rows]
        else:
            wanted = np.asarray(rows)
            wanted = np.flatnonzero(wanted) if wanted.dtype == bool else wanted.astype(np.intp).ravel()
            if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.shape[0]:
                raise IndexError(f"a row lies outside of the {self.shape[0]} trials")
        try:
            return self._read(wanted, start, max(start, stop))
        except DAMAGED as error:
            raise _damaged(self.path, error) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything, where that fits the memory of a process."""
        refuse_too_large(
            math.prod(self.shape) * Z.itemsize,
            f"{self.shape[0]} trials x {self.shape[1]} voxels in one piece",
            "choose fewer voxels (bold.voxels, bold.n_voxels) or a step that reads in blocks (docs/scale.md)",
        )
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self, rows: NDArray[np.intp], start: int, stop: int) -> NDArray[np.float32]:
        out = np.empty((len(rows), stop - start), Z)
        high, wide = self._chunk
        of_chunk, inside = np.divmod(rows, high)
        for i in np.unique(of_chunk):
            mine = np.flatnonzero(of_chunk == i)
            few = SPARSE * len(mine) < high
            for j in range(start // wide, -(-stop // wide)):
                left, right = max(start, j * wide), min(stop, (j + 1) * wide)
                name, part = f"z/c/{i}/{j}", slice(left - j * wide, right - j * wide)
                if few:
                    for row in mine:
                        data = self._places.part(name, int(inside[row]) * wide * Z.itemsize, wide * Z.itemsize)
                        out[row, left - start : right - start] = np.frombuffer(data, Z)[part]
                else:
                    chunk = np.frombuffer(self._places.whole(name), Z).reshape(high, wide)
                    out[mine, left - start : right - start] = chunk[inside[mine], part]
        return out.astype(np.float32, copy=False)


def open_store(path: str | os.PathLike[str]) -> TrialStore:
    """Open trials x voxels; nothing but descriptions and places is read.

    Parameters
    ----------
    path : path-like
        Written by `write_store`, or by someone else: nothing in it is trusted.

    Returns
    -------
    TrialStore

    Raises
    ------
    UserError
        When the file is missing, damaged, or anything else than `write_store` writes.
    """
    source = Path(path)
    if not source.is_file():
        raise UserError(f"{source} does not exist or is no file: run the step mask again")
    try:
        places = _Places.of(source)
        shape, chunk = _read_array_metadata(places, "z", 2)
        (n_voxels,), voxel_chunk = _read_array_metadata(places, "voxels", 1)
        if _json(places, "zarr.json") != GROUP or n_voxels != shape[1] or voxel_chunk != (n_voxels,):
            raise ValueError("its parts do not belong together")
        _check_entries(places, shape, chunk)
        return TrialStore(source, (shape[0], shape[1]), (chunk[0], chunk[1]), places)
    except DAMAGED as error:
        raise _damaged(source, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is no store of trials x voxels ({one_line(error)}): run the step mask again")


class _Places:
    """Where the archive's entries lie in the file."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (open as long as this object)
        weakref.finalize(self, self._file.close)
        self.size = os.fstat(self._file.fileno()).st_size
        self.entries: dict[str, zipfile.ZipInfo] = {}

    @classmethod
    def of(cls, path: Path) -> _Places:
        places = cls(path)
        places._check_directory()
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
        places.entries = {entry.filename: entry for entry in found}
        if len(places.entries) != len(found):
            raise ValueError("an entry stands twice in it")
        for entry in found:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits or entry.compress_size != entry.file_size:
                raise ValueError(f"{entry.filename[:80]!r} is packed or encrypted")
        return places

    def _check_directory(self) -> None:
        """Look at the directory's size before it is read: it ends a file that has no comment."""
        tail = self._at(max(0, self.size - 98), min(98, self.size))
        if tail[-22:-18] != b"PK\5\6":
            raise ValueError("it does not end as a zip archive does")
        size = struct.unpack("<L", tail[-10:-6])[0]
        if size == 0xFFFFFFFF:
            if len(tail) < 98 or tail[:4] != b"PK\6\6":
                raise ValueError("its zip directory cannot be found")
            size = struct.unpack("<Q", tail[40:48])[0]
        if size > MAX_DIRECTORY:
            raise ValueError(f"its zip directory has {size} bytes")

    def whole(self, name: str) -> bytes:
        """Return an entry, compared with its CRC-32."""
        entry = self.entries[name]
        data = self._at(self._start(entry), entry.file_size)
        if zlib.crc32(data) != entry.CRC:
            raise ValueError(f"{name} was changed after it was written")
        return data

    def part(self, name: str, offset: int, n_bytes: int) -> bytes:
        """Return a part of an entry."""
        entry = self.entries[name]
        return self._at(self._start(entry) + offset, min(n_bytes, entry.file_size - offset))

    def _start(self, entry: zipfile.ZipInfo) -> int:
        head = self._at(entry.header_offset, 30)
        if head[:4] != b"PK\3\4":
            raise ValueError(f"{entry.filename} does not lie where the directory says")
        name, extra = struct.unpack("<HH", head[26:30])
        return int(entry.header_offset) + 30 + int(name) + int(extra)

    def _at(self, offset: int, n_bytes: int) -> bytes:
        if not 0 <= offset <= offset + n_bytes <= self.size:
            raise ValueError("it is cut off")
        self._file.seek(offset)
        data = bytearray()
        while len(data) < n_bytes:
            piece = self._file.read(n_bytes - len(data))
            if not piece:
                raise ValueError("it is cut off")
            if len(piece) == n_bytes:
                return piece
            data += piece
        return bytes(data)


def _check_entries(places: _Places, shape: Sequence[int], chunk: Sequence[int]) -> None:
    """Refuse an archive that lacks a chunk, has one of another size, or anything else in it."""
    grid = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    n_bytes = math.prod(grid) * math.prod(chunk) * Z.itemsize
    if len(places.entries) != math.prod(grid) + 4 or n_bytes > places.size:
        raise ValueError(f"it has {places.size} bytes in {len(places.entries)} entries, {tuple(shape)} needs others")
    sizes = {f"z/c/{i}/{j}": math.prod(chunk) * Z.itemsize for i in range(grid[0]) for j in range(grid[1])}
    sizes["voxels/c/0"] = shape[1] * VOXELS.itemsize
    for name, size in sizes.items():
        entry = places.entries.get(name)
        if entry is None or entry.file_size != size:
            raise ValueError(f"{name} is missing or of another size than its description asks for")


def _chunk_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Cut trials evenly, and voxels, where there are many, into multiples of `STEP` that pad the least."""
    n_trials, n_voxels = shape
    high = -(-n_trials // -(-n_trials // CHUNK_ROWS))
    if n_voxels <= CHUNK_COLUMNS:
        return high, n_voxels
    widths = range(CHUNK_COLUMNS, 0, -STEP)
    return high, min(widths, key=lambda width: _padded(n_voxels, width))


def _padded(n: int, step: int) -> int:
    return -(-n // step) * step


def _array_metadata(shape: Sequence[int], chunk: Sequence[int]) -> dict[str, Any]:
    two = len(shape) == 2
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "float32" if two else "int64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if two else 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "dimension_names": ["trial", "voxel"] if two else ["voxel"],
    }


def _read_array_metadata(places: _Places, name: str, n_axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    said = _json(places, f"{name}/zarr.json")
    try:
        shape, chunk = said["shape"], said["chunk_grid"]["configuration"]["chunk_shape"]
        whole = all(type(n) is int and n > 0 for n in (*shape, *chunk)) and len(shape) == len(chunk) == n_axes
    except (TypeError, KeyError) as error:
        raise ValueError(f"{name} has no shape") from error
    if not whole or said != _array_metadata(shape, chunk):
        raise ValueError(f"{name} is no array of the kind that is kept here")
    problem = _problem_of_shape((shape[0], shape[-1]) if n_axes == 2 else (1, shape[0]))
    if n_axes == 2 and math.prod(chunk) * Z.itemsize > MAX_CHUNK_BYTES:
        problem = f"chunks of {chunk}"
    if problem:
        raise ValueError(problem)
    return tuple(shape), tuple(chunk)


def _problem_of_shape(shape: tuple[int, int]) -> str | None:
    if min(shape) < 1 or shape[0] > MAX_TRIALS or shape[1] > MAX_VOXELS:
        return f"{shape[0]} trials x {shape[1]} voxels, there may be 1 to {MAX_TRIALS} and 1 to {MAX_VOXELS}"
    return None


def _json(places: _Places, name: str) -> Any:
    if name not in places.entries or places.entries[name].file_size > MAX_METADATA:
        raise ValueError(f"it has no {name} of a size that makes sense")
    try:
        return cast(Any, json.loads(places.whole(name)))
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deep") from error


def _text(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()

"""Responses that are read in blocks: arrays, tensors, and what lies on disk and is larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperdecode.decoding.arrays import as_tensor
from hyperdecode.decoding.checks import refuse_bad_columns, refuse_wrong_shape
from hyperdecode.errors import UserError

__all__ = ["Responses", "available_memory"]


class Responses:
    """Trials x voxels, in memory or on disk, given out as tensors of the type that is computed in.

    Parameters
    ----------
    values : array, Tensor or array-like
        What is a `numpy.memmap`, or has a `shape`, a `dtype` and slices (an h5py or zarr dataset), is read in blocks;
        everything else is taken as one array in memory. NaN is looked for by whoever reads.
    what : str
        Name for messages.
    n_voxels : int, optional
        Width that the training had.

    Attributes
    ----------
    shape : tuple of int
        (n_trials, n_voxels).
    kind : Kind
        Of the values.
    on_disk : bool
        Whether every block is read anew.

    Raises
    ------
    UserError
        When they are no matrix of real numbers, are empty or have another number of voxels.
    TypeError
        When they are sparse.
    """

    def __init__(self, values: Any, what: str = "responses", n_voxels: int | None = None) -> None:
        self.on_disk = _sliceable(values)
        self.what = what
        if self.on_disk:
            _, self.kind = as_tensor(np.empty((0, 0), values.dtype), what)
            self.values = values
        else:
            self.values, self.kind = as_tensor(values, what)
        refuse_wrong_shape(tuple(self.values.shape), what, n_voxels)
        self.shape = (int(self.values.shape[0]), int(self.values.shape[1]))

    def columns(self, start: int, stop: int) -> Tensor:
        """Return all trials of some voxels."""
        return self._read(self.values[:, start:stop])

    def rows(self, which: slice | Tensor) -> Tensor:
        """Return all voxels of some trials."""
        if isinstance(which, Tensor) and self.on_disk:
            # HDF5 wants rows in their order, and a disk likes it.
            ordered, order = torch.sort(which)
            found = self._read(self.values[ordered.numpy(force=True)])
            return torch.empty_like(found).index_copy_(0, order, found)
        return self._read(self.values[which])

    def row_blocks(self, budget: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of trials, each of at most `budget` bytes, with the rows that they are."""
        size = max(1, budget // max(1, self.shape[1] * self.itemsize))
        for start in range(0, self.shape[0], size):
            block = slice(start, min(start + size, self.shape[0]))
            yield block, self.rows(block)

    def refuse_bad(self, bad: int) -> None:
        """Refuse the responses when columns that are not finite were found."""
        refuse_bad_columns(bad, self.shape[1], self.what)

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the type that is computed in."""
        return self.kind.dtype.itemsize

    def _read(self, part: Any) -> Tensor:
        if not self.on_disk:
            return part  # type: ignore[no-any-return]
        return as_tensor(np.array(part), self.what)[0].to(self.kind.dtype)


def _sliceable(values: Any) -> bool:
    if isinstance(values, np.memmap):
        return values.ndim == 2
    if isinstance(values, np.ndarray | Tensor) or not hasattr(values, "__getitem__"):
        return False
    # Not pandas (no dtype) nor sparse matrices (refused later); an h5py or zarr dataset, or something like them.
    return hasattr(values, "dtype") and len(getattr(values, "shape", ())) == 2 and not hasattr(values, "tocsr")


def available_memory(device: torch.device) -> int:
    """Return the bytes that new arrays may take on a device, of the machine or of the container that we run in.

    Raises
    ------
    UserError
        When the machine does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_memory_of_machine(), _memory_of_container()]
    known = [limit for limit in limits if limit is not None]
    if not known:
        raise UserError("this machine does not say how much memory is free: give `memory` in bytes")
    return min(known)


def _memory_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return _physical_memory()


def _physical_memory() -> int | None:
    """Half of what the machine has, where it does not say what is free."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _memory_of_container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        cache = (folder / "memory.stat").read_text(encoding="ascii").split("inactive_file ", 1)[1].split()[0]
        return None if limit == "max" else max(0, int(limit) - used + int(cache))
    except (OSError, ValueError, IndexError):
        return None

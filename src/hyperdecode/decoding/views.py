"""Trials out of what is read in blocks: a part of them, or the averages of repeats; nothing is read before it is asked.

Both are sliced as an array is, ``view[rows, start:stop]``, so that `hyperdecode.decoding.blocks.Responses` reads them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyperdecode.memory import refuse_too_large, working_memory

__all__ = ["COPIES", "AveragedTrials", "TrialRows", "fits_memory", "taken"]

COPIES = 6
"""What is held in memory is held as float32, its training trials once more, and worked on in float64."""

BLOCK_BYTES = 2**26


def fits_memory(shape: tuple[int, ...]) -> bool:
    """Whether responses of a shape, float32, may be worked on in memory."""
    return 4 * COPIES * math.prod(shape) <= working_memory()


def taken(values: Any, rows: NDArray[np.intp]) -> Any:
    """Return some trials: an array's at once, all else as `TrialRows`."""
    return values[rows] if isinstance(values, np.ndarray) else TrialRows(values, rows)


class _View:
    """Trials x voxels that are made when they are asked for."""

    ndim = 2
    dtype = np.dtype(np.float32)
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        return self._made(np.arange(self.shape[0])[rows], columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything, where that fits the memory of a process: for what has no form that reads in blocks."""
        refuse_too_large(
            4 * COPIES * math.prod(self.shape),
            f"working on {self.shape[0]} trials x {self.shape[1]} voxels in memory",
            "take a decoder that reads in blocks (weighted-ridge, ridge), fewer voxels (bold.voxels, bold.n_voxels) or "
            "averages (decoding.repeats)",
        )
        return self[:] if dtype is None else self[:].astype(dtype)

    def mean(self, axis: int = 0, dtype: Any = np.float64) -> NDArray[Any]:
        """Return the mean over trials, (n_voxels,), summed in float64."""
        if axis != 0:
            raise ValueError("the mean of a view is over its trials: axis 0")
        size = max(1, BLOCK_BYTES // (4 * self.shape[1]))
        total = np.zeros(self.shape[1])
        for start in range(0, self.shape[0], size):
            total += self[start : start + size].sum(axis=0, dtype=np.float64)
        return (total / self.shape[0]).astype(dtype)

    def _made(self, rows: NDArray[np.intp], columns: slice) -> NDArray[np.float32]:
        raise NotImplementedError


class TrialRows(_View):
    """Some trials of others; what is no part of them cannot be reached through it.

    Parameters
    ----------
    values : array-like
        Sliced as an array is, ``values[rows, start:stop]``.
    rows : ndarray of int
        Numbers of the trials.
    """

    def __init__(self, values: Any, rows: NDArray[np.intp]) -> None:
        self._values, self._rows = values, np.asarray(rows, np.intp)
        self.shape = (len(self._rows), int(values.shape[1]))

    def _made(self, rows: NDArray[np.intp], columns: slice) -> NDArray[np.float32]:
        return np.asarray(self._values[self._rows[rows], columns], np.float32)


class AveragedTrials(_View):
    """Mean of the trials of each stimulus, as `hyperdecode.decoding.repeats.average_repeats` has it, bit for bit.

    Parameters
    ----------
    values : array-like
        Training trials; sliced as an array is.
    place : ndarray of int, (n_trials,)
        Which stimulus each trial showed, counted from 0.
    """

    def __init__(self, values: Any, place: NDArray[np.intp]) -> None:
        self._values, self._place = values, np.asarray(place, np.intp)
        self.shape = (int(self._place.max()) + 1, int(values.shape[1]))

    def _made(self, rows: NDArray[np.intp], columns: slice) -> NDArray[np.float32]:
        start, stop, _ = columns.indices(self.shape[1])
        row_of = np.full(self.shape[0], -1)
        row_of[rows] = np.arange(len(rows))
        trials = np.flatnonzero(row_of[self._place] >= 0)
        sums = torch.zeros(len(rows), stop - start, dtype=torch.float64)
        size = max(1, BLOCK_BYTES // (4 * max(1, stop - start)))
        for first in range(0, len(trials), size):
            part = trials[first : first + size]
            values = torch.from_numpy(np.asarray(self._values[part, columns], np.float64))
            sums.index_add_(0, torch.from_numpy(row_of[self._place[part]]), values)
        counts = np.bincount(self._place, minlength=self.shape[0])[rows]
        sums /= torch.from_numpy(counts).to(sums)[:, None]
        return sums.float().numpy()

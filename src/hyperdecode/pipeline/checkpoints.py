"""A decoder's training on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from hyperdecode.decoding.training import State
from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import atomic_path, remove_leftovers
from hyperdecode.weights.limits import read_bytes, shown

__all__ = ["FileCheckpoint"]

DTYPES = frozenset({"float32", "float64", "int64", "uint8", "bool"})
MAX_ARRAYS = 1000


class FileCheckpoint:
    """The `Checkpoint` of a decoder as one safetensors file, written whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; its folder is made.
    every : int
        Epochs between two saves.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 50) -> None:
        self.path = Path(path)
        self.every = every

    def load(self) -> State | None:
        """Return what was saved last, None when nothing was; what a killed save left is removed.

        Raises
        ------
        UserError
            When the file is there and no checkpoint, or damaged.
        """
        remove_leftovers([self.path])
        if not self.path.exists():
            return None
        try:
            found: State = load(read_bytes(self.path))
        except WeightFileError:
            raise self._unreadable("it is empty or too large") from None
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise self._unreadable(shown(str(error))) from None
        if len(found) > MAX_ARRAYS or any(value.dtype.name not in DTYPES for value in found.values()):
            raise self._unreadable("it holds other things than a checkpoint does")
        return found

    def save(self, state: State) -> None:
        """Write a state in place of the one before.

        Raises
        ------
        UserError
            When the file cannot be written.
        """
        arrays = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in state.items()}
        try:
            with atomic_path(self.path) as temporary:
                save_file(arrays, temporary)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"cannot write the checkpoint {self.path} ({error}): free space or mend its folder, then run again"
            ) from None

    def clear(self) -> None:
        """Remove the file: training is done and its result kept elsewhere."""
        self.path.unlink(missing_ok=True)

    def _unreadable(self, why: str) -> UserError:
        return UserError(f"{self.path} is no readable checkpoint ({why}): remove it to train anew")

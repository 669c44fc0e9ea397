"""What a weight file may at most hold, and the one table through which every reader hands its tensors on."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError, WeightFileError

__all__ = ["MAX_DIMENSIONS", "MAX_FILE_BYTES", "TensorTable", "checked_shape", "read_bytes", "shown"]

MAX_FILE_BYTES = 4 * 2**30
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 16
MAX_NAME_LENGTH = 512
SHOWN_LENGTH = 80
# Bool to float32 takes four times the bytes, and a tensor may stand in a file under two names.
EXPANSION, SPARE_BYTES = 8, 2**20
MAX_TENSOR_BYTES = 8 * 2**30


def shown(value: object) -> str:
    """Show something out of a file in a message: one line, and not a long one."""
    text = value if isinstance(value, str) else f"{value}"
    return repr(text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}...")


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_FILE_BYTES) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises
    ------
    UserError
        When there is no such file, or it is no regular file (a device never ends).
    WeightFileError
        When it is empty or too large.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is no regular file, give the weight file itself")
        if not 0 < status.st_size <= limit:
            raise WeightFileError(f"{path}: {status.st_size} bytes, a weight file has between 1 and {limit}")
        with path.open("rb") as stream:
            # Not `limit`: Python makes room for what is asked for before it reads.
            return stream.read(status.st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {path} ({getattr(error, 'strerror', None) or error})") from None


def checked_shape(shape: Sequence[object], what: str, source: str) -> tuple[int, ...]:
    """Return `shape` as non-negative integers, few enough and with a product that an array can have."""
    sizes = tuple(n for n in shape if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**40)
    # A side of 0 makes an array empty, but NumPy still refuses the product of the others where it is too large.
    if len(sizes) != len(shape) or len(sizes) > MAX_DIMENSIONS or math.prod(max(n, 1) for n in sizes) >= 2**40:
        raise WeightFileError(f"{source}: {what} has no shape that an array can have, the file is damaged")
    return sizes


class TensorTable:
    """Collect the tensors of one file as float32, within a budget that follows from the size of the file.

    Parameters
    ----------
    source : str
        The file, for messages.
    file_bytes : int
        Its size. What comes out may be eight times as large (and 1 MiB), so that no small file fills the memory by
        naming the same values again and again.
    """

    def __init__(self, source: str, file_bytes: int) -> None:
        self.source = source
        self.tensors: dict[str, NDArray[np.float32]] = {}
        self._left = min(EXPANSION * file_bytes + SPARE_BYTES, MAX_TENSOR_BYTES)

    def add(self, name: object, array: NDArray[np.generic]) -> None:
        """Take one tensor.

        Raises
        ------
        WeightFileError
            When the name is no printable text, too long or taken, the values are no real numbers, not finite or too
            large for float32, or there is more than the file can honestly hold.
        """
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise WeightFileError(
                f"{self.source}: a tensor's name is no text of 1 to {MAX_NAME_LENGTH} printable characters"
            )
        if name in self.tensors:
            raise WeightFileError(f"{self.source}: tensor {shown(name)} stands in the file twice")
        if len(self.tensors) >= MAX_TENSORS:
            raise WeightFileError(f"{self.source}: more than {MAX_TENSORS} tensors, no generator has so many")
        if array.dtype.kind not in "fiub":
            raise WeightFileError(f"{self.source}: tensor {shown(name)} holds {array.dtype} values, not real numbers")
        self._left -= 4 * array.size
        if self._left < 0:
            raise WeightFileError(f"{self.source}: its tensors are many times larger than the file, refusing to unfold")
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.ascontiguousarray(array, np.float32).reshape(array.shape)
        if not np.isfinite(value).all():
            raise WeightFileError(
                f"{self.source}: tensor {shown(name)} holds NaN or infinite values, fetch the file anew"
            )
        self.tensors[name] = value

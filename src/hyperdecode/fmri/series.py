"""A 4D series taken volume by volume, in the data type of its file, and work shared out to threads in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.threads import default_threads

__all__ = ["Series", "in_order"]

T = TypeVar("T")


class Series:
    """A 4D series that stays as it is stored; only the volumes asked for are scaled and converted.

    A scaled int16 file that nibabel converts as a whole takes four times its size. Reading single volumes of a
    compressed file through nibabel starts from the beginning of the file each time. So the stored numbers of a
    compressed file are read once, those of an uncompressed one are mapped to memory.

    Parameters
    ----------
    volumes : ndarray, nibabel array proxy or Series, shape (x, y, z, n_volumes)
        An array, or the ``dataobj`` of a nibabel image.

    Attributes
    ----------
    shape : tuple of int
        (x, y, z, n_volumes).

    Raises
    ------
    UserError
        When the series is not 4D or holds no volume.
    """

    def __init__(self, volumes: Any) -> None:
        shape = tuple(int(n) for n in getattr(volumes, "shape", ()))
        if len(shape) != 4 or 0 in shape:
            raise UserError(f"a 4D series (x, y, z, volumes) is needed, got shape {shape}: give the whole run")
        self.shape = shape
        self._stored: Any = volumes
        self._slope, self._offset = 1.0, 0.0
        if isinstance(volumes, Series):
            self._stored, self._slope, self._offset = volumes._stored, volumes._slope, volumes._offset
        elif hasattr(volumes, "get_unscaled"):
            self._stored = volumes.get_unscaled()
            self._slope, self._offset = float(volumes.slope), float(volumes.inter)

    def __len__(self) -> int:
        return self.shape[3]

    def volume(self, k: int) -> NDArray[np.float32]:
        """Return volume `k` with its scaling applied, (x, y, z); may hold NaN."""
        values = np.asarray(self._stored[..., k])
        if self._slope == 1.0 and self._offset == 0.0:
            return np.asarray(values, dtype=np.float32)
        return np.asarray(values * self._slope + self._offset, dtype=np.float32)

    def volumes(self) -> Iterator[NDArray[np.float32]]:
        """Yield every volume in turn."""
        return (self.volume(k) for k in range(len(self)))


def in_order(work: Callable[..., T], arguments: Iterable[tuple[Any, ...]], threads: int | None = None) -> Iterator[T]:
    """Yield ``work(*a)`` for each `a` in turn, done by several threads.

    Parameters
    ----------
    work : callable
        Compiled code that releases the interpreter's lock, or nothing is gained.
    arguments : iterable of tuple
        Drawn in the caller's thread and no sooner than needed: about two a thread exist at a time.
    threads : int, optional
        Default: the usable cores.

    Yields
    ------
    object
        What `work` returns, in the order of `arguments`.

    Raises
    ------
    UserError
        When `threads` is less than 1.
    """
    count = default_threads() if threads is None else threads
    if count < 1:
        raise UserError(f"the number of threads must be at least 1, got {count}")
    if count == 1:
        for given in arguments:
            yield work(*given)
        return
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(count) as pool:
        for given in arguments:
            pending.append(pool.submit(work, *given))
            if len(pending) > count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

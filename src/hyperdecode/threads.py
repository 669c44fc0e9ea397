"""Threads set on purpose: more threads than free cores make BLAS and torch many times slower."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["default_threads", "one_thread_each", "one_torch_thread", "set_threads", "side_by_side", "usable_cores"]

T = TypeVar("T")


def usable_cores() -> int:
    """Return the number of cores that this process may run on (affinity and cgroup quota respected)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


def default_threads() -> int:
    """Return how many threads work of our own may use: what `set_threads` or OMP_NUM_THREADS says, else all cores.

    The environment carries the choice, so that it is that of BLAS and OpenMP too, and of processes started later.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(int(said), usable_cores())) if said.isdigit() else usable_cores()


def set_threads(n: int | None = None) -> int:
    """Give BLAS, OpenMP and torch `n` threads each (default: the usable cores) and return `n`.

    The command line calls this once at its start; a notebook may.
    """
    count = n or usable_cores()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(count)  # for libraries that are not loaded yet
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=count)
    torch.set_num_threads(count)
    return count


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool in which torch computes on one thread a worker, so that results do not hang on their number.

    Convolutions of small batches are split among threads in ways that round differently. Whoever gives each worker
    pieces of a fixed size gets the same bits from any number of workers.

    Parameters
    ----------
    workers : int
        At most; `default_threads` says how many there may be.
    """
    import torch

    before = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute on one thread in a block whose work is too small to share out; see `one_thread_each`."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Return ``work(item)`` of each item in turn, each computed by torch on one thread, several at a time.

    As many as `default_threads` says; the results are the same bits by however many.

    Parameters
    ----------
    work : callable
        Uses torch. What is set for the caller's thread alone (``torch.inference_mode``) is not set where it runs.
    items : sequence
    """
    import torch

    workers = min(default_threads(), len(items))
    if workers <= 1 and torch.get_num_threads() == 1:
        return [work(item) for item in items]
    with one_thread_each(max(1, workers)) as pool:
        return list(pool.map(work, items))

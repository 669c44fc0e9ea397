"""Threads set on purpose: more threads than free cores make BLAS and torch many times slower."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_threads", "set_threads", "usable_cores"]


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

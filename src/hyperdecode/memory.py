"""How much memory one process may take: a bound that is set on purpose, as threads are."""

from __future__ import annotations

import math
import os

from hyperdecode.errors import UserError

__all__ = ["DEFAULT_GB", "VARIABLE", "amount", "memory_bound", "refuse_too_large", "working_memory"]

VARIABLE = "HYPERDECODE_MEMORY_GB"
"""Of the environment: it reaches processes that are started later, and is no setting that makes results stale."""

DEFAULT_GB = 4.0

LIBRARIES = 750_000_000
"""Bytes that Python and the libraries take before there are data."""

LEAST = 100_000_000


def memory_bound() -> int:
    """Return the bytes that a process shall stay below: HYPERDECODE_MEMORY_GB, 4 GB where it is not set.

    Raises
    ------
    UserError
        When it is no number, or leaves no room for data.
    """
    said = os.environ.get(VARIABLE, "").strip()
    try:
        bound = (float(said) if said else DEFAULT_GB) * 1e9
    except ValueError:
        bound = math.nan
    if not (math.isfinite(bound) and bound >= LIBRARIES + LEAST):
        raise UserError(
            f"{VARIABLE} is {said!r}: give gigabytes a process may take, {(LIBRARIES + LEAST) / 1e9:.2f} or more, or "
            f"leave it out for {DEFAULT_GB:g}"
        )
    return int(bound)


def working_memory() -> int:
    """Return the bytes that the arrays of one step may take: the bound, less what the libraries take."""
    return memory_bound() - LIBRARIES


def refuse_too_large(n_bytes: int, what: str, instead: str) -> None:
    """Refuse work whose arrays do not fit: `what` they are, and what to do `instead` of giving more memory."""
    if n_bytes > working_memory():
        raise UserError(
            f"{what} needs {amount(n_bytes)}, and a process may take {amount(memory_bound())}: {instead}, or set "
            f"{VARIABLE} higher"
        )


def amount(n_bytes: float) -> str:
    """Return bytes in words."""
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.3g} MB"

"""The most memory that this process held while a piece of work went on."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROCESS", "STEP", "PeakMemory", "measured", "process_peak"]

STEP, PROCESS = "step", "process so far"
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET = b"5\n"


@dataclass
class PeakMemory:
    """A peak of memory.

    Attributes
    ----------
    of : str
        `STEP`: while the work went on; `PROCESS`: since the process began, where the system keeps no other account.
    mib : int
        Resident memory in MiB; known when the work has ended.
    """

    of: str = PROCESS
    mib: int = 0


# The kernel has one high-water mark a process. Who sets it back tells all others first what it was.
_lock = threading.Lock()
_open: list[PeakMemory] = []
_so_far = PeakMemory()


@contextmanager
def measured() -> Iterator[PeakMemory]:
    """Measure the peak of a block; blocks may lie in each other, and run in several threads.

    On Linux the high-water mark of the process is set back first (``/proc/self/clear_refs``), so that ``ru_maxrss`` and
    programs that read it from outside see the last block alone: `process_peak` keeps what was before.

    Yields
    ------
    PeakMemory
        Complete when the block has ended.
    """
    peak = PeakMemory()
    with _lock:
        _note()
        with suppress(OSError):
            CLEAR.write_bytes(RESET)
            peak.of = STEP
        _open.append(peak)
    try:
        yield peak
    finally:
        with _lock:
            _note()
            _open[:] = [other for other in _open if other is not peak]


def process_peak() -> int:
    """Return the most memory that this process has held since it began, in MiB."""
    with _lock:
        _note()
        return _so_far.mib


def _note() -> None:
    now = _high_water()
    for peak in (_so_far, *_open):
        peak.mib = max(peak.mib, now)


def _high_water() -> int:
    with suppress(OSError):
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (1024**2 if sys.platform == "darwin" else 1024))

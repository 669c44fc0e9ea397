"""Which process it was, on which machine, and whether it still lives."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Process", "is_alive", "this_process"]


@dataclass(frozen=True)
class Process:
    """A process, told from every other one that has had or will have its number.

    Attributes
    ----------
    host : str
        Name of the machine.
    pid : int
    born : str
        When it was started, as the system keeps it: on Linux in clock ticks since the boot.
    space : str
        Where `pid` counts, on Linux the boot and the namespace: containers on one host number their processes anew,
        and two machines may bear one name. Empty elsewhere.
    """

    host: str
    pid: int
    born: str
    space: str = ""

    @classmethod
    def of(cls, content: Any) -> Process | None:
        """Return the process that a record names; None when it names none."""
        try:
            return cls(str(content["host"]), int(content["pid"]), str(content["born"]), str(content.get("space", "")))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


def this_process() -> Process:
    """Return the process that asks."""
    return Process(socket.gethostname(), os.getpid(), _born(os.getpid()) or "", _space())


def is_alive(process: Process) -> bool | None:
    """Say whether a process still works; None when it is of another machine, container or boot: it cannot be asked."""
    if (process.host, process.space) != (socket.gethostname(), _space()):
        return None
    return _born(process.pid) == process.born


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process was started, None when there is none or only its exit code is left (a zombie)."""
    if Path("/proc/self/stat").exists():
        try:
            # The name stands in brackets and may hold anything; state is the first field behind it, start the 20th.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    asked = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    state, _, start = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()

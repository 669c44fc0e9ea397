"""One command at a time on a study: a lock that works on shared file systems, with a heartbeat.

The lock is a file that is placed by a hard link, which is atomic on NFS too, and whose time of change is renewed as
long as its holder works; `flock` is not used, for network file systems may ignore it. A process that died on this host
is told by its number and time of birth, one of another host (or of this one before it was booted anew) by a heartbeat
that stopped.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import threading
import time
import tomllib
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli_w

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.files import NO_LINKS, atomic_path, write_text
from hyperdecode.pipeline.processes import Process, is_alive, this_process
from hyperdecode.pipeline.records import time_stamp

__all__ = ["ABANDONED_AFTER", "LOCK_NAME", "PRESENT_LOCK", "Held", "Holder", "holder", "make_lock", "study_lock"]

LOCK_NAME = "study.lock"
PRESENT_LOCK = "present.lock"
"""Held while a run is shown; it lets the analysis of what was shown before go on."""
BEAT = 20.0
"""Seconds between two heartbeats."""
ABANDONED_AFTER = 600.0
"""Seconds without a heartbeat after which the lock of another host is taken over."""
GUARDED_FOR = 60.0
"""Seconds after which whoever was taking a lock over, a matter of milliseconds, counts as dead."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes
    ----------
    token : str
        Unique to this taking of the lock.
    command : str
    since : str
        Local time with its offset from UTC.
    process : Process or None
        None while the lock is being written, or when it cannot be read.
    silent : float
        Seconds since its last heartbeat.
    """

    token: str
    command: str
    since: str
    process: Process | None
    silent: float

    @property
    def abandoned(self) -> bool:
        """Whether the holder died on this host, or its heartbeat on another one stopped for `ABANDONED_AFTER`."""
        alive = None if self.process is None else is_alive(self.process)
        return self.silent > ABANDONED_AFTER if alive is None else not alive

    @property
    def words(self) -> str:
        """One line: command, process, host, since when."""
        if self.process is None:
            return "a command that has just begun"
        return f"`{self.command}` (pid {self.process.pid} on {self.process.host}) since {self.since}"


class Held:
    """A lock that this process holds."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token
        self.lost = False
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="study lock", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Refuse to go on when the lock was taken away, which happens to a process that slept for long.

        Raises
        ------
        UserError
            When somebody else holds the lock, or nobody does.
        """
        # While the file server is away nobody can take the lock; what the steps write will tell.
        with suppress(OSError):
            self.lost = self.lost or not self._mine()
        if self.lost:
            there = _read(self.path, time.time())
            who = "it was removed" if there is None else f"it is held by {there.words}"
            raise UserError(f"lost the lock {self.path}, {who}: run the same command again when the study is free")

    def release(self) -> None:
        """Stop the heartbeat and remove the lock."""
        self._end.set()
        self._heart.join()
        with suppress(OSError):
            if self._mine():
                self.path.unlink()

    def _mine(self) -> bool:
        there = _read(self.path, 0.0)
        return there is not None and there.token == self.token

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            # A file server may be away for a while; `check` tells whether the lock was lost meanwhile.
            with suppress(OSError):
                if self._mine():
                    os.utime(self.path)


@contextmanager
def study_lock(study: Path, records: Path, name: str = LOCK_NAME) -> Iterator[Held]:
    """Hold a study, or any folder that a command fills, while the block works on it.

    Parameters
    ----------
    study : pathlib.Path
        Named in messages.
    records : pathlib.Path
        Folder where the lock lies: of a study that of its records.
    name : str
        File of the lock; locks of different names do not exclude each other.

    Yields
    ------
    Held
        Its `check` is to be asked between two steps.

    Raises
    ------
    UserError
        When another command works on the study: who, where, since when.

    Warns
    -----
    DataWarning
        When the lock of a process that died is taken over.
    """
    held = _take(study, records / name)
    try:
        yield held
    finally:
        held.release()


@contextmanager
def make_lock(study: Path, records: Path) -> Iterator[Held]:
    """Hold a study against its analysis and against a presentation, while what both read is made.

    Parameters
    ----------
    study, records : pathlib.Path
        As for `study_lock`.

    Yields
    ------
    Held
        Of the study.

    Raises
    ------
    UserError
        When another command works on the study, or shows a run of it.
    """
    with ExitStack() as both:
        held = both.enter_context(study_lock(study, records))
        both.enter_context(study_lock(study, records, PRESENT_LOCK))
        yield held


def holder(records: Path) -> Holder | None:
    """Return who holds the study with these records; None when nobody does."""
    return _read(records / LOCK_NAME, time.time())


def _take(study: Path, path: Path) -> Held:
    token = uuid.uuid4().hex
    content = {"token": token, "command": _command(), "since": time_stamp(), "process": asdict(this_process())}
    ours = path.with_name(f".{path.name}.{token}")
    try:
        write_text(ours, tomli_w.dumps(content))
        for _ in range(10):
            if _place(ours, path):
                return Held(path, token)
            # Both times are then of the file server's clock, whatever this host's says.
            os.utime(ours)
            there = _read(path, ours.stat().st_mtime)
            if there is None:
                continue
            if not there.abandoned:
                raise UserError(_in_use(study, there))
            if _take_over(ours, path, there):
                warnings.warn(_taken_over(there), DataWarning, stacklevel=4)
                return Held(path, token)
        raise UserError(f"{study} is taken and left by other commands all the time: try again later")
    finally:
        ours.unlink(missing_ok=True)


def _place(ours: Path, path: Path) -> bool:
    """Give our file the lock's name, if nothing has it."""
    try:
        os.link(ours, path)
    except FileExistsError:
        # Over NFS an answer may be lost and asked for again: then the name is ours already.
        return ours.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            with open(path, "xb") as new:
                new.write(ours.read_bytes())
        except FileExistsError:
            return False
    return True


def _take_over(ours: Path, path: Path, dead: Holder) -> bool:
    """Replace the lock of a dead holder, one taker at a time; False when somebody was faster."""
    guard = path.with_name(f".{path.name}.takeover")
    with suppress(FileNotFoundError):
        if ours.stat().st_mtime - guard.stat().st_mtime > GUARDED_FOR:
            guard.unlink()
    try:
        handle = os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        time.sleep(0.05)
        return False
    os.close(handle)
    try:
        there = _read(path, 0.0)
        if there is None or there.token != dead.token:
            return False
        with atomic_path(path) as temporary:
            temporary.write_bytes(ours.read_bytes())
        there = _read(path, 0.0)
        return there is not None and there.token == tomllib.loads(ours.read_text(encoding="utf-8"))["token"]
    finally:
        guard.unlink(missing_ok=True)


def _read(path: Path, now: float) -> Holder | None:
    try:
        # Opening asks the file server anew, so that the time behind it is no remembered one.
        text = path.read_bytes().decode("utf-8", "replace")
        beat = path.stat().st_mtime
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
    try:
        content = tomllib.loads(text)
    except ValueError:
        content = {}
    token, command, since = (str(content.get(name, "")) for name in ("token", "command", "since"))
    return Holder(token, command, since, Process.of(content.get("process")), max(0.0, now - beat))


def _command() -> str:
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return words if len(words) <= 200 else f"{words[:197]}..."


def _in_use(study: Path, there: Holder) -> str:
    if there.process is not None and is_alive(there.process):
        return f"{study} is in use by {there.words}: wait until it has ended, or stop it"
    return (
        f"{study} is in use by {there.words}, last sign of life {there.silent:.0f} s ago: wait until it has ended "
        f"(a host that is silent for {ABANDONED_AFTER / 60:.0f} minutes loses the study)"
    )


def _taken_over(there: Holder) -> str:
    how = f"gave no sign of life for {there.silent:.0f} s" if _elsewhere(there) else "is dead"
    return f"the study was held by {there.words}, which {how}: its lock was taken over"


def _elsewhere(there: Holder) -> bool:
    return there.process is None or is_alive(there.process) is None

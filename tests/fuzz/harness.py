"""One harmed input through one reader: what is allowed to come of it, and how to repeat it."""

# ruff: noqa: E501  (lists of odd values)
from __future__ import annotations

import codecs
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperdecode.errors import UserError
from hyperdecode.pipeline.peak_memory import CLEAR
from tests.fuzz.mutators import HOSTILE_WORDS, harm, pick
from tests.fuzz.targets import CANARY, TARGETS, Target

SECRET = "secret.png"
"""Lies beside each study; no reader may open it."""
MAX_LINE = 1500
"""Characters of a message: the path is in it, and what was found, not a whole file."""


class Case(NamedTuple):
    """Which input; `python -m tests.fuzz --case SEED:READER:NUMBER` makes it again."""

    seed: int
    target: str
    number: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.target}:{self.number}"


@dataclass(frozen=True)
class Link:
    """A symbolic link in place of a file."""

    to: str


class Pipe:
    """A named pipe in place of a file: reading it never ends."""


class Folder:
    """A folder in place of a file."""


class Gone:
    """No file."""


SPECIAL = (
    Pipe(), Folder(), Gone(), Gone(), Link("/dev/zero"), Link("/dev/zero"), Link("/dev/null"), Link("nowhere"),
    Link("."), Link("/proc/self/mem"),
)  # fmt: skip


# What a reader does while it reads, by the interpreter's own audit

RUNS_CODE = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "marshal.loads",
    "socket.connect", "ctypes.dlopen",
}  # fmt: skip
CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate",
    "shutil.rmtree",
}  # fmt: skip
_watch: list[_Watch] = []


@dataclass
class _Watch:
    root: Path
    writes: bool
    seen: list[str]

    def inside(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True
        return Path(os.path.normpath(Path.cwd() / os.fsdecode(path))).is_relative_to(self.root)


def _installed(name: str) -> bool:
    return name.startswith(("<frozen", sys.prefix, sys.base_prefix)) or name in ("<__array_function__ internals>",)


def _hook(event: str, args: tuple[object, ...]) -> None:
    if not _watch:
        return
    watch = _watch[-1]
    if event == "marshal.loads" and "importlib" in sys._getframe(1).f_code.co_filename:
        return  # a module of an installed package
    if event in RUNS_CODE:
        watch.seen.append(f"ran {event} {args!r:.200}")
    elif event == "exec" and not _installed(getattr(args[0], "co_filename", "")):
        watch.seen.append(f"ran code of {getattr(args[0], 'co_filename', '?')}")
    elif event == "open":
        path, mode, flags = (*args, None, None, None)[:3]
        writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if path in (CLEAR, str(CLEAR)):
            return  # the kernel's account of this process's memory
        if writing and not (watch.writes and watch.inside(path)):
            watch.seen.append(f"opened {path!r:.200} to write ({mode})")
        elif isinstance(path, str) and path.endswith(SECRET) and not watch.inside(path):
            watch.seen.append(f"read {path!r:.200} outside of the study")
    elif event in CHANGES and not (watch.writes and all(watch.inside(arg) for arg in args)):
        watch.seen.append(f"{event} {args!r:.200}")


_installed_hook = False


@contextmanager
def watched(root: Path, writes: bool) -> Iterator[list[str]]:
    """Collect what must not happen: code that runs, files written, files read outside of the study."""
    global _installed_hook
    if not _installed_hook:
        for name in (
            "cp437",
            "latin-1",
            "ascii",
            "raw_unicode_escape",
            "unicode_escape",
            "utf-16",
            "utf-32",
            "utf-8-sig",
        ):
            codecs.lookup(name)  # the standard library imports a codec when it is first asked for
        sys.addaudithook(_hook)
        _installed_hook = True
    _watch.append(_Watch(root, writes, []))
    try:
        yield _watch[-1].seen
    finally:
        _watch.pop()


class Bench:
    """A folder with the sound files of one reader, harmed and put right for each case.

    Parameters
    ----------
    name : str
        Of `TARGETS`.
    folder : pathlib.Path
        Empty; the study is a folder in it.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.target = name, TARGETS[name]
        self.folder = folder
        self.study = folder / "study"
        self.study.mkdir(parents=True)
        (folder / SECRET).write_bytes(b"secret")
        self.target.make(self.study)
        self.files = {
            path.relative_to(self.study).as_posix(): path.read_bytes()
            for path in sorted(self.study.rglob("*"))
            if path.is_file()
        }
        self.others = [data for path, data in self.files.items() if path.startswith("other")]
        self.victims = [path for path in self.files if _kind(self.target, path)]
        assert self.victims, name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(*(() if self.target.sound else (UserError,))):
                self.target.read(self.study)  # sound files are read; and what is imported late is imported now
        self._put_right()

    def harmed(self, case: Case) -> dict[str, object]:
        """Return the files of a case."""
        rng = np.random.default_rng([case.seed, zlib.crc32(case.target.encode()), case.number])
        files: dict[str, object] = dict(self.files)
        victim = pick(rng, self.victims)
        chance = rng.random()
        if chance < 0.04:
            files[victim] = pick(rng, SPECIAL)
        elif chance < 0.06:
            files[victim] = Link(f"../{'../' * victim.count('/')}{SECRET}")
        elif chance < 0.14 and self.target.renames:
            files[_renamed(rng, victim)] = files.pop(victim) if rng.integers(2) else files[victim]
        else:
            kind, data = _kind(self.target, victim) or "bytes", self.files[victim]
            alike = [self.files[path] for path in self.victims if _kind(self.target, path) == kind] + self.others
            if self.others and not rng.integers(5):
                data = self.others[0]
            files[victim] = harm(rng, kind, data, pick(rng, alike))
        if self.target.mend is not None and rng.random() < 0.7 and all(isinstance(f, bytes) for f in files.values()):
            return dict(self.target.mend(files))  # type: ignore[arg-type]
        return files

    def problem(self, case: Case, ready: Callable[[], object] = lambda: None) -> tuple[bool, str | None]:
        """Run one case: whether it was refused, and what is wrong with what came of it, if anything.

        `ready` is called when the files lie there, before they are read.
        """
        files = self.harmed(case)
        changed = {path: content for path, content in files.items() if self.files.get(path) is not content}
        for path in set(self.files) - set(files):
            (self.study / path).unlink()
        for path, content in changed.items():
            _place(self.study / path, content)
        refused = False
        ready()
        try:
            with warnings.catch_warnings(), watched(self.study, self.target.writes) as seen:
                warnings.simplefilter("ignore")
                try:
                    self.target.read(self.study)
                except UserError as error:
                    refused = True
                    found = _message_problem(str(error))
                except TimeoutError:
                    raise
                except BaseException as error:
                    found = f"{type(error).__name__}: {error!s:.300} at {_where(error)}"
                else:
                    found = None
            if seen:
                found = f"{seen[0]}"
            if Path(CANARY).exists() or (self.study / CANARY).exists():
                found = "a program in the file ran"
        finally:
            self._put_right(set(changed) | set(self.files) - set(files))
        return refused, found

    def _put_right(self, paths: set[str] | None = None) -> None:
        """Write the sound files again: all, or those of some paths; after a writer, everything."""
        if paths is None or self.target.writes:
            shutil.rmtree(self.study)
            self.study.mkdir()
            paths = set(self.files)
        for path in paths:
            _place(self.study / path, self.files.get(path, Gone()))


def _kind(target: Target, path: str) -> str | None:
    ends = [end for end in target.kinds if path.endswith(end)]
    return target.kinds[max(ends, key=len)] if ends else None


NAMES = (
    "sub-01_task-faces_run-1²3_bold.nii.gz", "sub-01_task-faces_run-²_events.tsv", "sub-01_task-faces_run-" + "9" * 200 + "_bold.nii.gz",
    "sub-02_task-faces_bold.nii.gz", "sub-01_bold.nii.gz", "_bold.nii.gz", "bold.nii.gz", "sub-01_task-faces_run-01_bold.nii.gz",
    "sub-01_task-faces_part-phase_bold.nii.gz", "sub-01_task-faces_echo-1_bold.nii.gz", "sub-01_task-faces_run-1_run-2_bold.nii.gz",
    "sub-01_task-\udcff_bold.nii.gz", "sub-01_task-a b_bold.nii.gz", "sub-01_task-faces\n_bold.nii.gz", "sub-01_task-\x1b[2J_bold.nii.gz",
    "task-faces_bold.json", "sub-01_bold.json", "bold.json", "events.tsv", "sub-01_events.tsv", "sub-01_stat-z_stat-beta_x.npy",
    "sub-01_stat-z_statmap.nii", "sub-01_zmaps_betas.npy", "x\u2028y_bold.nii.gz", "...", "-", "١٢_bold.nii.gz",
)  # fmt: skip


def _renamed(rng: np.random.Generator, path: str) -> str:
    folder = pick(rng, (path.rpartition("/")[0], path.partition("/")[0], "sub-01", "sub-²", "derivatives/x"))
    name = pick(rng, NAMES)
    if not rng.integers(3):
        odd = "".join(c for c in pick(rng, HOSTILE_WORDS) if c not in "/\0")[:60]
        name = path.rpartition("/")[2].replace("01", odd, 1)
    return f"{folder}/{name}" if folder and folder != path else name


def _place(path: Path, content: object) -> None:
    if path.is_symlink() or path.is_fifo() or path.is_file():
        path.unlink()
    elif path.is_dir():
        path.rmdir()
    if isinstance(content, Gone):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Link):
        path.symlink_to(content.to)
    elif isinstance(content, Pipe):
        os.mkfifo(path)
    else:
        path.mkdir()


def _message_problem(text: str) -> str | None:
    if not text:
        return "refused without a word"
    if len(text.splitlines()) > 1 or text != text.strip():
        return f"refused in several lines: {text!r:.300}"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        return f"refused with control characters: {text!r:.300}"
    return f"refused in {len(text)} characters: {text!r:.300}" if len(text) > MAX_LINE else None


def _where(error: BaseException) -> str:
    trace, found = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/hyperdecode/" in code.co_filename or found == "?" or code.co_filename.endswith("targets.py"):
            found = f"{Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def cases(total: int, only: str | None = None) -> dict[str, int]:
    """Share a number of inputs among readers by their weight, rounded up: reader -> inputs."""
    chosen = {name: target.share for name, target in TARGETS.items() if only is None or only in name}
    weight = sum(chosen.values())
    return {name: ceil(total * share / weight) for name, share in chosen.items()}

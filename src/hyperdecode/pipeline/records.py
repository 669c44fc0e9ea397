"""Run records: what a step was made from, so that a second run redoes only what is out of date."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from hyperdecode import __version__
from hyperdecode.errors import UserError
from hyperdecode.files import remove_leftovers, sha256_file, write_text
from hyperdecode.pipeline.peak_memory import measured
from hyperdecode.pipeline.processes import Process, is_alive, this_process
from hyperdecode.study.reading import printable, read_regular
from hyperdecode.threads import default_threads

__all__ = [
    "Digest",
    "Step",
    "is_fresh",
    "read_facts",
    "read_record",
    "refuse_other_settings",
    "run_step",
    "time_stamp",
    "why_stale",
]

PACKAGES = ("numpy", "scipy", "torch", "scikit-learn", "nilearn", "nibabel")
"""Packages whose versions a record names; they are told, and make nothing stale."""
NAMED = 3
"""Files or settings of a kind that are named one by one when it is told why a step is stale."""
LARGEST_RECORD = 4 * 2**20
"""Bytes; a record of a whole-brain study takes some thousand."""
WRITES_WITHIN = 3600.0
"""Seconds within which a process that still writes a file has touched it."""

Digest = Callable[[Path], str]
"""Hash of a file."""


@dataclass(frozen=True)
class Step:
    """One step of a study: its inputs, settings and outputs.

    Attributes
    ----------
    name : str
        Unique in the study, a file name.
    version : int
        Raised by hand whenever the step's code would give other results.
    settings : dict
        Everything but files that the result depends on.
    inputs, outputs : tuple of pathlib.Path
        Files read and files written.
    work : callable
        Makes the outputs; returns facts for the record, or None.
    """

    name: str
    version: int
    settings: dict[str, Any]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    work: Callable[[], dict[str, Any] | None] = field(repr=False)


def run_step(step: Step, study: Path, records: Path, *, force: bool = False) -> bool:
    """Run a step unless its outputs stand already, made from the same inputs by the same code and settings.

    Parameters
    ----------
    step : Step
    study : pathlib.Path
        Paths in the record are relative to it.
    records : pathlib.Path
        Folder of the records, one TOML file a step.
    force : bool
        Run anyway.

    Returns
    -------
    bool
        Whether the step ran.
    """
    record = records / f"{step.name}.toml"
    key = _key(step, study)
    if not force and _fresh(record, key, step, study):
        return False
    _sweep(step, record)
    start, settings = datetime.now().astimezone(), _plain(step.settings)
    begun = {"step": step.name, "version": step.version, "process": asdict(this_process())}
    begun["started"] = time_stamp(start)
    # Until the step has ended, its record says that it was begun: what it leaves when killed is its own.
    write_text(record, tomli_w.dumps(begun | {"state": "running", "settings": settings}))
    clock = time.perf_counter()
    try:
        with measured() as peak:
            facts = step.work() or {}
    except BaseException as error:
        said = " ".join(f"{'' if isinstance(error, UserError) else f'{type(error).__name__}: '}{error}".split())
        ended = {"state": "failed" if isinstance(error, Exception) else "stopped", "error": said}
        # On a full disk the record stays as it is, and the step counts as killed.
        with suppress(OSError):
            write_text(record, tomli_w.dumps(begun | ended | {"ended": time_stamp(), "settings": settings}))
        raise
    content = begun | {
        "key": key,
        "hyperdecode": __version__,
        "python": platform.python_version(),
        "ended": time_stamp(),
        "seconds": round(time.perf_counter() - clock, 3),
        "peak_memory_mb": peak.mib,
        "peak_memory_of": peak.of,
        # Linear algebra sums in another order with another number.
        "threads": default_threads(),
        "packages": _versions(),
        "settings": settings,
        "facts": _plain(facts),
        "inputs": _hashes(step.inputs, study),
        "outputs": _hashes(step.outputs, study),
    }
    write_text(record, tomli_w.dumps(content))
    return True


def is_fresh(step: Step, study: Path, records: Path) -> bool:
    """Say whether `run_step` would find nothing to do."""
    return _fresh(records / f"{step.name}.toml", _key(step, study), step, study)


def why_stale(step: Step, study: Path, records: Path, digest: Digest = sha256_file) -> list[str]:
    """Say why `run_step` would run a step, a phrase a reason; nothing where it would not.

    Parameters
    ----------
    step, study, records
        As for `run_step`.
    digest : callable
        Hash of a file, for one who asks about the same files often.
    """
    content = read_record(records, step.name)
    if "key" not in content:
        return ["it never ran to its end" if content else "it has no readable record"]
    inputs, outputs = _hashes(step.inputs, study, digest), _hashes(step.outputs, study, digest)
    why = []
    if content["key"] != _key_of(step, inputs):
        was = content.get("inputs", {})
        why += _told("input", "is new", [name for name in inputs if name not in was])
        why += _told("input", "is gone", [name for name in was if name not in inputs])
        why += _told("input", "has changed", [name for name in inputs if was.get(name, inputs[name]) != inputs[name]])
        why += _changes(content.get("settings", {}), _plain(step.settings))
        if content.get("version", step.version) != step.version:
            why.append(f"code version {content['version']} -> {step.version}")
        why = why or ["it was made by another version of the code"]
    was, wanted = content.get("outputs", {}), [_name(path, study) for path in step.outputs]
    why += _told("output", "is missing", [name for name in wanted if name not in outputs])
    why += _told("output", "was altered", [name for name in outputs if was.get(name, outputs[name]) != outputs[name]])
    why += _told("output", "is not of this step's making", [name for name in outputs if name not in was])
    why += _told("output", "is not wanted any more", [name for name in was if name not in wanted])
    return why


def refuse_other_settings(step: Step, records: Path) -> None:
    """Refuse to replace what a step made with other settings, or files that it did not make.

    Raises
    ------
    UserError
        When outputs stand there whose record is missing or names other settings.
    """
    there = [path for path in step.outputs if path.exists()]
    if not there:
        return
    try:
        was = _read(records / f"{step.name}.toml").get("settings", {})
    except FileNotFoundError:
        raise UserError(f"{there[0]} exists without a record of how it was made: use --force or another OUT") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{records / step.name}.toml is not readable: use --force or give another OUT") from error
    now = _plain(step.settings)
    changed = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
    if changed:
        named = printable(", ".join(changed), 200)
        raise UserError(f"{there[0]} was made with other {named}: use --force or give another OUT")


def read_facts(records: Path, name: str) -> dict[str, Any]:
    """Return the facts that a step left in its record (empty when it never ran, or the record cannot be read)."""
    facts: dict[str, Any] = read_record(records, name).get("facts", {})
    return facts


def read_record(records: Path, name: str) -> dict[str, Any]:
    """Return the record of a step; empty when there is none, or none that can be read.

    A record without ``key`` is of a step that has not ended; its ``state`` is then ``"running"`` (or killed: ask
    whether its ``process`` lives), ``"failed"`` with an ``error``, or ``"stopped"`` by its user.
    """
    try:
        return _read(records / f"{name}.toml")
    except (OSError, ValueError, RecursionError):
        return {}


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(read_regular(path, LARGEST_RECORD).decode("utf-8"))


def time_stamp(when: datetime | None = None) -> str:
    """Return a time, by default now, to the second and with its offset from UTC."""
    return (when or datetime.now().astimezone()).isoformat(timespec="seconds")


def _sweep(step: Step, record: Path) -> None:
    """Remove temporary files of a process that was killed at this step."""
    was = read_record(record.parent, step.name)
    if "key" in was or was.get("state") != "running":
        remove_leftovers((record,))  # it may have been killed while it wrote that it begins
        return
    process = Process.of(was.get("process"))
    alive = None if process is None else is_alive(process)
    if not alive:
        # Whoever writes on another machine touches a file more often than this.
        remove_leftovers((*step.outputs, record), older_than=0.0 if alive is False else WRITES_WITHIN)


def _key(step: Step, study: Path) -> str:
    return _key_of(step, _hashes(step.inputs, study))


def _key_of(step: Step, inputs: dict[str, str]) -> str:
    content = [step.name, step.version, step.settings, inputs]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fresh(record: Path, key: str, step: Step, study: Path) -> bool:
    content = read_record(record.parent, step.name)
    if content.get("key") != key or not all(path.is_file() for path in step.outputs):
        return False
    return bool(content.get("outputs") == _hashes(step.outputs, study))


def _hashes(paths: Iterable[Path], study: Path, digest: Digest = sha256_file) -> dict[str, str]:
    return {_name(path, study): digest(path) for path in paths if path.is_file()}


def _told(what: str, how: str, names: Sequence[str]) -> list[str]:
    if len(names) <= NAMED:
        return [f"{what} {name} {how}" for name in names]
    return [f"{what} {names[0]} {how} (and {len(names) - 1} more)"]


def _changes(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Tell settings that are not what they were: ``setting a.b: old -> new``."""
    found = [
        f"setting {printable(name, 80)}: {_short(old)} -> {_short(new)}" for name, old, new in _differences(was, now)
    ]
    more = len(found) - NAMED
    return found if more <= 0 else [*found[:NAMED], f"{more} more settings"]


def _differences(was: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict) and ((was and now) or not name):
        names = dict.fromkeys((*now, *was))
        return [
            found
            for one in names
            for found in _differences(was.get(one), now.get(one), f"{name}.{one}" if name else one)
        ]
    return [] if was == now else [(name, was, now)]


def _short(value: Any, most: int = 60) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else f"{text[: most - 3]}..."


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _name(path: Path, study: Path) -> str:
    """Path as seen from the study, also of a file outside it (the output of another program)."""
    return Path(os.path.relpath(path.resolve(), study.resolve())).as_posix()


def _plain(value: Any) -> Any:
    """Value as it comes back from TOML: tuples as lists, no None in a table, ``n/a`` for None in a list."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return ["n/a" if item is None else _plain(item) for item in value]
    return value

"""Run records: what a step was made from, so that a second run redoes only what is out of date."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from hyperdecode import __version__
from hyperdecode.errors import UserError
from hyperdecode.files import sha256_file, write_text

__all__ = ["Step", "is_fresh", "read_facts", "refuse_other_settings", "run_step"]


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
    # Until the step has ended, its record says that it was begun: what it leaves when killed is its own.
    write_text(record, tomli_w.dumps({"step": step.name, "settings": _plain(step.settings)}))
    start = time.time()
    facts = step.work() or {}
    content = {
        "step": step.name,
        "key": key,
        "hyperdecode": __version__,
        "python": platform.python_version(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(start)),
        "seconds": round(time.time() - start, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "settings": _plain(step.settings),
        "facts": _plain(facts),
        "inputs": _hashes(step.inputs, study),
        "outputs": _hashes(step.outputs, study),
    }
    write_text(record, tomli_w.dumps(content))
    return True


def is_fresh(step: Step, study: Path, records: Path) -> bool:
    """Say whether `run_step` would find nothing to do."""
    return _fresh(records / f"{step.name}.toml", _key(step, study), step, study)


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
        was = tomllib.loads((records / f"{step.name}.toml").read_text(encoding="utf-8")).get("settings", {})
    except FileNotFoundError:
        raise UserError(f"{there[0]} exists without a record of how it was made: use --force or another OUT") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{records / step.name}.toml is not readable: use --force or give another OUT") from error
    now = _plain(step.settings)
    changed = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
    if changed:
        raise UserError(f"{there[0]} was made with other {', '.join(changed)}: use --force or give another OUT")


def read_facts(records: Path, name: str) -> dict[str, Any]:
    """Return the facts that a step left in its record (empty when it never ran)."""
    path = records / f"{name}.toml"
    if not path.exists():
        return {}
    facts: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("facts", {})
    return facts


def _key(step: Step, study: Path) -> str:
    content = [step.name, step.version, step.settings, _hashes(step.inputs, study)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fresh(record: Path, key: str, step: Step, study: Path) -> bool:
    try:
        content = tomllib.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if content.get("key") != key or not all(path.is_file() for path in step.outputs):
        return False
    return bool(content.get("outputs") == _hashes(step.outputs, study))


def _hashes(paths: Iterable[Path], study: Path) -> dict[str, str]:
    return {_name(path, study): sha256_file(path) for path in paths if path.is_file()}


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

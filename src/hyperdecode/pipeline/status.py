"""What of a study is done, out of date, at work or failed, and why; nothing is computed and nothing written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperdecode.files import sha256_file
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.lock import Holder, holder
from hyperdecode.pipeline.processes import Process, is_alive
from hyperdecode.pipeline.records import Step, read_record, why_stale
from hyperdecode.pipeline.run import planned_steps, require_inputs
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["STATES", "StepStatus", "StudyStatus", "study_status"]

STATES = {
    "fresh": "up to date",
    "stale": "made once, and out of date",
    "new": "never ran",
    "running": "at work now",
    "failed": "ended with an error",
    "killed": "begun, and stopped before its end",
}
"""States of a step, and what they mean."""


@dataclass(frozen=True)
class StepStatus:
    """One step of a study.

    Attributes
    ----------
    step : str
        Its name.
    kind : str
        One of `hyperdecode.pipeline.run.STEPS`; empty for steps of other commands.
    state : str
        One of `STATES`; empty for a finished step of another command, of which `run` does not know what it hangs on.
    why : tuple of str
        Why it is not fresh.
    record : dict
        Times, process, peak memory of the last time; what the record has of ``started``, ``ended``, ``seconds``,
        ``peak_memory_mb``, ``peak_memory_of``, ``threads``, ``process``, ``hyperdecode``.
    """

    step: str
    kind: str
    state: str
    why: tuple[str, ...]
    record: dict[str, Any]


@dataclass(frozen=True)
class StudyStatus:
    """The steps that `hyperdecode run` looks at, in its order, those of other commands, and who works on the study."""

    steps: tuple[StepStatus, ...]
    others: tuple[StepStatus, ...]
    held_by: Holder | None

    @property
    def would_run(self) -> tuple[StepStatus, ...]:
        """Steps that `hyperdecode run` would run, in order."""
        return tuple(one for one in self.steps if one.state != "fresh")


def study_status(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    *,
    only: str | None = None,
    force: bool = False,
) -> StudyStatus:
    """Look at every step of a study. Files are hashed, each once; nothing is written.

    A step that needs an output of a step that would run would run too (unless that output comes out as it was).

    Parameters
    ----------
    study, config, stimuli, generator, only, force
        As for `hyperdecode.pipeline.run.run_study`, which would do what stands here as not fresh.

    Raises
    ------
    UserError
        When the study cannot be analysed as it is, or `only` needs outputs that are not there.
    """
    layout = Layout(study)
    held_by = holder(layout.records)
    seen = _Seen(study, layout.records, held_by)
    steps = planned_steps(study, config, stimuli, generator, only)
    found: list[StepStatus] = []
    makers: dict[Path, str] = {}
    waiting: dict[str, str] = {}
    for kind, step in steps:
        if only is not None:
            require_inputs(layout, step)
        one = seen.status(kind, step, force)
        quoted = step.settings.get("facts", {})
        noted = [name for name in waiting if isinstance(quoted, dict) and name in quoted]
        before = {*noted, *(makers[path] for path in step.inputs if path in makers)}
        because = [f"{name} {how}" for name, how in waiting.items() if name in before]
        # What never came to its end needs no further reason.
        if because and one.state in ("fresh", "stale"):
            # A step at work has withdrawn the facts that the report quotes: that is no setting of the user's.
            own = [why for why in one.why if not why.startswith(tuple(f"setting facts.{name}" for name in noted))]
            one = StepStatus(one.step, kind, "stale", (*own, *_few(because)), one.record)
        if one.state != "fresh":
            waiting[step.name] = "is running" if one.state == "running" else "will run"
            makers |= dict.fromkeys(step.outputs, step.name)
        found.append(one)
    # A second decoder of `hyperdecode decode`, say, or simulated runs: whoever made them knows what they hang on.
    mine = {step.name for _, step in (steps if only is None else planned_steps(study, config, stimuli, generator))}
    names = sorted(path.stem for path in layout.records.glob("*.toml") if not path.name.startswith("."))
    others = [seen.other(name) for name in names if name not in mine]
    return StudyStatus(tuple(found), tuple(others), held_by)


class _Seen:
    """Looks at records, and hashes each file once."""

    def __init__(self, study: Path, records: Path, held_by: Holder | None) -> None:
        self.study, self.records, self.held_by = study, records, held_by
        self.hashes: dict[Path, str] = {}

    def status(self, kind: str, step: Step, force: bool) -> StepStatus:
        record = read_record(self.records, step.name)
        if "key" in record:
            why = why_stale(step, self.study, self.records, self._digest)
            why = why or (["--force"] if force else [])
            return StepStatus(step.name, kind, "stale" if why else "fresh", tuple(why), _times(record))
        if record or (self.records / f"{step.name}.toml").exists():
            return self._begun(step.name, kind, record)
        there = any(path.exists() for path in step.outputs)
        why = ["its outputs have no record" if there else "it never ran"]
        return StepStatus(step.name, kind, "new", tuple(why), {})

    def other(self, name: str) -> StepStatus:
        """Status of a step of another command, by its record alone."""
        record = read_record(self.records, name)
        return StepStatus(name, "", "", (), _times(record)) if "key" in record else self._begun(name, "", record)

    def _begun(self, name: str, kind: str, record: dict[str, Any]) -> StepStatus:
        state, why = self._fate(record)
        return StepStatus(name, kind, state, (why,), _times(record))

    def _fate(self, record: dict[str, Any]) -> tuple[str, str]:
        """Tell what became of a step whose record names no end."""
        if not record:
            return "stale", "its record cannot be read"
        if record.get("state") == "failed":
            return "failed", str(record.get("error", ""))
        if record.get("state") == "stopped":
            return "killed", "it was stopped by its user"
        process = Process.of(record.get("process"))
        if process is None:
            return "killed", "it was begun and did not end"
        who = f"process {process.pid} on {process.host}"
        alive = is_alive(process)
        if alive is None:
            # Another machine cannot be asked; its steps run under a lock with a heartbeat, begun before them.
            alive = self.held_by is not None and not self.held_by.abandoned
        return ("running", f"by {who}") if alive else ("killed", f"{who} died at it")

    def _digest(self, path: Path) -> str:
        if path not in self.hashes:
            self.hashes[path] = sha256_file(path)
        return self.hashes[path]


def _times(record: dict[str, Any]) -> dict[str, Any]:
    names = ("started", "ended", "seconds", "peak_memory_mb", "peak_memory_of", "threads", "process", "hyperdecode")
    return {name: record[name] for name in names if name in record}


def _few(because: Iterable[str], most: int = 3) -> list[str]:
    named = list(because)
    return named if len(named) <= most else [*named[: most - 1], f"{len(named) - most + 1} more steps will run"]

"""``hyperdecode status`` and ``hyperdecode run --dry-run``: what is done, what is not, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hyperdecode.cli import shared
from hyperdecode.cli.answer import AsJson, answer, say, words
from hyperdecode.cli.shared import StudyFolder

if TYPE_CHECKING:
    from hyperdecode.generators.base import Generator
    from hyperdecode.pipeline.status import StepStatus, StudyStatus
    from hyperdecode.study.config import StudyConfig
    from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["show_plan", "status"]

COLOURS = {"fresh": "green", "stale": "yellow", "new": "blue", "running": "cyan", "failed": "red", "killed": "magenta"}


def status(
    study: StudyFolder,
    as_json: AsJson = False,
) -> None:
    """Show which steps of a study are up to date, out of date, running, failed or killed, and why.

    Nothing is computed but hashes of files, and nothing is written. A step is stale when an input, a setting or its
    code changed, when an output is missing or was altered, or when a step before it will run.
    """
    from hyperdecode.pipeline.status import study_status
    from hyperdecode.study.config import read_config
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = words(as_json), read_config(study)
    found = study_status(study, config, read_stimuli(study), shared.study_generator(config, console))
    if as_json:
        answer(_plain(study, found))
        return
    console.print(_table([*found.steps, *found.others]))
    if found.others:
        console.print("Without a state: steps of other commands, which know themselves what they hang on.")
    _tell_holder(found, console)
    counts = Counter(one.state for one in found.steps)
    said = ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])
    console.print(f"{len(found.steps)} steps: {said}.", highlight=False)
    if found.would_run:
        say(console, f"Next: hyperdecode run {study}")


def show_plan(
    study: Path,
    config: StudyConfig,
    made: StimulusSet,
    generator: Generator,
    console: Console,
    *,
    step: str | None = None,
    force: bool = False,
    as_json: bool = False,
) -> None:
    """Say which steps `hyperdecode run` would run, in order, with the reason."""
    from hyperdecode.pipeline.status import study_status

    found = study_status(study, config, made, generator, only=step, force=force)
    for number, one in enumerate(found.would_run, start=1):
        line = f"{number}. {one.step}: {'; '.join(one.why)}"
        say(console, line)
    _tell_holder(found, console)
    console.print(f"{len(found.would_run)} of {len(found.steps)} steps would run. Nothing was done.", highlight=False)
    if as_json:
        answer({"study": study, "would_run": [{"step": one.step, "why": one.why} for one in found.would_run]})


def _tell_holder(found: StudyStatus, console: Console) -> None:
    if found.held_by is not None:
        gone = ", which is gone" if found.held_by.abandoned else ""
        say(console, f"Held by {found.held_by.words}{gone}.")


def _table(steps: list[StepStatus]) -> Table:
    shown = Table(box=None)
    shown.add_column("Step", overflow="fold")
    shown.add_column("State", no_wrap=True)
    shown.add_column("Seconds", justify="right", no_wrap=True)
    shown.add_column("Why", overflow="fold")
    for one in steps:
        seconds = one.record.get("seconds")
        state = f"[{COLOURS[one.state]}]{one.state}[/]" if one.state else ""
        took = "" if seconds is None else f"{seconds:.1f}"
        shown.add_row(escape(one.step), state, took, escape("\n".join(one.why)))
    return shown


def _plain(study: Path, found: StudyStatus) -> dict[str, Any]:
    held = None
    if found.held_by is not None:
        held = asdict(found.held_by) | {"abandoned": found.held_by.abandoned}
    return {
        "study": str(study),
        "held_by": held,
        "steps": [_step(one) for one in found.steps],
        "others": [_step(one) for one in found.others],
    }


def _step(one: StepStatus) -> dict[str, Any]:
    return {"step": one.step, "kind": one.kind, "state": one.state, "why": list(one.why), **one.record}

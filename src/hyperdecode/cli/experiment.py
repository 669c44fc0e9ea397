"""Commands on the way to the scanner: stimuli, schedule, and a check of the folder."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hyperdecode.cli import shared
from hyperdecode.cli.answer import AsJson, answer, say, words
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import Scheduler, Slurm, StudyFolder, WorkerCount

if TYPE_CHECKING:
    from hyperdecode.pipeline.schedule import Schedule
    from hyperdecode.stimuli.duplicates import NeighbourCheck
    from hyperdecode.study.config import StudyConfig
    from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["schedule", "stimuli", "validate"]

INVALID = 1
"""Exit code of a folder that has errors."""
SHOWN_FINDINGS = 20
HINT_LENGTH = 200
ABSENT = re.compile(r"(JSON|SIDECAR)_KEY_RECOMMENDED\.")


def stimuli(
    study: StudyFolder,
    check: Annotated[
        int,
        typer.Option(
            "--recheck", min=0, help="Make this many pictures again from their latents and compare (0: none)."
        ),
    ] = 8,
    workers: WorkerCount = 1,
    scheduler: Scheduler = "",
    slurm: Slurm = None,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Replace stimuli that other settings made.")] = False,
) -> None:
    """Make the faces: seeded latents, pictures, and a manifest that binds each picture to its latent.

    Beside the clean pictures lie copies as shown, with the fixation target, and a contact sheet. No test face may be a
    near-duplicate of a training face; that is checked here.
    """
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.study.config import read_config

    console, config = words(as_json), read_config(study)
    generator = shared.study_generator(config, console)
    made = shared.study_stimuli(study, config, generator, console, force, Where(workers, scheduler, slurm))
    say(console, f"{len(made.manifest)} stimuli in {made.folder}")
    worst = shared.check_pictures(made, generator, check, console) if check else None
    _shown(study, config, made, console)
    alike = _near_duplicates(made, console)
    say(console, f"Next: hyperdecode schedule {study}")
    if as_json:
        found: dict[str, Any] = {"folder": made.folder, "contact_sheet": made.folder / "contact-sheet.jpg"}
        found |= {role: len(made.names(role)) for role in ("train", "test")}
        flagged = {what: [made.names("test")[k] for k in one.flagged] for what, one in alike.items()}
        answer(found | {"largest_difference": worst, "near_duplicates": flagged})


def schedule(
    study: StudyFolder,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Plan anew, over a plan of other settings.")] = False,
) -> None:
    """Plan which face comes when, for each subject; print scan time and how well trials can be told apart.

    The plan lies in sourcedata/schedule as one events table a run, with a picture of it. `present` and `simulate`
    follow it, and make it themselves where it is absent.
    """
    from hyperdecode.pipeline.schedule import make_schedule
    from hyperdecode.study.config import read_config
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = words(as_json), read_config(study)
    made = read_stimuli(study)
    plans = [make_schedule(study, config, made, subject, force=force) for subject in config.subjects]
    console.print(_times(plans))
    say(console, f"Design: {plans[0].efficiency.words}")
    for plan in plans:
        say(console, f"sub-{plan.subject}: {plan.folder}, picture {plan.figure.name}")
    say(console, f"Next: hyperdecode present {study}, or hyperdecode simulate {study}")
    if as_json:
        answer([_plan(one) for one in plans])


def validate(study: StudyFolder, as_json: AsJson = False) -> None:
    """Check a study: stimuli and events against the manifest, the folder by the official BIDS validator.

    Exit code 1 when there are errors.
    """
    from hyperdecode.pipeline.validate import bids_findings, study_findings
    from hyperdecode.study.config import read_config

    console, config = words(as_json), read_config(study)
    found = study_findings(study, config)
    with console.status("BIDS validator ..."):
        found += bids_findings(study)
    errors = [finding for finding in found if finding.severity == "error"]
    warnings = [finding for finding in found if finding.severity != "error"]
    for finding in errors[:SHOWN_FINDINGS]:
        say(console, f"Error: {finding.where}: {finding.text}")
    say(console, *_hints([finding.text for finding in warnings])[:SHOWN_FINDINGS])
    say(console, f"{study}: {len(errors)} errors, {len(warnings)} hints")
    say(
        console,
        f"Next: {'mend the errors, then ' if errors else ''}hyperdecode {'validate' if errors else 'run'} {study}",
    )
    if as_json:
        answer({"study": study, "errors": len(errors), "hints": len(warnings), "findings": [*errors, *warnings]})
    if errors:
        raise typer.Exit(INVALID)


def _hints(texts: list[str]) -> list[str]:
    """One line a kind; all recommended keys that are absent in one, since a scanner's converter fills most of them."""
    absent = sorted({text.split(":")[0].split(".")[1] for text in texts if ABSENT.match(text)})
    others = Counter(" ".join(text.split())[:HINT_LENGTH] for text in texts if not ABSENT.match(text))
    lines = [f"Hint: {text}{f' ({count} times)' if count > 1 else ''}" for text, count in others.items()]
    return [*lines, f"Hint: recommended keys that are absent: {', '.join(absent)}"] if absent else lines


def _shown(study: Path, config: StudyConfig, made: StimulusSet, console: Console) -> None:
    from hyperdecode.pipeline.stimuli import draw_shown

    with progress_bar("Fixation target", console) as update:
        draw_shown(study, config, made, progress=update)
    say(console, f"As shown, with the fixation target: {made.folder / 'shown'}")
    say(console, f"Contact sheet: {made.folder / 'contact-sheet.jpg'}")


def _near_duplicates(made: StimulusSet, console: Console) -> dict[str, NeighbourCheck]:
    from hyperdecode.pipeline.near_duplicates import check_stimuli_apart
    from hyperdecode.report.duplicatesfigure import duplicates_caption

    checks = check_stimuli_apart(made)
    text = duplicates_caption(checks, made.names("test"))
    bad = any(len(one.flagged) for one in checks.values())
    say(console, f"{'Warning: ' if bad else ''}{text}")
    return checks


def _plan(plan: Schedule) -> dict[str, Any]:
    """Say a subject's plan in plain values."""
    columns = (plan.runs, plan.time.volumes, plan.time.seconds)
    runs = [{"trials": len(run), "volumes": n, "seconds": took} for run, n, took in zip(*columns, strict=True)]
    found = {"subject": plan.subject, "folder": plan.folder, "picture": plan.figure}
    return found | {"seconds": plan.time.total, "design": plan.efficiency.words, "runs": runs}


def _times(plans: list[Schedule]) -> Table:
    table = Table("subject", "runs", "trials a run", "volumes a run", "a run", "in all", box=None, pad_edge=False)
    for plan in plans:
        trials = [len(run) for run in plan.runs]
        table.add_row(
            f"sub-{plan.subject}",
            str(len(plan.runs)),
            _span(trials),
            _span(list(plan.time.volumes)),
            _clock(max(plan.time.seconds)),
            _clock(plan.time.total),
        )
    return table


def _span(values: list[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{seconds / 60:.1f} min"

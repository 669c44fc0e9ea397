"""`hyperdecode present`: show a run to a participant, full-screen, in step with the scanner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperdecode.cli.shared import StudyFolder

if TYPE_CHECKING:
    from hyperdecode.pipeline.present import DisplayCheck, Session

__all__ = ["present"]

ABORTED = 3
"""Exit code of a run that was broken off; what was shown is saved."""


def present(
    study: StudyFolder,
    subject: Annotated[
        str, typer.Option("--subject", "-s", help="Participant, with or without sub-. Default: the study's first.")
    ] = "",
    run: Annotated[
        int | None, typer.Option(help="Run to show. Default: the next one that has not been completed.")
    ] = None,
    simulate_trigger: Annotated[
        bool,
        typer.Option("--simulate-trigger", help="Start after a second and send triggers at the TR: a rehearsal."),
    ] = False,
    windowed: Annotated[bool, typer.Option("--windowed", help="In a window, for the desk.")] = False,
    speed: Annotated[
        float, typer.Option(help="Rehearse so many times as fast (with --simulate-trigger; saved apart from data).")
    ] = 1.0,
    check: Annotated[
        bool, typer.Option("--check", help="Only measure the display: refresh rate, jitter, missed frames.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Show a completed run again; its old events are kept aside.")
    ] = False,
) -> None:
    """Show a run: full-screen, frame-locked, started by the scanner's trigger key; writes the run's events.

    Escape ends it and saves what was shown (exit code 3). Keys, screen and sizes stand in study.toml under
    [presentation] and [viewing].
    """
    from hyperdecode.pipeline.present import check_display
    from hyperdecode.pipeline.present import present as work
    from hyperdecode.study.config import read_config

    config = read_config(study)
    if check:
        _tell_display(check_display(config, windowed=windowed))
        return
    session = work(
        study,
        config,
        subject.removeprefix("sub-") or config.subjects[0],
        run,
        simulate_trigger=simulate_trigger,
        speed=speed,
        windowed=windowed,
        force=force,
        say=typer.echo,
    )
    _tell(session, study, simulate_trigger)
    if session.outcome != "complete":
        raise typer.Exit(ABORTED)


def _tell(session: Session, study: Path, simulated: bool) -> None:
    shown, errors, found = session.shown, session.errors, session.triggers
    which = f"sub-{session.subject}, run {session.run}"
    if session.outcome == "nothing":
        typer.echo(f"{which}: ended before the first picture; nothing was shown, nothing was written.")
        return
    early = f", ended {session.end - shown.ended:.1f} s early" if shown.broken_off else ""
    typer.echo(f"{which}: {session.outcome}, {len(shown.trials)} of {session.planned} trials{early}.")
    typer.echo(
        f"Onsets: error mean {errors.mean:.2f}, sd {errors.sd:.2f}, largest {errors.largest:.2f} ms; "
        f"dropped frames: {shown.dropped} of {shown.flips + shown.dropped}."
    )
    typer.echo(f"Triggers: {found.received} of {found.expected} expected, the last at {found.last:.1f} s.")
    if found.lost:
        typer.echo(f"Warning: the scanner's triggers broke off or have gaps ({found.gaps}): compare with its volumes.")
    if session.keyboard_lost:
        typer.echo("Warning: another window took the keyboard: triggers or responses may be missing.")
    typer.echo(f"Events: {session.files.events}\nLog: {session.files.log}")
    if session.kept:
        typer.echo(f"The events of the earlier try are kept: {session.kept}")
    typer.echo(_next(session, study, simulated))


def _next(session: Session, study: Path, simulated: bool) -> str:
    if session.next is None:
        if simulated:
            return f"All runs of sub-{session.subject} have been shown. Next: hyperdecode simulate {study}"
        func = study / f"sub-{session.subject}" / "func"
        return (
            f"All runs of sub-{session.subject} have been shown. Next: put their BOLD into {func}, then hyperdecode "
            f"validate {study}"
        )
    again = " --simulate-trigger" if simulated else ""
    return f"Next: run {session.next}, hyperdecode present {study} --subject {session.subject}{again}"


def _tell_display(found: DisplayCheck) -> None:
    refresh, display = found.refresh, found.display
    width, height = display["size"]
    typer.echo(
        f"{display['driver']}, {width} x {height} px, picture {found.picture} px; SDL {display['sdl']}, "
        f"pygame-ce {display['pygame']}"
    )
    typer.echo(
        f"Refresh: {refresh.rate:.3f} Hz ({1000 * refresh.period:.3f} ms), jitter {1000 * refresh.jitter:.3f} ms, "
        f"longest {1000 * refresh.worst:.2f} ms, missed {refresh.dropped} of {refresh.n} frames"
    )
    if display["paced_by_program"]:
        typer.echo("Flips do not wait for this display: frames are timed by the computer's clock (for rehearsals).")
    typer.echo("Steady enough." if refresh.steady else "Unsteady: close other programs, use full screen, check again.")

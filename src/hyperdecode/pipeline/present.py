"""Showing a run of a study to a participant, and keeping what was shown."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from hyperdecode import __version__
from hyperdecode.errors import UserError
from hyperdecode.files import write_text
from hyperdecode.pipeline.lock import PRESENT_LOCK, study_lock
from hyperdecode.pipeline.presented import (
    RUNNING,
    PresentedFiles,
    RunSaver,
    next_run,
    outcome_of,
    presented_files,
    require_free,
)
from hyperdecode.presentation.frames import FramePlan, Refresh, plan_frames
from hyperdecode.presentation.loop import listening_share, show_run, wait_for_trigger
from hyperdecode.presentation.pictures import Viewing, require_memory
from hyperdecode.presentation.record import Keys, OnsetErrors, Presented, Triggers, onset_errors, triggers
from hyperdecode.presentation.screen import ESCAPE, Screen, SimulatedScanner
from hyperdecode.presentation.sdl import SdlScreen, open_screen
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.planned import events_sidecar, read_plan
from hyperdecode.study.raw import write_dataset
from hyperdecode.study.stimulus_set import read_stimuli

__all__ = ["DisplayCheck", "Session", "check_display", "present"]

Say = Callable[[str], None]
ORIGIN = "What was shown when was logged by hyperdecode present."
FASTEST = 100.0
WRONG_RATE = 0.05
"""Share by which the measured refresh rate may differ from the one that the driver states."""
NOTHING = Presented((), False, 0.0, ESCAPE, (), (), 0, 0)
CHECKED_FLIPS = 300


@dataclass(frozen=True)
class Session:
    """What became of one call of `present`.

    Attributes
    ----------
    subject : str
    run : int
    shown : Presented
        The run as it was.
    planned : int
        Trials that the run has.
    end : float
        Seconds from the trigger at which it was to be over.
    files : PresentedFiles
    kept : pathlib.Path or None
        Where the events of an earlier try are now.
    errors : OnsetErrors
    triggers : Triggers
    keyboard_lost : int
        How often another window took the keyboard.
    next : int or None
        Run that comes next; None when all have been shown.
    """

    subject: str
    run: int
    shown: Presented
    planned: int
    end: float
    files: PresentedFiles
    kept: Path | None
    errors: OnsetErrors
    triggers: Triggers
    keyboard_lost: int
    next: int | None

    @property
    def outcome(self) -> str:
        """``"complete"``, ``"aborted"``, or ``"nothing"``: ended before the first picture, no file was touched."""
        return outcome_of(self.shown)


@dataclass(frozen=True)
class DisplayCheck:
    """A display as `check_display` found it.

    Attributes
    ----------
    refresh : Refresh
    display : dict
        Driver, size, versions, how flips are timed.
    picture : int
        Side of the picture in screen pixels.
    """

    refresh: Refresh
    display: dict[str, Any]
    picture: int


def present(
    study: Path,
    config: StudyConfig,
    subject: str,
    run: int | None = None,
    *,
    simulate_trigger: bool = False,
    speed: float = 1.0,
    windowed: bool = False,
    force: bool = False,
    say: Say | None = None,
) -> Session:
    """Show a run, and write its events by BIDS with what was really shown.

    Parameters
    ----------
    study : pathlib.Path
        With stimuli and a schedule.
    config : StudyConfig
    subject : str
        Label without ``sub-``.
    run : int, optional
        From 1. Default: the next run that has not been completed.
    simulate_trigger : bool
        Triggers come by themselves; the run does not count as one of the scanner's.
    speed : float
        Rehearse this many times as fast, pictures standing still; events and log then lie in
        ``sourcedata/presentation/rehearsal``.
    windowed : bool
        Show it in a window.
    force : bool
        Show a completed run again; its events are kept beside the log.
    say : callable, optional
        Told what the operator should know.

    Returns
    -------
    Session

    Raises
    ------
    UserError
        When there is no such subject or run, no stimuli or schedule, no pygame or display, a key has no such name, a
        picture does not fit, the run was completed before, or another command shows a run or changes what is shown.
    """
    _require_speed(speed, simulate_trigger)
    # Analysing what was shown before may go on meanwhile: it writes nothing that is read or written here.
    with study_lock(study, Layout(study).records, PRESENT_LOCK):
        job = _job(study, config, subject, run, simulate_trigger, speed)
        if speed == 1:
            require_free(job.files, simulated=simulate_trigger, force=force)
        return _present(job, windowed, say or (lambda _: None))


def check_display(config: StudyConfig, *, windowed: bool = False, n: int = CHECKED_FLIPS) -> DisplayCheck:
    """Measure the display over `n` flips, as `present` would use it.

    Raises
    ------
    UserError
        As `present` does for the display.
    """
    view = Viewing(**config.viewing.model_dump())
    with _screen(config, view, windowed) as screen:
        refresh = screen.measure(n)
        return DisplayCheck(refresh, screen.describe(), view.side)


@dataclass(frozen=True)
class _Job:
    """What is to be shown, once all questions about it are answered; times in `planned` are those of the rehearsal."""

    study: Path
    config: StudyConfig
    subject: str
    run: int
    simulated: bool
    speed: float
    files: PresentedFiles
    planned: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """Each picture of the run once."""
        return list(dict.fromkeys(self.planned["stim_file"]))

    @property
    def t_r(self) -> float:
        """Seconds between triggers."""
        return self.config.timing.t_r / self.speed


def _job(study: Path, config: StudyConfig, subject: str, run: int | None, simulated: bool, speed: float) -> _Job:
    number = _which_run(study, config, subject, run, simulated)
    planned = read_plan(study, config, subject, number)
    planned = planned.assign(onset=planned["onset"] / speed, duration=planned["duration"] / speed)
    files = presented_files(study, config, subject, number, rehearsal=speed != 1)
    return _Job(study, config, subject, number, simulated, speed, files, planned)


def _present(job: _Job, windowed: bool, say: Say) -> Session:
    view = Viewing(**job.config.viewing.model_dump())
    require_memory(len(job.names), view)
    pictures = read_stimuli(job.study).pictures(job.names)
    job.files.require_writable()
    with _screen(job.config, view, windowed) as screen:
        screen.message(["Preparing ..."])
        refresh = screen.measure()
        plan = _plan(job, refresh.period)
        screen.prepare(pictures)
        listen = listening_share(screen, refresh.period)
        return _show(job, screen, plan, _log(job, screen, refresh) | {"listening_share": listen}, say)


def _screen(config: StudyConfig, view: Viewing, windowed: bool) -> AbstractContextManager[SdlScreen]:
    wanted, keys = config.presentation, _keys(config)
    return open_screen(
        view,
        screen=wanted.screen,
        fullscreen=wanted.fullscreen and not windowed,
        keys=(keys.trigger, *keys.responses),
    )


def _show(job: _Job, screen: SdlScreen, plan: FramePlan, log: dict[str, Any], say: Say) -> Session:
    keys = _keys(job.config)
    watched: Screen = SimulatedScanner(screen, keys.trigger, job.t_r) if job.simulated else screen
    _announce(job, screen, plan, log["warnings"], say)
    shown = NOTHING
    with RunSaver(job.files, job.planned, log, _sidecar(log)) as saver:
        trigger = wait_for_trigger(watched, keys)
        if trigger is not None:
            log["started"] = datetime.now(UTC).isoformat(timespec="milliseconds")
            screen.clear()
            shown = show_run(watched, plan, keys, trigger, listen=log["listening_share"], after_trial=saver.save)
        if shown.trials:
            saver.finish(shown.trials, _ending(job, shown, screen))
    if job.speed == 1 and shown.trials:
        _write_dataset(job)
    return Session(
        subject=job.subject,
        run=job.run,
        shown=shown,
        planned=len(job.planned),
        end=plan.end,
        files=job.files,
        kept=saver.kept,
        errors=onset_errors(list(job.planned["onset"]), shown.trials),
        triggers=triggers(shown, job.t_r),
        keyboard_lost=int(screen.describe()["keyboard_lost"]),
        next=next_run(job.study, job.config, job.subject, simulated=job.simulated),
    )


def _write_dataset(job: _Job) -> None:
    write_dataset(job.study, job.config, ORIGIN)
    sidecar = job.study / f"task-{job.config.task}_events.json"
    if not sidecar.exists():
        write_text(sidecar, json.dumps(events_sidecar(), indent=2) + "\n")


def _announce(job: _Job, screen: SdlScreen, plan: FramePlan, warnings: list[str], say: Say) -> None:
    for warning in warnings:
        say(f"Warning: {warning}")
    minutes, seconds = divmod(round(plan.end), 60)
    which = f"sub-{job.subject}, run {job.run} of {job.config.schedule.n_runs}"
    say(
        f"{which}: {len(job.planned)} trials, {minutes} min {seconds:02d} s "
        f"({math.ceil(plan.end / job.t_r)} volumes of {job.t_r:g} s)"
    )
    who = "a simulated trigger" if job.simulated else f"the scanner (key {job.config.presentation.trigger_key})"
    screen.message([f"Waiting for {who}", which])
    say(f"Waiting for {who}; Escape leaves.")


def _require_speed(speed: float, simulate_trigger: bool) -> None:
    if not (math.isfinite(speed) and 1 <= speed <= FASTEST):
        raise UserError(f"--speed {speed:g}: give a number from 1 to {FASTEST:g}")
    if speed != 1 and not simulate_trigger:
        raise UserError(f"--speed {speed:g} is for rehearsals: give --simulate-trigger too")


def _which_run(study: Path, config: StudyConfig, subject: str, run: int | None, simulated: bool) -> int:
    if subject not in config.subjects:
        raise UserError(f"no subject {subject!r} in study.toml, which names {', '.join(config.subjects)}: add it there")
    last = config.schedule.n_runs
    if run is not None:
        if not 1 <= run <= last:
            raise UserError(f"--run {run}: the study has runs 1 to {last} (schedule.n_runs)")
        return run
    found = next_run(study, config, subject, simulated=simulated)
    if found is None:
        raise UserError(
            f"all {last} runs of sub-{subject} have been shown: name one with --run and give --force to show it again"
        )
    return found


def _keys(config: StudyConfig) -> Keys:
    trigger, responses = config.presentation.trigger_key, config.presentation.response_keys
    taken = [name.lower() for name in (ESCAPE, trigger, *responses)]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise UserError(
            f"[presentation] uses the key {twice[0]!r} twice (Escape, trigger_key and response_keys must differ): "
            "give each its own"
        )
    return Keys(trigger, responses)


def _plan(job: _Job, period: float) -> FramePlan:
    timing, planned = job.config.timing, job.planned
    number = {name: k for k, name in enumerate(job.names)}
    last = float(planned["onset"].iloc[-1] + planned["duration"].iloc[-1])
    return plan_frames(
        planned["onset"],
        planned["duration"],
        [number[name] for name in planned["stim_file"]],
        end=last + (timing.off + timing.lead_out) / job.speed,
        period=period,
        flash_hz=timing.flash_hz if job.speed == 1 else 0.0,
        duty=timing.flash_duty,
    )


def _log(job: _Job, screen: SdlScreen, refresh: Refresh) -> dict[str, Any]:
    """Return what the log says from the first trial on."""
    return {
        "study": job.config.name,
        "subject": job.subject,
        "run": job.run,
        "hyperdecode": __version__,
        "outcome": RUNNING,
        "trigger": "simulated" if job.simulated else "scanner",
        "real_data": not job.simulated,
        "speed": job.speed,
        "planned": len(job.planned),
        "display": screen.describe(),
        "refresh": {"rate_hz": refresh.rate, **asdict(refresh)},
        "viewing": job.config.viewing.model_dump(),
        "timing": job.config.timing.model_dump(),
        "warnings": _warnings(screen, refresh),
    }


def _sidecar(log: dict[str, Any]) -> dict[str, Any]:
    """Return what BIDS wants to know of the presentation, as far as the computer can tell."""
    return {
        "StimulusPresentation": {
            "OperatingSystem": platform.platform(terse=True),
            "ScreenRefreshRate": round(log["refresh"]["rate_hz"], 3),
            "ScreenResolution": log["display"]["size"],
            "SoftwareName": "hyperdecode",
            "SoftwareVersion": __version__,
        }
    }


def _warnings(screen: SdlScreen, refresh: Refresh) -> list[str]:
    display, found = screen.describe(), []
    if screen.paced:
        found.append(
            f"the driver {display['driver']} does not wait for the display: frames are timed by the computer's clock, "
            "and when a picture is truly visible is not known"
        )
    if not refresh.steady:
        found.append(
            f"the display is unsteady (jitter {1000 * refresh.jitter:.1f} ms, {refresh.dropped} of {refresh.n} frames "
            "missed while nothing was shown): close other programs, use full screen"
        )
    stated = display["driver_rate_hz"]
    if not stated:
        found.append("the driver does not say how fast the display refreshes, as virtual ones do not")
    elif abs(refresh.rate / stated - 1) > WRONG_RATE:
        found.append(f"the display refreshes at {refresh.rate:.2f} Hz, its driver says {stated} Hz")
    return found


def _ending(job: _Job, shown: Presented, screen: SdlScreen) -> dict[str, Any]:
    """Return what the log says once the run is over."""
    return {
        "outcome": outcome_of(shown),
        "broken_off": shown.broken_off,
        "shown": len(shown.trials),
        "ended": shown.ended,
        "onset_error_ms": asdict(onset_errors(list(job.planned["onset"]), shown.trials)),
        "flips": shown.flips,
        "dropped_frames": shown.dropped,
        "triggers": asdict(triggers(shown, job.t_r)),
        "trigger_times": list(shown.triggers),
        "responses": [list(response) for response in shown.responses],
        "display": screen.describe(),
    }

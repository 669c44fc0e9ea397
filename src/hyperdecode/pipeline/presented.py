"""Files of presented runs: which are done, what is kept aside, and saving while a run goes on."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.files import write_text
from hyperdecode.presentation.record import Presented, Shown, events_table
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.raw import run_stem
from hyperdecode.study.reading import load_json

__all__ = [
    "ABORTED",
    "COMPLETE",
    "RUNNING",
    "PresentedFiles",
    "RunSaver",
    "next_run",
    "outcome_of",
    "presented_files",
    "require_free",
]

MAX_LOG_BYTES = 16 * 2**20
"""A log of hours with a trigger each tenth of a second takes some hundred thousand."""
RUNNING, COMPLETE, ABORTED = "running", "complete", "aborted"
TRIGGERS = ("scanner", "simulated")
FOLDER = ("sourcedata", "presentation")


@dataclass(frozen=True)
class PresentedFiles:
    """Where one presented run lies.

    Attributes
    ----------
    events : pathlib.Path
        Its events by BIDS.
    log : pathlib.Path
        JSON log of the session.
    """

    events: Path
    log: Path

    @property
    def sidecar(self) -> Path:
        """Sidecar of the events, with the screen and software that showed them."""
        return self.events.with_suffix(".json")

    @property
    def state(self) -> str:
        """What lies there, in words that `require_free` and `next_run` understand.

        ``"new"``: nothing; ``"foreign"``: events without a log of `present`; else outcome and trigger,
        ``"complete scanner"``, ``"aborted simulated"``. A log that still says running is of a session that died.
        """
        if not self.events.exists():
            return "new"
        try:
            log = load_json(self.log, MAX_LOG_BYTES)
            outcome, trigger = log["outcome"], log["trigger"]
        except (OSError, ValueError, KeyError, TypeError):
            return "foreign"
        # The trigger becomes part of a file's name.
        if trigger not in TRIGGERS:
            return "foreign"
        return f"{COMPLETE if outcome == COMPLETE else ABORTED} {trigger}"

    def require_writable(self) -> None:
        """Make the folders and try them, so that a run is not shown in vain.

        Raises
        ------
        OSError
            When a file cannot be written there.
        """
        for path in (self.events, self.log):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent) as probe:
                probe.write(b"try")

    def set_aside(self) -> Path | None:
        """Move events, sidecar and log to names of their own beside the log; return where the events are now."""
        state = self.state
        if state == "new":
            self.log.unlink(missing_ok=True)
            return None
        stem, number = self.events.name.removesuffix("_events.tsv"), 1
        label = state.replace(" ", "-")
        while (kept := self.log.with_name(f"{stem}_{label}-{number}_events.tsv")).exists():
            number += 1
        self.events.rename(kept)
        for beside, name in ((self.sidecar, "_events.json"), (self.log, "_presentation.json")):
            if beside.exists():
                beside.rename(kept.with_name(kept.name.replace("_events.tsv", name)))
        return kept


def presented_files(
    study: Path, config: StudyConfig, subject: str, run: int, *, rehearsal: bool = False
) -> PresentedFiles:
    """Files of a run; those of a rehearsal at another speed lie apart, where no analysis looks.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    subject : str
        Label without ``sub-``.
    run : int
        From 1.
    rehearsal : bool
        Whether times are not those of the experiment.
    """
    stem = run_stem(study, config, subject, run)
    folder = study.joinpath(*FOLDER, *(("rehearsal",) if rehearsal else ()), f"sub-{subject}")
    log = folder / f"{stem.name}_presentation.json"
    return PresentedFiles((folder if rehearsal else stem.parent) / f"{stem.name}_events.tsv", log)


def next_run(study: Path, config: StudyConfig, subject: str, *, simulated: bool) -> int | None:
    """First run that has not been shown to its end; None when all have.

    With the scanner, a run counts when the scanner triggered it; a rehearsal by a simulated trigger does not.
    """
    done = ("foreign", f"{COMPLETE} scanner") + ((f"{COMPLETE} simulated",) if simulated else ())
    for run in range(1, config.schedule.n_runs + 1):
        if presented_files(study, config, subject, run).state not in done:
            return run
    return None


def require_free(files: PresentedFiles, *, simulated: bool, force: bool) -> None:
    """Refuse to show a run again that is complete, or whose events are not ours to replace.

    Raises
    ------
    UserError
        Unless `force`: when the run was completed, `present` did not write its events, or a rehearsal would take the
        place of a run that the scanner triggered.
    """
    state = files.state
    refused = {
        "foreign": "exists and was not written by `hyperdecode present`",
        f"{COMPLETE} scanner": "holds a run that was shown to its end",
    }
    if simulated:
        refused[f"{COMPLETE} simulated"] = "holds a rehearsal that was shown to its end"
        refused[f"{ABORTED} scanner"] = "holds a run that the scanner triggered, though it was broken off"
    if state in refused and not force:
        raise UserError(
            f"{files.events} {refused[state]}: leave out --run for the next run, or give --force to show it again "
            f"(the old events are then kept under {files.log.parent})"
        )


def outcome_of(shown: Presented) -> str:
    """Return ``"complete"``, ``"aborted"``, or ``"nothing"`` when no picture was shown."""
    return "nothing" if not shown.trials else COMPLETE if shown.whole else ABORTED


class RunSaver:
    """Saves a run while it goes on, in a thread of its own: the frames wait for no disk.

    Parameters
    ----------
    files : PresentedFiles
        What lies there is set aside before the first save; `kept` then says where.
    planned : pandas.DataFrame
        Planned events of the run.
    log : dict
        What the log says from the start.
    sidecar : dict
        What the sidecar of the events says.
    """

    def __init__(
        self, files: PresentedFiles, planned: pd.DataFrame, log: dict[str, Any], sidecar: dict[str, Any]
    ) -> None:
        self._files, self._planned, self._log, self._sidecar = files, planned, log, sidecar
        self._queue: SimpleQueue[tuple[Shown, ...] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
        self._begun = False
        self.kept: Path | None = None

    def __enter__(self) -> RunSaver:
        _text(self._planned, ())  # pandas loads its writer at first use: not while pictures are shown
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()

    def save(self, trials: tuple[Shown, ...]) -> None:
        """Save the trials so far, soon; returns at once."""
        self._queue.put(trials)

    def finish(self, trials: Sequence[Shown], log: dict[str, Any]) -> None:
        """Save the whole run and its log, now.

        Raises
        ------
        OSError
            When they cannot be written.
        """
        self._queue.put(None)
        self._thread.join()
        self._write(trials, self._log | log)

    def _work(self) -> None:
        while (trials := self._queue.get()) is not None:
            try:
                self._write(trials, None if self._begun else self._log)
            except OSError:
                continue  # The next save tries again; the last one, in `finish`, is heard.

    def _write(self, trials: Sequence[Shown], log: dict[str, Any] | None) -> None:
        if not self._begun:
            self.kept = self._files.set_aside() or self.kept
        if log is not None:
            write_text(self._files.log, json.dumps(log, indent=2) + "\n")
            write_text(self._files.sidecar, json.dumps(self._sidecar, indent=2) + "\n")
            self._begun = True
        write_text(self._files.events, _text(self._planned, trials))


def _text(planned: pd.DataFrame, trials: Sequence[Shown]) -> str:
    return events_table(planned, trials).to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n")

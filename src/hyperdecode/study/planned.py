"""The planned events of each subject's runs, before anything is shown: ``sourcedata/schedule``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, sha256_bytes, write_text
from hyperdecode.stimuli.schedule import REPEAT, schedule_runs
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.reading import is_plain_name, load_json, load_table, one_line, said
from hyperdecode.study.stimulus_set import StimulusSet
from hyperdecode.weights.limits import shown

__all__ = ["events_sidecar", "plan_path", "read_plan", "write_plan"]

COLUMNS = ["onset", "duration", "trial_type", "stim_file"]
TRIAL_TYPES = ("train", "test", REPEAT)
VERSION = 1
"""Raise it when the same settings give another order than before."""


def plan_path(study: Path, config: StudyConfig, subject: str, run: int) -> Path:
    """Return the path of a run's planned events."""
    return _folder(study, subject) / f"sub-{subject}_task-{config.task}_run-{run:02d}_events.tsv"


def write_plan(
    study: Path, config: StudyConfig, stimuli: StimulusSet, subject: str, seed: int, *, force: bool = False
) -> list[pd.DataFrame]:
    """Plan a subject's runs and write them, one events table a run with a sidecar for all, or keep what is there.

    Beside the tables lies ``sub-LABEL_task-LABEL_schedule.json`` with the settings that gave them, written last: a plan
    without it is not finished and is written again.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    stimuli : StimulusSet
        Their names are dealt.
    subject : str
        Label, without ``sub-``.
    seed : int
        Seed of this subject's order.
    force : bool
        Replace a plan of other settings. Runs that were shown already followed the old one.

    Returns
    -------
    list of pandas.DataFrame
        The events of each run as `read_plan` gives them.

    Raises
    ------
    UserError
        When there is a plan of other settings and `force` is not given, or the trials cannot be scheduled.
    """
    train, test = stimuli.names("train"), stimuli.names("test")
    names = sha256_bytes("\n".join([*test, "", *train]).encode())
    settings = {"seed": seed, **_settings(config), "n_train": len(train), "n_test": len(test), "names": names}
    note, paths = _note(study, config, subject), _paths(study, config, subject)
    found = _read_note(note)
    if found is not None and not force:
        _require_same(found, settings, note)
        if all(path.is_file() for path in paths):
            return [read_plan(study, config, subject, run + 1) for run in range(len(paths))]
    runs = schedule_runs(
        train,
        test,
        config.stimuli.test_repeats,
        config.schedule.n_runs,
        on=config.timing.on,
        off=config.timing.off,
        lead_in=config.timing.lead_in,
        seed=seed,
        one_back=config.schedule.one_back,
    )
    note.unlink(missing_ok=True)
    for old in set(note.parent.glob(f"sub-{subject}_task-{config.task}_run-*_events.tsv")) - set(paths):
        old.unlink()
    for path, run in zip(paths, runs, strict=True):
        with atomic_path(path) as temporary:
            run.to_csv(temporary, sep="\t", index=False, na_rep="n/a")
    sidecar = json.dumps(events_sidecar(), indent=2) + "\n"
    write_text(_folder(study, subject).parent / f"task-{config.task}_events.json", sidecar)
    write_text(note, json.dumps(settings, indent=2) + "\n")
    return [read_plan(study, config, subject, run + 1) for run in range(len(paths))]


def read_plan(study: Path, config: StudyConfig, subject: str, run: int) -> pd.DataFrame:
    """Read the planned events of a run.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
        A plan that other settings gave is refused.
    subject : str
        Label, without ``sub-``.
    run : int
        From 1.

    Returns
    -------
    pandas.DataFrame
        ``onset`` and ``duration`` in seconds from the first volume, ``trial_type``, ``stim_file``.

    Raises
    ------
    UserError
        When there is no finished plan, it is of other settings, or the table cannot be shown.
    """
    if not 1 <= run <= config.schedule.n_runs:
        raise UserError(f"run {run} is not planned: schedule.n_runs = {config.schedule.n_runs}, so give 1 to that")
    note, path = _note(study, config, subject), plan_path(study, config, subject, run)
    found = _read_note(note)
    if found is None or not path.is_file():
        raise UserError(
            f"sub-{subject} has no plan for run {run} ({path}): make it with `hyperdecode schedule {study}`"
        )
    _require_same(found, _settings(config), note)
    try:
        events = load_table(path, dtype={"trial_type": str, "stim_file": str}, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no table ({one_line(error)}): {_again(study)}") from None
    problem = _problem(events)
    if problem:
        raise UserError(f"{path} {problem}: {_again(study)}")
    return events[COLUMNS].astype({"onset": float, "duration": float})


def events_sidecar() -> dict[str, dict[str, Any]]:
    """Return what the columns of events mean, planned ones and those that a presentation adds: BIDS JSON sidecar."""
    return {
        "onset": {
            "LongName": "Onset of the picture",
            "Description": "When the picture was first shown (planned events: is to be shown), counted from the "
            "trigger of the run's first volume.",
            "Units": "s",
        },
        "duration": {
            "LongName": "Duration of the picture",
            "Description": "From the onset to the end of the last flash; fixation follows.",
            "Units": "s",
        },
        "trial_type": {
            "LongName": "Role of the trial",
            "Description": "What the analysis may use the trial for.",
            "Levels": {
                "train": "A training face, shown once in the session.",
                "test": "A test face, shown several times; it is decoded and fits nothing.",
                REPEAT: "One-back trial: the face of the trial before, again, for the participant to notice. "
                "Not used for decoding.",
            },
        },
        "stim_file": {
            "LongName": "Picture",
            "Description": "File of the picture in stimuli/, whose manifest.tsv binds it to the latent it was made "
            "from. The fixation target was drawn over it.",
        },
        "planned_onset": {
            "LongName": "Planned onset of the picture",
            "Description": "Onset in the plan under sourcedata/schedule, counted like onset.",
            "Units": "s",
        },
        "dropped_frames": {
            "LongName": "Dropped frames",
            "Description": "Screen refreshes during the trial for which no new frame was ready.",
        },
        "response": {
            "LongName": "Key pressed",
            "Description": "Name of the first response key pressed from the onset of this picture to that of the next; "
            "n/a when there was none.",
        },
        "response_time": {
            "LongName": "Response time",
            "Description": "From the onset of the picture to the response.",
            "Units": "s",
        },
    }


def _folder(study: Path, subject: str) -> Path:
    return study / "sourcedata" / "schedule" / f"sub-{subject}"


def _note(study: Path, config: StudyConfig, subject: str) -> Path:
    return _folder(study, subject) / f"sub-{subject}_task-{config.task}_schedule.json"


def _paths(study: Path, config: StudyConfig, subject: str) -> list[Path]:
    return [plan_path(study, config, subject, run + 1) for run in range(config.schedule.n_runs)]


def _settings(config: StudyConfig) -> dict[str, Any]:
    """Return the settings of the study that a plan depends on."""
    return {
        "version": VERSION,
        "test_repeats": config.stimuli.test_repeats,
        **config.timing.model_dump(include={"on", "off", "lead_in"}),
        **config.schedule.model_dump(),
    }


def _read_note(path: Path) -> dict[str, Any] | None:
    """Read the settings of the plan that lies there; None where there is no finished plan."""
    if not path.exists():
        return None
    try:
        content = load_json(path)
    except (OSError, ValueError):
        content = None
    return content if isinstance(content, dict) else {}


def _require_same(found: dict[str, Any], wanted: dict[str, Any], note: Path) -> None:
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    if differing:
        key = differing[0]
        raise UserError(
            f"{note.parent} holds a plan made with {key} = {said(found.get(key))}, not {wanted[key]!r}: put the "
            f"setting back, or plan anew with `hyperdecode schedule {note.parents[3]} --force` if nothing was shown yet"
        )


def _again(study: Path) -> str:
    return f"restore it from your copy, or plan anew with `hyperdecode schedule {study} --force`"


def _problem(events: pd.DataFrame) -> str | None:
    """Why a table cannot be shown."""
    missing = [column for column in COLUMNS if column not in events.columns]
    if missing:
        return f"lacks the column {missing[0]!r}"
    if events.empty:
        return "has no trials"
    times = events[["onset", "duration"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(times).all() or (times < 0).any():
        return "has an onset or a duration that is no number of seconds"
    if (times[1:, 0] < times[:-1].sum(axis=1) - 1e-6).any():
        return "has a trial that begins before the one above it ends"
    odd = events["trial_type"][~events["trial_type"].isin(TRIAL_TYPES)]
    if len(odd):
        return f"has the trial type {shown(odd.iloc[0])}, none of {', '.join(TRIAL_TYPES)}"
    if not events["stim_file"].map(is_plain_name).all():
        return "names a picture that is no file of stimuli/"
    return None

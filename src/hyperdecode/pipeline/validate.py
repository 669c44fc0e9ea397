"""Is a study folder in order: by the official BIDS validator, and by what only this package can know."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hyperdecode.errors import UserError
from hyperdecode.study.bids import read_events
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.raw import run_files
from hyperdecode.study.stimulus_set import StimulusSet, read_stimuli

__all__ = ["Finding", "bids_findings", "study_findings"]

MODULE = "bids_validator_deno"
PROGRAM = "bids-validator.js"
ALLOWED = ("--no-prompt", "--no-config", "--no-remote", "--allow-read", "--allow-env")
"""What the validator may do. By itself it also asks hosts that a git-annex data set names for files that are absent,
may write, and may start git."""
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    severity : str
        ``"error"`` or ``"warning"``.
    where : str
        File, relative to the study.
    text : str
        What is wrong with it, one line.
    """

    severity: str
    where: str
    text: str


def bids_findings(study: Path) -> list[Finding]:
    """Run the official validator (the PyPI package bids-validator-deno) over the raw data; it may read, no more.

    Parameters
    ----------
    study : pathlib.Path

    Returns
    -------
    list of Finding
        Errors first.

    Raises
    ------
    UserError
        When the validator is not installed, or says nothing that can be read.
    """
    command = [*_validator(), str(study.resolve()), "--format", "json", "--max-rows", "-1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        issues = json.loads(done.stdout)["issues"]["issues"]
    except subprocess.TimeoutExpired:
        raise UserError(f"the BIDS validator took more than {TIMEOUT_S} s over {study}: run it by hand") from None
    except (ValueError, KeyError, TypeError):
        said = " ".join((done.stderr or done.stdout).split())[:200]
        raise UserError(f"the BIDS validator gave no result for {study} ({said}): run it by hand") from None
    found = [_finding(issue) for issue in issues]
    return sorted(found, key=lambda finding: (finding.severity != "error", finding.text, finding.where))


def _validator() -> list[str]:
    """Return the words that start the validator."""
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise UserError('the BIDS validator is not installed: pip install "hyperdecode[bids]"')
    program, deno = Path(spec.origin).with_name(PROGRAM), os.fsdecode(import_module("deno").find_deno_bin())
    if not program.is_file():
        raise UserError(f"{program} is not there, the BIDS validator is of another make: pip install {MODULE}==3.0.2")
    return [deno, *ALLOWED, str(program)]


def _finding(issue: dict[str, str]) -> Finding:
    code = ".".join(filter(None, (issue.get("code"), issue.get("subCode"))))
    message = " ".join(str(issue.get("issueMessage") or "").split())
    severity = "error" if issue.get("severity") == "error" else "warning"
    return Finding(severity, str(issue.get("location", "")).lstrip("/"), f"{code}: {message}" if message else code)


def study_findings(study: Path, config: StudyConfig) -> list[Finding]:
    """Check stimuli against their manifest, and every run's events against the stimuli.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig

    Returns
    -------
    list of Finding
    """
    try:
        stimuli = read_stimuli(study)
    except UserError as error:
        return [Finding("error", "stimuli", str(error))]
    found: list[Finding] = []
    for label in config.subjects:
        found += _subject_findings(study, config, stimuli, label)
    return found


def _subject_findings(study: Path, config: StudyConfig, stimuli: StimulusSet, label: str) -> list[Finding]:
    found, seen, missing = [], [], []
    for run in range(1, config.schedule.n_runs + 1):
        files = run_files(study, config, label, run)
        if not files.bold.exists():
            missing.append(run)
        if not files.events.exists():
            continue
        where = files.events.relative_to(study).as_posix()
        try:
            events = read_events(files.events)
            if "stim_file" not in events:
                raise UserError("no column stim_file: name the stimulus of each trial there")
            names = [Path(str(name)).name for name in events["stim_file"].dropna()]
            stimuli.require(names)
        except UserError as error:
            found.append(Finding("error", where, str(error)))
            continue
        seen += names
    if missing:
        text = f"{len(missing)} of {config.schedule.n_runs} runs have no BOLD yet, the first is run {missing[0]}"
        found.append(Finding("warning", f"sub-{label}", text))
    unseen = [name for name in stimuli.names("test") if name not in set(seen)]
    if unseen and not missing:
        text = f"{len(unseen)} test faces were never shown ({unseen[0]}): decoding needs all of them"
        found.append(Finding("error", f"sub-{label}", text))
    return found

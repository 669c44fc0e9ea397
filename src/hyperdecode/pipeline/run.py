"""A whole study, from its stimuli and BOLD to the report, redoing only what is out of date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.analyse import Analysis
from hyperdecode.pipeline.records import Step, run_step
from hyperdecode.pipeline.reporting import report_step
from hyperdecode.study.bids import BoldRun, index_bids
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import Derivatives
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["STEPS", "RunResult", "run_study"]

Announce = Callable[[str, int, int, bool], None]
"""Called after each step with (step, steps done, steps in all, whether it ran)."""

STEPS = ("zmaps", "mask", "decode", "reconstruct", "evaluate", "report")


class RunResult:
    """What `run_study` made: where it is and which steps ran."""

    def __init__(self, layout: Layout) -> None:
        self.report = layout.report
        self.table = layout.table
        self.ran: list[str] = []


def run_study(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    *,
    only: str | None = None,
    force: bool = False,
    announce: Announce | None = None,
) -> RunResult:
    """Analyse a study folder.

    Parameters
    ----------
    study : pathlib.Path
        A BIDS dataset with ``study.toml`` and ``stimuli/``.
    config, stimuli, generator
        Of that study.
    only : str, optional
        One of `STEPS`: run that step alone, on what the earlier steps left.
    force : bool
        Redo steps that are up to date.
    announce : callable, optional
        See `Announce`.

    Returns
    -------
    RunResult

    Raises
    ------
    UserError
        When the data cannot be used as they are, or `only` needs outputs that are not there.
    """
    if only is not None and only not in STEPS:
        raise UserError(f"no step {only!r}: choose among {', '.join(STEPS)}")
    if generator.fingerprint != stimuli.settings["fingerprint"]:
        raise UserError(
            f"the stimuli were made by {stimuli.settings['generator']} "
            f"{str(stimuli.settings['fingerprint'])[:12]}, this is "
            f"{generator.name} {generator.fingerprint[:12]}: its latents mean other faces; use that version"
        )
    if config.decoding.space not in generator.spaces:
        raise UserError(
            f"decoding.space = {config.decoding.space!r}, but {generator.name} has only the latent space "
            f"{' and '.join(generator.spaces)}: change that line in study.toml"
        )
    layout = Layout(study)
    runs = _runs(study, config)
    Derivatives(layout.derivatives, study).prepare()
    analysis = Analysis(layout, config, stimuli, generator)
    steps = _steps(analysis, runs)
    chosen = [(kind, step) for kind, step in steps if only in (None, kind)]
    result = RunResult(layout)
    for done, (kind, planned) in enumerate(chosen, start=1):
        # What the earlier steps found out is known only now.
        step = report_step(analysis, runs) if kind == "report" else planned
        missing = next((path for path in step.inputs if not path.exists()), None)
        if missing is not None and missing.is_relative_to(layout.derivatives):
            raise UserError(f"step {step.name} needs {missing}, which is not there: run the earlier steps first")
        ran = run_step(step, study, layout.records, force=force)
        if ran:
            result.ran.append(step.name)
        if announce:
            announce(step.name, done, len(chosen), ran)
    return result


def _runs(study: Path, config: StudyConfig) -> dict[str, list[BoldRun]]:
    dataset = index_bids(study)
    runs = {
        label: [r for r in dataset.runs if r.subject == label and r.task == config.task] for label in config.subjects
    }
    for label, found in runs.items():
        if not found:
            raise UserError(
                f"{study} has no BOLD of sub-{label}, task-{config.task}: copy its func/ folder there, "
                f"change study.toml, or make simulated data with `hyperdecode simulate {study}`"
            )
    return runs


def _steps(analysis: Analysis, runs: dict[str, list[BoldRun]]) -> list[tuple[str, Step]]:
    steps: list[tuple[str, Step]] = []
    for subject, mine in runs.items():
        steps += [("zmaps", analysis.zmaps(run)) for run in mine]
        steps += [("mask", analysis.mask(subject, mine)), ("decode", analysis.decode(subject))]
    steps.append(("reconstruct", analysis.full_stimuli()))
    for subject in runs:
        steps += [("reconstruct", analysis.reconstruct(subject)), ("evaluate", analysis.evaluate(subject))]
    steps.append(("report", report_step(analysis, runs)))
    return steps

"""A whole study, from its stimuli and BOLD to the report, redoing only what is out of date."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.files import OutputError
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.analyse import Analysis
from hyperdecode.pipeline.baselines import Baselines
from hyperdecode.pipeline.brainmaps import BrainMaps
from hyperdecode.pipeline.ceilings import Ceilings
from hyperdecode.pipeline.cluster import HERE, Where
from hyperdecode.pipeline.decode import Decoding
from hyperdecode.pipeline.flights import SideBySide, TellFromWorker
from hyperdecode.pipeline.latents import refuse_other_generator
from hyperdecode.pipeline.lock import Held, study_lock
from hyperdecode.pipeline.moves import Moves
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.reporting import report_step
from hyperdecode.pipeline.sources import Progress
from hyperdecode.pipeline.subjects import SubjectChain, subject_chain
from hyperdecode.pipeline.training_curve import TrainingCurve
from hyperdecode.pipeline.workers import Done, Workers, workers
from hyperdecode.study.bids import BoldRun, index_bids
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import Derivatives
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["STEPS", "RunResult", "decode_study", "planned_steps", "require_inputs", "run_study"]

Kinds = list[tuple[str, Step]]
Announce = Callable[[str, int, int, bool], None]
"""Called after each step with (step, steps done, steps in all, whether it ran)."""

STEPS = (
    "realign",
    "anatomy",
    "register",
    "bold",
    "hrf",
    "zmaps",
    "mask",
    "decode",
    "posterior",
    "ceiling",
    "reconstruct",
    "evaluate",
    "baselines",
    "map",
    "moves",
    "report",
)


class RunResult:
    """What `run_study` made: where it is, which steps ran, and which runs of BOLD were skipped and why."""

    def __init__(self, layout: Layout) -> None:
        self.report = layout.report
        self.table = layout.table
        self.ran: list[str] = []
        self.skipped: dict[str, str] = {}


def run_study(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    *,
    only: str | None = None,
    force: bool = False,
    skip_failed: bool = False,
    where: Where = HERE,
    announce: Announce | None = None,
    progress: Progress | None = None,
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
    skip_failed : bool
        Go on without a run of BOLD that cannot be used, and say so in the report.
    where : Where
        Where the steps run; those that do not wait for each other run side by side. The report is made here.
    announce : callable, optional
        See `Announce`.
    progress : callable, optional
        Told of progress inside long steps.

    Returns
    -------
    RunResult

    Raises
    ------
    UserError
        When the data cannot be used as they are, `only` needs outputs that are not there, or another command works on
        the study.
    """
    _require_step(only)
    refuse_other_generator(config, stimuli, generator)
    layout = Layout(study)
    tell = None if progress is None else TellFromWorker(progress)
    told = (None, None) if tell is None else (partial(tell, "epoch"), partial(tell, "map"))
    analysis = Analysis(layout, config, stimuli, generator, *told)
    run = _Run(analysis, _runs(study, config), only, force, announce, tell)
    Derivatives(layout.derivatives, study, config.name).prepare()
    with study_lock(study, layout.records) as run.held, workers(study, layout.records, where, progress) as crew:
        while (failed := run.attempt(crew)) is not None:
            run.drop(failed, skip_failed)
    return run.result


def planned_steps(
    study: Path, config: StudyConfig, stimuli: StimulusSet, generator: Generator, only: str | None = None
) -> Kinds:
    """Return (kind, step) of all that `run_study` would look at, in its order. Nothing is done.

    Parameters
    ----------
    study, config, stimuli, generator, only
        As for `run_study`.

    Raises
    ------
    UserError
        When the study cannot be analysed as it is.
    """
    _require_step(only)
    refuse_other_generator(config, stimuli, generator)
    analysis = Analysis(Layout(study), config, stimuli, generator)
    return _Run(analysis, _runs(study, config), only, False, None, None).steps()


def decode_study(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    model: str,
    *,
    force: bool = False,
    where: Where = HERE,
    announce: Announce | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Decode every subject of an analysed study with one decoder, to latents, faces and scores.

    Parameters
    ----------
    study, config, stimuli, generator, force, where, announce, progress
        As for `run_study`.
    model : str
        Name of the decoder.

    Returns
    -------
    pandas.DataFrame
        Scores of all subjects.

    Raises
    ------
    UserError
        When the masked trials are not there, or another command works on the study.
    """
    refuse_other_generator(config, stimuli, generator)
    layout = Layout(study)
    tell = None if progress is None else TellFromWorker(progress)
    analysis = Analysis(layout, config, stimuli, generator, None if tell is None else partial(tell, "epoch"))
    steps = [analysis.decode(label, model) for label in config.subjects]
    steps.append(analysis.full_stimuli())
    steps += [step for label in config.subjects for _, step in analysis.faces_and_scores(label, model)]
    with study_lock(study, layout.records) as held, workers(study, layout.records, where, progress) as crew:
        ready = partial(_check, layout, held)
        for n_done, done in enumerate(crew.run(steps, force=force, before=ready), start=1):
            if done.error is not None:
                raise done.error
            if announce:
                announce(done.step.name, n_done, len(steps), done.ran)
    tables = [pd.read_csv(layout.decoded(label, model, "scores.tsv"), sep="\t") for label in config.subjects]
    return pd.concat(tables, ignore_index=True)


class _Run:
    """One call of `run_study`, with the runs of BOLD that are still in it."""

    def __init__(
        self,
        analysis: Analysis,
        runs: dict[str, list[BoldRun]],
        only: str | None,
        force: bool,
        announce: Announce | None,
        progress: Progress | None,
    ) -> None:
        self.analysis, self.runs, self.only, self.force = analysis, runs, only, force
        self.announce, self.progress = announce, progress
        self.result = RunResult(analysis.layout)
        self.done: set[str] = set()
        self.n_done = 0
        self.held: Held | None = None

    def steps(self, chains: list[SubjectChain] | None = None, spread: SideBySide[Any, Any] | None = None) -> Kinds:
        """Return (kind, step) of all that is asked for, in its order."""
        found = _steps(self.analysis, self._chains() if chains is None else chains, spread)
        return [(kind, step) for kind, step in found if self.only in (None, kind)]

    def attempt(self, crew: Workers) -> Done | None:
        """Work until the end, or to the first step that fails, which is returned."""
        chains = self._chains()
        # Maps through the generator cut their work into pieces themselves.
        spread = crew.side_by_side if self.analysis.config.mapping.readout in ("generator", "second-order") else None
        steps = self.steps(chains, spread)
        here = {step.name for _, step in steps if spread is not None and step.name.startswith("map_sub-")}
        self.n_done = 0
        failed = self._work(crew, [step for kind, step in steps if kind != "report"], len(steps), here)
        if failed is None and self.only in (None, "report"):
            # What the earlier steps found out is known only now.
            report = report_step(self.analysis, chains, self.result.skipped)
            failed = self._work(crew, [report], len(steps), {report.name})
        return failed

    def _work(self, crew: Workers, steps: list[Step], total: int, here: set[str]) -> Done | None:
        """Do steps; return one that failed."""
        failed: Done | None = None
        ready = partial(_check, self.analysis.layout, self.held)
        for done in crew.run(steps, force=self.force, before=ready, here=here):
            self.n_done += 1
            if done.error is not None:
                failed = failed or done
                continue
            # Forced once is forced enough: a second attempt goes on where the first one stopped.
            if done.ran and done.step.name not in self.done:
                self.result.ran.append(done.step.name)
                self.done.add(done.step.name)
            if self.announce:
                self.announce(done.step.name, self.n_done, total, done.ran)
        return failed

    def drop(self, failed: Done, skip: bool) -> None:
        """Leave the run of BOLD that failed out, where that is wanted and possible; else raise what stopped it."""
        assert failed.error is not None
        # A full disk is no fault of a run's.
        if isinstance(failed.error, OutputError):
            raise failed.error
        for label, mine in self.runs.items():
            bad = next((run for run in mine if failed.step.name.endswith(f"_{run.stem}")), None)
            if bad is None:
                continue
            if not skip:
                raise UserError(f"{failed.error} (or leave the run out with --skip-failed)") from failed.error
            mine.remove(bad)
            self.result.skipped[bad.stem] = str(failed.error)
            self.force = False
            if not mine:
                raise UserError(f"no run of sub-{label} can be used; the last: {failed.error}") from failed.error
            return
        raise failed.error

    def _chains(self) -> list[SubjectChain]:
        layout, config, stimuli = self.analysis.layout, self.analysis.config, self.analysis.stimuli
        return [
            subject_chain(layout, config.bold, stimuli, label, mine, self.progress) for label, mine in self.runs.items()
        ]


def _require_step(only: str | None) -> None:
    if only is not None and only not in STEPS:
        raise UserError(f"no step {only!r}: choose among {', '.join(STEPS)}")


def _check(layout: Layout, held: Held | None, step: Step) -> None:
    """Refuse to begin a step without its inputs, or when the study is not ours any more."""
    if held is not None:
        held.check()
    require_inputs(layout, step)


def require_inputs(layout: Layout, step: Step) -> None:
    """Refuse a step whose inputs an earlier step should have made, and did not.

    Raises
    ------
    UserError
        Which file is missing.
    """
    missing = next((path for path in step.inputs if not path.exists()), None)
    if missing is not None and missing.is_relative_to(layout.derivatives):
        raise UserError(f"step {step.name} needs {missing}, which is not there: run the earlier steps first")


def _runs(study: Path, config: StudyConfig) -> dict[str, list[BoldRun]]:
    if config.bold.source == "estimates":
        return {label: [] for label in config.subjects}
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


def _steps(analysis: Analysis, chains: list[SubjectChain], spread: SideBySide[Any, Any] | None) -> Kinds:
    parts = (analysis.layout, analysis.config, analysis.stimuli, analysis.generator)
    ceilings, baselines = Ceilings(*parts), Baselines(*parts, analysis.progress)
    learning = TrainingCurve(Decoding(*parts))
    moves = Moves(*parts)
    maps = BrainMaps(*parts, analysis.map_progress, spread)
    steps: Kinds = []
    for chain in chains:
        steps += chain.steps()
        steps += [("decode", analysis.decode(chain.label, model)) for model in analysis.models]
        if analysis.config.decoding.posterior:
            steps.append(("posterior", analysis.posterior(chain.label)))
        steps.append(("ceiling", ceilings.step(chain.label)))
        steps.append(("ceiling", learning.step(chain.label)))
    steps.append(("reconstruct", analysis.full_stimuli()))
    steps += baselines.shared()
    steps += maps.shared()
    for chain in chains:
        for model in analysis.models:
            steps += analysis.faces_and_scores(chain.label, model)
        steps += baselines.steps(chain.label)
        steps += maps.steps(chain.label)
        steps.append(("moves", moves.step(chain.label)))
    steps.append(("report", report_step(analysis, chains, {})))
    return steps

"""The order of faces of each subject: planned once, looked at before scanning, kept to by `present` and `simulate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.fmri.efficiency import design_efficiency
from hyperdecode.pipeline.lock import make_lock
from hyperdecode.pipeline.presented import presented_files
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.report.schedulefigure import schedule_figure
from hyperdecode.stimuli.schedule import ScanTime, scan_time
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.planned import plan_path, write_plan
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["Efficiency", "Schedule", "efficiency_of", "make_schedule", "plan_schedule"]


@dataclass(frozen=True)
class Efficiency:
    """What `hyperdecode.fmri.efficiency.design_efficiency` finds, mean over a subject's runs.

    Attributes
    ----------
    lag1, lag2 : float
        Correlation of a trial's regressor with that of the next trial, and of the one after it.
    inflation, separate_inflation : float
        Variance of a trial's beta beside other trials, as a multiple of what it were alone, median over trials: least
        squares-all and least squares-separate.
    """

    lag1: float
    lag2: float
    inflation: float
    separate_inflation: float

    @property
    def words(self) -> str:
        """What was found, in two sentences."""
        return (
            f"Neighbouring trials correlate {self.lag1:+.2f} after HRF convolution, every second one {self.lag2:+.2f}. "
            f"Beside the others, a trial's beta has {self.inflation:.1f} times the variance that it had alone when all "
            f"are fitted at once (LSA), {self.separate_inflation:.2f} times when each is fitted apart (LSS)."
        )


@dataclass(frozen=True)
class Schedule:
    """Planned runs of one subject.

    Attributes
    ----------
    subject : str
        Label.
    runs : list of pandas.DataFrame
        Events of each run.
    time : ScanTime
    efficiency : Efficiency
    folder : pathlib.Path
        Where the events lie.
    figure : pathlib.Path
        Picture of the schedule.
    """

    subject: str
    runs: list[pd.DataFrame]
    time: ScanTime
    efficiency: Efficiency
    folder: Path
    figure: Path


def make_schedule(
    study: Path, config: StudyConfig, stimuli: StimulusSet, subject: str, *, force: bool = False
) -> Schedule:
    """Plan a subject's runs, or read the plan that is there.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    stimuli : StimulusSet
    subject : str
        Label.
    force : bool
        Replace a plan of other settings.

    Returns
    -------
    Schedule

    Raises
    ------
    UserError
        When there is a plan of other settings and `force` is not given, when a run of the old plan was shown in the
        scanner, the trials cannot be scheduled, or another command works on the study or shows a run of it.
    """
    with make_lock(study, Layout(study).records):
        return plan_schedule(study, config, stimuli, subject, force=force)


def plan_schedule(
    study: Path, config: StudyConfig, stimuli: StimulusSet, subject: str, *, force: bool = False
) -> Schedule:
    """Do what `make_schedule` does, for one who holds the study already."""
    if force:
        _require_unseen(study, config, subject)
    seed = derived_seed(config.seed, "schedule", subject)
    runs = write_plan(study, config, stimuli, subject, seed, force=force)
    timing = config.timing
    time = scan_time(runs, off=timing.off, lead_out=timing.lead_out, t_r=timing.t_r)
    folder = plan_path(study, config, subject, 1).parent
    figure = folder / f"sub-{subject}_task-{config.task}_schedule.png"
    with atomic_path(figure) as temporary:
        temporary.write_bytes(schedule_figure(runs))
    return Schedule(subject, runs, time, efficiency_of(config, runs, time), folder, figure)


def _require_unseen(study: Path, config: StudyConfig, subject: str) -> None:
    """Refuse to plan anew under runs that a participant has seen: training faces would come twice, others never."""
    for run in range(1, config.schedule.n_runs + 1):
        files = presented_files(study, config, subject, run)
        if files.state.endswith("scanner"):
            raise UserError(
                f"sub-{subject} has seen run {run} of the plan ({files.events}): keep the plan, or move that file away"
            )


def efficiency_of(config: StudyConfig, runs: list[pd.DataFrame], time: ScanTime) -> Efficiency:
    """Work out the design efficiency of a subject's runs with the settings of the analysis, mean over runs."""
    found = [
        design_efficiency(
            run["onset"],
            run["duration"],
            n_volumes,
            config.timing.t_r,
            high_pass=config.bold.high_pass,
            slice_time_ref=config.bold.slice_time_ref,
        )
        for run, n_volumes in zip(runs, time.volumes, strict=True)
    ]
    return Efficiency(
        lag1=float(np.mean([one.lag1 for one in found])),
        lag2=float(np.mean([one.lag2 for one in found])),
        inflation=float(np.mean([np.median(one.inflation) for one in found])),
        separate_inflation=float(np.mean([np.median(one.separate_inflation) for one in found])),
    )

"""Making what participants see, one command at a time: no face changes while it is shown or analysed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hyperdecode.files import remove_leftovers
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.cluster import HERE, Where, spreading
from hyperdecode.pipeline.lock import make_lock
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.shown import write_shown
from hyperdecode.study.stimulus_set import (
    FIXATION,
    LATENTS,
    MANIFEST,
    SETTINGS,
    SHEET,
    SHOWN,
    StimulusSet,
    make_stimuli,
)

__all__ = ["draw_shown", "prepare_stimuli"]

Progress = Callable[[int, int], None]


def prepare_stimuli(
    study: Path,
    config: StudyConfig,
    generator: Generator,
    *,
    force: bool = False,
    where: Where = HERE,
    progress: Progress | None = None,
) -> StimulusSet:
    """Make the stimuli of a study, or read those that are there, while no other command uses the study.

    Parameters
    ----------
    study, config, generator, force, progress
        As for `hyperdecode.study.stimulus_set.make_stimuli`.
    where : Where
        Where pictures are drawn.

    Raises
    ------
    UserError
        As `make_stimuli` does; when workers do not answer; when another command works on the study or shows a run of
        it.
    """
    with make_lock(study, Layout(study).records), spreading(where) as side_by_side:
        made = make_stimuli(study, config, generator, force=force, progress=progress, side_by_side=side_by_side)
        names = (*made.manifest["stim_file"], MANIFEST, SETTINGS, LATENTS)
        remove_leftovers(made.folder / name for name in names)
        return made


def draw_shown(study: Path, config: StudyConfig, stimuli: StimulusSet, *, progress: Progress | None = None) -> int:
    """Draw the stimuli as they are shown, while no other command uses the study.

    Parameters
    ----------
    study, config, stimuli, progress
        As for `hyperdecode.study.shown.write_shown`.

    Returns
    -------
    int
        Files written now.

    Raises
    ------
    UserError
        As `write_shown` does, and when another command works on the study or shows a run of it.
    """
    with make_lock(study, Layout(study).records):
        drawn = write_shown(study, config, stimuli, progress=progress)
        names = (*(f"{SHOWN}/{name}" for name in stimuli.manifest["stim_file"]), FIXATION, SHEET)
        remove_leftovers(stimuli.folder / name for name in names)
        return drawn

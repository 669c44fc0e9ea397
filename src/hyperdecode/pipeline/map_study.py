"""Brain maps of an analysed study, by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.brainmaps import BrainMaps
from hyperdecode.pipeline.cluster import HERE, Where
from hyperdecode.pipeline.flights import TellFromWorker
from hyperdecode.pipeline.latents import refuse_other_generator
from hyperdecode.pipeline.lock import study_lock
from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.pipeline.records import read_facts
from hyperdecode.pipeline.workers import workers
from hyperdecode.report.mapsection import map_words
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["MappedSubject", "map_study"]


@dataclass(frozen=True)
class MappedSubject:
    """What was mapped of a subject.

    Attributes
    ----------
    subject : str
    words : str
        What was found.
    layers : pandas.DataFrame
        A row a layer.
    folder : pathlib.Path
        Where the maps lie.
    """

    subject: str
    words: str
    layers: pd.DataFrame
    folder: Path


def map_study(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    *,
    where: Where = HERE,
    force: bool = False,
    announce: Callable[[str, int, int, bool], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[MappedSubject]:
    """Map the layers of the generator on the brain of every subject.

    Parameters
    ----------
    study, config, stimuli, generator, force, announce
        As for `hyperdecode.pipeline.run.run_study`; ``config.mapping`` says how.
    where : Where
        Where the work is done: subjects side by side, or, where decoded latents pass the generator, pieces of each.
    progress : callable, optional
        Called with what is done of a step and all of it.

    Returns
    -------
    list of MappedSubject

    Raises
    ------
    UserError
        When the study asks for no maps, or was not analysed up to its masked trials (and its decoder, where decoded
        latents go through the generator).
    """
    if config.mapping.readout == "none":
        raise UserError("mapping.readout is none: choose linear, generator or second-order")
    refuse_other_generator(config, stimuli, generator)
    layout = Layout(study)
    tell = None if progress is None else TellFromWorker(progress)
    with study_lock(study, layout.records) as held, workers(study, layout.records, where, progress) as crew:
        maps = BrainMaps(layout, config, stimuli, generator, tell)
        if maps.through_generator:
            # These cut their work into pieces themselves.
            maps = replace(maps, side_by_side=crew.side_by_side)
        steps = [step for _, step in (*maps.shared(), *(one for label in config.subjects for one in maps.steps(label)))]
        here = {step.name for step in steps if maps.side_by_side is not None and step.name.startswith("map_sub-")}
        made = {path for step in steps for path in step.outputs}
        for step in steps:
            missing = next((path for path in step.inputs if path not in made and not path.exists()), None)
            if missing is not None:
                raise UserError(
                    f"step {step.name} needs {missing}, which is not there: run hyperdecode run {study} first"
                )
        ready = crew.run(steps, force=force, before=lambda _: held.check(), here=here)
        for n_done, done in enumerate(ready, start=1):
            if done.error is not None:
                raise done.error
            if announce:
                announce(done.step.name, n_done, len(steps), done.ran)
    return [_mapped(layout, config, label) for label in config.subjects]


def _mapped(layout: Layout, config: StudyConfig, label: str) -> MappedSubject:
    files = MapFiles(layout, label)
    layers = pd.read_csv(files.path("desc-occlusion_layers.tsv"), sep="\t")
    facts = read_facts(layout.records, f"map_sub-{label}") | {"alpha": config.mapping.alpha}
    return MappedSubject(label, map_words(layers, facts), layers, files.paths[0].parent)

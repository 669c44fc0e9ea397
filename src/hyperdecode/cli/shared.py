"""What several commands on a study share: their arguments, the study's generator and stimuli."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hyperdecode.cli.progress import progress_bar

if TYPE_CHECKING:
    from hyperdecode.generators.base import Generator
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.study.config import StudyConfig
    from hyperdecode.study.stimulus_set import StimulusSet

__all__ = [
    "Force",
    "Scheduler",
    "SkipFailed",
    "Slurm",
    "StudyFolder",
    "Subject",
    "WorkerCount",
    "check_pictures",
    "one_subject",
    "study_generator",
    "study_stimuli",
]

Subject = Annotated[
    str, typer.Option("--subject", "-s", help="Participant, with or without sub-. Default: the study's only one.")
]
StudyFolder = Annotated[Path, typer.Argument(help="The study folder (it has a study.toml).", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Make everything again, over existing outputs.")]
SkipFailed = Annotated[
    bool, typer.Option("--skip-failed", help="Go on without runs of BOLD that cannot be used, and say which.")
]
WorkerCount = Annotated[
    int,
    typer.Option(min=1, max=256, help="Processes that work side by side on this computer, sharing its cores (Dask)."),
]
Scheduler = Annotated[str, typer.Option(help="Or: address of a running Dask scheduler, tcp://HOST:8786 say.")]
Slurm = Annotated[
    Path | None, typer.Option(help="Or: TOML file that says which Slurm jobs to ask for (docs/cluster.md).")
]


def one_subject(config: StudyConfig, given: str) -> str:
    """Return the label of the subject that is meant, without ``sub-``."""
    from hyperdecode.errors import UserError

    if given:
        return given.removeprefix("sub-")
    if len(config.subjects) > 1:
        raise UserError(f"which subject? Give --subject, one of {', '.join(config.subjects)}")
    return config.subjects[0]


def study_generator(config: StudyConfig, console: Console) -> Generator:
    """Load the study's generator, saying so when its weights are fetched first."""
    from hyperdecode.generators import load_generator
    from hyperdecode.weights.store import SOURCES, cached_path

    name = config.generator
    if name in SOURCES and not cached_path(name).exists():
        console.print(f"Fetching the weights of {name} ({SOURCES[name].megabytes} MB, once) ...")
    return load_generator(name)


def study_stimuli(
    study: Path,
    config: StudyConfig,
    generator: Generator,
    console: Console,
    force: bool,
    where: Where | None = None,
) -> StimulusSet:
    """Make the stimuli, or read those that are there, behind a progress bar."""
    from hyperdecode.pipeline.cluster import HERE
    from hyperdecode.pipeline.stimuli import prepare_stimuli

    with progress_bar("Faces", console) as update:
        return prepare_stimuli(study, config, generator, force=force, where=where or HERE, progress=update)


def check_pictures(made: StimulusSet, generator: Generator, n: int, console: Console) -> int:
    """Make some pictures again from their latents, say how far they are from the files, and return it."""
    from hyperdecode.study.stimulus_set import check_stimuli

    worst = check_stimuli(made, generator, n=n)
    console.print(f"Check: {n} pictures made again from their latents; largest difference {worst} of 255 grey levels.")
    return worst

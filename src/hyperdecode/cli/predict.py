"""``hyperdecode predict``: a fitted decoder on trials that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hyperdecode.cli import shared
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import StudyFolder

__all__ = ["predict"]


def predict(
    study: StudyFolder,
    subject: Annotated[str, typer.Argument(help="Label of the subject, such as 01.", show_default=False)],
    zmaps: Annotated[
        Path | None, typer.Option(help="NIfTI with one z-map a trial, on the grid of the study's mask.")
    ] = None,
    trials: Annotated[Path | None, typer.Option(help="TSV with one row a volume of --zmaps.")] = None,
    task: Annotated[str | None, typer.Option(help="Decode new runs of this task.")] = None,
    session: Annotated[str | None, typer.Option(help="Decode new runs of this session.")] = None,
    run: Annotated[str | None, typer.Option(help="Decode the new run with this label.")] = None,
    model: Annotated[str | None, typer.Option(help="The decoder. Default: that of study.toml.")] = None,
    trial_type: Annotated[
        list[str] | None, typer.Option(help="Decode trials of this trial_type alone; may be repeated.")
    ] = None,
    average: Annotated[
        str | None, typer.Option(help="Average the z-maps of trials with one value in this column first (stim_file).")
    ] = None,
    fill_missing: Annotated[
        bool, typer.Option("--fill-missing", help="Put the training mean where a voxel has no value.")
    ] = False,
    pictures: Annotated[bool, typer.Option(help="Make pictures and a contact sheet.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to. Default: predictions/ of the subject, by what was decoded."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace predictions made from something else.")] = False,
) -> None:
    """Decode new trials of a subject, an imagery run say: latents, attribute scores, faces. Nothing is fitted again.

    Give either --zmaps, or one or several of --task, --session and --run, which name new BOLD runs in the study folder:
    they are preprocessed as the study's own and brought to its grid, and each event is a trial.

    Example: hyperdecode predict my_study 01 --task imagery --average stim_file
    """
    from hyperdecode.pipeline.predict import predict as work
    from hyperdecode.study.config import read_config
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = Console(), read_config(study)
    made = read_stimuli(study)
    generator = shared.study_generator(config, console)
    with progress_bar("Prediction", console) as update:
        result = work(
            study,
            config,
            made,
            generator,
            subject.removeprefix("sub-"),
            model=model,
            zmaps=zmaps,
            trials=trials,
            task=task,
            session=session,
            run=run,
            trial_types=tuple(trial_type or ()),
            average=average,
            fill_missing=fill_missing,
            pictures=pictures,
            out=out,
            force=force,
            progress=lambda what, done, total: update(done, total, what),
        )
    if not result.ran:
        console.print("Everything was up to date; nothing was done again.")
    for note in result.notes:
        console.print(f"Note: {note}", soft_wrap=True, highlight=False)
    rows = f"{result.n} {'averages' if average else 'trials'}"
    console.print(f"{rows} decoded: {result.table}\nLatents: {result.latents}", soft_wrap=True, highlight=False)
    if result.sheet is not None:
        console.print(f"Pictures: {result.folder}\nAll of them: {result.sheet}", soft_wrap=True, highlight=False)

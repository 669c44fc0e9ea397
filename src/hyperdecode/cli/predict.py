"""``hyperdecode predict``: a fitted decoder on trials that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperdecode.cli import shared
from hyperdecode.cli.answer import AsJson, answer, say, words
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import StudyFolder, Subject

__all__ = ["predict"]


def predict(
    study: StudyFolder,
    subject: Subject = "",
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
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Replace predictions made from something else.")] = False,
) -> None:
    """Decode new trials of a subject, an imagery run say: latents, attribute scores, faces. Nothing is fitted again.

    Give either --zmaps, or one or several of --task, --session and --run, which name new BOLD runs in the study folder:
    they are preprocessed as the study's own and brought to its grid, and each event is a trial.

    Example: hyperdecode predict my_study --subject 01 --task imagery --average stim_file
    """
    from hyperdecode.pipeline.predict import predict as work
    from hyperdecode.study.config import read_config
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = words(as_json), read_config(study)
    made = read_stimuli(study)
    generator = shared.study_generator(config, console)
    with progress_bar("Prediction", console) as update:
        result = work(
            study,
            config,
            made,
            generator,
            shared.one_subject(config, subject),
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
    say(console, *(f"Note: {note}" for note in result.notes))
    decoded = f"{result.n} {'averages' if average else 'trials'} decoded"
    say(console, f"{decoded}: {result.table}", f"Latents: {result.latents}")
    if result.sheet is not None:
        say(console, f"Pictures: {result.folder}", f"All of them: {result.sheet}")
    if as_json:
        answer(result)

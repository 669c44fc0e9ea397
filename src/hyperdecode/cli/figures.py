"""The command that writes figures for a journal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperdecode.cli import shared
from hyperdecode.cli.answer import AsJson, answer, say, words
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import StudyFolder

if TYPE_CHECKING:
    from hyperdecode.generators.base import Generator
    from hyperdecode.pipeline.figures import FigureOutcome

__all__ = ["figures"]


def figures(
    study: StudyFolder,
    only: Annotated[
        list[int] | None, typer.Option(help="Number of a figure, 2 to 8; repeat for more. Default: all.")
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option("--subject", "-s", help="Whose, with or without sub-; repeat for more. Default: all subjects."),
    ] = None,
    format: Annotated[list[str] | None, typer.Option(help="pdf or png; repeat for both. Default: both.")] = None,
    dpi: Annotated[int, typer.Option(help="Of PNGs, and of what a PDF holds as pixels, 300 to 1200.")] = 600,
    faces: Annotated[int, typer.Option(help="Test faces of a figure that shows faces, 2 to 16.")] = 10,
    force: Annotated[
        bool, typer.Option("--force", help="Draw all again, also over files that were changed by hand.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write figures for a journal from an analysed study: the analogues of the paper's Figures 2 to 8.

    PDFs with text as text and PNGs, one or two columns wide, a caption beside each, in derivatives/hyperdecode/figures.
    Nothing is fitted. A figure that the study has no files for is left out, with the command that makes them. A figure
    that was changed by hand is never overwritten unasked.
    """
    from hyperdecode.pipeline.figures import write_figures
    from hyperdecode.report.publication.style import FORMATS
    from hyperdecode.study.config import read_config

    console, config = words(as_json), read_config(study)

    def load() -> Generator:
        return shared.study_generator(config, console)

    with progress_bar("Figures", console) as update:
        found = write_figures(
            study,
            config,
            load,
            only=only or (),
            subjects=[label.removeprefix("sub-") for label in subject or ()],
            formats=format or FORMATS,
            dpi=dpi,
            faces=faces,
            force=force,
            announce=lambda what, done, total: update(done, total, what),
        )
    say(console, *(_line(one) for one in found))
    if as_json:
        answer({"figures": [asdict(one) for one in found]})


def _line(one: FigureOutcome) -> str:
    who = f"Figure {one.number}{f', {one.subject}' if one.subject else ''}"
    if one.missing:
        return f"{who}: left out, {one.missing}"
    return f"{who}: {_names(one.files)}{'' if one.drawn else ' (up to date)'}"


def _names(files: tuple[Path, ...]) -> str:
    first, *others = files
    return ", ".join([str(first), *(path.suffix for path in others)])

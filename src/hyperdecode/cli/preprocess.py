"""``hyperdecode preprocess``: raw BIDS to single-trial z-maps and a contrast in MNI space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["preprocess"]

PEAKS_SHOWN = 10


def preprocess(
    bids_dir: Annotated[Path, typer.Argument(help="Folder of a raw BIDS data set, with a T1w for each subject.")],
    contrast: Annotated[
        str,
        typer.Option(
            help="Conditions to compare, as 'A > B', 'A + B > C' or 'A > other'. Names are those in the events' "
            "trial_type; other means all that are not on the left."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="Where to write. Default: BIDS_DIR/derivatives/hyperdecode."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Single-trial estimate: lss (one model a trial, good for fast designs) or lsa (one model for all)."
        ),
    ] = "lss",
    voxels: Annotated[int, typer.Option(min=1, help="Size of the mask of most active voxels.")] = 4096,
    voxel_size: Annotated[int, typer.Option(min=1, max=8, help="Of the MNI grid, in mm.")] = 3,
    smoothing: Annotated[float, typer.Option(min=0, help="FWHM in mm for the contrast; z-maps stay unsmoothed.")] = 5.0,
    force: Annotated[bool, typer.Option("--force", help="Make everything again, over existing outputs.")] = False,
) -> None:
    """Realign, normalise to MNI, estimate one z-map a trial, compare conditions.

    Writes BIDS derivatives: preprocessed BOLD, motion, single-trial z-maps, the mask of the most active voxels, the
    z-map of the contrast with its picture and its table of peaks. What is up to date is not done again.

    Example: hyperdecode preprocess my_bids --contrast "face > other"
    """
    from hyperdecode.pipeline.preprocess import preprocess as work

    console = Console()
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        current: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in current or (bars.tasks[current[step]].finished and done < total):
                current[step] = bars.add_task(step, total=total)
            bars.update(current[step], completed=done, total=total)

        runs = work(
            bids_dir,
            out,
            contrast=contrast,
            method=cast(Literal["lss", "lsa"], method),
            mask_voxels=voxels,
            smoothing_fwhm=smoothing,
            voxel_size=voxel_size,
            force=force,
            progress=show,
        )
    for run in runs:
        console.print(f"{run.stem}: strongest peaks of {contrast}", highlight=False)
        table = Table()
        for heading in ("x", "y", "z (MNI mm)", "z value"):
            table.add_column(heading, justify="right")
        for row in run.peaks.head(PEAKS_SHOWN).itertuples():
            table.add_row(f"{row.x:.0f}", f"{row.y:.0f}", f"{row.z:.0f}", f"{row.stat:.2f}")
        console.print(table)
        for note in run.notes:
            console.print(f"  {note}", soft_wrap=True, highlight=False)
        if not run.redone:
            console.print("  Everything was up to date; nothing was done again.")
        for name in ("single_trial", "mask", "contrast", "contrast_figure", "registration_figure"):
            console.print(f"  {name.replace('_', ' ')}: {run.files[name]}", soft_wrap=True, highlight=False)

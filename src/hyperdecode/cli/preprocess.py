"""``hyperdecode preprocess``: raw BIDS to single-trial z-maps and a contrast in MNI space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from hyperdecode.cli.answer import AsJson, answer, rows, say, words
from hyperdecode.cli.shared import Scheduler, SkipFailed, Slurm, WorkerCount

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["preprocess"]

PEAKS_SHOWN = 10
SHOWN = ("single_trial", "mask", "contrast", "contrast_figure", "registration_figure")


def preprocess(
    bids_dir: Annotated[Path, typer.Argument(help="Folder of a raw BIDS data set.")],
    out: Annotated[
        Path | None,
        typer.Argument(help="Where to write. Default: BIDS_DIR/derivatives/hyperdecode."),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            help="Conditions to compare, as 'A > B', 'A + B > C' or 'A > other'. Names are those in the events' "
            "trial_type; other means all that are not on the left."
        ),
    ] = None,
    source: Annotated[
        str, typer.Option(help="What the BOLD is: auto (by its header), raw, as-is, fmriprep (with --source-dir).")
    ] = "auto",
    source_dir: Annotated[Path | None, typer.Option(help="Folder of fMRIPrep's output.")] = None,
    fmriprep_space: Annotated[str, typer.Option(help="Its space, where it has several.")] = "",
    fmriprep_res: Annotated[str, typer.Option(help="Its resolution, where it has several.")] = "",
    space: Annotated[str, typer.Option(help="Of raw BOLD: mni, or native (the mean of the first run).")] = "mni",
    voxel_size: Annotated[int, typer.Option(min=1, max=8, help="Of the MNI grid, in mm.")] = 2,
    confounds: Annotated[
        list[str] | None, typer.Option(help="By nilearn's names, each with an option of its own. Default: motion.")
    ] = None,
    motion: Annotated[str, typer.Option(help="Motion columns: basic, derivatives, power2 or full.")] = "basic",
    glm: Annotated[
        str,
        typer.Option(
            help="Single-trial estimate: lss (one model a trial, good for fast designs), lsa (one model for all) or "
            "ridge."
        ),
    ] = "lss",
    noise_model: Annotated[str, typer.Option(help="Noise of the single-trial model: ols or ar1.")] = "ols",
    hrf: Annotated[
        str, typer.Option(help="Response: spm, 'spm + derivative', glover, library, ... as in study.toml.")
    ] = "spm",
    n_voxels: Annotated[int, typer.Option(min=2, help="Size of the mask of most active voxels.")] = 4096,
    smoothing: Annotated[float, typer.Option(min=0, help="FWHM in mm for the contrast; z-maps stay unsmoothed.")] = 5.0,
    skip_failed: SkipFailed = False,
    workers: WorkerCount = 1,
    scheduler: Scheduler = "",
    slurm: Slurm = None,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Make everything again, over existing outputs.")] = False,
) -> None:
    """Realign, normalise to MNI, estimate one z-map a trial, compare conditions.

    Writes BIDS derivatives: preprocessed BOLD, motion, transforms, single-trial z-maps, the mask of the most active
    voxels, the z-map of the contrast with its picture and its table of peaks. What is up to date is not done again.

    Example: hyperdecode preprocess my_bids --contrast "face > other"
    """
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.pipeline.preprocess import preprocess as work
    from hyperdecode.study.config import bold_settings

    settings = bold_settings(
        source=source,
        source_dir="" if source_dir is None else str(source_dir.resolve()),
        fmriprep_space=fmriprep_space,
        fmriprep_res=fmriprep_res,
        space=space,
        voxel_size=voxel_size,
        confounds=("motion",) if confounds is None else tuple(confounds),
        motion=motion,
        glm=glm,
        noise_model=noise_model,
        hrf=hrf,
        n_voxels=n_voxels,
    )
    failed: dict[str, str] = {}
    console = words(as_json)
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
            bold=settings,
            smoothing_fwhm=smoothing,
            force=force,
            skip_failed=skip_failed,
            where=Where(workers, scheduler, slurm),
            progress=show,
            failed=failed,
        )
    say(console, *(f"Left out {stem}: {reason}" for stem, reason in failed.items()))
    for run in runs:
        say(console, run.stem if run.peaks is None else f"{run.stem}: strongest peaks of {contrast}")
        if run.peaks is not None:
            console.print(_peaks(run.peaks))
        say(console, *(f"  {note}" for note in run.notes))
        if not run.redone:
            console.print("  Everything was up to date; nothing was done again.")
        named = [name for name in SHOWN if name in run.files]
        say(console, *(f"  {name.replace('_', ' ')}: {run.files[name]}" for name in named))
    if as_json:
        found = [vars(run) | {"peaks": None if run.peaks is None else rows(run.peaks)} for run in runs]
        answer({"runs": found, "left_out": failed})


def _peaks(peaks: pd.DataFrame) -> Table:
    table = Table()
    for heading in ("x", "y", "z (mm)", "z value"):
        table.add_column(heading, justify="right")
    for row in peaks.head(PEAKS_SHOWN).itertuples():
        table.add_row(f"{row.x:.0f}", f"{row.y:.0f}", f"{row.z:.0f}", f"{row.stat:.2f}")
    return table

"""The command that maps generator layers on the brain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hyperdecode.cli import shared
from hyperdecode.cli.answer import AsJson, answer, rows, say, words
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import Force, Scheduler, Slurm, StudyFolder, WorkerCount

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["map_layers"]


def map_layers(
    study: StudyFolder,
    readout: Annotated[
        str | None,
        typer.Option(
            help="linear: ridge straight to each layer's activations. generator: the study's decoder and the generator "
            "exactly; second-order: the same from Jacobian products, a sample exactly to see that it holds. Default: "
            "that of study.toml, else linear."
        ),
    ] = None,
    workers: WorkerCount = 1,
    scheduler: Scheduler = "",
    slurm: Slurm = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Map which layer of the generator each voxel tells most of: searchlight-occlusion, tests, regions.

    Works on an analysed study. Maps are NIfTI files on the mask's grid and, in MNI space, GIFTI files on fsaverage5. A
    killed run goes on. To have maps in the report, set readout in [mapping] of study.toml and run the study again.
    """
    from hyperdecode.pipeline.cluster import Where
    from hyperdecode.pipeline.map_study import map_study
    from hyperdecode.study.config import read_config, with_mapping
    from hyperdecode.study.stimulus_set import read_stimuli

    console, config = words(as_json), read_config(study)
    asked = config.mapping.readout
    config = with_mapping(config, readout or (asked if asked != "none" else "linear"))
    made = read_stimuli(study)
    generator = shared.study_generator(config, console)
    with progress_bar("Maps", console) as update:
        steps = (0, 1)

        def announce(step: str, done: int, total: int, ran: bool) -> None:
            nonlocal steps
            steps = (done, total)
            update(done, total, f"{step}{'' if ran else ' (up to date)'}")

        maps = map_study(
            study,
            config,
            made,
            generator,
            where=Where(workers, scheduler, slurm),
            force=force,
            announce=announce,
            progress=lambda done, total: update(*steps, f"{done} of {total}"),
        )
    for found in maps:
        say(console, f"\nsub-{found.subject}: {found.words}")
        console.print(_layers(found.layers))
        say(console, f"Maps: {found.folder}")
    name = config.mapping.readout
    setting = (
        "" if asked == name else f'to have them in the report, readout = "{name}" in [mapping] of study.toml, then '
    )
    say(console, f"Next: {setting}hyperdecode run {study}")
    if as_json:
        answer([vars(found) | {"layers": rows(found.layers)} for found in maps])


def _layers(table: pd.DataFrame) -> Table:
    shown = Table(box=None)
    for name in ("Depth", "Layer", "Similarity", "Blind", "Voxels", "Beyond chance"):
        shown.add_column(name, justify="left" if name == "Layer" else "right")
    for row in table.to_dict("records"):
        scores = (f"{row[name]:.3f}" for name in ("similarity", "blind_similarity"))
        counts = (str(row[name]) for name in ("n_voxels", "n_voxels_thresholded"))
        shown.add_row(str(row["depth"]), str(row["layer"]), *scores, *counts)
    return shown

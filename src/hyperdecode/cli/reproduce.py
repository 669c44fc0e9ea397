"""``hyperdecode reproduce``: published studies anew from the files that their authors released."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import Force

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["app"]

app = typer.Typer(help="Reproduce published studies from released files.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _reproduce() -> None:
    """Keep the name of the study a command of its own."""


@app.command()
def hyper2021(
    data_dir: Annotated[
        Path,
        typer.Argument(
            help="Folder of the authors' files: data_1.dat, data_2.dat and the generator's parameters.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where results go. Default: hyper2021-reproduced beside DATA_DIR.")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            help="Generator parameters (a file in any format of `weights import`) or a known generator's name."
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="VGGFace2 weights of the ResNet50; without them dlib's network stands in.")
    ] = None,
    boundaries: Annotated[
        Path | None, typer.Option(help="Folder of InterFaceGAN's *_boundary.npy, for correlations of attributes.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Decoder beside the paper's; give it again for more. Default: weighted-ridge."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Train so many epochs: a quick look, named so in all that is written.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the pictures. Default: the generator's full side.")
    ] = None,
    permutations: Annotated[int, typer.Option(min=100, help="Pairings drawn for each p-value.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    force: Force = False,
) -> None:
    """Run the paper's decoder and ours on the released data, and print Table 1 beside the printed numbers.

    The same command goes on after an interruption; nothing in the released files is executed.
    """
    from hyperdecode.pipeline.released import read_released
    from hyperdecode.pipeline.reproduce import Reproduction, Settings, paper_rows, readable

    console = Console()
    settings = Settings(
        models=tuple(model or ("weighted-ridge",)),
        epochs=epochs,
        resolution=resolution,
        n_permutations=permutations,
        seed=seed,
    )
    released = read_released(data_dir, generator, features, boundaries)
    folder = out or data_dir.resolve().parent / "hyper2021-reproduced"
    with progress_bar("Reproduction", console) as update:
        made = Reproduction(released, folder, settings, tell=update)
        table = made.run(force)
    for shown in _tables(readable(table)):
        console.print(shown)
    for line in made.words:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print("In the paper, not run here (S1 / S2): " + "; ".join(paper_rows()), soft_wrap=True, highlight=False)
    for line in made.verdicts():
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for name in ("table1.tsv", *made.strips, *made.reports):
        console.print(f"{name}: {folder / name}", soft_wrap=True, highlight=False, markup=False)


def _tables(words: pd.DataFrame) -> Iterator[Table]:
    """Give a table a metric, narrow enough for a terminal."""
    for metric, rows in words.groupby("Metric", sort=False):
        shown = Table(box=None, padding=(0, 1, 0, 0), title=str(metric), title_justify="left")
        rows = rows.drop(columns="Metric")
        for name in map(str, rows):
            shown.add_column(name, justify="left" if name in ("Subject", "Decoder") else "right", no_wrap=True)
        for row in rows.itertuples(index=False):
            shown.add_row(*row)
        yield shown

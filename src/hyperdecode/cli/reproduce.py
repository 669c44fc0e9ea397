"""``hyperdecode reproduce``: published studies anew from the files that their authors released."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hyperdecode.cli.answer import AsJson, answer, rows, say, words
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import Force
from hyperdecode.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["app"]

app = typer.Typer(
    help="Reproduce published studies from the files that their authors released.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _reproduce() -> None:
    """Keep the name of the study a command of its own."""


@app.command()
def hyper2021(
    data_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA_DIR",
            help="Folder with data_1.dat, data_2.dat and generator.params of the authors' release.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where results go. Default: hyper2021-reproduced beside DATA_DIR."),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Generator's parameters in another format or place (formats: `hyperdecode weights import --help`), or "
            "the name of an imported one. Default: the one such file in DATA_DIR.",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="rcmalli_vggface_tf_notop_resnet50.h5, the paper's network of feature similarity. Default: that in "
            "DATA_DIR; else dlib's network stands in, whose numbers the paper's are not compared with.",
        ),
    ] = None,
    boundaries: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="InterFaceGAN's *_boundary.npy in z; adds how well attributes are decoded."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Decoder beside the paper's; repeat for more. Default: weighted-ridge."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Train so many epochs instead of 1500: a quick look, named so in every output."
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Side of the pictures. Default: the generator's full side."),
    ] = None,
    permutations: Annotated[int, typer.Option(min=100, metavar="N", help="Pairings drawn for each p-value.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of everything random.")] = 0,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Run the paper's decoder and ours on the data of Dado and colleagues (2022).

    Prints Table 1 beside the paper's numbers and writes it with a report. A second run makes only what is missing; a
    killed run goes on. Nothing in the files is executed. How long: docs/reproduce.md.
    """
    if data_dir is None:
        raise UserError(
            "which DATA_DIR? Give the folder with data_1.dat, data_2.dat and generator.params of the authors' release"
        )
    from hyperdecode.pipeline.released import read_released
    from hyperdecode.pipeline.reproduce import Reproduction
    from hyperdecode.pipeline.reproduce_table1 import paper_rows, readable
    from hyperdecode.pipeline.reproduced import Settings

    console = words(as_json)
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
    say(console, *made.words)
    say(console, "In the paper, not run here (S1 / S2): " + "; ".join(paper_rows()))
    verdicts = list(made.verdicts())
    say(console, *verdicts)
    names = ("table1.tsv", *made.strips, *made.reports)
    say(console, *(f"{name}: {folder / name}" for name in names))
    if as_json:
        answer({"table1": rows(table), "verdicts": verdicts, "files": [folder / name for name in names]})


def _tables(table: pd.DataFrame) -> Iterator[Table]:
    """Give a table a metric, narrow enough for a terminal."""
    for metric, some in table.groupby("Metric", sort=False):
        shown = Table(box=None, padding=(0, 1, 0, 0), title=str(metric), title_justify="left")
        some = some.drop(columns="Metric")
        for name in map(str, some):
            shown.add_column(name, justify="left" if name in ("Subject", "Decoder") else "right", no_wrap=True)
        for row in some.itertuples(index=False):
            shown.add_row(*row)
        yield shown

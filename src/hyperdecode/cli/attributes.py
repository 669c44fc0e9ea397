"""``hyperdecode attributes``: directions of gender, age, eyeglasses, smile and pose in a generator's latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hyperdecode.cli.answer import AsJson, answer, rows, say, words
from hyperdecode.cli.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

    from hyperdecode.generators.attributes import AttributeNormals

__all__ = ["app"]

app = typer.Typer(
    help="Attribute directions in latent space: fit, import, list.", no_args_is_help=True, rich_markup_mode=None
)
GeneratorName = Annotated[
    str, typer.Option("--generator", help="The generator; `hyperdecode weights list` names them.")
]
DEFAULT = "mobilestylegan-ffhq"


@app.command()
def fit(
    generator: GeneratorName = DEFAULT,
    faces: Annotated[
        int, typer.Option("--faces", "-n", min=1, help="Faces to render and label; kept in the cache, resumable.")
    ] = 20_000,
    fraction: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Share of the faces taken from each end of an attribute.")
    ] = 0.1,
    flips: Annotated[
        int, typer.Option(min=0, help="Held-out faces to move along each attribute, to count the labels that flip.")
    ] = 0,
    reach: Annotated[
        float, typer.Option(min=0.1, max=20, help="How far they are moved, in standard deviations.")
    ] = 3.0,
    keep: Annotated[
        bool, typer.Option("--keep-others", help="Hold the scores of the other attributes meanwhile.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write here instead of the cache.")] = None,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Replace attributes that are there.")] = False,
) -> None:
    """Fit attribute normals by InterFaceGAN's recipe and say how well they do on faces held out.

    Renders a pool of faces, labels each by public classifiers, separates the extremes by a linear SVM.
    """
    import torch

    from hyperdecode.errors import UserError
    from hyperdecode.generators import load_generator
    from hyperdecode.generators.attribute_store import save_attributes
    from hyperdecode.pipeline.attributes import fit_attributes, label_pool, measure_flips
    from hyperdecode.pipeline.face_pool import held_out_latents
    from hyperdecode.weights.boundaries import attributes_path

    target = out or attributes_path(generator)
    if target.exists() and not force:
        raise UserError(f"{target} holds attributes already: give --force to replace them, or another --out")
    console, network, threads = words(as_json), load_generator(generator), torch.get_num_threads()
    with progress_bar("Faces, labels", console) as update:
        pool = label_pool(network, faces, threads, update)
    found = fit_attributes(network, pool, fraction)
    _show_accuracy(console, found.accuracy)
    for space, normals in found.normals.items():
        _show_square(console, f"Cosines between the normals in {space}", _cosines(normals))
    if flips:
        for space, normals in found.normals.items():
            latents = held_out_latents(network, flips, space)
            with progress_bar(f"Moved in {space}", console) as update:
                shares = measure_flips(
                    network,
                    normals,
                    found.thresholds,
                    latents,
                    reach,
                    normals.names if keep else (),
                    threads=threads,
                    progress=update,
                )
            held = ", the others held" if keep else ""
            _show_square(
                console, f"Share of {flips} held-out faces whose label flips at {reach:g} SD in {space}{held}", shares
            )
    save_attributes(
        target,
        dict(found.normals),
        {"generator": network.fingerprint, "faces": str(faces), "fraction": str(fraction)},
        replace=force,
    )
    say(console, f"Wrote {target}")
    if out is None:
        say(console, f"Next: hyperdecode faces edit OUT --generator {generator}")
    if as_json:
        answer({"attributes": target, "accuracy": rows(found.accuracy)})


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="InterFaceGAN boundaries, *_boundary.npy.", show_default=False)],
    generator: Annotated[str, typer.Option("--generator", help="The generator that they belong to.")],
    space: Annotated[str, typer.Option(help="Latent space of the normals: z or w.")] = "z",
    force: Annotated[bool, typer.Option("--force", help="Replace attributes of the same names.")] = False,
) -> None:
    """Take InterFaceGAN's published normals for a generator of yours, each under the name in its file name."""
    from hyperdecode.pipeline.boundaries import import_boundaries

    names = import_boundaries(files, generator, space, force=force)
    typer.echo(f"{generator}: {', '.join(names)} in {space}. Next: hyperdecode faces edit OUT --generator {generator}")


@app.command("list")
def list_(generator: GeneratorName = DEFAULT, as_json: AsJson = False) -> None:
    """List the attributes of a generator, by latent space."""
    from hyperdecode.generators.attribute_store import attribute_spaces

    spaces = attribute_spaces(generator)
    if as_json:
        answer({"generator": generator, "attributes": {space: normals.names for space, normals in spaces.items()}})
        return
    if not spaces:
        typer.echo(f"{generator}: none; fit them with `hyperdecode attributes fit --generator {generator}`")
    for space, normals in spaces.items():
        typer.echo(f"{generator}\t{space}\t{', '.join(normals.names)}")


def _show_accuracy(console: Console, accuracy: pd.DataFrame) -> None:
    table = Table(
        title="On held-out faces: accuracy on the 2 and 5 % at each end; correlation of score and label over all"
    )
    for heading in ("attribute", "space", "2 %", "5 %", "r", "faces"):
        table.add_column(heading, justify="left" if heading in ("attribute", "space") else "right")
    for row in accuracy.itertuples():
        table.add_row(
            str(row.attribute),
            str(row.space),
            f"{row.accuracy_2:.3f}",
            f"{row.accuracy_5:.3f}",
            f"{row.correlation:.3f}",
            str(row.n_held_out),
        )
    console.print(table)


def _cosines(normals: AttributeNormals) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(normals.cosines().numpy(), index=list(normals.names), columns=list(normals.names))


def _show_square(console: Console, title: str, values: pd.DataFrame) -> None:
    table = Table(title=title)
    table.add_column("")
    for heading in values.columns:
        table.add_column(str(heading), justify="right")
    for name, row in values.iterrows():
        table.add_row(str(name), *(f"{value:.2f}" for value in row))
    console.print(table)

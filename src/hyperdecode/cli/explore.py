"""The command that serves the live explorer."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hyperdecode.cli import shared
from hyperdecode.cli.answer import say

if TYPE_CHECKING:
    from hyperdecode.explorer.scene import Scene

__all__ = ["explore"]


def explore(
    study: Annotated[
        Path | None, typer.Argument(help="An analysed study: its test faces, decoded and true.", show_default=False)
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Or: a generator by name, without a study.", show_default=False)
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            "--subject", "-s", help="Whose test faces, with or without sub-; repeat for more. Default: all decoded."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open nothing.")] = False,
) -> None:
    """Move attributes and latents of faces on a page; the generator answers live. Ctrl-C ends it.

    The page is served on 127.0.0.1 alone, at an address that holds a random token. Nothing is written.
    """
    from hyperdecode.errors import UserError

    try:
        from hyperdecode.explorer.server import serve
    except ImportError as error:
        raise UserError("the explorer needs starlette and uvicorn: pip install 'hyperdecode[explore]'") from error
    console = Console()
    scene = _scene(study, generator, [label.removeprefix("sub-") for label in subject or ()], console)

    def announce(address: str) -> None:
        say(console, f"{scene.title}: {address}", "Ctrl-C ends it.")
        if not no_browser:
            # Some browsers keep the caller waiting.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve(scene, port, announce)
    say(console, "The explorer has ended.")


def _scene(study: Path | None, generator: str | None, subjects: list[str], console: Console) -> Scene:
    from hyperdecode.errors import UserError
    from hyperdecode.generators import load_generator
    from hyperdecode.pipeline.explore import generator_scene, study_scene
    from hyperdecode.study.config import read_config

    if (study is None) == (generator is None):
        raise UserError("give a study, or --generator NAME: `hyperdecode explore --generator mobilestylegan-ffhq`")
    if study is None:
        if subjects:
            raise UserError("--subject chooses among the subjects of a study: leave it out with --generator")
        return generator_scene(load_generator(str(generator)))
    config = read_config(study)
    return study_scene(study, config, shared.study_generator(config, console), subjects)

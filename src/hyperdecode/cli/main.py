"""The `hyperdecode` program: its commands, and one line instead of a traceback for a user's mistake."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from hyperdecode import __version__
from hyperdecode.cli import attributes, decoding, experiment, faces, mapping, reproduce, study, weights
from hyperdecode.cli.doctor import doctor
from hyperdecode.cli.explore import explore
from hyperdecode.cli.figures import figures
from hyperdecode.cli.predict import predict
from hyperdecode.cli.preprocess import preprocess
from hyperdecode.cli.present import present
from hyperdecode.cli.status import status
from hyperdecode.errors import DataWarning, UserError

__all__ = ["app", "main"]

USER_MISTAKE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="hyperdecode",
    help="Decode what a person saw from brain activity, through the latent space of a generative network.",
    epilog="Start with: hyperdecode demo my_demo --quick",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(doctor)
app.command()(study.demo)
app.command()(study.init)
app.command()(experiment.stimuli)
app.command()(experiment.schedule)
app.command()(present)
app.command()(study.simulate)
app.command()(experiment.validate)
app.command()(study.run)
app.command()(status)
app.command()(study.report)
app.command()(decoding.decode)
app.command()(decoding.compare)
app.command("map")(mapping.map_layers)
app.command()(predict)
app.command()(figures)
app.command()(explore)
app.command()(preprocess)
app.add_typer(weights.app, name="weights")
app.add_typer(attributes.app, name="attributes")
app.add_typer(faces.app, name="faces")
app.add_typer(reproduce.app, name="reproduce")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hyperdecode {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads for linear algebra and torch, in all. Default: OMP_NUM_THREADS, else the cores there are.",
        ),
    ] = None,
) -> None:
    from hyperdecode.threads import default_threads, set_threads

    set_threads(threads or default_threads())


def main() -> None:
    """Run the program; a `UserError` becomes one line and exit code 2."""
    console = Console(stderr=True)
    warnings.showwarning = lambda message, category, *_args, **_kwargs: _warn(console, message, category)
    logging.getLogger("nilearn").setLevel(logging.ERROR)
    try:
        app(prog_name="hyperdecode")
    except UserError as error:
        _one_line(console, "Error", "red", str(error))
        sys.exit(USER_MISTAKE)
    except (KeyboardInterrupt, SystemExit) as leaving:
        # Typer turns an interrupt into an exit with this code and says nothing.
        if isinstance(leaving, SystemExit) and leaving.code != INTERRUPTED:
            raise
        _one_line(console, "Stopped", "yellow", "finished steps are kept; the same command goes on from here")
        sys.exit(INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _one_line(console, "Error", "red", f"{where}{error.strerror or error}")
        sys.exit(USER_MISTAKE)


def _warn(console: Console, message: Warning | str, category: type[Warning]) -> None:
    """Show what concerns the user's data; a library's own warnings only when asked for."""
    if issubclass(category, DataWarning):
        _one_line(console, "Warning", "yellow", str(message))
    elif os.environ.get("HYPERDECODE_DEBUG"):
        _one_line(console, category.__name__, "yellow", str(message))


def _one_line(console: Console, label: str, colour: str, text: str) -> None:
    console.print(
        f"[bold {colour}]{label}:[/] {escape(' '.join(text.split()))}", soft_wrap=True, highlight=False, emoji=False
    )

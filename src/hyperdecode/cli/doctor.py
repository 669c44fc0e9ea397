"""``hyperdecode doctor``: what this computer has of what is needed, and what to do about the rest."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from hyperdecode.cli.answer import AsJson, answer

__all__ = ["doctor"]

SIGNS = {"good": "[green]good[/]", "hint": "[yellow]hint[/]", "bad": "[red]bad [/]"}
UNFIT = 1


def doctor(as_json: AsJson = False) -> None:
    """Look at versions, optional parts, cores, memory, GPU, disks and weights; say what to do about each.

    Nothing is fetched or changed. Exit code 1 when something is bad: then nothing will work until it is mended.
    """
    from hyperdecode.pipeline.doctor import examine

    found = examine(Path())
    if as_json:
        answer(found)
    else:
        console = Console()
        for one in found:
            line = f"{SIGNS[one.state]}  {one.what:<20} {escape(one.found)}"
            console.print(line, soft_wrap=True, highlight=False, emoji=False)
            if one.then:
                console.print(f"      {'':<20} -> {escape(one.then)}", soft_wrap=True, highlight=False, emoji=False)
        if not any(one.state == "bad" for one in found):
            console.print("Next: hyperdecode demo my_demo --quick", highlight=False)
    if any(one.state == "bad" for one in found):
        raise typer.Exit(UNFIT)

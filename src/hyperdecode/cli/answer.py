"""What a command says: words for a reader, or with ``--json`` its answer for a script."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AsJson", "answer", "rows", "say", "words"]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the answer as JSON on standard output; words go to standard error.")
]


def words(as_json: bool) -> Console:
    """Return where words and progress bars go: standard output, or standard error when that has the JSON."""
    return Console(stderr=as_json)


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: no markup, no colour, not broken at the edge of the terminal."""
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


def answer(value: object) -> None:
    """Print a value as JSON. What is no number (NaN, infinity) is null; paths are strings."""
    typer.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table, a mapping of column to value each."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

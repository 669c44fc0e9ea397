"""The progress bar of long commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(title: str, console: Console) -> Iterator[Callable[..., None]]:
    """Show a bar that appears with its first update: ``update(done, total, now="what is being done")``."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=None, visible=False, now="")

        def update(done: int, total: int, now: str = "") -> None:
            bars.update(task, completed=done, total=total, visible=True, now=now)

        yield update

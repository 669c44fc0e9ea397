"""Steps one after the other, or those that do not wait for each other side by side in processes (Dask)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.pipeline.records import Step, run_step
from hyperdecode.threads import set_threads, usable_cores

__all__ = ["Done", "Workers", "workers"]


@dataclass(frozen=True)
class Done:
    """A step that has ended: whether it ran, or the mistake that stopped it."""

    step: Step
    ran: bool = False
    error: UserError | None = None


class Workers:
    """Runs batches of independent steps in this process."""

    def __init__(self, study: Path, records: Path) -> None:
        self.study, self.records = study, records

    def run(self, steps: Sequence[Step], *, force: bool) -> Iterator[Done]:
        """Yield each step as it ends."""
        for step in steps:
            yield _attempt(step, self.study, self.records, force)[0]


class _Dask(Workers):
    """Runs them in processes of a Dask cluster."""

    def __init__(self, study: Path, records: Path, client: Any) -> None:
        super().__init__(study, records)
        self.client = client

    def run(self, steps: Sequence[Step], *, force: bool) -> Iterator[Done]:
        """Yield each step as it ends, in whatever order."""
        from dask.distributed import as_completed

        if len(steps) < 2:
            yield from super().run(steps, force=force)
            return
        send = [
            self.client.submit(_attempt, step, self.study, self.records, force, True, pure=False, key=step.name)
            for step in steps
        ]
        for future in as_completed(send):
            done, noted = future.result()
            for message in noted:
                warnings.warn(message, DataWarning, stacklevel=2)
            yield done


def _attempt(step: Step, study: Path, records: Path, force: bool, quiet: bool = False) -> tuple[Done, list[str]]:
    noted: list[str] = []
    with warnings.catch_warnings(record=quiet) as caught:
        if quiet:
            warnings.simplefilter("always", DataWarning)
        try:
            done = Done(step, run_step(step, study, records, force=force))
        except UserError as error:
            done = Done(step, error=error)
    if caught is not None:
        noted = [str(one.message) for one in caught if issubclass(one.category, DataWarning)]
    return done, noted


@contextmanager
def workers(study: Path, records: Path, n: int = 1) -> Iterator[Workers]:
    """Yield what runs steps: this process alone, or `n` processes that share the cores.

    Raises
    ------
    UserError
        When `n` is above 1 and Dask is not installed.
    """
    if n == 1:
        yield Workers(study, records)
        return
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("--workers needs dask: pip install 'hyperdecode[dask]', or leave --workers out") from error
    share = max(1, usable_cores() // n)
    with (
        LocalCluster(n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(set_threads, share)
        yield _Dask(study, records, client)

"""Where work runs: this process, processes of this computer, a running Dask scheduler, jobs of a Slurm cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperdecode.errors import UserError
from hyperdecode.pipeline.flights import PATIENCE_S, Cluster, SideBySide
from hyperdecode.pipeline.slurm import read_slurm, slurm_cluster
from hyperdecode.threads import default_threads

__all__ = ["HERE", "Where", "connected", "spreading"]

WAIT_FOR_WORKERS_S = 60.0
"""How long workers of this computer or of a running scheduler have to come. Jobs wait as long as they must."""


@dataclass(frozen=True)
class Where:
    """Where work runs.

    Attributes
    ----------
    workers : int
        Processes on this computer, which share its cores. One is this process.
    scheduler : str
        Address of a running Dask scheduler, ``"tcp://node17:8786"`` say. Its workers need hyperdecode, its weights in
        their cache, and the study at the same path.
    slurm : pathlib.Path, optional
        Settings of Slurm jobs (`hyperdecode.pipeline.slurm.SlurmSettings`).

    Raises
    ------
    UserError
        When more than one is asked for.
    """

    workers: int = 1
    scheduler: str = ""
    slurm: Path | None = None

    def __post_init__(self) -> None:
        asked = [
            name
            for name, given in (
                ("--workers", self.workers != 1),
                ("--scheduler", self.scheduler),
                ("--slurm", self.slurm),
            )
            if given
        ]
        if len(asked) > 1:
            raise UserError(f"{' and '.join(asked)} were given: choose one, it says where the work runs")

    @property
    def here(self) -> bool:
        """Whether all work is done by this process."""
        return self.workers == 1 and not self.scheduler and self.slurm is None


HERE = Where()


@contextmanager
def spreading(where: Where) -> Iterator[SideBySide[Any, Any] | None]:
    """Yield what runs pieces of work side by side; None for this process.

    Raises
    ------
    UserError
        As `connected`.
    """
    with connected(where) as cluster:
        yield None if cluster is None else cluster.each


@contextmanager
def connected(where: Where) -> Iterator[Cluster | None]:
    """Yield the workers that are asked for; None for this process.

    Raises
    ------
    UserError
        When Dask (or dask-jobqueue) is not installed, the scheduler does not answer, or the Slurm settings are wrong.
    """
    if where.here:
        yield None
        return
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("workers need dask: pip install 'hyperdecode[dask]', or leave them out") from error
    if not os.environ.get("HYPERDECODE_DEBUG"):
        _silence()
    if where.scheduler:
        try:
            client = Client(where.scheduler, timeout=PATIENCE_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(
                f"no Dask scheduler answers at {where.scheduler}: start one with `dask scheduler`, or correct the "
                "address"
            ) from error
        with client:
            yield Cluster(
                client, f"the scheduler at {where.scheduler} and its workers", _nothing, WAIT_FOR_WORKERS_S, ours=False
            )
        return
    if where.slurm is not None:
        asked = read_slurm(where.slurm)
        with slurm_cluster(asked) as jobs, Client(jobs) as client:
            yield Cluster(client, "the Slurm jobs", lambda: jobs.scale(jobs=asked.jobs), float("inf"), ours=True)
        return
    settings: dict[str, Any] = {
        "n_workers": where.workers,
        "threads_per_worker": max(1, default_threads() // where.workers),
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
    }
    with LocalCluster(**settings) as local, Client(local) as client:
        yield Cluster(client, "the workers of this computer", _nothing, WAIT_FOR_WORKERS_S, ours=True)


def _silence() -> None:
    """Keep back what Dask logs: that a worker is slow to end, or was lost and is replaced, is no news to a user."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _nothing() -> None:
    """Nobody can be asked for more workers."""

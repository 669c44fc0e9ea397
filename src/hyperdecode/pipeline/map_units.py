"""Units of a searchlight on disk and on a cluster: a killed run goes on, a lost worker's units are done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.mapping.chunks import Arrays, Unit
from hyperdecode.mapping.generator_occlusion import GeneratorOcclusion
from hyperdecode.threads import set_threads, usable_cores

__all__ = ["FileResults", "SideBySide", "crew"]

SideBySide = Callable[[Callable[[Unit], Arrays], Sequence[Unit]], Iterable[tuple[Unit, Arrays]]]
PATIENCE_S = 30
"""How long a scheduler has to answer."""
ATTEMPTS = 3


@dataclass(frozen=True)
class FileResults:
    """Results in a folder, one file a unit (`hyperdecode.mapping.chunks.Results`).

    Attributes
    ----------
    folder : pathlib.Path
        Its name tells what the units are of: units of anything else must not lie there.
    """

    folder: Path

    def has(self, unit: Unit) -> bool:
        """Return whether the unit is done; what is there and cannot be read is thrown away."""
        path = self._path(unit)
        if not path.is_file():
            return False
        try:
            load_file(path)
        except SafetensorError:
            path.unlink()
            return False
        return True

    def put(self, unit: Unit, arrays: Arrays) -> None:
        """Write the arrays of a unit whole, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path(unit)) as temporary:
            save_file(dict(arrays), temporary)

    def get(self, unit: Unit) -> Arrays:
        """Read the arrays of a unit that is done."""
        found: Arrays = load_file(self._path(unit))
        return found

    def _path(self, unit: Unit) -> Path:
        return self.folder / f"{unit.name}.safetensors"


@contextmanager
def crew(n: int = 1, scheduler: str = "") -> Iterator[SideBySide | None]:
    """Yield what runs units side by side: nothing (this process), `n` processes, or the workers of a scheduler.

    Parameters
    ----------
    n : int
        Processes on this computer, which share its cores.
    scheduler : str
        Address of a running Dask scheduler, ``"tcp://node17:8786"`` say; its workers need hyperdecode installed. On a
        worker with a GPU the generator runs there.

    Raises
    ------
    UserError
        When Dask is not installed or the scheduler does not answer.
    """
    if n == 1 and not scheduler:
        yield None
        return
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("workers need dask: pip install 'hyperdecode[dask]', or leave them out") from error
    if scheduler:
        try:
            client = Client(scheduler, timeout=PATIENCE_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(
                f"no Dask scheduler answers at {scheduler}: start one with `dask scheduler`, or correct the address"
            ) from error
        with client:
            yield _SideBySide(client)
        return
    share = max(1, usable_cores() // n)
    with (
        LocalCluster(n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(n)
        client.run(set_threads, share)
        yield _SideBySide(client)


@dataclass(frozen=True)
class _SideBySide:
    client: Any

    def __call__(self, run: Callable[[Unit], Arrays], units: Sequence[Unit]) -> Iterator[tuple[Unit, Arrays]]:
        """Yield units as they end. Those of a worker that dies are done again elsewhere.

        Raises
        ------
        UserError
            When units are lost with their workers again and again.
        """
        left = list(units)
        for _ in range(ATTEMPTS):
            if not left:
                return
            lost: list[Unit] = []
            yield from self._round(run, left, lost)
            left = lost
        if left:
            raise UserError(
                f"{len(left)} units of work were lost with their workers {ATTEMPTS} times: give workers more memory, "
                "or start fewer of them; finished units are kept"
            )

    def _round(
        self, run: Callable[[Unit], Arrays], units: list[Unit], lost: list[Unit]
    ) -> Iterator[tuple[Unit, Arrays]]:
        from dask.distributed import KilledWorker, as_completed

        # The problem travels once to each worker, not with each unit; it is gone when all that hold it are.
        shared = self.client.scatter(run, broadcast=True, hash=False)
        futures = {self.client.submit(_run, shared, unit, pure=False): unit for unit in units}
        for future in as_completed(futures):
            try:
                arrays = future.result()
            except (CancelledError, KilledWorker):
                lost.append(futures[future])
                continue
            yield futures[future], arrays
            future.release()


def _run(run: Callable[[Unit], Arrays], unit: Unit) -> Arrays:
    """Do a unit on a worker, on its GPU where it has one."""
    problem = getattr(run, "args", (None,))[0]
    if isinstance(problem, GeneratorOcclusion) and problem.crops.device.type == "cpu" and torch.cuda.is_available():
        problem.crops.to(torch.device("cuda"))
    return run(unit)

"""Pieces of work under way on the workers of a cluster; those of a worker that dies are done again elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, TypeVar

from hyperdecode.errors import UserError
from hyperdecode.threads import set_threads

__all__ = ["PATIENCE_S", "Cluster", "Flights", "SideBySide", "TellFromWorker"]

T = TypeVar("T")
R = TypeVar("R")
SideBySide = Callable[[Callable[[T], R], Sequence[T]], Iterable[tuple[T, R]]]
"""Given a pure function and what to call it with, yields each of these with its result as it ends, in any order."""

PATIENCE_S = 30.0
"""How long a scheduler has to answer, at first and after it was lost."""
ATTEMPTS = 3
TICK_S = 1.0
TOPIC = "hyperdecode-progress"
TELL_EVERY_S = 0.5

_one_at_a_time = Lock()
"""A worker may have several threads; they are for linear algebra, and settings of libraries are a process's."""


@dataclass(frozen=True)
class Cluster:
    """Workers that answer.

    Attributes
    ----------
    client : distributed.Client
    words : str
        What they are, for messages.
    again : callable
        Asks for workers that were lost.
    patience : float
        Seconds to wait for a first worker.
    ours : bool
        Whether the workers end with this process.
    """

    client: Any
    words: str
    again: Callable[[], None]
    patience: float
    ours: bool

    def each(self, run: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
        """Yield items with their results as they end (`SideBySide`); what a dead worker had is done elsewhere."""
        flights, left = Flights(self, _call, run), list(items)
        with flights:
            while left or len(flights):
                while left and flights.free():
                    flights.send(left.pop(0))
                yield flights.landed()

    @contextmanager
    def telling(self, tell: Callable[..., None] | None) -> Iterator[None]:
        """Hand on what `TellFromWorker` says on the workers."""
        if tell is None:
            yield
            return
        self.client.subscribe_topic(TOPIC, lambda event: tell(*event[1]))
        try:
            yield
        finally:
            with suppress(Exception):
                self.client.unsubscribe_topic(TOPIC)


class TellFromWorker:
    """A callable of progress that may travel to a worker, and tells the process that asked for the work.

    Parameters
    ----------
    tell : callable, optional
        What is told as long as it has not travelled; a worker tells through `Cluster.telling`.
    """

    def __init__(self, tell: Callable[..., None] | None = None) -> None:
        self.tell, self.last = tell, 0.0

    def __call__(self, *what: Any) -> None:
        """Tell; from a worker at most twice a second."""
        if self.tell is not None:
            self.tell(*what)
            return
        from dask.distributed import get_worker

        now = time.monotonic()
        if now - self.last < TELL_EVERY_S:
            return
        self.last = now
        with suppress(ValueError):
            get_worker().log_event(TOPIC, what)

    def __reduce__(self) -> tuple[type[TellFromWorker], tuple[()]]:
        return TellFromWorker, ()


class Flights:
    """Pieces of work under way on a cluster, at most one a worker; those of a worker that dies are sent again.

    Parameters
    ----------
    cluster : Cluster
    function : callable
        Called on a worker with `shared` and an item.
    shared : object
        Travels once to each worker, not with each item.
    """

    def __init__(self, cluster: Cluster, function: Callable[[Any, Any], Any], shared: Any) -> None:
        self.cluster, self.function, self.shared = cluster, function, shared
        self._landed: SimpleQueue[Any] = SimpleQueue()
        self._up: dict[str, tuple[Any, str, Any]] = {}
        self._again: list[Any] = []
        self._times_lost: dict[str, int] = {}
        self._scattered: Any = None

    def __enter__(self) -> Flights:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """Stop what is still under way: nobody holds the study for it any more."""
        up = list(self._up.values())
        self._up.clear()
        self._again.clear()
        if up and not self.cluster.ours:
            with suppress(Exception):
                self.cluster.client.cancel([future for future, _, _ in up], force=True)
                self.cluster.client.restart_workers(
                    [worker for _, worker, _ in up], timeout=PATIENCE_S, raise_for_error=False
                )

    def __len__(self) -> int:
        return len(self._up) + len(self._again)

    def free(self) -> bool:
        """Say whether a worker waits for new work (with nothing under way, wait for one)."""
        if self._again:
            return False
        return bool(self._idle()) or (not self._up and self._wait_for_worker())

    def _wait_for_worker(self) -> bool:
        until = time.monotonic() + self.cluster.patience
        while not self._idle():
            if time.monotonic() > until:
                raise UserError(
                    f"{self.cluster.words} have no worker after {self.cluster.patience:.0f} s: start workers and give "
                    "the same command again; what is finished is kept"
                )
            time.sleep(TICK_S)
            self._look()
        return True

    def send(self, item: Any) -> None:
        """Send an item to a worker that waits."""
        client, idle = self.cluster.client, self._idle()
        try:
            if self._scattered is None:
                self._scattered = client.scatter([self.shared], broadcast=False, hash=False)[0]
            future = client.submit(
                _fly,
                self.function,
                self._scattered,
                item,
                pure=False,
                workers=idle[:1] or None,
                allow_other_workers=True,
            )
        except (OSError, TimeoutError) as error:
            # The scheduler or the last worker went at this moment.
            self._lost(item, error)
            return
        self._up[future.key] = (future, idle[0] if idle else "", item)
        future.add_done_callback(self._landed.put)

    def landed(self) -> tuple[Any, Any]:
        """Wait for the next item that has ended; return it with its result.

        Raises
        ------
        UserError
            When an item is lost with its workers again and again, or the scheduler is gone.
        """
        from dask.distributed import KilledWorker

        while True:
            self._send_again()
            try:
                future = self._landed.get(timeout=TICK_S)
            except Empty:
                self._look()
                continue
            flown = self._up.pop(future.key, None)
            if flown is None:
                continue
            try:
                return flown[2], future.result()
            except (CancelledError, KilledWorker) as error:
                self._lost(flown[2], error)

    def _lost(self, item: Any, error: BaseException) -> None:
        self._wait_for_scheduler()
        self._scattered = None
        key = repr(item)
        self._times_lost[key] = self._times_lost.get(key, 0) + 1
        if self._times_lost[key] >= ATTEMPTS:
            raise UserError(
                f"a piece of work was lost with its workers {ATTEMPTS} times: give workers more memory, or start fewer "
                "of them; what is finished is kept"
            ) from error
        self._again.append(item)

    def _send_again(self) -> None:
        """Send what was lost, as workers are there for it: to wait for one with nothing under way is to be patient."""
        while self._again and (self._idle() or (not self._up and self._wait_for_worker())):
            self.send(self._again.pop(0))

    def _wait_for_scheduler(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while self.cluster.client.status != "running":
            if time.monotonic() > until or self.cluster.client.status in ("closed", "closing"):
                raise UserError(
                    f"{self.cluster.words} are gone: what is finished is kept; start them and give the same command "
                    "again"
                )
            time.sleep(TICK_S / 4)

    def _look(self) -> None:
        """See to the scheduler and to workers that were lost."""
        self._wait_for_scheduler()
        self.cluster.again()

    def _idle(self) -> list[str]:
        busy = {worker for _, worker, _ in self._up.values()}
        try:
            there = self.cluster.client.scheduler_info(n_workers=-1)["workers"]
        except OSError:
            self._wait_for_scheduler()
            return []
        return [worker for worker in sorted(there) if worker not in busy]


def _call(run: Callable[[T], R], item: T) -> R:
    return run(item)


def _fly(function: Callable[[Any, Any], Any], shared: Any, item: Any) -> Any:
    """Work on a worker, with as many threads as it was given."""
    from dask.distributed import get_worker

    with _one_at_a_time:
        set_threads(get_worker().state.nthreads)
        return function(shared, item)

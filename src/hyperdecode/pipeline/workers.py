"""Steps in their order in this process, or each as soon as those before it have ended, on the workers of a cluster."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.pipeline.cluster import Where, connected
from hyperdecode.pipeline.flights import Cluster, Flights, SideBySide
from hyperdecode.pipeline.processes import Process, is_alive, this_process
from hyperdecode.pipeline.records import Step, read_record, run_step

__all__ = ["Done", "Workers", "waits_for", "workers"]

Before = Callable[[Step], None]


@dataclass(frozen=True)
class Done:
    """A step that has ended: whether it ran, or the mistake that stopped it."""

    step: Step
    ran: bool = False
    error: UserError | None = None


class Workers:
    """Runs steps in this process, one after the other.

    Attributes
    ----------
    side_by_side : callable or None
        What a step that spreads its own work may do it with (`SideBySide`).
    """

    side_by_side: SideBySide[Any, Any] | None = None

    def __init__(self, study: Path, records: Path) -> None:
        self.study, self.records = study, records

    def run(
        self, steps: Sequence[Step], *, force: bool, before: Before | None = None, here: Collection[str] = ()
    ) -> Iterator[Done]:
        """Yield each step as it ends, until one fails.

        Parameters
        ----------
        steps : sequence of Step
            In an order in which they can be done.
        force : bool
            Redo steps that are up to date.
        before : callable, optional
            Called with a step before it begins; what it raises ends all.
        here : collection of str
            Names of steps that this process does itself: they spread their work with `side_by_side`.
        """
        for step in steps:
            self._begin(step, before)
            done, _ = _attempt(step, self.study, self.records, force)
            yield done
            if done.error is not None:
                return

    def _begin(self, step: Step, before: Before | None) -> None:
        if before is not None:
            before(step)
        record = read_record(self.records, step.name)
        process = Process.of(record.get("process"))
        if record.get("state") == "running" and process is not None and process != this_process() and is_alive(process):
            raise UserError(
                f"step {step.name} is still at work in process {process.pid} on {process.host}, a worker of a command "
                "that was killed: wait for its end, or end it, and give the same command again"
            )


class _Cluster(Workers):
    """Runs them on workers, those that do not wait for each other side by side."""

    def __init__(self, study: Path, records: Path, cluster: Cluster) -> None:
        super().__init__(study, records)
        self.cluster, self.side_by_side = cluster, cluster.each

    def run(
        self, steps: Sequence[Step], *, force: bool, before: Before | None = None, here: Collection[str] = ()
    ) -> Iterator[Done]:
        """Yield each step as it ends. After one has failed no other is begun; those under way are waited for."""
        waits, ended, left, failed = waits_for(steps), set[int](), list(range(len(steps))), False
        travelling = [None if step.name in here else step for step in steps]
        with Flights(self.cluster, _attempt_one, (travelling, self.study, self.records, force)) as flights:
            while (left and not failed) or len(flights):
                ready = [] if failed else [k for k in left if waits[k] <= ended]
                mine = next((k for k in ready if steps[k].name in here), None)
                theirs = next((k for k in ready if steps[k].name not in here), None)
                if theirs is not None and flights.free():
                    self._begin(steps[theirs], before)
                    left.remove(theirs)
                    flights.send(theirs)
                    continue
                if len(flights):
                    k, (done, noted) = flights.landed()
                    for message in noted:
                        warnings.warn(message, DataWarning, stacklevel=2)
                    done = Done(steps[k], done.ran, done.error)
                else:
                    # Its pieces go to the same workers, which are free now.
                    assert mine is not None
                    k = mine
                    self._begin(steps[k], before)
                    left.remove(k)
                    done, _ = _attempt(steps[k], self.study, self.records, force)
                failed = failed or done.error is not None
                ended.add(k)
                yield done


def waits_for(steps: Sequence[Step]) -> list[set[int]]:
    """Return, for each step, the places of those that make what it reads.

    Parameters
    ----------
    steps : sequence of Step
        In an order in which they can be done.
    """
    maker: dict[Path, int] = {}
    found: list[set[int]] = []
    for place, step in enumerate(steps):
        found.append({maker[path] for path in step.inputs if path in maker})
        maker |= dict.fromkeys(step.outputs, place)
    return found


def _attempt_one(shared: tuple[Sequence[Step | None], Path, Path, bool], place: int) -> tuple[Done, list[str]]:
    steps, study, records, force = shared
    step = steps[place]
    assert step is not None
    done, noted = _attempt(step, study, records, force, quiet=True)
    # The step itself is known where this goes, and need not travel back.
    return Done(Step(step.name, step.version, {}, (), (), _nothing), done.ran, done.error), noted


def _nothing() -> None:
    """Stand in for the work of a step that has ended."""


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
def workers(study: Path, records: Path, where: Where, tell: Callable[..., None] | None = None) -> Iterator[Workers]:
    """Yield what runs steps.

    Parameters
    ----------
    study, records : pathlib.Path
        As `hyperdecode.pipeline.records.run_step` takes them.
    where : Where
    tell : callable, optional
        Told what `hyperdecode.pipeline.flights.TellFromWorker` says inside steps.

    Raises
    ------
    UserError
        As `hyperdecode.pipeline.cluster.connected`.
    """
    with connected(where) as cluster:
        if cluster is None:
            yield Workers(study, records)
            return
        with cluster.telling(tell):
            yield _Cluster(study, records, cluster)

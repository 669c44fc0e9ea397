"""Harm what a small study is analysed on: workers, the scheduler, the command itself, Slurm jobs.

    python benchmarks/cluster_faults.py [--json] [--workers N] [--schedulers N] [--commands N] [--jobs N] [--seed N]

Each row is a fault, how many times it was tried at a random moment, and what was lost:

* ``kill -9`` of one of two workers of a Dask scheduler: the command must go on by itself;
* ``kill -9`` of the scheduler and its workers: the command must end with one line, and the same command go on once they
  are there again;
* ``kill -9`` of ``run --workers 2``: the same command must go on;
* ``scancel`` of one of two Slurm jobs (only where there is a Slurm cluster): the command must go on by itself.

*Lost* is what `benchmarks/kill_resume.py` counts: files that differ from those of an undisturbed analysis in one
process, missing files, temporary files left behind, finished steps that were done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.kill_resume import Analysis, Row, Trials, finished
from hyperdecode.pipeline.cluster import Where
from hyperdecode.pipeline.run import run_study
from hyperdecode.study.stimulus_set import read_stimuli
from hyperdecode.threads import set_threads
from tests.pipeline.estimated import settings

SLURM = """jobs = 2
cores = 1
memory_gb = 2
hours = 1
logs = "{logs}"
"""
ORPHANS_S = 60
"""How long workers of a killed command may take to end."""


class Elsewhere(Analysis):
    """`hyperdecode run` on workers, in a process of its own."""

    def __init__(self, study: Path, generator: Any, where: Where) -> None:
        self.where = where
        super().__init__(study, generator)

    def _work(self, study: Path, generator: Any, send: Any) -> None:  # type: ignore[override]
        warnings.simplefilter("ignore")
        os.setsid()
        try:
            send.send(("ran", run_study(study, settings(), read_stimuli(study), generator, where=self.where).ran))
        except Exception as error:
            send.send((type(error).__name__, str(error)))


class Dask:
    """A scheduler and two workers of one thread, as a user starts them."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.folder, self.address = folder, f"tcp://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> Where:
        """Start them, and wait until both workers are there."""
        from dask.distributed import Client

        here = ("--host", "127.0.0.1", "--no-dashboard")
        self._start("scheduler", *here, "--port", str(self.port))
        self._start("worker", self.address, *here, "--nthreads", "1", "--nworkers", "2")
        with Client(self.address, timeout=60) as client:
            client.wait_for_workers(2)
        return Where(1, self.address)

    def pids(self) -> list[int]:
        """Return the processes that work."""
        from dask.distributed import Client

        with Client(self.address, timeout=60) as client:
            client.wait_for_workers(2)
            return list(client.run(os.getpid).values())

    def kill(self) -> None:
        """Kill all of it."""
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def _start(self, kind: str, *words: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(subprocess.Popen(command, cwd=self.folder, start_new_session=True, **silent))


def wait_for_a_moment(trials: Trials, study: Path, victim: Analysis) -> str:
    """Wait for a random moment of a random step; return the steps at work."""
    n_done = trials.random.randrange(trials.n_steps)
    while victim.process.is_alive() and len(finished(study)) < n_done:
        time.sleep(0.01)
    time.sleep(trials.random.uniform(0, trials.seconds / trials.n_steps))
    return ", ".join(sorted({name.split("_")[0] for name in finished(study, False)})) or "between steps"


def by_itself(trials: Trials, row: Row, where: Where, harm: Callable[[], None]) -> None:
    """Harm a command that must go on by itself."""
    with trials.study() as study:
        victim = Elsewhere(study, trials.generator, where)
        at = wait_for_a_moment(trials, study, victim)
        struck = victim.process.is_alive()
        harm()
        said, found = victim.end()
        row.tried += 1
        row.struck += struck
        row.at[at] += 1
        if said != "ran":
            row.lost.append(f"the command ended with {said}: {found}")
        trials.go_on(study, row)


def workers(trials: Trials, n: int) -> Row:
    """Kill one of two workers."""
    row, dask = Row("kill -9 of a worker"), Dask(trials.folder)
    where = dask.start()
    try:
        for _ in range(n):
            pid = trials.random.choice(dask.pids())
            by_itself(trials, row, where, partial(os.kill, pid, signal.SIGKILL))
    finally:
        dask.kill()
    return row


def schedulers(trials: Trials, n: int) -> Row:
    """Kill the scheduler with its workers; start them again, and give the same command again."""
    row = Row("kill -9 of the scheduler and its workers")
    for _ in range(n):
        with trials.study() as study:
            dask = Dask(trials.folder)
            where = dask.start()
            try:
                victim = Elsewhere(study, trials.generator, where)
                at = wait_for_a_moment(trials, study, victim)
                dask.kill()
                said, found = victim.end()
                row.tried += 1
                row.at[at] += 1
                row.struck += said == "UserError"
                if said != "ran" and not (said == "UserError" and "gone: what is finished is kept" in found):
                    row.lost.append(f"it ended with {said}: {found}")
                done = finished(study)
                where = dask.start()
                go_on(trials, study, row, where, done)
            finally:
                dask.kill()
    return row


def commands(trials: Trials, n: int) -> Row:
    """Kill the command that has its own workers."""
    row = Row("kill -9 of run --workers 2")
    for _ in range(n):
        with trials.study() as study:
            victim = Elsewhere(study, trials.generator, Where(2))
            at = wait_for_a_moment(trials, study, victim)
            victim.process.kill()
            row.struck += victim.end()[0] == "killed"
            row.tried += 1
            row.at[at] += 1
            go_on(trials, study, row, Where(2), finished(study))
    return row


def jobs(trials: Trials, n: int) -> Row | None:
    """Cancel one of two Slurm jobs; None where there is no Slurm."""
    if shutil.which("squeue") is None:
        return None
    asked = trials.folder / "slurm.toml"
    asked.write_text(SLURM.format(logs=trials.folder / "logs"))
    row = Row("scancel of a Slurm job")

    def cancel() -> None:
        said = subprocess.run(
            ["squeue", "-h", "-t", "R", "-n", "hyperdecode", "-o", "%i"], capture_output=True, text=True
        )
        running = said.stdout.split()
        if running:
            subprocess.run(["scancel", trials.random.choice(running)], check=True)

    for _ in range(n):
        by_itself(trials, row, Where(1, slurm=asked), cancel)
    return row


def go_on(trials: Trials, study: Path, row: Row, where: Where, done: set[str]) -> None:
    """Give the same command again, once workers of the killed one have ended, and count what was lost."""
    until = time.monotonic() + ORPHANS_S
    while True:
        said, ran = Elsewhere(study, trials.generator, where).end()
        if said != "UserError" or "still at work" not in ran or time.monotonic() > until:
            break
        time.sleep(1)
    if said != "ran":
        row.lost.append(f"the second run failed: {ran}")
        return
    row.lost += [f"{name} was done again" for name in ran if name in done]
    row.lost += trials.differences(study)


def main() -> None:
    """Print one row a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    for name, n in (("workers", 20), ("schedulers", 10), ("commands", 20), ("jobs", 5)):
        parser.add_argument(f"--{name}", type=int, default=n)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    set_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trials = Trials(Path(folder), asked.seed)
        for fault in (workers, schedulers, commands, jobs):
            n = getattr(asked, fault.__name__)
            row = fault(trials, n) if n else None
            if row is not None:
                print(json.dumps(row.plain()) if asked.json else row, flush=True)


if __name__ == "__main__":
    main()

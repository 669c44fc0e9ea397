"""Harm a small study while it is analysed, go on, and compare with an undisturbed analysis.

    python benchmarks/kill_resume.py [--json] [--kills N] [--disks N] [--seconds N] [--seed N] [--flush]

Each row is a fault, how many times it was tried, and what was lost:

* ``kill -9`` of ``run`` at a random moment of a random step, then the same command again;
* a disk that is full at a random moment (a small tmpfs; needs root), then the same command with room;
* a second ``run`` of the same study while the first is at work.

*Lost* counts files that differ from those of the undisturbed analysis (all but records, which hold times), files that
are missing, temporary files left behind, and finished steps that were done again. The study is tiny: responses are a
linear mix of latents and noise, and all steps from the voxel mask to the report run on them.

``--flush`` times writing small files instead: without flushing, with the file flushed, with its folder too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hyperdecode import files
from hyperdecode.pipeline.records import read_record
from hyperdecode.pipeline.run import run_study
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from hyperdecode.threads import set_threads
from tests.conftest import build_tiny
from tests.pipeline.estimated import estimated_study, settings

FORK = multiprocessing.get_context("fork")


@dataclass
class Row:
    """One fault: how often it was tried, how often and at which steps it struck during work, what was lost."""

    fault: str
    tried: int = 0
    struck: int = 0
    lost: list[str] = field(default_factory=list)
    at: Counter[str] = field(default_factory=Counter)

    def plain(self) -> dict[str, Any]:
        """Return it as what JSON knows."""
        names = {"fault": self.fault, "tried": self.tried, "in_the_middle": self.struck}
        return {**names, "at": self.at, "lost": self.lost}

    def __str__(self) -> str:
        lost = "nothing" if not self.lost else f"{len(self.lost)}: {'; '.join(self.lost[:5])}"
        at = f" ({', '.join(f'{name} {n}' for name, n in self.at.most_common())})" if self.at else ""
        return f"{self.fault}: tried {self.tried} times, {self.struck} in the middle of work{at}; lost: {lost}"


class Analysis:
    """`hyperdecode run` on a study in a process of its own, which can be killed."""

    def __init__(self, study: Path, generator: Any) -> None:
        self.receive, send = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self._work, args=(study, generator, send))
        self.process.start()
        send.close()

    @staticmethod
    def _work(study: Path, generator: Any, send: Any) -> None:
        warnings.simplefilter("ignore")
        try:
            send.send(("ran", run_study(study, settings(), read_stimuli(study), generator).ran))
        except Exception as error:
            send.send((type(error).__name__, str(error)))

    def end(self) -> tuple[str, Any]:
        """Wait for it; ("killed", None) when it said nothing."""
        try:
            said: tuple[str, Any] = self.receive.recv()
        except EOFError:
            said = ("killed", None)
        self.process.join()
        return said


def contents(study: Path) -> dict[str, str]:
    """Hash of every file but records."""
    return {
        path.relative_to(study).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(study.rglob("*"))
        if path.is_file() and (path.parent.name != "records" or path.suffix != ".toml" or path.name.startswith("."))
    }


def finished(study: Path, ended: bool = True) -> set[str]:
    """Return the steps whose record says that they came to their end, or that they did not."""
    records = Layout(study).records
    names = [path.stem for path in records.glob("*.toml") if not path.name.startswith(".")]
    return {name for name in names if ("key" in read_record(records, name)) == ended}


class Trials:
    """A study that was analysed undisturbed, and copies to harm."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.generator = build_tiny()
        self.bare = estimated_study(folder / "bare" / "study", self.generator)
        # Once in this process, so that those that are killed have nothing to import.
        study = Path(shutil.copytree(self.bare, folder / "first" / "study"))
        run_study(study, settings(), read_stimuli(study), self.generator)
        self.wanted = contents(study)
        study = Path(shutil.copytree(self.bare, folder / "second" / "study"))
        start = time.perf_counter()
        said, found = Analysis(study, self.generator).end()
        self.seconds = time.perf_counter() - start
        if said != "ran":
            raise SystemExit(f"the undisturbed analysis failed: {found}")
        # What undisturbed analyses do not agree on cannot be compared.
        made = contents(study)
        if made != self.wanted:
            raise SystemExit(f"undisturbed analyses differ: {self._differences(made)}")
        self.n_files, self.n_steps = len(self.wanted), len(finished(study))

    @contextmanager
    def study(self) -> Iterator[Path]:
        """Yield a copy that nothing was done to."""
        study = self.folder / "harmed" / "study"
        shutil.copytree(self.bare, study)
        yield study
        shutil.rmtree(study)

    def go_on(self, study: Path, row: Row) -> None:
        """Give the same command again, and count what was lost."""
        done = finished(study)
        said, ran = Analysis(study, self.generator).end()
        if said != "ran":
            row.lost.append(f"the second run failed: {ran}")
            return
        row.lost += [f"{name} was done again" for name in ran if name in done]
        row.lost += self.differences(study)

    def differences(self, study: Path) -> list[str]:
        """Return the files that are not those of the undisturbed analysis."""
        return self._differences(contents(study))

    def _differences(self, made: dict[str, str]) -> list[str]:
        names = sorted({*made, *self.wanted})
        return [name for name in names if made.get(name) != self.wanted.get(name)]


def kills(trials: Trials, n: int) -> Row:
    """Kill the analysis at moments spread over all of its steps."""
    row = Row("kill -9 during run")
    for _ in range(n):
        with trials.study() as study:
            victim = Analysis(study, trials.generator)
            n_done = trials.random.randrange(trials.n_steps)
            while victim.process.is_alive() and len(finished(study)) < n_done:
                time.sleep(0.002)
            time.sleep(trials.random.uniform(0, trials.seconds / trials.n_steps))
            victim.process.kill()
            row.struck += victim.end()[0] == "killed"
            row.at.update([name.split("_")[0] for name in sorted(finished(study, False))] or ["between steps"])
            row.tried += 1
            trials.go_on(study, row)
    return row


def full_disks(trials: Trials, n: int) -> Row | None:
    """Give the analysis too small a disk; None where nothing can be mounted."""
    row = Row("full disk during run")
    least, most = (
        sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
        for folder in (trials.bare, trials.folder / "first" / "study")
    )
    disk = trials.folder / "disk"
    disk.mkdir()
    for _ in range(n):
        size = int(trials.random.uniform(least, most)) // 1024 + 64
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            return None
        try:
            study = Path(shutil.copytree(trials.bare, disk / "study"))
            said, words = Analysis(study, trials.generator).end()
            row.tried += 1
            if said == "OutputError":
                row.struck += 1
                if "\n" in words or "No space left on device, in " not in words:
                    row.lost.append(f"the message: {words}")
            elif said != "ran":
                row.lost.append(f"it ended with {said}: {words}")
            subprocess.run(["mount", "-o", f"remount,size={4 * most}", str(disk)], check=True)
            trials.go_on(study, row)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return row


def seconds(trials: Trials, n: int) -> Row:
    """Begin a second analysis while the first is at work."""
    row = Row("a second run beside the first")
    for _ in range(n):
        with trials.study() as study:
            first = Analysis(study, trials.generator)
            time.sleep(trials.random.uniform(0.2, 0.8) * trials.seconds)
            second = Analysis(study, trials.generator)
            said = [one.end() for one in (first, second)]
            row.tried += 1
            refused = [words for what, words in said if what == "UserError" and "is in use by" in words]
            row.struck += len(refused) == 1
            if len(refused) != 1 and said[1] != ("ran", []):
                row.lost.append(f"both went on: {said}")
            trials.go_on(study, row)
    return row


def flush(n: int = 300) -> dict[str, float]:
    """Milliseconds a file of 10 kB, the median of five rounds."""

    def timed(write: Callable[[Path], object]) -> float:
        rounds = []
        for _ in range(5):
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                start = time.perf_counter()
                for k in range(n):
                    write(Path(folder) / f"{k}.png")
                rounds.append(1000 * (time.perf_counter() - start) / n)
        return round(sorted(rounds)[2], 2)

    data, inner = os.urandom(10_000), files._sync_folder

    def whole(path: Path) -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(data)

    found = {"not flushed": timed(lambda path: path.write_bytes(data)), "file and folder": timed(whole)}
    files._sync_folder = lambda folder: None
    try:
        return found | {"file": timed(whole)}
    finally:
        files._sync_folder = inner


def main() -> None:
    """Print one row a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=10, help="second commands beside the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flush", action="store_true")
    asked = parser.parse_args()
    if asked.flush:
        for name, spent in flush().items():
            print(json.dumps({"claim": name, "ms_a_file": spent}) if asked.json else f"{name}: {spent} ms a file")
        return
    # Pools of threads do not survive a fork.
    set_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), asked.seed)
        if not asked.json:
            print(f"Undisturbed: {trials.seconds:.1f} s, {trials.n_files} files.", flush=True)
        rows = ((kills, asked.kills), (full_disks, asked.disks), (seconds, asked.seconds))
        for fault, n in rows:
            row = fault(trials, n) if n else None
            if row is not None:
                print(json.dumps(row.plain()) if asked.json else row, flush=True)


if __name__ == "__main__":
    main()

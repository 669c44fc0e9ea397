"""Harm many files and read them, each reader in a process of limited memory and time: `make fuzz`.

    python -m tests.fuzz                                # 20,000 inputs
    python -m tests.fuzz --only events --inputs 5000
    python -m tests.fuzz --case "0:events:17"           # one input again, its files kept

Exit code 1 where an input was neither read rightly nor refused in one line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.fuzz.harness import Bench, Case, cases
from tests.fuzz.mutators import prepare

SECONDS, PATIENCE = 5.0, 30.0
"""CPU time that a reader has, and waiting time, of which other programs take part."""
MEMORY = 2 * 2**30


def serve(name: str, folder: str, link: Connection) -> None:
    """Run cases of one reader, as a process that may be killed."""
    torch.set_num_threads(1)
    os.chdir(folder)
    bench = Bench(name, Path(folder) / "bench")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    link.send("ready")
    while (case := link.recv()) is not None:
        start = time.process_time()
        refused, problem = bench.problem(case, lambda: link.send("ready"))
        link.send((refused, problem, time.process_time() - start))
    link.send(resource.getrusage(resource.RUSAGE_SELF))


class Worker:
    """A process with one reader, replaced when it hangs or dies."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start()

    def _start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="fuzz-")
        self.link, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=serve, args=(self.name, self.folder, other), daemon=True)
        self.process.start()
        other.close()
        assert self.link.poll(120) and self.link.recv() == "ready"

    def run(self, case: Case) -> tuple[bool, str | None, float]:
        """Run one case in the process, and end the process where it does not answer."""
        self.link.send(case)
        try:
            self.link.recv()  # the files lie there
            start, used = time.perf_counter(), self._cpu_seconds()
            while not self.link.poll(0.5):
                if self._cpu_seconds() - used > SECONDS or time.perf_counter() - start > PATIENCE:
                    problem = f"hangs: no answer in {SECONDS:g} s of CPU time, or {PATIENCE:g} s"
                    break
            else:
                answer: tuple[bool, str | None, float] = self.link.recv()
                return answer
        except (EOFError, ConnectionResetError):
            self.process.join(1)
            problem = f"the process died (exit code {self.process.exitcode})"
        self.close()
        self._start()
        return False, problem, SECONDS

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process and remove its files."""
        self.process.kill()
        self.process.join()
        shutil.rmtree(self.folder, ignore_errors=True)


def fuzz(seed: int, total: int, only: str | None, as_json: bool) -> int:
    """Run all cases; return how many went wrong."""
    wrong = 0
    prepare()
    for name, n in cases(total, only).items():
        start, worker = time.perf_counter(), Worker(name)
        n_refused, slowest, found = 0, 0.0, 0
        for number in range(n):
            case = Case(seed, name, number)
            refused, problem, seconds = worker.run(case)
            n_refused, slowest = n_refused + refused, max(slowest, seconds)
            if problem:
                found += 1
                print(f'FINDING --case "{case}": {problem}', file=sys.stderr, flush=True)
        worker.close()
        wrong += found
        row = {
            "reader": name, "inputs": n, "refused": n_refused, "findings": found, "slowest_s": round(slowest, 2),
            "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip
        print(json.dumps(row) if as_json else _line(row), flush=True)
    return wrong


def _line(row: dict[str, object]) -> str:
    return "{reader:32} {inputs:6} inputs, {refused:6} refused, {findings:3} findings, slowest {slowest_s:5} s".format(
        **row
    )


def once(text: str) -> int:
    """Run one case here, without limits, and leave its files to look at."""
    seed, _, rest = text.partition(":")
    name, _, number = rest.rpartition(":")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    bench, case = Bench(name, folder / "bench"), Case(int(seed), name, int(number))
    for path, content in bench.harmed(case).items():
        if isinstance(content, bytes) and content != bench.files.get(path):
            kept = folder / "harmed" / path
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            print(f"harmed: {kept}")
        elif not isinstance(content, bytes):
            print(f"harmed: {path} is {content}")
    refused, problem = bench.problem(case)
    print(problem or ("refused" if refused else "read"))
    return int(problem is not None)


def main() -> int:
    """Parse the words of the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="how many, of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="readers whose name holds this")
    parser.add_argument("--case", help="SEED:READER:NUMBER, as a finding is printed")
    parser.add_argument("--json", action="store_true", help="one JSON line a reader")
    args = parser.parse_args()
    if args.case:
        return once(args.case)
    wrong = fuzz(args.seed, args.inputs, args.only, args.json)
    print(f"{wrong} findings", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

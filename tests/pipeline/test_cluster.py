"""Work on the workers of a cluster: the same bytes, nothing lost with a worker or a scheduler."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import asdict
from pathlib import Path

import pytest
import tomli_w
import torch

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.files import OutputError
from hyperdecode.pipeline import cluster as clusters
from hyperdecode.pipeline import flights
from hyperdecode.pipeline.cluster import HERE, Where, connected, spreading
from hyperdecode.pipeline.flights import TellFromWorker
from hyperdecode.pipeline.processes import Process, _born, this_process
from hyperdecode.pipeline.records import Step, read_record
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.slurm import SlurmSettings, read_slurm
from hyperdecode.pipeline.stimuli import prepare_stimuli
from hyperdecode.pipeline.workers import Workers, _Cluster, waits_for, workers
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.estimated import estimated_study, settings


def step(name, inputs, outputs, work):
    return Step(name, 1, {}, tuple(inputs), tuple(outputs), work)


def writes(path, text, inputs=()):
    """Return a step that writes a text, once what it reads is there."""

    def work():
        assert all(one.exists() for one in inputs)
        path.write_text(text)

    return step(path.stem, inputs, [path], work)


@pytest.fixture(scope="module")
def two():
    """Two processes that wait for work, used by all tests that do not kill their cluster."""
    with connected(Where(2)) as cluster:
        yield cluster


@pytest.fixture
def crew(two, tmp_path):
    return _Cluster(tmp_path, tmp_path / "records", two)


def test_a_step_waits_for_what_it_reads_and_for_nothing_else(tmp_path):
    a, b, c, d = (tmp_path / name for name in "abcd")
    steps = [writes(a, "a"), writes(b, "b", [a]), writes(c, "c"), writes(d, "d", [b, c, tmp_path / "raw"])]
    assert waits_for(steps) == [set(), {0}, set(), {1, 2}]


def test_one_place_is_asked_for(tmp_path):
    assert HERE.here and Where(1).here and not Where(2).here
    with pytest.raises(UserError, match="--workers and --slurm were given: choose one"):
        Where(2, slurm=tmp_path)
    with pytest.raises(UserError, match="--scheduler and --slurm were given"):
        Where(1, "tcp://here:1", tmp_path)


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr(clusters, "PATIENCE_S", 1)
    with pytest.raises(UserError, match="no Dask scheduler answers at tcp"), connected(Where(1, "tcp://127.0.0.1:9")):
        pass


def test_steps_run_in_other_processes_each_after_those_it_waits_for(crew, tmp_path):
    a, b, c = (tmp_path / f"{name}.txt" for name in "abc")
    begun = []
    steps = [writes(a, "a"), writes(b, "b", [a]), writes(c, "c", [a, b])]
    done = list(crew.run(steps, force=False, before=lambda one: begun.append(one.name)))
    assert [one.step for one in done] == steps and all(one.ran for one in done) and begun == ["a", "b", "c"]
    pids = {read_record(crew.records, name)["process"]["pid"] for name in "abc"}
    assert os.getpid() not in pids
    assert not any(one.ran for one in crew.run(steps, force=False)), "nothing is done again"


def test_after_a_failure_nothing_is_begun(crew, tmp_path):
    def refuse():
        raise UserError("the run is too short")

    a, b, c = (tmp_path / f"{name}.txt" for name in "abc")
    steps = [step("a", [], [a], refuse), writes(b, "b", [a]), writes(c, "c", [b])]
    for runs in (crew, Workers(tmp_path, tmp_path / "records")):
        (done,) = runs.run(steps, force=False)
        assert done.step is steps[0] and str(done.error) == "the run is too short"
    assert not b.exists() and not c.exists()


def test_a_full_disk_of_a_worker_is_told_as_one_of_this_process(crew, tmp_path):
    def fill():
        raise OutputError("no room on the disk")

    (done,) = crew.run([step("a", [], [tmp_path / "a.txt"], fill)], force=False)
    assert isinstance(done.error, OutputError) and str(done.error) == "no room on the disk"


def test_warnings_of_a_step_reach_its_user(crew, tmp_path):
    def warn():
        import warnings

        warnings.warn("run-02 moves a lot", DataWarning, stacklevel=1)
        (tmp_path / "w.txt").write_text("w")

    with pytest.warns(DataWarning, match="run-02 moves a lot"):
        list(crew.run([step("w", [], [tmp_path / "w.txt"], warn)], force=False))


def test_a_step_that_spreads_its_work_stays_here_and_uses_the_workers(crew, tmp_path):
    a, total = tmp_path / "a.txt", tmp_path / "total.txt"
    seen = []

    def work():
        found = dict(crew.side_by_side(lambda k: (k * k, os.getpid()), range(6)))
        assert {k: square for k, (square, _) in found.items()} == {k: k * k for k in range(6)}
        seen.extend(pid for _, pid in found.values())
        total.write_text("done")

    steps = [writes(a, "a"), step("total", [a], [total], work)]
    done = list(crew.run(steps, force=False, here={"total"}))
    assert [one.step.name for one in done] == ["a", "total"]
    assert os.getpid() not in seen and len(set(seen)) == 2
    assert read_record(crew.records, "total")["process"]["pid"] == os.getpid()


def test_workers_share_the_cores(two):
    found = dict(two.each(lambda _: (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]), range(2)))
    share = max(1, clusters.default_threads() // 2)
    assert set(found.values()) == {(share, str(share))}


def test_progress_inside_a_step_is_told_here(two):
    told, tell = [], TellFromWorker()
    came = threading.Event()

    def hear(*what):
        told.append(what)
        came.set()

    with two.telling(hear):
        list(two.each(lambda k: tell("epoch", k, 9), [3]))
        assert came.wait(10)
    assert told == [("epoch", 3, 9)]


def test_a_worker_that_dies_is_no_loss(tmp_path):
    """Its step is done again by another process, to the same end."""
    marker, a, b = tmp_path / "died", tmp_path / "a.txt", tmp_path / "b.txt"

    def dies_once():
        if not marker.exists():
            marker.touch()
            (tmp_path / "a.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        a.write_text("whole")

    records = tmp_path / "records"
    with workers(tmp_path, records, Where(2)) as runs:
        done = list(runs.run([step("a", [], [a], dies_once), writes(b, "b", [a])], force=False))
    assert marker.exists() and [one.ran for one in done] == [True, True]
    assert a.read_text() == "whole" and "key" in read_record(records, "a")


def test_work_that_kills_every_worker_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(flights, "ATTEMPTS", 1)
    with (
        pytest.raises(UserError, match="lost with its workers 1 times: give workers more memory"),
        spreading(Where(2)) as each,
    ):
        list(each(lambda _: os.kill(os.getpid(), signal.SIGKILL), [1]))


def test_a_step_that_a_killed_commands_worker_still_does_is_not_begun_twice(tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        records, a = tmp_path / "records", tmp_path / "a.txt"
        records.mkdir()
        mine = this_process()
        theirs = Process(mine.host, sleeper.pid, _born(sleeper.pid), mine.space)
        (records / "a.toml").write_text(tomli_w.dumps({"state": "running", "process": asdict(theirs)}))
        with pytest.raises(UserError, match=f"step a is still at work in process {sleeper.pid} on"):
            list(Workers(tmp_path, records).run([writes(a, "a")], force=False))
    finally:
        sleeper.kill()
        sleeper.wait()
    list(Workers(tmp_path, records).run([writes(a, "a")], force=False))
    assert a.read_text() == "a"


class Landed:
    """What `FakeClient.submit` gives: a future that the test lets end."""

    def __init__(self, key, item):
        self.key, self.item = key, item

    def add_done_callback(self, call):
        self.end = lambda: call(self)

    def result(self):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class FakeClient:
    """A cluster of which the test says who is there and what becomes of the work."""

    status = "running"

    def __init__(self, *there):
        self.there, self.sent, self.asked = list(there), [], 0

    def scheduler_info(self, n_workers):
        return {"workers": dict.fromkeys(self.there)}

    def scatter(self, values, **_):
        self.asked += 1
        return values

    def submit(self, _fly, _function, _shared, item, *, workers, **_):
        self.sent.append((Landed(f"{item}-{len(self.sent)}", item), workers))
        return self.sent[-1][0]

    def ends(self, number, outcome):
        self.sent[number][0].outcome = outcome
        self.sent[number][0].end()


def test_what_was_lost_waits_while_the_other_workers_are_busy():
    """Data that were shared died with a worker, and the only other one has work: nothing may be forgotten."""
    client = FakeClient("a", "b")
    up = flights.Flights(flights.Cluster(client, "the workers", lambda: None, 5, ours=True), None, "shared")
    for item in (1, 2):
        assert up.free()
        up.send(item)
    assert [workers for _, workers in client.sent] == [["a"], ["b"]] and client.asked == 1
    client.there.remove("a")
    client.ends(0, CancelledError())
    client.ends(1, "two")
    assert up.landed() == (2, "two") and len(up) == 1 and not up.free(), "what was lost goes first"
    thread = threading.Timer(0.3, lambda: client.ends(2, "one"))
    thread.start()
    assert up.landed() == (1, "one") and len(up) == 0 and up.free()
    assert client.sent[2][1] == ["b"] and client.asked == 2, "what is shared was shared again"


def test_no_worker_for_long_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(flights, "TICK_S", 0.01)
    cluster = flights.Cluster(FakeClient(), "the workers of node17", lambda: None, 0.05, ours=True)
    with pytest.raises(UserError, match="the workers of node17 have no worker after 0 s: start workers"):
        flights.Flights(cluster, None, None).free()


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and "records" not in path.parts
    }


@pytest.mark.slow  # `.ci/run` compares the small study, made by one process and by two workers
def test_a_study_on_workers_is_that_of_one_process_bit_for_bit(tmp_path, tiny_generator):
    """Two decoders, posterior, ceilings: branches that do not wait for each other."""
    config = settings(decoding={"posterior": 2, "beside": ["ridge"]})
    told = []
    for name, where in (("one", HERE), ("three", Where(3))):
        study = estimated_study(tmp_path / name / "study", tiny_generator, config)
        result = run_study(
            study, config, read_stimuli(study), tiny_generator, where=where, announce=lambda *a: told.append(a)
        )
        assert len(result.ran) == len(set(result.ran)) > 9
    one, three = contents(tmp_path / "one"), contents(tmp_path / "three")
    assert [name for name in one if one[name] != three.get(name)] == [] and set(one) == set(three)
    assert told[-1][0] == "report" and told[-1][1] == told[-1][2], "the count goes to the end"
    assert (
        run_study(tmp_path / "three" / "study", config, read_stimuli(tmp_path / "three" / "study"), tiny_generator).ran
        == []
    )


def test_stimuli_drawn_side_by_side_are_the_same(tmp_path, tiny_generator):
    config = settings()
    told = []
    for name, where in (("one", HERE), ("two", Where(2))):
        prepare_stimuli(tmp_path / name, config, tiny_generator, where=where, progress=lambda *a: told.append(a))
        assert told[-1] == (28, 28)
        told.clear()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Remote:
    """A scheduler and a worker as a user starts them."""

    def __init__(self, folder):
        self.port, self.folder = free_port(), folder
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self.worker = None

    def start(self):
        here = ("--host", "127.0.0.1", "--no-dashboard")
        self.scheduler = self._started("scheduler", *here, "--port", str(self.port))
        self.worker = self._started("worker", self.address, *here, "--nthreads", "1")

    def _started(self, kind, *words):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.folder, start_new_session=True, **silent)

    def stop(self):
        for process in (self.scheduler, self.worker):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_a_scheduler_lost_in_the_middle_costs_one_step(tmp_path, monkeypatch):
    """The command ends with a line; once a scheduler is there again it goes on where it was."""
    monkeypatch.setattr(flights, "PATIENCE_S", 3.0)
    a, b, c = (tmp_path / f"{name}.txt" for name in "abc")
    waiting = tmp_path / "waiting"

    def slow():
        waiting.touch()
        time.sleep(2 if b.with_suffix(".lost").exists() else 600)
        b.write_text("b")

    steps = [writes(a, "a"), step("b", [a], [b], slow), writes(c, "c", [b])]
    remote, records = Remote(tmp_path), tmp_path / "records"
    remote.start()

    def pull_the_plug():
        while not waiting.exists():
            time.sleep(0.05)
        remote.stop()

    try:
        plug = threading.Thread(target=pull_the_plug)
        plug.start()
        with (
            pytest.raises(UserError, match=r"the scheduler at tcp://.* gone: what is finished is kept"),
            workers(tmp_path, records, Where(1, remote.address)) as runs,
        ):
            list(runs.run(steps, force=False))
        plug.join()
        b.with_suffix(".lost").touch()
        remote.start()
        with workers(tmp_path, records, Where(1, remote.address)) as runs:
            done = list(runs.run(steps, force=False))
        assert [(one.step.name, one.ran) for one in done] == [("a", False), ("b", True), ("c", True)]
    finally:
        remote.stop()
    assert [path.read_text() for path in (a, b, c)] == ["a", "b", "c"]


SBATCH = """#!{python}
import pathlib, subprocess, sys
assert "#SBATCH -p cpu" in open(sys.argv[-1]).read() and "--gres=gpu:1" in open(sys.argv[-1]).read()
silent = subprocess.DEVNULL
job = subprocess.Popen(["bash", sys.argv[-1]], start_new_session=True, stdout=silent, stderr=silent)
print("Submitted batch job", job.pid)
with open(pathlib.Path(__file__).with_name("jobs"), "a") as jobs:
    jobs.write(str(job.pid) + chr(10))
"""
SCANCEL = """#!{python}
import os, signal, sys
for job in sys.argv[1:]:
    os.killpg(int(job), signal.SIGKILL)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm cluster of this computer: `sbatch` runs what it is given at once."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "slurm.toml"
    settings.write_text(
        'jobs = 2\ncores = 1\nmemory_gb = 1\npartition = "cpu"\ndirectives = ["--gres=gpu:1"]\ninterface = "lo"\n'
    )
    return settings


def test_slurm_jobs_do_the_work_and_leave(slurm, tmp_path):
    a, b = (tmp_path / f"{name}.txt" for name in "ab")
    records = tmp_path / "records"
    with workers(tmp_path, records, Where(slurm=slurm)) as runs:
        done = list(runs.run([writes(a, "a"), writes(b, "b", [a])], force=False))
    assert [one.ran for one in done] == [True, True] and b.read_text() == "b"
    jobs = [int(line) for line in (tmp_path / "jobs").read_text().split()]
    assert len(jobs) == 2 and (tmp_path / "slurm-logs").is_dir()
    assert {read_record(records, name)["process"]["pid"] for name in "ab"}.isdisjoint({os.getpid()})
    until = time.monotonic() + 20
    while any(Path(f"/proc/{job}/cmdline").exists() and Path(f"/proc/{job}/cmdline").read_bytes() for job in jobs):
        assert time.monotonic() < until, "jobs outlive the command"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs = 0", "jobs: Input should be greater than or equal to 1; settings are jobs, cores"),
        ("nodes = 3", "nodes: Extra inputs are not permitted"),
        ('prologue = ["a\\nb"]', "prologue.0: String should match pattern"),
        ('partition = "cpu --wrap=x"', "partition: String should match pattern"),
        ("jobs", "is no TOML file"),
        ("a = " + "[" * 5000, "is no TOML file"),
    ],
)
def test_slurm_settings_are_checked(tmp_path, text, said):
    path = tmp_path / "slurm.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        read_slurm(path)
    assert "\n" not in str(caught.value)


def test_slurm_that_is_not_there(slurm, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"none\.toml cannot be read"), connected(Where(slurm=tmp_path / "none.toml")):
        pass
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="--slurm needs the command sbatch"), connected(Where(slurm=slurm)):
        pass


def test_wall_time_is_written_as_slurm_reads_it():
    written = {0.5: "00:30:00", 12: "12:00:00", 100.25: "100:15:00"}
    assert {hours: SlurmSettings(hours=hours).wall_time for hours in written} == written

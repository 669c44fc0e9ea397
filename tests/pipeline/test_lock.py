"""The lock of a study: one holder, whoever comes at once; the dead lose it, the living never."""

import os
import subprocess
import sys
import threading
import time
import tomllib
import warnings
from dataclasses import asdict

import pytest
import tomli_w

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.pipeline import lock
from hyperdecode.pipeline.lock import ABANDONED_AFTER, LOCK_NAME, holder, study_lock
from hyperdecode.pipeline.processes import this_process

HOLD = """
import sys, time
from pathlib import Path
from hyperdecode.pipeline.lock import study_lock
with study_lock(Path(sys.argv[1]), Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys, time, warnings
from pathlib import Path
from hyperdecode.errors import UserError
from hyperdecode.pipeline.lock import study_lock
warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
wanted, got = 15, 0
while got < wanted:
    try:
        with study_lock(folder, folder):
            inside = folder / "inside"
            with open(inside, "x"):
                pass
            count = folder / "count"
            n = int(count.read_text())
            time.sleep(0.001)
            count.write_text(str(n + 1))
            inside.unlink()
            got += 1
    except UserError:
        time.sleep(0.002)
"""


def planted(folder, age, **process):
    """Plant the lock of some other process, `age` seconds silent."""
    path = folder / LOCK_NAME
    content = {"token": "theirs", "command": "hyperdecode run STUDY", "since": "2020-01-01T00:00:00+00:00"}
    path.write_text(tomli_w.dumps(content | {"process": asdict(this_process()) | process}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def take(folder):
    return study_lock(folder, folder)


def test_the_second_is_told_who_holds_it(tmp_path):
    with take(tmp_path):
        there = holder(tmp_path)
        assert there.process == this_process() and not there.abandoned and there.silent < 60
        with pytest.raises(UserError) as refused, take(tmp_path):
            pass
        said = str(refused.value)
        assert f"{tmp_path} is in use by `" in said and f"(pid {os.getpid()} on {this_process().host}) since 20" in said
        assert holder(tmp_path) == there or holder(tmp_path).token == there.token
    assert list(tmp_path.iterdir()) == [] and holder(tmp_path) is None


def test_an_error_inside_releases_it(tmp_path):
    with pytest.raises(RuntimeError), take(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_holder_in_another_process_and_its_death(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"pid {child.pid} on .*: wait until it has ended"), take(tmp_path):
        pass
    child.kill()
    child.wait()
    assert holder(tmp_path).abandoned
    with pytest.warns(DataWarning, match=rf"pid {child.pid} on .* which is dead: its lock was taken over"):
        taken = take(tmp_path)
        with taken as held:
            held.check()
            assert holder(tmp_path).process == this_process()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_host_is_judged_by_its_heartbeat(tmp_path):
    planted(tmp_path, ABANDONED_AFTER - 60, host="another-node")
    with pytest.raises(
        UserError, match=r"on another-node\) since .* last sign of life 5\d\d s ago: .* silent for 10 minutes"
    ):
        take(tmp_path).__enter__()
    planted(tmp_path, ABANDONED_AFTER + 60, host="another-node")
    with pytest.warns(DataWarning, match="gave no sign of life for 6"), take(tmp_path):
        assert holder(tmp_path).process == this_process()


def test_a_living_process_of_this_host_keeps_it_however_silent(tmp_path):
    planted(tmp_path, 10 * ABANDONED_AFTER)
    with pytest.raises(UserError, match="is in use by"):
        take(tmp_path).__enter__()


def test_a_half_written_lock_is_waited_for_and_then_forgotten(tmp_path):
    path = tmp_path / LOCK_NAME
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="a command that has just begun"):
        take(tmp_path).__enter__()
    os.utime(path, (0, 0))
    with pytest.warns(DataWarning, match="taken over"), take(tmp_path):
        pass


def test_the_heart_beats_and_notices_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with take(tmp_path) as held:
        path = tmp_path / LOCK_NAME
        os.utime(path, (0, 0))
        until = time.time() + 20
        while path.stat().st_mtime < 1000 and time.time() < until:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1000
        held.check()
        planted(tmp_path, 0, host="another-node")
        with pytest.raises(UserError, match=r"lost the lock .* held by `hyperdecode run STUDY`"):
            held.check()
    assert tomllib.loads(path.read_text())["token"] == "theirs", "the lock of another is not released"
    path.unlink()
    with take(tmp_path) as held:
        path.unlink()
        with pytest.raises(UserError, match="it was removed"):
            held.check()


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(lock.NO_LINKS[0], "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with take(tmp_path):
        assert holder(tmp_path).process == this_process()
        with pytest.raises(UserError, match="is in use by"):
            take(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_come_at_once_one_gets_it(tmp_path, dead):
    """With a dead holder's lock in the way too: only one may take it over."""
    for _ in range(5):
        if dead:
            planted(tmp_path, 0, born="another boot")
        start, got = threading.Barrier(8), []

        def attempt(start=start, got=got):
            start.wait()
            try:
                held = lock._take(tmp_path, tmp_path / LOCK_NAME)
            except UserError:
                return
            got.append(held)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            threads = [threading.Thread(target=attempt) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(got) == 1
        got[0].check()
        got[0].release()
        assert list(tmp_path.iterdir()) == []


def test_processes_that_contend_count_right(tmp_path):
    (tmp_path / "count").write_text("0")
    children = [
        subprocess.Popen([sys.executable, "-c", COUNT, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for child in children:
        child.stdout.readline()
    for child in children:
        child.stdin.write(b"\n")
        child.stdin.flush()
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "45"

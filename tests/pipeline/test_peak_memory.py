"""The peak of memory in a record is that of its step, not of what came before."""

import sys
import threading
import tomllib

import numpy as np
import pytest

from hyperdecode.pipeline import peak_memory
from hyperdecode.pipeline.peak_memory import PROCESS, STEP, measured, process_peak
from hyperdecode.pipeline.records import Step, run_step

MIB = 2**20
LARGE = 300
linux = pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is set back through /proc")


def hold(mib):
    """Take memory, touch each page of it and give it back."""
    np.ones(mib * MIB, np.uint8)


@linux
def test_each_block_has_its_own_peak():
    with measured() as before:
        pass
    with measured() as large:
        hold(LARGE)
    with measured() as after:
        hold(10)
    assert large.of == after.of == STEP
    # Libraries may give memory back between the two, and the kernel counts pages in batches.
    assert LARGE - 10 < large.mib - before.mib < LARGE + 60
    assert after.mib < large.mib - LARGE / 2
    assert process_peak() >= large.mib


@linux
def test_a_block_inside_another_hides_nothing_of_it():
    with measured() as outer:
        hold(LARGE)
        with measured() as inner:
            hold(10)
    assert outer.mib > inner.mib + LARGE / 2
    with measured() as outer:
        with measured() as inner:
            hold(LARGE)
        hold(10)
    assert outer.mib >= inner.mib > LARGE


@linux
def test_blocks_in_threads_see_what_the_process_held_meanwhile():
    go, begun = threading.Event(), threading.Event()

    def other():
        with measured():
            begun.set()
            go.wait(60)

    with measured() as here:
        hold(LARGE)
        thread = threading.Thread(target=other)
        thread.start()
        begun.wait(60)
    with measured() as later:
        pass
    go.set()
    thread.join()
    assert here.mib > later.mib + LARGE / 2
    assert not peak_memory._open


def test_where_it_cannot_be_set_back_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "no such folder" / "clear_refs")
    monkeypatch.setattr(peak_memory, "STATUS", tmp_path / "status")
    with measured() as large:
        hold(LARGE)
    with measured() as after:
        pass
    assert (large.of, after.of) == (PROCESS, PROCESS)
    assert after.mib >= large.mib >= LARGE


@linux
def test_the_record_of_a_small_step_behind_a_large_one(tmp_path):
    def record(name, mib):
        step = Step(name, 1, {}, (), (), lambda: hold(mib))
        assert run_step(step, tmp_path, tmp_path / "records")
        return tomllib.loads((tmp_path / "records" / f"{name}.toml").read_text())

    large, small = record("large", LARGE), record("small", 10)
    assert large["peak_memory_of"] == small["peak_memory_of"] == "step"
    assert large["peak_memory_mb"] - small["peak_memory_mb"] > LARGE / 2


def test_the_record_of_a_step_that_fails_ends_the_measure(tmp_path):
    def fails():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run_step(Step("fails", 1, {}, (), (), fails), tmp_path, tmp_path / "records")
    assert not peak_memory._open

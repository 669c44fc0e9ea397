"""What `hyperdecode status` and a dry run say of a small study, beside what a run then does."""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from hyperdecode.errors import UserError
from hyperdecode.pipeline.lock import LOCK_NAME, study_lock
from hyperdecode.pipeline.processes import Process, is_alive, this_process
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.status import STATES, study_status
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.estimated import estimated_study, settings

DECODE, EVALUATE = "decode_sub-01_weighted-ridge", "evaluate_sub-01_weighted-ridge"
AFTER_MASK = [DECODE, "posterior_sub-01", "ceiling_sub-01", "learning_sub-01"]
AFTER_MASK += ["reconstruct_sub-01_weighted-ridge", EVALUATE, "moves_sub-01", "report"]
STEPS = ["mask_sub-01", *AFTER_MASK[:4], "full_stimuli", *AFTER_MASK[4:]]


@pytest.fixture(scope="module")
def bare(tmp_path_factory, tiny_generator):
    return estimated_study(tmp_path_factory.mktemp("bare") / "study", tiny_generator)


@pytest.fixture(scope="module")
def analysed(bare, tmp_path_factory, tiny_generator):
    study = Path(shutil.copytree(bare, tmp_path_factory.mktemp("analysed") / "study"))
    run_study(study, settings(), read_stimuli(study), tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


@pytest.fixture
def status(tiny_generator):
    return lambda study, config=None, **options: study_status(
        study, config or settings(), read_stimuli(study), tiny_generator, **options
    )


@pytest.fixture
def run(tiny_generator):
    return lambda study, config=None, **options: run_study(
        study, config or settings(), read_stimuli(study), tiny_generator, **options
    )


def record_of(study, step):
    return Layout(study).records / f"{step}.toml"


def begun(study, step, **changes):
    """Make the record what it is while the step is at work."""
    path = record_of(study, step)
    content = tomllib.loads(path.read_text())
    kept = {name: content[name] for name in ("step", "started", "settings")}
    path.write_text(tomli_w.dumps(kept | {"state": "running", "process": asdict(this_process())} | changes))


def by_name(found):
    return {one.step: one for one in (*found.steps, *found.others)}


def test_before_the_first_run_and_after(bare, analysed, status):
    before = {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()}
    found = status(bare)
    assert [(one.step, one.state, one.why) for one in found.would_run] == [
        (name, "new", ("it never ran",)) for name in STEPS
    ]
    assert {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()} == before, "it wrote something"
    done = status(analysed)
    assert done.would_run == () and {one.state for one in done.steps} == {"fresh"} and done.held_by is None
    assert done.others == ()
    record = done.steps[0].record
    assert record["started"] <= record["ended"] and Process.of(record["process"]).pid == os.getpid()


def changed_setting(study):
    return settings(evaluation={"n_permutations": 120})


def changed_input(study):
    path = study / "elsewhere" / "sub-01" / "sub-01_stat-z_trials.npy"
    np.save(path, 2 * np.load(path))


def lost_output(study):
    Layout(study).decoded("01", "weighted-ridge", "scores.tsv").unlink()


def altered_output(study):
    with open(Layout(study).decoded("01", "weighted-ridge", "latents.safetensors"), "ab") as stream:
        stream.write(b" ")


def other_code(study):
    path = record_of(study, DECODE)
    content = tomllib.loads(path.read_text())
    path.write_text(tomli_w.dumps(content | {"key": "of older code", "version": content["version"] - 1}))


@pytest.mark.parametrize(
    "change, first, why",
    [
        (changed_setting, EVALUATE, "setting n_permutations: 100 -> 120"),
        (changed_input, "mask_sub-01", "input elsewhere/sub-01/sub-01_stat-z_trials.npy has changed"),
        (lost_output, EVALUATE, "desc-weightedridge_scores.tsv is missing"),
        (altered_output, DECODE, "desc-weightedridge_latents.safetensors was altered"),
        (other_code, DECODE, "code version "),
    ],
)
def test_it_names_what_changed_and_what_hangs_on_it(study, status, run, change, first, why):
    config = change(study)
    found = status(study, config)
    stale = found.would_run
    assert stale[0].step == first and any(why in reason for reason in stale[0].why), stale[0]
    assert all(one.state == "stale" for one in stale)
    for one in stale[1:]:
        assert any(reason.endswith(("will run", "-> 120")) for reason in one.why), one
    ran = run(study, config).ran
    planned = [one.step for one in stale]
    # A step whose inputs came out as they were is spared; nothing runs that was not announced.
    assert ran[0] == first and [name for name in planned if name in ran] == ran
    assert status(study, config).would_run == ()


def test_a_changed_mask_makes_everything_behind_it_stale(study, status):
    changed_input(study)
    found = by_name(status(study))
    assert [name for name in STEPS if found[name].state == "stale"] == ["mask_sub-01", *AFTER_MASK]
    assert found[DECODE].why == ("mask_sub-01 will run",)


def test_running_failed_and_killed_are_told_apart(study, status, run):
    begun(study, DECODE)
    assert by_name(status(study))[DECODE].state == "running"
    assert by_name(status(study))["report"].why[0] == f"{DECODE} is running"
    begun(study, DECODE, process=asdict(this_process()) | {"born": "another boot"})
    one = by_name(status(study))[DECODE]
    assert one.state == "killed" and one.why == (f"process {os.getpid()} on {this_process().host} died at it",)
    begun(study, DECODE, state="failed", error="no space")
    one = by_name(status(study))[DECODE]
    assert (one.state, one.why) == ("failed", ("no space",))
    begun(study, DECODE, state="stopped")
    assert by_name(status(study))[DECODE].state == "killed"
    record_of(study, DECODE).write_text("not toml [")
    assert by_name(status(study))[DECODE].why == ("its record cannot be read",)
    assert DECODE in run(study).ran, "a damaged record stops nobody"
    record_of(study, DECODE).unlink()
    assert by_name(status(study))[DECODE].why == ("its outputs have no record",)


def test_another_machine_is_judged_by_its_lock(study, status):
    far = asdict(this_process()) | {"host": "another-node"}
    begun(study, DECODE, process=far)
    assert by_name(status(study))[DECODE].state == "killed", "nobody holds the study"
    with study_lock(study, Layout(study).records):
        found = status(study)
        assert by_name(found)[DECODE].state == "running" and found.held_by.process == this_process()
    begun(study, DECODE, process=far)
    lock = Layout(study).records / LOCK_NAME
    lock.write_text(tomli_w.dumps({"token": "t", "command": "run", "since": "then", "process": far}))
    os.utime(lock, (0, 0))
    assert by_name(status(study))[DECODE].state == "killed", "its heartbeat has stopped"


def test_a_step_that_raises_is_failed_with_its_message(bare, tmp_path, status, run):
    study = Path(shutil.copytree(bare, tmp_path / "study"))
    broken = settings(bold=settings().bold.model_copy(update={"voxels": "active", "n_voxels": 1000}).model_dump())
    with pytest.raises(UserError, match="1000 voxels"):
        run(study, broken)
    one = status(study, broken).steps[0]
    assert one.state == "failed" and "1000 voxels" in one.why[0] and one.record["ended"]


def test_one_step_alone_and_by_force(bare, study, status):
    assert [one.step for one in status(study, only="evaluate", force=True).would_run] == [EVALUATE]
    assert status(study, only="evaluate", force=True).would_run[0].why == ("--force",)
    assert status(study, only="evaluate").would_run == ()
    assert [one.step for one in status(study, force=True).would_run] == STEPS
    with pytest.raises(UserError, match="run the earlier steps first"):
        status(bare, only="decode")
    with pytest.raises(UserError, match="no step 'maps'"):
        status(bare, only="maps")


def test_a_number_that_was_given_anew_is_another_process():
    me = this_process()
    assert is_alive(me) and not is_alive(Process(me.host, me.pid, "earlier", me.space))
    assert is_alive(Process("elsewhere", me.pid, me.born, me.space)) is None
    assert is_alive(Process(me.host, me.pid, me.born, "a container")) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = Process(me.host, child.pid, _born(child.pid), me.space)
    assert is_alive(born)
    child.kill()
    while Path(f"/proc/{child.pid}/stat").exists() and is_alive(born):
        pass
    assert not is_alive(born), "killed and not yet waited for"
    child.wait()
    assert not is_alive(born)


def _born(pid):
    from hyperdecode.pipeline import processes

    return processes._born(pid)


def test_states_are_the_ones_that_are_documented(study, status):
    assert {one.state for one in status(study).steps} <= set(STATES)

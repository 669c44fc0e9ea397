"""``hyperdecode status`` and ``hyperdecode run --dry-run`` as their user meets them."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from hyperdecode.pipeline.lock import study_lock
from hyperdecode.pipeline.run import run_study
from hyperdecode.study.config import write_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.estimated import estimated_study, settings


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    folder = estimated_study(tmp_path_factory.mktemp("status") / "study", tiny_generator)
    run_study(folder, settings(), read_stimuli(folder), tiny_generator)
    return folder


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


@pytest.fixture
def program(called):
    """Call the program: (exit code, stdout, stderr)."""
    return called


def contents(study):
    return {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}


def test_a_table_and_json(program, study):
    before = contents(study)
    code, out, err = program("status", study)
    assert code == 0 and err == "" and "10 steps: 10 fresh." in out and "Next:" not in out
    write_config(study, settings(evaluation={"n_permutations": 120}))
    before = contents(study)
    code, out, _ = program("status", study)
    assert code == 0 and "10 steps: 8 fresh, 2 stale." in out and f"Next: hyperdecode run {study}" in out
    assert "n_permutations: 100 -> 120" in " ".join(out.split())
    code, out, err = program("status", study, "--json")
    found = json.loads(out)
    assert code == 0 and err == "" and found["held_by"] is None and found["study"] == str(study)
    states = {one["step"]: (one["state"], one["why"]) for one in found["steps"]}
    assert states["mask_sub-01"] == ("fresh", [])
    assert states["evaluate_sub-01_weighted-ridge"] == ("stale", ["setting n_permutations: 100 -> 120"])
    assert all(one["process"]["pid"] and one["seconds"] >= 0 for one in found["steps"])
    assert contents(study) == before


def test_a_dry_run_lists_and_does_nothing(program, study):
    write_config(study, settings(evaluation={"n_permutations": 120}))
    before = contents(study)
    code, out, err = program("run", study, "--dry-run")
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0] == "1. evaluate_sub-01_weighted-ridge: setting n_permutations: 100 -> 120"
    assert lines[1].startswith("2. report: ") and "evaluate_sub-01_weighted-ridge will run" in lines[1]
    assert lines[2] == "2 of 10 steps would run. Nothing was done."
    assert program("run", study, "--dry-run", "--step", "mask")[1] == "0 of 1 steps would run. Nothing was done.\n"
    code, _, err = program("run", study, "--dry-run", "--step", "maps")
    assert code == 2 and "no step 'maps'" in err and err.count("\n") == 1
    assert contents(study) == before


def test_a_study_in_use_is_told_and_refused(program, study):
    write_config(study, settings(evaluation={"n_permutations": 120}))
    with study_lock(study, Layout(study).records):
        before = contents(study)
        assert "Held by `" in program("status", study)[1]
        assert json.loads(program("status", study, "--json")[1])["held_by"]["abandoned"] is False
        assert "Held by `" in program("run", study, "--dry-run")[1]
        for words in (("run",), ("report",), ("decode",), ("map",)):
            code, _, err = program(words[0], study)
            assert code == 2 and err.count("\n") == 1, (words, err)
            assert f"{study} is in use by `" in err and "(pid " in err and "wait until it has ended" in err
        assert contents(study) == before
    assert program("run", study)[0] == 0 and "10 fresh" in program("status", study)[1]


def test_no_study(program, tmp_path):
    code, _, err = program("status", tmp_path)
    assert code == 2 and "it is no study" in err and err.count("\n") == 1


def test_a_full_disk_is_one_line_and_leaves_what_was_there(program, study, monkeypatch):
    write_config(study, settings(evaluation={"n_permutations": 120}))
    before = {path: data for path, data in contents(study).items() if path.parent.name != "records"}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pandas.DataFrame.to_csv", full)
        code, _, err = program("run", study, "--skip-failed")
    assert code == 2 and err.count("\n") == 1 and err.startswith("Error: cannot write ")
    assert f"No space left on device, in {Layout(study).derivatives / 'sub-01'} (" in err and "MB free)" in err
    assert {path: data for path, data in contents(study).items() if path.parent.name != "records"} == before
    found = json.loads(program("status", study, "--json")[1])["steps"]
    one = next(step for step in found if step["step"] == "evaluate_sub-01_weighted-ridge")
    assert one["state"] == "failed" and "No space left" in one["why"][0]
    assert program("run", study)[0] == 0 and "10 fresh" in program("status", study)[1]

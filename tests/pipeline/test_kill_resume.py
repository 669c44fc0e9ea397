"""A study that is killed, whose disk is full or that is analysed twice at once ends as an undisturbed one."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hyperdecode.errors import UserError
from hyperdecode.files import OutputError
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.run import _Run
from hyperdecode.pipeline.workers import Done
from hyperdecode.study.layout import Layout

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"


def harmed(*words):
    """Rows of the benchmark by their fault."""
    said = subprocess.run([sys.executable, BENCHMARK, "--json", *words], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return {row["fault"]: row for row in map(json.loads, said.stdout.splitlines())}


def test_a_kill_loses_nothing():
    rows = harmed("--kills", "1", "--disks", "0", "--seconds", "0", "--seed", "5")
    assert rows["kill -9 during run"]["tried"] == 1
    assert {fault: row["lost"] for fault, row in rows.items()} == {fault: [] for fault in rows}


@pytest.mark.slow
def test_fifty_kills_lose_nothing():
    rows = harmed("--seed", "1")
    assert rows["kill -9 during run"]["tried"] == 50 and rows["kill -9 during run"]["in_the_middle"] > 25
    assert {fault: row["lost"] for fault, row in rows.items()} == {fault: [] for fault in rows}


def test_a_full_disk_is_no_fault_of_the_run_that_met_it(tmp_path):
    """`--skip-failed` would else leave out one run of BOLD after the other."""

    def analysis():
        runs = {"01": [SimpleNamespace(stem="sub-01_run-1"), SimpleNamespace(stem="sub-01_run-2")]}
        return _Run(SimpleNamespace(layout=Layout(tmp_path)), runs, None, False, None, None)

    step = Step("zmaps_sub-01_run-1", 1, {}, (), (), dict)
    full, broken = analysis(), analysis()
    with pytest.raises(OutputError, match="no room"):
        full.drop(Done(step, error=OutputError("no room")), True)
    assert full.result.skipped == {}
    broken.drop(Done(step, error=UserError("truncated")), True)
    assert broken.result.skipped == {"sub-01_run-1": "truncated"}

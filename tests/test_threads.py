"""How many threads work of our own uses."""

import os
import subprocess
import sys

import pytest

from hyperdecode import threads


@pytest.mark.parametrize(("said", "found"), [("1", 1), ("3", 3), ("64", 4), ("0", 1), ("", 4), ("4,2", 4)])
def test_the_environment_decides_within_the_cores(monkeypatch, said, found):
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads.default_threads() == found


def test_what_was_set_is_the_default(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    threads.set_threads(1)
    assert threads.default_threads() == 1


ASK = """
import sys, torch
from hyperdecode.cli import main
sys.argv = ["hyperdecode", *sys.argv[1:], "status", "nowhere"]
try:
    main()
except SystemExit:
    print(torch.get_num_threads())
"""


@pytest.mark.parametrize(("words", "found"), [((), "1"), (("--threads", "2"), "2")])
def test_the_program_takes_threads_from_the_environment(words, found):
    """As BLAS does; what is said on the command line goes first."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ASK, *words]
    assert subprocess.check_output(command, env=environment, text=True, stderr=subprocess.DEVNULL).strip() == found

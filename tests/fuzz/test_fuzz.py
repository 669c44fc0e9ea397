"""Two thousand harmed inputs, of every reader: each is read rightly, or refused in one line, and nothing else happens.

`make fuzz` runs ten times as many, in processes of limited memory. A failure names the command that repeats it.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager

import pytest

from tests.fuzz.harness import Bench, Case, Link, Pipe, cases
from tests.fuzz.mutators import prepare
from tests.fuzz.targets import TARGETS

INPUTS, SEED = 2000, 2026
SECONDS, PATIENCE = 5, 60
"""CPU time that a reader has; and waiting time, which other programs take part of."""


@contextmanager
def in_time():
    def late(*_):
        raise TimeoutError(f"no answer in {SECONDS} s of CPU time, or {PATIENCE} s")

    before = {which: signal.signal(which, late) for which in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for which, handler in before.items():
            signal.signal(which, handler)


@pytest.mark.parametrize("name", TARGETS)
def test_harmed_inputs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare()
    bench, n, n_refused = Bench(name, tmp_path / "bench"), cases(INPUTS)[name], 0
    for number in range(n):
        case = Case(SEED, name, number)
        with in_time():
            refused, problem = bench.problem(case)
        assert problem is None, f'{problem}\nrepeat it: python -m tests.fuzz --case "{case}"'
        n_refused += refused
    # Harm that never reached the reader would prove nothing.
    assert n_refused > n / 5
    assert n_refused < n or not TARGETS[name].sound or n < 100
    assert not (tmp_path / "canary").exists()


def test_all_inputs_are_shared_among_the_readers():
    assert 20_000 <= sum(cases(20_000).values()) <= 20_000 + len(TARGETS)
    assert set(cases(20_000)) == set(TARGETS) and min(cases(20_000).values()) > 100


def test_a_case_is_the_same_again(tmp_path):
    bench = Bench("events", tmp_path / "bench")
    made = [bench.harmed(Case(1, "events", number)) for number in (3, 4, 3)]
    assert made[0] == made[2] != made[1]


# What the harness must see, shown to it


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda study: (study / "new.txt").write_text("x"), "to write"),
        (lambda study: (study.parent / "secret.png").read_bytes(), "outside of the study"),
        (lambda study: exec("1"), "ran code of"),
        (lambda study: (study / "events.tsv").unlink(), "os.remove"),
        (lambda study: {}["a"], "KeyError: 'a'"),
        (lambda study: _refuse("two\nlines"), "several lines"),
        (lambda study: _refuse("\x1b[2J"), "control characters"),
        (lambda study: _refuse("c" * 5000), "5000 characters"),
    ],
)
def test_what_is_found(tmp_path, read, words):
    bench = Bench("events", tmp_path / "bench")
    object.__setattr__(bench, "target", type("Broken", (), {**vars(bench.target), "read": staticmethod(read)})())
    problems = [bench.problem(Case(0, "events", number))[1] for number in range(3)]
    assert any(problem and words in problem for problem in problems), problems


def _refuse(message):
    from hyperdecode.errors import UserError

    raise UserError(message)


def test_special_files_are_among_the_harm(tmp_path):
    bench = Bench("bids", tmp_path / "bench")
    seen = {type(f) for n in range(250) for f in bench.harmed(Case(0, "bids", n)).values()}
    assert {bytes, Link, Pipe} <= seen

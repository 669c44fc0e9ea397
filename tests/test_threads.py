"""How many threads work of our own uses."""

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

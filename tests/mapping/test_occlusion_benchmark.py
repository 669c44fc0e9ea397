"""The benchmark of occlusion compares what it says, and says what it found."""

import sys
from argparse import Namespace

import pytest

from benchmarks import occlusion
from benchmarks.occlusion import growth_point, inference_claims, linear_claims, record, show
from hyperdecode.mapping.linear_occlusion import occlude_linear

QUICK = Namespace(quick=True, threads=1)
KEYS = {"claim", "peer", "ours_s", "peer_s", "ratio", "max_diff", "goal", "met"}


def test_all_loops_find_our_losses():
    rows = linear_claims(QUICK)
    assert all(set(row) == KEYS for row in rows)
    loops, (clock,) = rows[:3], rows[3:]
    assert len({row["peer"] for row in loops}) == 3
    assert all(row["max_diff"] < 1e-6 for row in loops)
    assert clock["met"] and "threads: 1" in clock["claim"]
    (inference,) = inference_claims(QUICK)
    assert inference["max_diff"] < 1e-6


def test_other_losses_would_be_noticed(monkeypatch):
    monkeypatch.setattr(occlusion, "occlude_linear", lambda *given: 1.00001 * occlude_linear(*given))
    assert all(row["max_diff"] > 1e-6 and not row["met"] for row in linear_claims(QUICK)[:3])


def test_a_size_is_measured():
    point = growth_point(300, 8, 2)
    assert point["peak"] > 0.01 and point["cpu"] > 0 and point["size"] > 20


def test_a_missed_claim_is_said_to_be_missed():
    row = record("a", "b", 1.0, 2.0, "ratio <= 0.001", False, 1e-9)
    assert row["ratio"] == 0.5 and show(row).startswith("MISSED a: 1.00 s against 2.00 s of b")


def test_what_fails_in_another_process_is_told():
    with pytest.raises(RuntimeError, match="no such thing"):
        occlusion.answer([sys.executable, "-c", "raise SystemExit('no such thing')"])

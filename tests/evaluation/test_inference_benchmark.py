"""The benchmark of tests on null subjects says what it found, and notices tests that are not valid."""

import numpy as np

from benchmarks.inference import FAMILIES, INVALID, KINDS, METRICS, PRIMARY, collected, over_subjects, record, records


def test_every_kind_and_test_has_a_line_and_invalid_ones_are_caught():
    lines = records(collected(16, 1))
    assert len(lines) == len(KINDS) * (len(PRIMARY) + len(FAMILIES) + len(INVALID)) + len(METRICS)
    assert all(set(line) == {"claim", "rate", "low", "high", "goal", "met"} for line in lines)
    assert all(line["low"] <= line["rate"] <= line["high"] for line in lines)
    paper = [line for line in lines if "random latents" in line["claim"]]
    assert len(paper) == 3 and all(line["rate"] == 1 and line["met"] for line in paper)


def test_a_rate_is_judged_by_its_role():
    few, many = np.arange(1000) < 50, np.arange(1000) < 150
    assert record("noise", "a test", few, "primary")["met"]
    assert not record("noise", "a test", many, "primary")["met"]
    assert record("noise", "a test", few & False, "family")["met"]
    assert not record("noise", "a test", many, "family")["met"]
    assert record("noise", "a test", many, "invalid")["met"]
    assert not record("noise", "a test", few, "invalid")["met"]


def test_groups_of_subjects():
    found = over_subjects(np.full(8, 0.01), np.array([0.6, 0.61, 0.62, 0.6, 0.5, 0.3, 0.7, 0.5]))
    assert found["fisher"].tolist() == [True] * 4
    assert found["population"].tolist() == [True, False] and found["claim"].all()

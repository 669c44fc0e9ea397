"""Dots and bars of attributes stand where their numbers say, in every theme's colours."""

import re

import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.attribute_scores import attribute_table
from hyperdecode.report.attributeplot import (
    LABELS,
    MARGIN,
    SIDE,
    WIDTH,
    AttributePoints,
    correlation_bars,
    scatter_panels,
)

NAMES = ("age", "smile <3")
TRUE = np.array([[-2.0, 0.0], [0.0, 1.0], [2.0, -1.0], [1.0, 0.5]])
DECODED = np.array([[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0], [0.0, 0.5]])
POINTS = AttributePoints([f"face-{i}" for i in range(4)], NAMES, DECODED, TRUE)


def scores(decoded=DECODED):
    return attribute_table(decoded, TRUE, NAMES, n_permutations=99)


def test_a_dot_a_face_at_its_scores():
    first, second = re.findall(r"<svg.*?</svg>", scatter_panels(POINTS, scores(), "sub-01"))
    dots = re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', first)
    expected = [
        (MARGIN + (t / 2 + 1) / 2 * SIDE, (1 - d / 2) / 2 * SIDE) for t, d in zip(TRUE.T[0], DECODED.T[0], strict=True)
    ]
    np.testing.assert_allclose(np.array(dots, float), expected, atol=0.05)
    fit = re.search(r'class="fit of-0" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', second)
    x1, y1, x2, y2 = map(float, fit.groups())
    assert (y1 - y2) / (x2 - x1) == pytest.approx(1, abs=0.01), "decoded as true"
    assert "face-0: true \N{MINUS SIGN}2.000, decoded \N{MINUS SIGN}1.000" in first


def test_words_are_those_of_the_table_and_escaped():
    html = scatter_panels(POINTS, scores(), "sub-01")
    r, p = scores().loc[0, "r"], scores().loc[0, "p_value"]
    assert f"r = {r:.3f} (" in html and f"p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{p:.4f}" in html
    assert "smile <3" not in html and "smile &lt;3" in html
    assert "r = " not in scatter_panels(POINTS, None, "sub-01")
    assert scatter_panels(None, scores(), "sub-01") == ""


def test_bars_begin_at_zero_and_end_at_r():
    table = scores().assign(r=[0.5, -0.25], low=[0.2, -0.5], high=[0.8, 0.1], ceiling=[0.9, np.nan])
    html = correlation_bars({"sub-01": table, "sub-02": table})
    unit = (WIDTH - LABELS - 12) / 1.5
    bars = re.findall(r'<rect class="of-(\d)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', html)
    zero = LABELS + 0.5 * unit
    expected = [(zero, 0.5 * unit)] * 2 + [(zero - 0.25 * unit, 0.25 * unit)] * 2
    np.testing.assert_allclose([(float(x), float(width)) for _, x, width in bars], expected, atol=0.06)
    assert [place for place, *_ in bars] == ["0", "1", "0", "1"]
    assert html.count('class="ceiling"') == 2 and "noise ceiling" in html
    assert "age of sub-02 0.500" in html
    assert correlation_bars({}) == "" and correlation_bars({"sub-01": table.iloc[:0]}) == ""


def test_an_attribute_without_spread_has_no_bar():
    table = scores(np.column_stack([DECODED[:, 0], np.zeros(4)]))
    assert correlation_bars({"sub-01": table}).count("<rect") == 1
    assert isinstance(table, pd.DataFrame)


def test_scores_of_other_shapes_are_refused():
    with pytest.raises(UserError, match="4 faces and 2 attributes"):
        AttributePoints(POINTS.names, NAMES, DECODED[:3], TRUE)

"""Scores by averaged repeats below their ceiling."""

import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.report.ceilingfigure import ceiling_figure

COLUMNS = ["subject", "metric", "n_repeats", "score", "low", "high"]


def table():
    rows = [
        (subject, metric, n, 0.5 + 0.02 * n + shift, 0.5 + 0.01 * n, 0.6 + 0.02 * n)
        for subject, shift in (("sub-01", 0.0), ("sub-02", 0.05))
        for metric in ("cosine", "a<b>")
        for n in (14, 1, 2, 7)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.fixture
def drawn(monkeypatch):
    kept = []
    monkeypatch.setattr("hyperdecode.report.ceilingfigure.png_bytes", lambda figure: kept.append(figure) or b"png")
    return kept


def test_lines_pass_through_the_scores_in_the_order_of_repeats(drawn):
    ceiling_figure(table(), {("sub-01", "cosine"): 0.9, ("sub-02", "cosine"): np.nan}, {"cosine": 0.5})
    cosine, other = drawn[0].axes
    first, ceiling, second, floor = cosine.lines
    np.testing.assert_array_equal(first.get_xdata(), [1, 2, 7, 14])
    np.testing.assert_allclose(first.get_ydata(), [0.52, 0.54, 0.64, 0.78])
    np.testing.assert_allclose(second.get_ydata(), np.array([0.52, 0.54, 0.64, 0.78]) + 0.05)
    assert set(ceiling.get_ydata()) == {0.9} and set(floor.get_ydata()) == {0.5}
    assert ceiling.get_color() == first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker(), "subjects differ by more than colour"
    assert len(other.lines) == 2
    assert sorted(cosine.get_xticks()) == [1, 2, 7, 14]
    words = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert words == ["sub-01", "sub-02", "ceiling", "without the brain"]


def test_what_it_says():
    figure = ceiling_figure(table(), {("sub-01", "cosine"): 0.9}, {"cosine": 0.5})
    assert "Cosine of sub-01 from 0.520 at 1 to 0.780 at 14, ceiling 0.900" in figure.alt
    assert "without the brain (Cosine 0.5)" in figure.caption and "a&lt;b&gt;" in figure.html()
    assert "No noise ceiling was given." in ceiling_figure(table()).caption
    assert figure.png[:4] == b"\x89PNG"


def test_tables_that_cannot_be_drawn_are_refused():
    with pytest.raises(UserError, match="lack the column 'low'"):
        ceiling_figure(table().drop(columns="low"))
    with pytest.raises(UserError, match="nothing to draw"):
        ceiling_figure(table().iloc[:0])
    with pytest.raises(UserError, match="whole and at least 1"):
        ceiling_figure(table().assign(n_repeats=0.5))
    with pytest.raises(UserError, match="sub-01, cosine: n_repeats 14 has more than one score"):
        ceiling_figure(pd.concat([table(), table().iloc[:1]]))

"""Models as bars, methods as pictures: heights, intervals, places, words."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.beside import FACES_A_ROW, beside_figure, models_figure
from hyperdecode.report.strips import GAP
from tests.report.test_build import solid

COLUMNS = ["model", "subject", "metric", "score", "low", "high", "best_blind_score"]


def models(**changes):
    rows = [
        ("ridge", "sub-01", "cosine", 0.4, 0.3, 0.55, 0.1),
        ("ridge", "sub-02", "cosine", 0.3, np.nan, np.nan, np.nan),
        ("<dense>", "sub-01", "cosine", 0.2, 0.1, 0.25, 0.1),
        ("ridge", "sub-01", "odd metric", 0.9, 0.8, 0.95, 0.5),
    ]
    return pd.DataFrame(rows, columns=COLUMNS).assign(**changes)


@pytest.fixture
def drawn(monkeypatch):
    """Return what matplotlib was given."""
    kept = []
    monkeypatch.setattr("hyperdecode.report.beside.png_bytes", lambda figure: kept.append(figure) or b"png")
    return kept


def test_bars_have_the_heights_of_scores_and_whiskers_their_intervals(drawn):
    models_figure(models())
    (figure,) = drawn
    first, second = figure.axes
    assert [round(bar.get_height(), 6) for bar in first.patches] == [0.4, 0.3, 0.2]
    assert [bar.get_height() for bar in second.patches] == [0.9]
    assert [label.get_text() for label in first.get_xticklabels()] == ["ridge", "<dense>"]
    assert first.get_ylabel() == "Cosine" and second.get_ylabel() == "odd metric"
    whiskers = [line.get_segments()[0][:, 1] for line in first.collections]
    np.testing.assert_allclose(whiskers, [[0.3, 0.55], [0.1, 0.25]])
    assert first.get_ylim()[0] == 0, "bars must start at zero"
    lines = [set(line.get_ydata()) for line in first.lines if line.get_linestyle() == "--"]
    assert lines == [{0.1}, {0.1}]
    x = [bar.get_x() + bar.get_width() / 2 for bar in first.patches]
    assert x[0] < 0 < x[1] < 0.5 < x[2] < 1, "subjects stand beside each other at their model"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "sub-01",
        "sub-02",
        "best predictor without the brain",
    ]


def test_models_in_words():
    figure = models_figure(models())
    assert "Cosine: ridge 0.350, <dense> 0.200; odd metric: ridge 0.900" in figure.alt
    assert "<dense>" not in figure.html() and "95% bootstrap intervals" in figure.caption
    assert Image.open(io.BytesIO(figure.png)).format == "PNG"


def test_tables_of_models_that_cannot_be_drawn_are_refused():
    with pytest.raises(UserError, match="lacks the column 'low'"):
        models_figure(models().drop(columns="low"))
    with pytest.raises(UserError, match="nothing to draw"):
        models_figure(models().iloc[:0])
    with pytest.raises(UserError, match=r"ridge, sub-01, cosine: the interval 0.5 to 0.55 does not hold the score 0.4"):
        models_figure(models(low=0.5))


def coloured(n, base, size):
    return np.stack([solid((base, 10 * i, 200), size) for i in range(n)])


def test_every_face_of_every_method_is_on_the_sheet_in_its_place():
    n, size = 11, 32
    figure = beside_figure(
        coloured(n, 0, 64),
        {"HYPER": coloured(n, 100, 64), "eigenfaces": coloured(n, 180, 16)},
        {"eigenfaces": coloured(n, 250, 16)},
        size=size,
        label="sub-01",
    )
    sheet = np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")).astype(int)
    assert figure.uri.startswith("data:image/jpeg")
    left = sheet.shape[1] - FACES_A_ROW * (size + GAP)
    tall = (sheet.shape[0] - 2 * GAP) // 2
    for i in range(n):
        block, column = divmod(i, FACES_A_ROW)
        for row, base in enumerate((0, 100, 180, 250)):
            y = block * (tall + 2 * GAP) + tall - (4 - row) * (size + GAP) + size // 2
            colour = sheet[y, left + column * (size + GAP) + size // 2]
            assert np.abs(colour - (base, 10 * i, 200)).max() <= 8, (i, row, colour)
    assert "rows: shown; HYPER, from the brain; eigenfaces, from the brain; eigenfaces, best possible" in figure.alt
    assert figure.title == "Methods beside each other of sub-01" and "answers of sub-01" in figure.caption


def test_methods_without_one_picture_a_face_are_refused():
    faces = coloured(3, 0, 16)
    with pytest.raises(UserError, match="HYPER, from the brain: got 2 pictures of 3 faces"):
        beside_figure(faces, {"HYPER": faces[:2]}, {})
    with pytest.raises(UserError, match="got 3 faces and 0 methods"):
        beside_figure(faces, {}, {})

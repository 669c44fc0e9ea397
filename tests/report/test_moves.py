"""Sheets of moved faces and what the page is handed of them."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.build import render_report
from hyperdecode.report.moves import COLUMNS, FaceMoves, move_sheet, moved, moves_view
from tests.report.test_build import N, data, solid  # noqa: F401

AMOUNTS = (-2.0, 2.0)
BETWEEN = (0.0, 0.5, 1.0)
N_TILES = len(BETWEEN) + 2 * len(AMOUNTS)


def colour(face, tile):
    return (40 * face, 30 * tile, 90)


def face_moves(label="sub-01", n=N):
    """Each tile of a colour that names it."""
    sheets = [move_sheet(np.stack([solid(colour(i, k), 16) for k in range(N_TILES)])) for i in range(n)]
    scores = np.arange(2.0 * n).reshape(n, 2) / 10
    return FaceMoves(label, 16, BETWEEN, ("age", "smile"), AMOUNTS, scores, scores + 0.5, sheets)


def test_tiles_stand_row_by_row():
    sheet = np.asarray(Image.open(io.BytesIO(face_moves().sheets[2])).convert("RGB")).astype(int)
    assert sheet.shape == (32, COLUMNS * 16, 3)
    for tile in range(N_TILES):
        row, column = divmod(tile, COLUMNS)
        assert np.abs(sheet[16 * row + 8, 16 * column + 8] - colour(2, tile)).max() <= 8, tile


def test_latents_are_in_the_order_of_the_tiles():
    line = np.array([[1.0, 1.0], [2.0, 3.0]])
    found = moved(line, np.array([[0.5, 0.0], [0.0, 2.0]]), (-1.0, 3.0))
    np.testing.assert_array_equal(found, [[1, 1], [2, 3], [0.5, 1], [2.5, 1], [1, -1], [1, 7]])
    np.testing.assert_array_equal(moved(line, np.zeros((0, 2)), ()), line)


def test_the_page_is_handed_each_sheet_once():
    view = moves_view([face_moves("sub-01"), face_moves("sub-02")], [f"face {i}" for i in range(N)])
    assert [name for name, _ in view["sheets"]] == [f"sheet-{s}-{i}" for s in (0, 1) for i in range(N)]
    assert base64.b64decode(dict(view["sheets"])["sheet-1-3"]) == face_moves().sheets[3]
    assert view["head"]["subjects"][1] == {
        "label": "sub-02", "decoded": face_moves().decoded.tolist(), "true": (face_moves().decoded + 0.5).tolist()
    }  # fmt: skip
    assert moves_view([], []) is None


def test_parts_that_do_not_belong_together_are_refused(data):  # noqa: F811
    some = face_moves()
    with pytest.raises(UserError, match="6 sheets and 1 attributes"):
        replace(some, attributes=("age",))
    with pytest.raises(UserError, match="goes from 0 to 1"):
        replace(some, between=(0.0, 0.5))
    with pytest.raises(UserError, match="sub-01: moves of 5 faces came with 6 stimuli"):
        replace(data, moves=[face_moves(n=5)])


def test_pictures_of_the_sliders_are_no_pictures_of_the_page_until_they_are_wanted(data):  # noqa: F811
    plain, html = render_report(data), render_report(replace(data, moves=[face_moves()]))
    assert 'id="moves"' not in plain and "Move this face" not in plain
    assert html.count("<img") == plain.count("<img"), "sheets are text until a script decodes them"
    assert html.count('<script type="text/plain" id="sheet-0-') == N
    assert html.count('type="range"') == 3 and "one attribute at a time" in html

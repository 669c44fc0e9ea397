"""Strips: every picture stands where its labels say."""

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.report.strips import GAP, picture_strip, reconstruction_strip


def coloured(rows, columns, side):
    levels = np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns, 1, 1, 1) * 10 + 50
    return np.broadcast_to(levels, (rows, columns, side, side, 3)).copy()


def test_pictures_lie_in_rows_and_columns():
    sheet = np.asarray(picture_strip(coloured(2, 3, 40), ["a", "b", "c"], ["first", "second"], "title"))
    centres = [
        [sheet[-(2 - row) * (40 + GAP) + 20, -(3 - column) * (40 + GAP) + 20] for column in range(3)]
        for row in range(2)
    ]
    assert np.array_equal(np.array(centres)[..., 0], [[50, 60, 70], [80, 90, 100]])


def test_labels_take_room_above_and_beside_and_none_without_them():
    bare = picture_strip(coloured(1, 2, 40), [])
    labelled = picture_strip(coloured(1, 2, 40), ["+3 SD", "-3 SD"], ["a long name of a face"], "title")
    assert labelled.width > bare.width and labelled.height > bare.height
    assert bare.size == (2 * (40 + GAP), 40 + 2 * GAP)
    ink = np.asarray(labelled)[: labelled.height - 40 - GAP]
    assert (ink < 100).any(), "nothing is written above the pictures"


def test_strip_puts_each_picture_in_its_place():
    def shade(value):
        return (
            np.full((3, 30, 30, 3), 0, np.uint8)
            + np.uint8(value)
            + np.arange(3, dtype=np.uint8)[:, None, None, None] * 40
        )

    sheet = reconstruction_strip(
        shade(10), {"sub-01": shade(100), "sub-02": shade(130)}, names=["a", "b", "c"], size=32
    )
    pixels = np.asarray(sheet)
    left, top = sheet.width - 3 * 38, sheet.height - 3 * 38
    for row, base in enumerate((10, 100, 130)):
        for column in range(3):
            assert np.all(pixels[top + row * 38 + 16, left + column * 38 + 16] == base + 40 * column)


def test_strip_refuses_rows_that_do_not_fit():
    faces = np.zeros((3, 8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="sub-01: got 2"):
        reconstruction_strip(faces, {"sub-01": faces[:2]})
    with pytest.raises(UserError, match="1 names for 3"):
        reconstruction_strip(faces, {"sub-01": faces}, names=["a"])

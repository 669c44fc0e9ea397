"""Strips: every picture stands where its labels say."""

import numpy as np

from hyperdecode.report.strips import GAP, picture_strip


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

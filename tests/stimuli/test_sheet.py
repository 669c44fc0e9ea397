import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.stimuli.sheet import Section, contact_sheet


def plain(colours, side=20):
    return [np.full((side, side, 3), colour, np.uint8) for colour in colours]


RED, GREEN, BLUE, TEAL = (200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 150, 150)


def centres(sheet, colour):
    """Middle of the patches of one colour, in reading order."""
    mask = (np.asarray(sheet) == colour).all(-1)
    return np.argwhere(mask).mean(0).tolist() if mask.any() else None


def test_sections_rows_and_labels():
    first = Section("two", plain([RED, GREEN]), ["a", "b"])
    second = Section("three", iter(plain([BLUE, TEAL, (9, 9, 9)])), ["c", "d", "e"])
    sheet = contact_sheet([first, Section("none", [], []), second], side=40, columns=2)
    assert sheet.size[0] == 6 + 2 * 46
    at = {name: centres(sheet, colour) for name, colour in (("r", RED), ("g", GREEN), ("b", BLUE), ("t", TEAL))}
    assert at["r"][0] == at["g"][0] < at["b"][0] == at["t"][0]
    assert at["r"][1] == at["b"][1] == 6 + 19.5 and at["g"][1] == at["t"][1] == 6 + 46 + 19.5
    assert (np.asarray(sheet) == RED).all(-1).sum() == 1600
    last = centres(sheet, (9, 9, 9))
    assert last[0] > at["b"][0] + 40 and last[1] == at["b"][1]
    # Under each picture, and above each section, there is writing.
    picture = np.asarray(sheet.convert("L")).astype(int)
    for y, x in (at["r"], at["g"], last):
        below = picture[int(y) + 21 : int(y) + 36, int(x) - 19 : int(x) + 19]
        assert below.min() < 160 and below.max() == 255
    assert picture[:22, 6:40].min() < 100


def test_labels_say_which():
    one, other = (contact_sheet([Section("x", plain([RED]), [name])]) for name in ("test-0001", "test-0002"))
    assert (np.asarray(one) != np.asarray(other)).any()


def test_refused():
    with pytest.raises(UserError, match="got 0"):
        contact_sheet([Section("x", [], [])])
    with pytest.raises(UserError, match="got 1001"):
        contact_sheet([Section("x", [], ["a"] * 1001)])
    with pytest.raises(UserError, match="'x' must have one label a picture, got 3"):
        contact_sheet([Section("x", plain([RED]), ["a", "b", "c"])])

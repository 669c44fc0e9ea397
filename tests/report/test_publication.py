"""Figures for a journal: sizes, type, text as text, the same bytes twice, what is drawn where."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.publication.attributes import attributes_plate
from hyperdecode.report.publication.experiment import Trials, _lit, experiment_plate
from hyperdecode.report.publication.faces import choose_faces, methods_plate, short_names, ways_plate
from hyperdecode.report.publication.scores import scores_plate
from hyperdecode.report.publication.style import (
    INCH,
    LARGEST,
    ONE_COLUMN,
    SMALLEST,
    STYLE,
    TWO_COLUMNS,
    written,
)

NAMES = [f"test-{k:04d}" for k in range(6)]
SCORES = np.array([0.1, 0.9, 0.5, -0.25, 0.7, 0.3])


def chosen(n=4):
    return choose_faces(NAMES, SCORES, n, "cosine")


def ways(n=4, steps=3, side=64):
    """Each picture of one colour: red tells the face, green the step."""
    pictures = np.zeros((n, steps, side, side, 3), np.uint8)
    pictures[..., 0] = 40 * np.arange(n)[:, None, None, None]
    pictures[..., 1] = 100 * np.arange(steps)[:, None, None]
    return pictures


def models():
    rows = [
        ("ridge", "sub-01", "cosine", 0.4, 0.3, 0.55, 0.1),
        ("ridge", "sub-02", "cosine", 0.3, np.nan, np.nan, np.nan),
        ("ridge", "sub-01", "ssim_hyper-paper", 0.5, 0.4, 0.6, 0.45),
        ("eigenfaces", "sub-01", "ssim_hyper-paper", 0.55, 0.5, 0.6, 0.45),
    ]
    return pd.DataFrame(rows, columns=["model", "subject", "metric", "score", "low", "high", "best_blind_score"])


def attributes():
    columns = ["attribute", "r", "low", "high", "q_value", "ceiling"]
    rows = [("age", 0.5, 0.2, 0.7, 0.01, 0.8), ("smile", -0.1, -0.4, 0.2, 0.6, np.nan)]
    return {"sub-01": pd.DataFrame(rows, columns=columns)}


def runs():
    table = pd.DataFrame({"onset": [6.0, 10.5, 15.0], "duration": 1.5, "trial_type": ["train", "test", "train"]})
    return [table.assign(stim_file=[f"{run}.png", "test-0000.png", f"{run}b.png"]) for run in "ab"]


def trials(flash_hz=3.33):
    return Trials(
        np.zeros((3, 32, 32, 3), np.uint8),
        np.full((32, 32, 3), 128, np.uint8),
        [6.0, 10.5, 15.0],
        1.5,
        3.0,
        flash_hz,
        0.5,
    )


PLATES = {
    "experiment": lambda: experiment_plate(trials(), runs(), "sub-01", "Faces were made."),
    "ways": lambda: ways_plate(ways(), chosen(), "sub-01"),
    "scores": lambda: scores_plate(models(), attributes()),
    "attributes": lambda: attributes_plate(ways(), np.ones((4, 3, 2)), ["age", "smile"], chosen(), "sub-01"),
    "methods": lambda: methods_plate(
        ways()[:, 0], {"HYPER": ways()[:, 1]}, {"eigenfaces": ways(side=16)[:, 2]}, chosen(), "sub-01"
    ),
}


@pytest.mark.parametrize("name", PLATES)
def test_figures_are_a_column_wide_in_type_that_journals_take(name):
    canvas = PLATES[name]().canvas
    width, height = INCH * canvas.get_size_inches()
    assert any(width == pytest.approx(column) for column in (ONE_COLUMN, TWO_COLUMNS))
    assert height < 240, "a page is no taller"
    sizes = {text.get_fontsize() for text in canvas.findobj(Text) if text.get_text()}
    assert sizes and min(sizes) >= SMALLEST and max(sizes) <= LARGEST


@pytest.mark.parametrize("name", PLATES)
def test_text_of_a_pdf_is_text_in_truetype(name, monkeypatch):
    monkeypatch.setitem(STYLE, "pdf.compression", 0)
    data = written(PLATES[name]().canvas, "pdf", 300)
    assert b"/Subtype /CIDFontType2" in data or b"/Subtype /TrueType" in data
    assert b"/Subtype /Type3" not in data and b"/FontFile2" in data
    operators = re.findall(rb"\bBT\b.*?\bET\b", data, re.DOTALL)
    assert operators and any(b"Tj" in one or b"TJ" in one for one in operators)
    assert b"CreationDate" not in data and b"/Creator (hyperdecode)" in data


@pytest.mark.parametrize("form", ["pdf", "png"])
def test_the_same_figure_is_the_same_bytes(form):
    one, other = (written(PLATES["scores"]().canvas, form, 300) for _ in range(2))
    assert one == other


def test_a_png_has_the_size_and_resolution_asked_for():
    picture = Image.open(io.BytesIO(written(PLATES["ways"]().canvas, "png", 300)))
    assert picture.width == pytest.approx(ONE_COLUMN / INCH * 300, abs=1)
    assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match="pdf or png, not 'svg'"):
        written(PLATES["ways"]().canvas, "svg", 300)


def test_faces_are_chosen_evenly_from_the_best_to_the_worst():
    assert list(chosen(6).places) == [1, 4, 2, 5, 0, 3]
    some = chosen(3)
    assert some.places[0] == 1 and some.places[-1] == 3 and len(some.places) == 3
    assert "3 of the 6 test faces, at even distances" in some.words and "All 6 test faces, from" in chosen(9).words
    with pytest.raises(UserError, match="at least 2"):
        chosen(1)
    assert list(choose_faces(NAMES[:3], np.array([np.nan, 0.2, 0.5]), 3, "cosine").places) == [2, 1, 0]


def test_faces_stand_in_their_row_and_column():
    plate = ways_plate(ways(), chosen(), "sub-01")
    picture = np.asarray(Image.open(io.BytesIO(written(plate.canvas, "png", 300))).convert("RGB"))
    axes = [one for one in plate.canvas.axes if one.images]
    assert len(axes) == 12
    for one in axes:
        box = one.get_position()
        row = 1 - (box.y0 + box.y1) / 2
        colour = picture[int(row * picture.shape[0]), int((box.x0 + box.x1) / 2 * picture.shape[1])]
        np.testing.assert_allclose(colour, one.images[0].get_array()[0, 0], atol=3)
    top = sorted(axes, key=lambda one: -one.get_position().y0)[:4]
    assert {int(one.images[0].get_array()[0, 0, 1]) for one in top} == {200}, "what was shown stands above"
    lefts = [one.images[0].get_array()[0, 0, 0] for one in sorted(top, key=lambda one: one.get_position().x0)]
    assert [int(value) for value in lefts] == [0, 40, 80, 120]
    words = [text.get_text() for text in plate.canvas.texts]
    assert {"shown", "50%", "decoded", "0.90", "\N{MINUS SIGN}0.25", "test-0001"} <= set(words)


def test_bars_of_attributes_have_the_lengths_of_scores():
    scores = np.arange(24, dtype=float).reshape(4, 3, 2) / 10
    plate = attributes_plate(ways(), scores, ["age", "smile"], chosen(), "sub-01")
    bars = [one for one in plate.canvas.axes if one.patches]
    assert len(bars) == 4
    for face, axes in enumerate(bars):
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], scores[face].ravel())
        assert axes.get_xlim() == (-2.5, 2.5)
    assert "age 0.40, smile 0.40" in plate.caption
    assert [axes.get_xlabel() != "" for axes in bars] == [False, False, False, True]


def test_scores_and_their_words():
    plate = scores_plate(models(), attributes())
    cosine, ssim, correlations = plate.canvas.axes[:3]
    assert [label.get_text() for label in cosine.get_xticklabels()] == ["ridge"], "a baseline has no latents of ours"
    assert [label.get_text() for label in ssim.get_xticklabels()] == ["ridge", "eigenfaces"]
    np.testing.assert_allclose([bar.get_height() for bar in correlations.patches], [0.5, -0.1])
    assert "Cosine 0.400 (0.300 to 0.550; without the brain 0.100)" in plate.caption
    assert "age r = 0.50 (0.20 to 0.70), q = 0.01" in plate.caption
    assert "smile r = \N{MINUS SIGN}0.10 (\N{MINUS SIGN}0.40 to 0.20)" in plate.caption
    assert "B, " not in scores_plate(models(), {}).caption


def test_a_face_that_flashes_is_seen_in_flashes():
    np.testing.assert_allclose(_lit(trials(2.0)), [(0, 0.25), (0.5, 0.75), (1.0, 1.25)])
    assert _lit(trials(0.0)) == [(0.0, 1.5)]
    assert len(_lit(trials(3.33))) == 5, "3.33 Hz for 1.5 s"


def test_the_caption_of_the_experiment_counts_trials():
    said = PLATES["experiment"]().caption
    assert "2 runs: 4 training trials and 2 trials of 1 test faces" in said and "C, each dot" in said
    assert "on for 1.5 s, flashing at 3.33 Hz, then the fixation target for 3 s" in said


def test_long_names_lose_what_all_begin_with():
    names = ["test-0012", "test-0015"]
    assert short_names(names, 9) == names
    assert short_names(names, 5) == ["0012", "0015"], "a number stays whole"
    assert short_names(["a-long-name", "another"], 5) == ["\N{HORIZONTAL ELLIPSIS}name", "\N{HORIZONTAL ELLIPSIS}ther"]

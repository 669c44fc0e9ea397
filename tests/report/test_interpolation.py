"""Strips from decoded to true: the latents between, every face and bar in its place, a bounded size."""

import io

import numpy as np
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.report.figures import BLUE, ORANGE
from hyperdecode.report.interpolation import BARS, interpolated, interpolation_pages
from hyperdecode.report.strips import GAP
from tests.report.test_build import solid

NAMES = [f"test-{i}.png" for i in range(5)]


def test_latents_lie_evenly_between_the_two():
    rng = np.random.default_rng(0)
    predicted, true = rng.standard_normal((2, 3, 4))
    line = interpolated(predicted, true, 5)
    assert line.shape == (3, 5, 4)
    np.testing.assert_array_equal(line[:, 0], predicted)
    np.testing.assert_array_equal(line[:, -1], true)
    np.testing.assert_allclose(line[:, 1], 0.75 * predicted + 0.25 * true)
    np.testing.assert_allclose(np.diff(line, axis=1), np.repeat((true - predicted)[:, None] / 4, 4, axis=1))


def test_latents_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"got shapes \(2, 3\) and \(2, 4\)"):
        interpolated(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(UserError, match="NaN or infinity"):
        interpolated(np.full((2, 3), np.nan), np.zeros((2, 3)))
    with pytest.raises(UserError, match="at least 2 steps"):
        interpolated(np.zeros((2, 3)), np.zeros((2, 3)), 1)


def strips(n=5, steps=3, side=20):
    return np.stack([np.stack([solid((40 * i, 100, 90 * k), side) for k in range(steps)]) for i in range(n)])


def pages(scores=None, **options):
    values = np.zeros((5, 3, 2)) if scores is None else scores
    return interpolation_pages(strips(), values, ["age", "smile"], NAMES, size=48, **options)


def opened(figure):
    return np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")).astype(int)


def test_each_face_stands_in_its_row_and_step_on_its_page():
    first, second = pages(faces_a_page=3, label="sub-01")
    assert first.title == "From decoded to true of sub-01, page 1 of 2" and "page 2 of 2" in second.title
    for page, faces in ((first, range(3)), (second, range(3, 5))):
        sheet = opened(page)
        row = 48 + GAP
        top = sheet.shape[0] - GAP - row * len(faces)
        for place, i in enumerate(faces):
            line = sheet[top + place * row + 24]
            for k in range(3):
                near = np.abs(line - (40 * i, 100, 90 * k)).max(axis=1) <= 10
                assert near.sum() >= 40, (i, k)
                assert np.ptp(np.flatnonzero(near)) < 60
    assert "test-0 to test-2" in first.alt and "test-3 to test-4" in second.alt


def bars_of(sheet, colour):
    """Columns of the bars' area in which a colour lies."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    area = sheet[40:, -(BARS + 2 * GAP) :]
    return np.flatnonzero((np.abs(area - wanted).max(axis=2) <= 25).any(axis=0))


def test_bars_reach_as_far_as_their_scores():
    scores = np.zeros((5, 3, 2))
    scores[0, :, 0] = [-2.0, 0.0, 1.0]
    (page,) = pages(scores)
    sheet = opened(page)
    decoded, true = bars_of(sheet, ORANGE), bars_of(sheet, BLUE)
    # The axis reaches from -2 to 2 standard deviations, a pixel of JPEG more or less.
    assert decoded.min() == pytest.approx(0, abs=3) and decoded.max() == pytest.approx(BARS / 2, abs=3)
    assert true.min() == pytest.approx(BARS / 2, abs=3) and true.max() == pytest.approx(BARS * 3 / 4, abs=3)
    assert "from \N{MINUS SIGN}2 to 2 standard deviations" in page.caption
    assert "age 0.60, smile 0.00" in page.alt


def test_without_attributes_there_are_faces_alone():
    (bare,) = interpolation_pages(strips(), np.zeros((5, 3, 0)), [], NAMES, size=48)
    (full,) = pages()
    assert opened(bare).shape[1] < opened(full).shape[1] - BARS
    assert "attribute" not in bare.alt and "Bars" not in bare.caption and "All test faces are shown" in bare.caption


def test_pages_keep_to_their_size_and_say_when_they_cannot():
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 256, (5, 3, 48, 48, 3)).astype(np.uint8)
    free = interpolation_pages(noisy, np.zeros((5, 3, 1)), ["age"], NAMES, size=48)
    full = len(free[0].png)
    (smaller,) = interpolation_pages(noisy, np.zeros((5, 3, 1)), ["age"], NAMES, size=48, max_bytes=full - 1)
    assert len(smaller.png) < full
    with pytest.raises(UserError, match="draw smaller faces or fewer steps"):
        interpolation_pages(noisy, np.zeros((5, 3, 1)), ["age"], NAMES, size=48, max_bytes=1000)


def test_strips_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"got float64 of shape \(5, 3, 20, 20, 3\)"):
        interpolation_pages(strips() / 255.0, np.zeros((5, 3, 2)), ["age", "smile"], NAMES)
    with pytest.raises(UserError, match="came with 4 names"):
        interpolation_pages(strips(), np.zeros((5, 3, 2)), ["age", "smile"], NAMES[:4])
    with pytest.raises(UserError, match=r"scores of shape \(5, 3, 2\)"):
        interpolation_pages(strips(), np.zeros((5, 3, 1)), ["age", "smile"], NAMES)
    with pytest.raises(UserError, match="must be finite"):
        pages(np.full((5, 3, 2), np.nan))

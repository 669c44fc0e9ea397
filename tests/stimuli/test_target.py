import math

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.stimuli.target import draw_target, fixation_target

SCALES = [8.0, 14.933333, 16.5, 40.0, 97.3]


def strip_in_disc(half, radius):
    """Area of a strip of half width `half` through the middle of a disc."""
    return 2 * (half * math.sqrt(radius**2 - half**2) + radius**2 * math.asin(half / radius))


def supersampled(scale, side, n=64, deg=0.6):
    """Parts of the target by counting points: ink and disc in each pixel."""
    at = (np.arange(side * n) + 0.5) / n - side / 2
    x, y = np.meshgrid(at, at)
    radius, half = scale * deg / 2, scale * deg / 6
    disc = np.hypot(x, y) <= radius
    cross = ((abs(x) <= half) | (abs(y) <= half)) & (np.hypot(x, y) > half)
    return [part.reshape(side, n, side, n).mean((1, 3)) for part in (disc & ~cross, disc)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("more", [0, 1, 2])
def test_areas_of_the_parts(scale, more):
    side = math.ceil(0.6 * scale) + more
    colour, alpha = fixation_target(scale, background=255, shape=(side, side))
    radius, half = 0.3 * scale, 0.1 * scale
    assert alpha.sum() == pytest.approx(math.pi * radius**2, rel=1e-9)
    cross = 2 * strip_in_disc(half, radius) - (2 * half) ** 2 - math.pi * half**2
    assert (alpha * colour[..., 0] / 255).sum() == pytest.approx(cross, rel=1e-9)
    ink, disc = supersampled(scale, side)
    np.testing.assert_allclose(alpha, disc, atol=0.02)
    np.testing.assert_allclose(alpha * (1 - colour[..., 1] / 255), ink, atol=0.03)


def test_areas_between_the_arms_and_of_the_dot():
    """Each part by itself, at a scale where its pixels can be told apart."""
    colour, alpha = fixation_target(100, background=200)
    ink = alpha * (1 - colour[..., 0] / 200)
    at = np.arange(60) - 29.5
    inside = np.hypot(*np.meshgrid(at, at)) < 12
    arms = (abs(at) < 9.9)[:, None] | (abs(at) < 9.9)[None, :]
    assert ink[inside & arms].sum() == pytest.approx(math.pi * 100, rel=1e-9)
    assert ink[~arms].sum() == pytest.approx(math.pi * 900 - 2 * strip_in_disc(10, 30) + 400, rel=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [None, (80, 80), (81, 81), (80, 81)])
def test_symmetry_and_centre(scale, shape):
    for part in fixation_target(scale, shape=shape):
        np.testing.assert_allclose(part, part[::-1], atol=1e-12)
        np.testing.assert_allclose(part, part[:, ::-1], atol=1e-12)
        if part.shape[0] == part.shape[1]:
            np.testing.assert_allclose(part, np.swapaxes(part, 0, 1), atol=1e-12)
    colour, alpha = fixation_target(scale, shape=shape)
    h, w = alpha.shape
    assert alpha[h // 2, w // 2] == pytest.approx(1) and colour[h // 2, w // 2, 0] < 128


def test_diameter_scales():
    """Twice the diameter is twice the pixels a degree, and four times the area."""
    small, large, finer = fixation_target(40), fixation_target(40, 1.2), fixation_target(80)
    for a, b in zip(large, finer, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert large[1].shape == (48, 48) and small[1].shape == (24, 24)
    halved = large[1].reshape(24, 2, 24, 2).mean((1, 3))
    np.testing.assert_allclose(halved, small[1], atol=1e-12)


@pytest.mark.parametrize("shape", [(224, 224), (225, 225), (224, 161)])
def test_drawing_over_a_picture(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = picture.copy()
    drawn = draw_target(picture, 40, background=90)
    np.testing.assert_array_equal(picture, before)
    colour, alpha = fixation_target(40, background=90, shape=shape)
    expected = (1 - alpha[..., None]) * picture + alpha[..., None] * colour
    assert np.abs(drawn - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(drawn[alpha == 0], picture[alpha == 0])
    assert (alpha > 0).sum() < 700 and (drawn != picture).any()
    y, x = shape[0] // 2, shape[1] // 2
    assert drawn[y, x].tolist() == [0, 0, 0]
    assert drawn[y - 8, x].tolist() == [90, 90, 90] and drawn[y, x + 8].tolist() == [90, 90, 90]
    assert drawn[y - 6, x + 6].tolist() == [0, 0, 0]


def test_on_its_background_only_ink_is_seen():
    plain = np.full((64, 64, 3), 77, np.uint8)
    drawn = draw_target(plain, 60.5, background=77)
    ink, _ = supersampled(60.5, 64)
    np.testing.assert_allclose(drawn[..., 0], 77 * (1 - ink), atol=2.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fixation_target(0), "above 0, got 0"),
        (lambda: fixation_target(20, math.nan), "above 0, got nan"),
        (lambda: fixation_target(20, background=256), "0 to 255, got 256"),
        (lambda: fixation_target(20, shape=(11, 30)), r"12\.0 px does not fit into 11 x 30"),
        (lambda: draw_target(np.zeros((20, 11, 3), np.uint8), 20), "does not fit into a picture of 20 x 11 px"),
        (lambda: draw_target(np.zeros((20, 20, 3)), 20), "uint8"),
    ],
)
def test_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()

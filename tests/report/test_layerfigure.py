import io

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.mapping.regions import OUTSIDE, RegionSet
from hyperdecode.report.cortexfigure import HEAD, LEGEND, ROW, UNASSIGNED, layer_colours
from hyperdecode.report.layerfigure import BAR, LOWER, TITLE, LayerSimilarity, layer_figure, region_bars

NAMES = ["4", "19"]
DPI = 50
AFFINE = np.array([[6.0, 0, 0, -90], [0, 6, 0, -126], [0, 0, 6, -72], [0, 0, 0, 1]])


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float) / 255


def covered(pixels, colour):
    return (np.abs(pixels - to_rgb(colour)).max(axis=2) < 0.04).sum()


def extent(pixels, colour, axis):
    """Count the columns (axis 0) or rows (1) that hold a colour."""
    return (np.abs(pixels - to_rgb(colour)).max(axis=2) < 0.04).any(axis=axis).sum()


def test_parts_of_a_bar_are_as_long_as_their_share():
    regions = RegionSet(("a", "b", OUTSIDE), np.repeat([0, 1, 2], [400, 100, 10]))
    layers = np.concatenate([np.repeat([0, 1, -1], [100, 200, 100]), np.repeat([0, 1], [20, 80]), np.full(10, -1)])
    pixels = picture(region_bars(layers, regions, NAMES, dpi=DPI))
    step = BAR * DPI
    top = round(0.6 * LEGEND * DPI)
    colours = [*layer_colours(2), UNASSIGNED]
    shares = [[0.25, 0.5, 0.25], [0.2, 0.8, 0], [0, 0, 1]]
    for number, expected in enumerate(shares):
        # A line through the bar above its numbers.
        line = pixels[round(top + (number + 0.22) * step)]
        lengths = np.array([(np.abs(line - to_rgb(colour)).max(axis=1) < 0.04).sum() for colour in colours])
        np.testing.assert_allclose(lengths / lengths.sum(), expected, atol=0.02)


def test_many_regions_make_a_taller_figure():
    few, many = (
        picture(region_bars(np.zeros(n, int), RegionSet(tuple(map(str, range(n))), np.arange(n)), NAMES, dpi=DPI))
        for n in (2, 40)
    )
    assert many.shape[0] - few.shape[0] == pytest.approx(38 * BAR * DPI, abs=2)


def test_figure_8_has_its_three_panels():
    values = np.zeros((31, 38, 32), np.int16)
    values[:, :14] = 1
    values[:, :8] = 2
    img = nib.Nifti1Image(values, AFFINE)
    regions = RegionSet(("a", "b"), np.repeat([0, 1], 50))
    layers = np.repeat([0, 1], 50)
    scores = np.random.default_rng(0).normal([[0.5], [0.25]], 0.01, (2, 36))
    seen = [
        picture(layer_figure(img, NAMES, layers, regions, LayerSimilarity(scores, blind), dpi=DPI, views=("lateral",)))
        for blind in (None, np.array([0.4, 0.2]))
    ]
    height = round((2 * ROW + HEAD + TITLE + LEGEND + LOWER) * DPI)
    assert seen[0].shape == (height, 12 * DPI, 3)
    red = [covered(pixels, "#c0392b") for pixels in seen]
    assert red[0] == 0 < red[1]
    first, last = layer_colours(2)
    brain, below = seen[0][: round(5.3 * DPI)], seen[0][-round(LOWER * DPI) :]
    assert min(covered(brain, first), covered(brain, last)) > 200
    bars, columns = below[:, : round(0.62 * 12 * DPI)], below[:, round(0.66 * 12 * DPI) :]
    lengths, heights = ([extent(bars, c, 0) for c in (first, last)], [extent(columns, c, 1) for c in (first, last)])
    assert lengths[0] == pytest.approx(lengths[1], abs=4) and lengths[0] > 0.3 * 12 * DPI
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.1)


def test_what_does_not_fit_together_is_refused():
    img = nib.Nifti1Image(np.ones((31, 38, 32), np.int16), AFFINE)
    regions = RegionSet(("a",), np.zeros(3, int))
    good = np.zeros((2, 5))
    for scores, blind, message in (
        (np.zeros((3, 5)), None, r"shape \(2 layers, n_faces\), got shape \(3, 5\)"),
        (np.full((2, 5), np.nan), None, "similarities are finite"),
        (good, np.zeros(3), "one for each of 2 layers"),
    ):
        with pytest.raises(UserError, match=message):
            layer_figure(img, NAMES, [0, 0, 0], regions, LayerSimilarity(scores, blind))
    with pytest.raises(UserError, match="one for each of 3 voxels"):
        layer_figure(img, NAMES, [0, 0], regions, LayerSimilarity(good))

"""Brains for a journal: the width of a page, type that journals take, surfaces as pixels, numbers as text."""

import nibabel as nib
import numpy as np
import pytest
from matplotlib.text import Text
from mpl_toolkits.mplot3d import Axes3D

from hyperdecode.mapping.regions import RegionSet
from hyperdecode.report.layerfigure import LayerSimilarity, draw_layer_figure
from hyperdecode.report.publication.brain import layers_plate, mask_plate
from hyperdecode.report.publication.style import INCH, LARGEST, SMALLEST, STYLE, TWO_COLUMNS, written
from tests.report.test_layerfigure import AFFINE
from tests.report.test_maskfigure import volume

LAYERS = ["4 (b8.conv2)", "9 (b64.conv1)"]


@pytest.fixture(scope="module")
def layers():
    values = np.zeros((31, 38, 32), np.int16)
    values[:, :14], values[:, :8] = 1, 2
    regions = RegionSet(("a", "b"), np.repeat([0, 1], 50))
    scores = LayerSimilarity(np.full((2, 8), 0.5), np.array([0.4, 0.2]))
    figure = draw_layer_figure(
        nib.Nifti1Image(values, AFFINE), LAYERS, np.repeat([0, 1], 50), regions, scores, views=("lateral",)
    )
    return layers_plate(figure, LAYERS, [50, 1050], "A: layers.", "sub-01")


def sizes(canvas):
    return {text.get_fontsize() for text in canvas.findobj(Text) if text.get_text()}


def test_layers_fill_two_columns_in_type_that_journals_take(layers):
    assert INCH * layers.canvas.get_figwidth() == pytest.approx(TWO_COLUMNS)
    assert min(sizes(layers.canvas)) >= SMALLEST and max(sizes(layers.canvas)) <= LARGEST
    assert layers.caption.endswith("Voxels by layer: 4 (b8.conv2): 50, 9 (b64.conv1): 1,050.")


def test_below_bars_stand_depths_alone(layers):
    (axes,) = [one for one in layers.canvas.axes if one.get_ylabel() == "Euclidean similarity"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "9"]
    assert axes.get_xlabel() == "layer; mean and s.e. over 8 faces"


def test_surfaces_are_pixels_and_all_words_text(layers, monkeypatch):
    brains = [axes for axes in layers.canvas.axes if isinstance(axes, Axes3D)]
    assert brains and all(drawn.get_rasterized() for axes in brains for drawn in axes.collections)
    monkeypatch.setitem(STYLE, "pdf.compression", 0)
    data = written(layers.canvas, "pdf", 300)
    assert b"/Subtype /Image" in data and b"/FontFile2" in data and b"/Subtype /Type3" not in data
    assert data.count(b"\nf\n") < 200, "no triangle is stored as a polygon"


@pytest.mark.parametrize("own", [False, True])
def test_a_mask_says_where_it_lies(own):
    mask = volume(np.s_[4:14, 5:15, 6:14])
    mean = np.random.default_rng(0).uniform(1, 2, (20, 24, 18)).astype(np.float32)
    plate = mask_plate(mask, nib.Nifti1Image(mean, mask.affine) if own else None, "sub-01", "800 voxels.")
    width, height = INCH * plate.canvas.get_size_inches()
    assert (width, height) == pytest.approx((TWO_COLUMNS, 81 if own else 108))
    assert min(sizes(plate.canvas)) >= SMALLEST and max(sizes(plate.canvas)) <= LARGEST
    assert ("MNI152 template; last row" in plate.caption) != own and ("mean functional" in plate.caption) == own

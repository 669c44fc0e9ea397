import io

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from nibabel.affines import apply_affine
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.mapping.regions import OTHER, OUTSIDE, RegionSet
from hyperdecode.mapping.surface import HEMISPHERES, load_cortex
from hyperdecode.report.cortexfigure import (
    HEAD,
    ROW,
    UNASSIGNED,
    cortex_figure,
    cortex_value_figure,
    layer_colours,
    numbered,
    smooth_png,
)

AFFINE = np.array([[4.0, 0, 0, -90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
SHAPE = (46, 56, 48)
X, Y, Z = np.moveaxis(apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1)), -1, 0)
NAMES = ["layer 4", "layer 9", "layer 14", "layer 19"]
DPI = 40


def image(values):
    return nib.Nifti1Image(np.asarray(values), AFFINE)


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float) / 255


def where(pixels, colour):
    """Return rows and columns of the pixels of a colour on the brains, above the legend."""
    near = np.abs(pixels - to_rgb(colour)).max(axis=2) < 0.06
    return np.nonzero(near[: round(5.6 * DPI)])


def test_the_hemisphere_and_the_end_of_the_brain_are_the_right_ones():
    values = np.where((X < 0) & (Y < -50), 4, 0) + np.where((X > 0) & (Y > 10), 2, 0)
    pixels = picture(cortex_figure(image(values.astype(np.int16)), NAMES, dpi=DPI, views=("lateral",)))
    assert pixels.shape[1] == 12 * DPI
    colours = layer_colours(4)
    middle = 12 * DPI / 2
    # Left hemisphere above, seen from its left: the back of the head is on the right. Right below: its front is.
    for colour, above in ((colours[3], True), (colours[1], False)):
        rows, columns = where(pixels, colour)
        assert len(rows) > 300
        assert np.mean((rows < 2.9 * DPI) == above) > 0.99 and np.mean(columns > middle) > 0.95
    assert len(where(pixels, colours[0])[0]) == len(where(pixels, colours[2])[0]) == 0


def test_medial_and_ventral_views_show_what_lies_there():
    values = np.where((np.abs(X) < 12) & (Z > 20), 1, 0) + np.where((Z < -18) & (np.abs(X) > 30), 4, 0)
    img = image(values.astype(np.int16))
    first, last = layer_colours(4)[0], layer_colours(4)[3]
    medial, ventral, lateral = (
        picture(cortex_figure(img, NAMES, dpi=DPI, views=(view,))) for view in ("medial", "ventral", "lateral")
    )
    assert len(where(medial, first)[0]) > 300 and len(where(lateral, first)[0]) < 30
    assert len(where(ventral, last)[0]) > 1000 + 2 * len(where(medial, last)[0])
    # Sides that face each other in the head do so here: what is far from the midline is far from the middle row.
    rows = where(ventral, last)[0] / DPI - (HEAD + ROW)
    assert np.mean(np.abs(rows) > ROW / 2) > 0.7


def test_borders_and_voxels_without_a_layer_are_drawn():
    inside = (Y < -40).astype(np.uint8)
    values = np.where((Y < -60) & (inside > 0), 3, 0).astype(np.int16)
    regions = {
        side: RegionSet(("back", OTHER), np.where(load_cortex(finer=True)[side].pial[:, 1] < -60, 0, 1))
        for side in HEMISPHERES
    }
    plain, full = (
        picture(cortex_figure(image(values), NAMES, *extra, dpi=DPI, views=("lateral",)))
        for extra in ((), (regions, image(inside)))
    )
    # Letters are grey at their rims.
    assert len(where(plain, UNASSIGNED)[0]) < 50 and len(where(full, UNASSIGNED)[0]) > 300
    # The line is at the edge of the layer, where it was plain.
    dark = (full.max(axis=2) < 0.35) & (plain.max(axis=2) > 0.4)
    columns = np.nonzero(dark[: round(2.9 * DPI)])[1]
    coloured = where(full, layer_colours(4)[2])
    edge = coloured[1][coloured[0] < 2.9 * DPI].min()
    assert len(columns) > 30 and np.median(np.abs(columns - edge)) < 0.6 * DPI


def test_numbers_are_drawn_in_colours_of_their_size():
    values = np.where(Y < -40, Y + 126.0, np.nan).astype(np.float32)
    pixels = picture(cortex_value_figure(image(values), "loss", dpi=DPI, views=("lateral",)))
    brain = pixels[: round(2.9 * DPI)]
    coloured = np.ptp(brain, axis=2) > 0.2
    columns = np.nonzero(coloured)[1]
    # viridis goes from blue to yellow with y, from the back of the left hemisphere (right) towards its front.
    green = np.array([brain[:, c][coloured[:, c]].mean(axis=0)[1] for c in (columns.max() - 8, columns.min() + 8)])
    assert green[0] < green[1]


def test_colours_of_layers_go_from_dark_to_light():
    for n in (1, 2, 4, 9):
        shades = [np.dot(to_rgb(colour), [0.299, 0.587, 0.114]) for colour in layer_colours(n)]
        assert len(set(layer_colours(n))) == n and np.all(np.diff(shades) > 0.05)


def test_maps_that_cannot_be_drawn_are_refused():
    empty = image(np.zeros(SHAPE, np.int16))
    with pytest.raises(UserError, match="no voxel with a layer lies in the cortex"):
        cortex_figure(empty, NAMES)
    with pytest.raises(UserError, match="the map has layer 5, and 4 layers are named"):
        cortex_figure(image(np.full(SHAPE, 5, np.int16)), NAMES)
    with pytest.raises(UserError, match="whole numbers"):
        cortex_figure(image(np.full(SHAPE, 0.5, np.float32)), NAMES)
    with pytest.raises(UserError, match="no voxel of the map lies in the cortex"):
        cortex_value_figure(image(np.full(SHAPE, np.nan, np.float32)), "loss")
    with pytest.raises(UserError, match="unknown views top"):
        cortex_figure(image(np.ones(SHAPE, np.int16)), NAMES, views=("top",))


def test_a_picture_has_half_the_pixels_that_were_drawn():
    from matplotlib.figure import Figure

    assert Image.open(io.BytesIO(smooth_png(Figure(figsize=(2, 1), dpi=200)))).size == (200, 100)


def test_regions_are_numbered_while_they_are_few():
    assert numbered(["V1", "V2", OTHER, OUTSIDE]) == {"V1": 1, "V2": 2}
    assert numbered([str(k) for k in range(12)] + [OTHER])["11"] == 12
    assert numbered([str(k) for k in range(13)]) == {}

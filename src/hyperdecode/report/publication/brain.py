"""Brains for a journal: the voxel mask (Figure 3), layers on the cortex (Figure 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from nibabel.spatialimages import SpatialImage

from hyperdecode.report.maskfigure import draw_mask
from hyperdecode.report.publication.style import INCH, TWO_COLUMNS, Plate, new_canvas, print_type, styled

__all__ = ["layers_plate", "mask_plate"]

ROW = 27.0
"""Millimetres of a row of slices."""


def mask_plate(mask_img: SpatialImage, background_img: SpatialImage | None, label: str, how: str) -> Plate:
    """Draw Figure 3: the voxels that the decoder reads.

    Parameters
    ----------
    mask_img : nibabel image, 3D
    background_img : nibabel image, 3D, or None
        In the space of the mask; None for a mask in MNI space, which is also drawn on a glass brain.
    label : str
        The subject.
    how : str
        How the voxels were chosen, in a sentence.
    """
    with styled():
        canvas = new_canvas(TWO_COLUMNS, ROW * (3 + (background_img is None)))
        draw_mask(canvas, mask_img, background_img)
        print_type(canvas, 0.5)
    through = (
        "; last row: seen through the brain, from the left, behind, the right and above"
        if background_img is None
        else ""
    )
    where = (
        "MNI space, on the MNI152 template" if background_img is None else "the subject's space, on a mean functional"
    )
    caption = (
        f"Voxel mask of {label}: {how} Slices at equal quantiles of the mask's voxels, from left to right, back to "
        f"front and bottom to top; numbers are millimetres, {where}{through}."
    )
    return Plate(canvas, caption)


def layers_plate(figure: Canvas, titles: Sequence[str], n_voxels: Sequence[int], caption: str, label: str) -> Plate:
    """Bring `hyperdecode.report.layerfigure.draw_layer_figure` to print: Figure 8.

    Parameters
    ----------
    figure : matplotlib Figure
    titles : sequence of str
        Of the layers.
    n_voxels : sequence of int
        Voxels of each layer.
    caption : str
        What the panels show.
    label : str
        The subject.
    """
    width, height = figure.get_size_inches()
    scale = TWO_COLUMNS / INCH / width
    figure.set_size_inches(width * scale, height * scale)
    with styled():
        print_type(figure, scale)
    for axes in figure.axes:
        if isinstance(axes, Axes3D):
            _as_pixels(axes, scale)
        else:
            _depths_alone(axes)
    counts = ", ".join(f"{title}: {n:,}" for title, n in zip(titles, n_voxels, strict=True))
    return Plate(figure, f"Layers on the brain of {label}. {caption} Voxels by layer: {counts}.")


def _depths_alone(axes: Any) -> None:
    """Leave out the names of layers below bars, which the legend has: side by side they have no room in print."""
    labels = [label.get_text() for label in axes.get_xticklabels()]
    if any("\n" in label for label in labels):
        axes.set_xticks(axes.get_xticks(), [label.split("\n")[0] for label in labels], rotation=0, ha="center")
        axes.set_xlabel(f"layer; {axes.get_xlabel()}")


def _as_pixels(axes: Any, scale: float) -> None:
    """Let a surface of many thousand triangles be stored as pixels; numbers of regions stay text."""
    for drawn in axes.collections:
        drawn.set_rasterized(True)
        if isinstance(drawn, Line3DCollection):
            drawn.set_linewidth([width * scale for width in drawn.get_linewidth()])

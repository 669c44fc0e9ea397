"""The voxel mask on brain slices, and in MNI space on a glass brain."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from nilearn.datasets import load_mni152_template
from nilearn.image import new_img_like, resample_img
from nilearn.plotting import plot_glass_brain, plot_roi
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.report.figures import ORANGE, png_bytes
from hyperdecode.report.slices import brain_of

__all__ = ["draw_mask", "mask_figure"]

N_CUTS = 6
WIDTH, ROW = 10.0, 2.1
"""Inches."""


def mask_figure(
    mask_img: SpatialImage,
    background_img: SpatialImage | None = None,
    dpi: int = 90,
    *,
    glass_brain: bool | None = None,
) -> bytes:
    """Draw a voxel mask on slices in three directions (the paper's Figure 3).

    Parameters
    ----------
    mask_img : nibabel image, 3D
        Non-zero inside the mask; any grid.
    background_img : nibabel image, 3D, optional
        Drawn below, a mean functional in the same space, say; what lies outside the head is left out. Default: the
        MNI152 template that nilearn ships, right only when the mask lies in MNI space.
    dpi : int
        Resolution; the figure is 10 inches wide.
    glass_brain : bool, optional
        Add a row that looks through the brain; right only in MNI space. Default: without `background_img`.

    Returns
    -------
    bytes
        A PNG. Cuts stand at equal quantiles of the mask's voxels, so that they show where the mask is.

    Raises
    ------
    UserError
        When the mask or the background is not 3D, or the mask is empty.
    """
    n_rows = 3 + _sees_through(background_img, glass_brain)
    figure = Figure(figsize=(WIDTH, ROW * n_rows), dpi=dpi, facecolor="white")
    draw_mask(figure, mask_img, background_img, glass_brain=glass_brain)
    return png_bytes(figure)


def draw_mask(
    figure: Figure,
    mask_img: SpatialImage,
    background_img: SpatialImage | None = None,
    *,
    glass_brain: bool | None = None,
) -> None:
    """Draw the rows of `mask_figure` into a figure of any size."""
    inside = np.asarray(mask_img.dataobj)
    if inside.ndim != 3 or not np.any(inside):
        raise UserError(f"a mask figure needs a 3D mask with voxels in it, got shape {inside.shape}")
    plain = new_img_like(mask_img, (inside != 0).astype(np.uint8))
    background = load_mni152_template(resolution=2) if background_img is None else _head_alone(background_img)
    see_through = _sees_through(background_img, glass_brain)
    n_rows = 3 + see_through
    for number, (direction, cuts) in enumerate(zip("xyz", _cuts(inside, mask_img.affine), strict=True)):
        plot_roi(
            plain,
            bg_img=background,
            display_mode=direction,
            cut_coords=cuts,
            figure=figure,
            axes=_row(number, n_rows),
            cmap=ListedColormap([ORANGE]),
            alpha=0.75,
            black_bg=False,
            draw_cross=False,
            colorbar=False,
        )
    if see_through:
        plot_glass_brain(
            new_img_like(mask_img, (inside != 0).astype(np.float32)),
            display_mode="lyrz",
            figure=figure,
            axes=_row(3, n_rows),
            cmap=ListedColormap([ORANGE]),
            threshold=0.5,
            alpha=0.6,
            colorbar=False,
        )


def _sees_through(background_img: SpatialImage | None, glass_brain: bool | None) -> bool:
    return background_img is None if glass_brain is None else glass_brain


def _row(number: int, n_rows: int) -> tuple[float, float, float, float]:
    return 0.0, (n_rows - 1 - number) / n_rows + 0.01, 1.0, 1 / n_rows - 0.03


def _head_alone(image: SpatialImage) -> Any:
    """Return a mean functional on an upright grid, cut to the head's box, 0 around the head."""
    values = np.asarray(image.dataobj, dtype=np.float32)
    if values.ndim != 3:
        raise UserError(f"the background of a mask figure is one 3D volume, got shape {values.shape}: give the mean")
    head = brain_of(values)
    if not head.any():
        return image
    there = np.argwhere(head)
    box = tuple(slice(low, high + 1) for low, high in zip(there.min(axis=0), there.max(axis=0), strict=True))
    # Turned upright here by straight lines: the drawing would do it by splines, which ripple around the head.
    upright = {"target_affine": np.diag(voxel_sizes(image.affine)), "copy_header": True, "force_resample": True}
    filled = new_img_like(image, np.nan_to_num(values)).slicer[box]
    shape = new_img_like(image, head.astype(np.uint8)).slicer[box]
    grey = resample_img(filled, interpolation="linear", **upright)
    outline = resample_img(shape, interpolation="nearest", **upright)
    return new_img_like(grey, np.where(np.asarray(outline.dataobj) > 0, np.asarray(grey.dataobj), np.float32(0)))


def _cuts(inside: NDArray[np.generic], affine: NDArray[np.float64]) -> list[list[float]]:
    """World coordinates (mm) of `N_CUTS` distinct slices in x, y and z."""
    voxels = np.argwhere(inside != 0)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    quantiles = np.quantile(world, np.linspace(0.08, 0.92, N_CUTS), axis=0)
    return [sorted({float(value) for value in np.round(quantiles[:, axis])}) for axis in range(3)]

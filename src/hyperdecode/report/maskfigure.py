"""The voxel mask on brain slices."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from nibabel.spatialimages import SpatialImage
from nilearn.datasets import load_mni152_template
from nilearn.image import new_img_like
from nilearn.plotting import plot_roi
from numpy.typing import NDArray

from hyperdecode.errors import UserError

__all__ = ["mask_figure"]

Pictures = NDArray[np.uint8]

N_CUTS = 6
MASK_COLOUR = "#e4572e"


def mask_figure(mask_img: SpatialImage, background_img: SpatialImage | None = None, dpi: int = 110) -> bytes:
    """Draw a voxel mask on slices in three directions.

    Parameters
    ----------
    mask_img : nibabel image, 3D
        Non-zero inside the mask.
    background_img : nibabel image, 3D, optional
        Drawn below, a mean functional image say. Default: the MNI152 template that nilearn ships, right only
        when the mask lies in MNI space.
    dpi : int
        Resolution; the figure is 10 x 6.3 inches.

    Returns
    -------
    bytes
        A PNG. Cuts stand at equal quantiles of the mask's voxels, so that they show where the mask is.

    Raises
    ------
    UserError
        When the mask is not 3D or is empty.
    """
    inside = np.asarray(mask_img.dataobj)
    if inside.ndim != 3 or not np.any(inside):
        raise UserError(f"a mask figure needs a 3D mask with voxels in it, got shape {inside.shape}")
    plain = new_img_like(mask_img, (inside != 0).astype(np.uint8))
    background = load_mni152_template(resolution=2) if background_img is None else background_img
    figure = Figure(figsize=(10, 6.3), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for number, (direction, cuts) in enumerate(zip("xyz", _cuts(inside, mask_img.affine), strict=True)):
        plot_roi(
            plain,
            bg_img=background,
            display_mode=direction,
            cut_coords=cuts,
            figure=figure,
            axes=(0.0, (2 - number) / 3 + 0.01, 1.0, 1 / 3 - 0.03),
            cmap=ListedColormap([MASK_COLOUR]),
            alpha=0.75,
            black_bg=False,
            draw_cross=False,
            colorbar=False,
        )
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


def _cuts(inside: NDArray[np.generic], affine: NDArray[np.float64]) -> list[list[float]]:
    """World coordinates (mm) of `N_CUTS` distinct slices in x, y and z."""
    voxels = np.argwhere(inside != 0)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    quantiles = np.quantile(world, np.linspace(0.08, 0.92, N_CUTS), axis=0)
    return [sorted({float(value) for value in np.round(quantiles[:, axis])}) for axis in range(3)]

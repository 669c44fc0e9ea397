"""Pictures of brain maps as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hyperdecode.files import atomic_path
from hyperdecode.fmri.grids import apply_affine, grid_points, inverse, read_volume
from hyperdecode.fmri.normalise import Anatomy, Normalisation, Template

__all__ = ["draw_contrast", "draw_registration"]

SLICES = (-24, -18, -12, -6, 0, 10, 25, 45)
N_CUTS = 7
RED, BLUE = "#ff4d4d", "#4db8ff"
MARGIN_MM = 14.0
"""Shown around the template's brain."""


def draw_contrast(path: Path, z: Any, title: str, threshold: float = 3.1) -> None:
    """Draw a z-map (image in MNI space) as axial slices above a glass brain."""
    from matplotlib.figure import Figure
    from nilearn import plotting

    figure = Figure(figsize=(13, 6))
    top = max(float(np.nanmax(np.abs(np.asarray(z.dataobj)))), threshold + 0.1)
    common = {"threshold": threshold, "vmax": top, "figure": figure}
    plotting.plot_stat_map(
        z, display_mode="z", cut_coords=SLICES, axes=(0, 0.55, 1, 0.42), title=title, cmap="cold_hot", **common
    )
    plotting.plot_glass_brain(
        z, display_mode="lyrz", axes=(0, 0, 1, 0.52), plot_abs=False, colorbar=True, cmap="cold_hot", **common
    )
    _save(figure, path)


def draw_registration(
    path: Path, mean_epi: Any, to_mni: Normalisation, template: Template, title: str, anatomy: Anatomy | None = None
) -> None:
    """Draw the check of a registration: contours of template and T1w on the mean functional.

    The functional is carried to the template's grid and shown in three directions, seven slices each. Red is the
    template's brain; blue the white matter of the T1w or, without one, of the template.

    Parameters
    ----------
    path : pathlib.Path
        PNG.
    mean_epi : nibabel spatial image, 3D
    to_mni : Normalisation
    template : Template
        T1.
    title : str
    anatomy : Anatomy, optional
        Its brain is drawn where given.
    """
    from matplotlib.figure import Figure

    epi = read_volume(mean_epi, "the mean functional")
    template = _cropped(template)
    points = grid_points(template.mask.shape, template.affine)
    mean = _carried(epi.values, epi.affine, to_mni.to_epi(points), template, np.nan)
    white, whose = template.brain, "its white matter"
    level = _white_level(template.brain)
    if anatomy is not None:
        white, whose = (
            _carried(anatomy.brain, anatomy.affine, to_mni.to_t1(points), template, 0.0),
            "the T1w's white matter",
        )
        level = _white_level(anatomy.brain)
    outline = ndimage.gaussian_filter(template.mask.astype(np.float32), 0.7)
    lines = [(outline, 0.5, RED), (white, level, BLUE)]
    top = float(np.nanpercentile(mean[template.mask], 99.5)) if np.isfinite(mean[template.mask]).any() else 1.0
    figure = Figure(figsize=(14, 7.4), facecolor="black")
    grid = figure.subplots(3, N_CUTS, gridspec_kw={"left": 0, "right": 1, "top": 0.93, "bottom": 0.0, "wspace": 0.02})
    for row, axis in zip(grid, (2, 1, 0), strict=True):
        for plot, index in zip(row, _cuts(template.mask, axis), strict=True):
            _slice(plot, mean, lines, axis, index, template.affine, top)
    figure.text(0.01, 0.96, title, color="white", fontsize=12)
    figure.text(0.6, 0.96, "the template's brain", color=RED, fontsize=12)
    figure.text(0.78, 0.96, whose, color=BLUE, fontsize=12)
    _save(figure, path)


def _cropped(template: Template) -> Template:
    """Return the part of the grid that is worth its room on paper."""
    margin = int(MARGIN_MM / np.linalg.norm(template.affine[:3, 0]))
    box = ndimage.find_objects(template.mask.astype(np.uint8))[0]
    box = tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in box)
    affine = template.affine.copy()
    affine[:3, 3] = apply_affine(template.affine, [[part.start for part in box]])[0]
    return Template(template.brain[box], template.mask[box], affine)


def _carried(
    values: NDArray[np.float32],
    affine: NDArray[np.float64],
    points: NDArray[np.float64],
    template: Template,
    out: float,
) -> NDArray[np.float32]:
    index = apply_affine(inverse(affine), points).T
    moved = ndimage.map_coordinates(values, index, order=1, mode="constant", cval=out)
    return np.asarray(moved, np.float32).reshape(template.mask.shape)


def _white_level(brain: NDArray[np.float32]) -> float:
    """Return the intensity between grey and white matter: the upper of the two thresholds of three classes."""
    from skimage.filters import threshold_multiotsu

    inside = brain[brain > 0]
    return float(threshold_multiotsu(np.minimum(inside, np.percentile(inside, 99)), classes=3)[1])


def _cuts(mask: NDArray[np.bool_], axis: int) -> NDArray[np.intp]:
    """Return the slices that cut the brain into equal parts, without its ends."""
    along = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
    return np.rint(np.linspace(along[0], along[-1], N_CUTS + 2)[1:-1]).astype(np.intp)


def _slice(
    plot: Any,
    mean: NDArray[np.float32],
    lines: list[tuple[NDArray[np.float32], float, str]],
    axis: int,
    index: int,
    affine: NDArray[np.float64],
    top: float,
) -> None:
    plot.set_axis_off()
    plot.imshow(np.take(mean, index, axis).T, origin="lower", cmap="gray", vmin=0, vmax=top)
    for values, level, colour in lines:
        drawn = np.take(values, index, axis).T
        if drawn.min() < level < drawn.max():
            plot.contour(drawn, levels=[level], colors=[colour], linewidths=0.7)
    place = affine[axis, axis] * index + affine[axis, 3]
    plot.text(0.02, 0.02, f"{'xyz'[axis]} = {place:.0f}", color="white", fontsize=8, transform=plot.transAxes)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", facecolor=figure.get_facecolor())

"""Slices of a volume side by side, a map in colour over a grey picture."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure, SubFigure
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hyperdecode.errors import UserError

__all__ = ["brain_of", "draw_slices"]

FloatArray = NDArray[np.float64]

MARGIN = 1
DARK = "#333333"


def draw_slices(
    figure: Figure | SubFigure,
    values: ArrayLike,
    background: ArrayLike,
    shown: ArrayLike,
    affine: ArrayLike,
    *,
    limits: tuple[float, float],
    label: str,
    rows: int = 2,
    columns: int = 7,
    cmap: str = "viridis",
    beyond: str = "both",
) -> None:
    """Draw axial slices from below upwards, left of the head on the left.

    Volumes are turned to the nearest RAS order and not resampled, so a voxel of an oblique grid stays a square;
    ``z`` above a slice is that of its centre in mm.

    Parameters
    ----------
    figure : matplotlib Figure or SubFigure
        Filled with one panel and its colour bar.
    values : array-like, shape (x, y, z)
        Drawn in colour where `shown` is true and they are finite.
    background : array-like, shape (x, y, z)
        Drawn in grey inside `brain_of(background)`.
    shown : array-like of bool, shape (x, y, z)
        Where the map is drawn.
    affine : array-like, shape (4, 4)
        Voxel to mm.
    limits : (float, float)
        Values of the two ends of the colour scale.
    label : str
        Of the colour bar.
    rows, columns : int
        Of slices.
    cmap : str
        Matplotlib colour map.
    beyond : {"both", "min", "max", "neither"}
        Ends of the scale that values may lie beyond.

    Raises
    ------
    UserError
        When the volumes differ in shape or `shown` is empty.
    """
    volumes = [np.asarray(volume) for volume in (values, background, shown)]
    if any(volume.ndim != 3 or volume.shape != volumes[0].shape for volume in volumes):
        raise UserError(f"a map, its background and its mask share one 3D grid, got {[v.shape for v in volumes]}")
    if not volumes[2].any():
        raise UserError("a map needs voxels to show, got an empty mask: check the mask")
    brain = brain_of(volumes[1]) | (volumes[2] != 0)
    over, under, inside, whole, world = _ras(volumes, brain, np.asarray(affine, dtype=np.float64))
    box, levels = _view(whole, inside, rows * columns)
    zooms = voxel_sizes(world)
    axes = figure.subplots()
    common = {"origin": "upper", "aspect": zooms[1] / zooms[0], "interpolation": "nearest"}
    grey = _mosaic(np.where(whole, under, np.nan), box, levels, columns)
    low, high = np.nanpercentile(under[whole], [2, 99.5])
    axes.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), **common)
    coloured = _mosaic(np.where(inside, over, np.nan), box, levels, columns)
    drawn = axes.imshow(coloured, cmap=cmap, vmin=limits[0], vmax=limits[1], **common)
    _name_slices(axes, box, levels, columns, world)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.015, aspect=22, extend=beyond)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def brain_of(mean: ArrayLike) -> NDArray[np.bool_]:
    """Return the largest piece of a mean functional above a quarter of its 98th percentile: for pictures alone."""
    values = np.nan_to_num(np.asarray(mean, dtype=np.float64))
    bright = (values > 0.25 * np.percentile(values, 98)) & (values > 0)
    pieces, n = ndimage.label(ndimage.binary_opening(bright))
    if n == 0:
        return np.asarray(bright)
    return np.asarray(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


def _ras(
    volumes: list[NDArray[np.generic]], brain: NDArray[np.bool_], affine: FloatArray
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_], NDArray[np.bool_], FloatArray]:
    turned = [
        nib.as_closest_canonical(nib.Nifti1Image(np.asarray(volume, dtype=np.float32), affine))
        for volume in (*volumes, brain)
    ]
    over, under, inside, whole = (np.asarray(image.dataobj) for image in turned)
    return over, under, inside != 0, whole != 0, np.asarray(turned[0].affine, dtype=np.float64)


def _view(whole: NDArray[np.bool_], inside: NDArray[np.bool_], n: int) -> tuple[tuple[slice, slice], NDArray[np.intp]]:
    """Return the box around the brain in x and y, and evenly spaced levels through what is shown."""
    box = []
    for axis in (0, 1):
        there = np.flatnonzero(whole.any(axis=tuple(k for k in range(3) if k != axis)))
        box.append(slice(max(there[0] - MARGIN, 0), there[-1] + 1 + MARGIN))
    filled = np.flatnonzero(inside.any(axis=(0, 1)))
    first, last = np.quantile(filled, [0.04, 0.96])
    levels = np.unique(np.rint(np.linspace(first, last, n)).astype(np.intp))
    return (box[0], box[1]), levels


def _mosaic(
    volume: FloatArray, box: tuple[slice, slice], levels: NDArray[np.intp], columns: int
) -> NDArray[np.float64]:
    tiles = [np.flipud(volume[box[0], box[1], level].T) for level in levels]
    tiles = [np.vstack([np.full((_headroom(box), tile.shape[1]), np.nan), tile]) for tile in tiles]
    empty = np.full_like(tiles[0], np.nan)
    tiles += [empty] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)])


def _headroom(box: tuple[slice, slice]) -> int:
    """Rows left free above a slice for its name."""
    return 1 + int(box[1].stop - box[1].start) // 10


def _name_slices(
    axes: Any, box: tuple[slice, slice], levels: NDArray[np.intp], columns: int, world: FloatArray
) -> None:
    centre = [(part.start + part.stop) / 2 for part in box]
    width, height = (part.stop - part.start for part in box)
    height += _headroom(box)
    for number, level in enumerate(levels):
        row, column = divmod(number, columns)
        at = apply_affine(world, [*centre, level])[2]
        left, top = column * width, row * height
        axes.text(left + width / 2, top - 0.4, f"z = {at:.0f}", ha="center", va="top", fontsize=7.5, color=DARK)
    for side, place in (("L", 0.0), ("R", width - 1.0)):
        axes.text(place, 0.62 * height, side, ha="left" if side == "L" else "right", fontsize=9, color=DARK)
    axes.set_axis_off()

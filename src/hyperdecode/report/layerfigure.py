"""Layers over the brain as the paper's Figure 8: on the cortex, by region, and how well each layer is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import UserError
from hyperdecode.mapping.regions import OTHER, OUTSIDE, RegionSet, layer_counts
from hyperdecode.mapping.surface import Hemisphere
from hyperdecode.report.cortexfigure import (
    DARK,
    HEAD,
    LEGEND,
    ROW,
    UNASSIGNED,
    VIEWS,
    WIDTH,
    draw_layers,
    layer_colours,
    layer_legend,
    numbered,
    smooth_png,
)
from hyperdecode.report.figures import png_bytes, quiet_axes

__all__ = ["LayerSimilarity", "draw_layer_figure", "layer_figure", "region_bars"]

BAR = 0.36
"""Inches a region."""
LOWER = 3.1
"""Inches of panels B and C."""
TITLE = 0.26
"""Inches of a panel's title."""
NARROW = 0.045
"""Share of a bar that its number needs."""


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """How well each layer's activations are decoded from all voxels.

    Attributes
    ----------
    scores : ndarray of float64, shape (n_layers, n_faces)
        Similarity of each decoded activation with its own face's.
    blind : ndarray of float64, shape (n_layers,), or None
        The same of the best predictor that never sees the brain.
    label : str
        Name of the similarity.
    """

    scores: NDArray[np.float64]
    blind: NDArray[np.float64] | None = None
    label: str = "Euclidean similarity"


def layer_figure(
    layer_img: SpatialImage,
    layer_names: Sequence[str],
    layers: ArrayLike,
    regions: RegionSet,
    similarity: LayerSimilarity,
    *,
    on_cortex: Mapping[Hemisphere, RegionSet] | None = None,
    mask_img: SpatialImage | None = None,
    dpi: int = 100,
    views: Sequence[str] = VIEWS,
) -> bytes:
    """Draw Figure 8: A the layer of each voxel on the cortex, B layers by region, C similarity by layer.

    Parameters
    ----------
    layer_img, layer_names, mask_img, dpi, views
        As in `hyperdecode.report.cortexfigure.cortex_figure`.
    layers : array-like of int, shape (n_voxels,)
        Position in `layer_names` of each voxel's layer, -1 for none.
    regions : RegionSet
        Of the same voxels.
    similarity : LayerSimilarity
    on_cortex : mapping of str to RegionSet, optional
        The same regions on the surface (`hyperdecode.mapping.surface.regions_on_cortex`): borders and numbers.

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    UserError
        When layers, voxels and names do not fit together.
    """
    figure = draw_layer_figure(
        layer_img, layer_names, layers, regions, similarity, on_cortex=on_cortex, mask_img=mask_img, views=views
    )
    figure.set_dpi(2 * dpi)
    return smooth_png(figure)


def draw_layer_figure(
    layer_img: SpatialImage,
    layer_names: Sequence[str],
    layers: ArrayLike,
    regions: RegionSet,
    similarity: LayerSimilarity,
    *,
    on_cortex: Mapping[Hemisphere, RegionSet] | None = None,
    mask_img: SpatialImage | None = None,
    views: Sequence[str] = VIEWS,
) -> Figure:
    """Return the figure of `layer_figure`, 12 inches wide; all of it but type and lines may be scaled."""
    names = list(layer_names)
    counts = layer_counts(layers, regions, len(names))
    _check(similarity, names)
    lower = max(LOWER, 1.05 + BAR * len(regions.names))
    figure = Figure(figsize=(WIDTH, 2 * ROW + HEAD + TITLE + LEGEND + lower), facecolor="white")
    top = draw_layers(
        figure, layer_img, len(names), on_cortex, mask_img, views=views, below=LEGEND + lower, above=HEAD + TITLE
    )
    some_without = bool((counts.sum(axis=1) < regions.sizes).any())
    layer_legend(figure, names, on_cortex, unassigned=mask_img is not None or some_without, top=top)
    height = figure.get_figheight()
    bottom, tall = 0.6 / height, (lower - 1.05) / height
    shown = numbered(on_cortex["left"].names) if on_cortex else {}
    _bars(figure.add_axes((0.235, bottom, 0.365, tall)), counts, regions, shown)
    _similarities(figure.add_axes((0.72, bottom, 0.26, tall - 0.3 / height)), similarity, names)
    titles = {
        "A  layer of each voxel": (0.01, 1 - 0.08 / height),
        "B  layers by region": (0.01, (lower - 0.12) / height),
        "C  similarity by layer": (0.655, (lower - 0.12) / height),
    }
    for title, (x, y) in titles.items():
        figure.text(x, y, title, ha="left", va="top", fontsize=12, fontweight="bold", color=DARK)
    return figure


def region_bars(layers: ArrayLike, regions: RegionSet, layer_names: Sequence[str], dpi: int = 100) -> bytes:
    """Draw the layers of each region as stacked bars: for many regions (every single area), a figure of its own.

    Parameters
    ----------
    layers : array-like of int, shape (n_voxels,)
        Position in `layer_names` of each voxel's layer, -1 for none.
    regions : RegionSet
        Of the same voxels.
    layer_names : sequence of str
    dpi : int

    Returns
    -------
    bytes
        A PNG.
    """
    counts = layer_counts(layers, regions, len(layer_names))
    height = 0.5 + 0.6 * LEGEND + BAR * len(regions.names)
    figure = Figure(figsize=(9.0, height), dpi=dpi, facecolor="white")
    axes = figure.add_axes((0.27, 0.5 / height, 0.66, BAR * len(regions.names) / height))
    _bars(axes, counts, regions, {})
    without = bool((counts.sum(axis=1) < regions.sizes).any())
    layer_legend(figure, layer_names, None, unassigned=without, top=1.0)
    return png_bytes(figure)


def _bars(axes: Any, counts: NDArray[np.int64], regions: RegionSet, numbers: Mapping[str, int]) -> None:
    """Draw one bar of full width a region, its layers in their order, with the number of voxels in each part."""
    sizes = regions.sizes
    parts = np.column_stack([counts, sizes - counts.sum(axis=1)])
    colours = [*layer_colours(counts.shape[1]), UNASSIGNED]
    shares = parts / np.maximum(sizes, 1)[:, None]
    places = np.arange(len(regions.names))
    start = np.zeros(len(places))
    for k, colour in enumerate(colours):
        axes.barh(places, shares[:, k], left=start, height=0.72, color=colour, edgecolor="white", linewidth=0.6)
        for place in places[shares[:, k] >= NARROW * np.char.str_len(parts[:, k].astype(str)) / 2]:
            axes.text(
                start[place] + shares[place, k] / 2, place, f"{parts[place, k]}",
                ha="center", va="center", fontsize=9, color=_ink(colour),
            )  # fmt: skip
        start = start + shares[:, k]
    for place, size in zip(places, sizes, strict=True):
        axes.text(1.012, place, f"{size:,}", ha="left", va="center", fontsize=9, color=DARK)
    titles = [f"{numbers[name]} {name}" if name in numbers else name for name in regions.names]
    axes.set_yticks(places, titles, fontsize=10)
    for tick, name in zip(axes.get_yticklabels(), regions.names, strict=True):
        tick.set_fontstyle("italic" if name in (OTHER, OUTSIDE) else "normal")
    axes.set(xlim=(0, 1), ylim=(len(places) - 0.5, -0.5))
    quiet_axes(axes, "share of the region's voxels (numbers: voxels; on the right: all)", "")
    axes.tick_params(axis="y", length=0, labelsize=10)
    axes.spines["left"].set_visible(False)


def _similarities(axes: Any, similarity: LayerSimilarity, layer_names: Sequence[str]) -> None:
    scores = np.asarray(similarity.scores, np.float64)
    n_faces = scores.shape[1]
    means = scores.mean(axis=1)
    errors = scores.std(axis=1, ddof=1) / np.sqrt(n_faces) if n_faces > 1 else np.zeros(len(means))
    places = np.arange(len(layer_names))
    axes.bar(places, means, width=0.66, color=layer_colours(len(layer_names)), edgecolor=DARK, linewidth=0.5)
    axes.errorbar(places, means, yerr=errors, fmt="none", ecolor=DARK, elinewidth=1.2, capsize=3)
    low = float((means - errors).min())
    if similarity.blind is not None:
        axes.hlines(similarity.blind, places - 0.42, places + 0.42, colors="#c0392b", linestyles="--", linewidth=1.8,
                    label="best blind predictor")  # fmt: skip
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9, frameon=False, borderaxespad=0.1)
        low = min(low, float(np.min(similarity.blind)))
    if low > 0:
        axes.set_ylim(bottom=0)
    labels = [name.replace(" (", "\n(") for name in layer_names]
    wide = sum(max(map(len, label.split("\n"))) + 2 for label in labels) > 52
    axes.set_xticks(places, labels, rotation=35 if wide else 0, ha="right" if wide else "center")
    quiet_axes(axes, f"mean and s.e. over {n_faces} faces", similarity.label)
    axes.tick_params(axis="x", length=0, labelsize=8)


def _check(similarity: LayerSimilarity, layer_names: Sequence[str]) -> None:
    scores, blind = np.asarray(similarity.scores), similarity.blind
    if scores.ndim != 2 or scores.shape[0] != len(layer_names) or not scores.shape[1] or not np.isfinite(scores).all():
        raise UserError(
            f"similarities are finite and of shape ({len(layer_names)} layers, n_faces), got shape {scores.shape}"
        )
    if blind is not None and np.shape(blind) != (len(layer_names),):
        raise UserError(f"blind similarities are one for each of {len(layer_names)} layers, got {np.shape(blind)}")


def _ink(colour: str) -> str:
    """Return black or white, whichever is read more easily on a colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"

"""Maps on the inflated cortex, with the borders of regions: the layer of each voxel (Figure 8A), or any number."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from nibabel.spatialimages import SpatialImage
from nilearn.plotting import plot_surf
from nilearn.surface import InMemoryMesh
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from hyperdecode.errors import UserError
from hyperdecode.mapping.regions import OTHER, OUTSIDE, RegionSet
from hyperdecode.mapping.surface import (
    HEMISPHERES,
    Cortex,
    Hemisphere,
    load_cortex,
    majority,
    sample_labels,
    sample_values,
)

__all__ = ["VIEWS", "cortex_figure", "cortex_value_figure", "draw_cortex", "layer_colours", "smooth_png"]

VIEWS: tuple[str, ...] = ("lateral", "medial", "ventral")
EYES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "lateral": ((0, 180), (0, 0)),
    "medial": ((0, 0), (0, 180)),
    "ventral": ((270, 0), (270, 0)),
    "dorsal": ((90, 0), (90, 0)),
    "posterior": ((0, -90), (0, -90)),
    "anterior": ((0, 90), (0, 90)),
}
"""View -> elevation and azimuth (degrees) of the eye, for left and right hemisphere; 270 is -90 with the front left."""
WIDTH, ROW, LEGEND, HEAD, MARGIN = 12.0, 2.65, 0.62, 0.32, 0.3
"""Inches: the figure, a hemisphere, what stands below them, above, and left of them."""

GYRUS, SULCUS = 0.10, 0.24
"""Darkness of the cortex where no map is."""
UNASSIGNED = "#8d939c"
"""Voxels of the map that no layer was given to."""
DARK = "#222222"
ZOOM = 1.16
"""Fills a square with the longest view."""
LONG = 1.47
"""Length of a hemisphere over its height."""
SMALLEST = 0.004
"""Share of the cortex seen that a region needs to be numbered there."""
MOST_NUMBERS = 12
GRAZING = 0.1
"""Cosine of the angle to the eye below which borders are left out: at the rim they would lie upon each other."""
SMOOTHING = 6
"""Rounds of `majority` that borders are smoothed by; they lie where the triangles do otherwise."""

FloatArray = NDArray[np.float64]


def layer_colours(n_layers: int) -> list[str]:
    """Return a colour a layer, from dark (next to the latent) to light (next to the picture), for all eyes."""
    scale = matplotlib.colormaps["viridis"]
    return [matplotlib.colors.to_hex(scale(place)) for place in np.linspace(0.0, 0.97, max(n_layers, 2))[:n_layers]]


def cortex_figure(
    layer_img: SpatialImage,
    layer_names: Sequence[str],
    regions: Mapping[Hemisphere, RegionSet] | None = None,
    mask_img: SpatialImage | None = None,
    dpi: int = 100,
    *,
    views: Sequence[str] = VIEWS,
) -> bytes:
    """Draw the layer of each voxel on the inflated cortex, both hemispheres, seen from several sides.

    Parameters
    ----------
    layer_img : nibabel image, 3D
        1 for the first layer and so on, 0 where there is none; in MNI152 space, any grid.
    layer_names : sequence of str
        In the generator's order.
    regions : mapping of str to RegionSet, optional
        ``"left"`` and ``"right"``, from `hyperdecode.mapping.surface.regions_on_cortex`: their borders are drawn.
    mask_img : nibabel image, 3D, optional
        Non-zero where voxels were mapped; those without a layer are drawn in grey.
    dpi : int
        Resolution; the figure is 12 inches wide.
    views : sequence of str
        Columns: lateral, medial, ventral, dorsal, posterior, anterior.

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    UserError
        When the map is not a 3D volume of whole numbers up to the number of layers, nothing of it lies in the cortex,
        or a view is unknown.
    """
    n_layers = len(layer_names)
    figure = Figure(figsize=(WIDTH, 2 * ROW + LEGEND + HEAD), dpi=2 * dpi, facecolor="white")
    room = draw_layers(figure, layer_img, n_layers, regions, mask_img, views=views, below=LEGEND, above=HEAD)
    layer_legend(figure, layer_names, regions, unassigned=mask_img is not None, top=room)
    return smooth_png(figure)


def draw_layers(
    figure: Figure,
    layer_img: SpatialImage,
    n_layers: int,
    regions: Mapping[Hemisphere, RegionSet] | None,
    mask_img: SpatialImage | None,
    *,
    views: Sequence[str],
    below: float,
    above: float,
) -> float:
    """Draw the layers `below` inches above the bottom of a figure; return where that is, as a share of its height."""
    values = np.asarray(layer_img.dataobj)
    if values.size and values.max() > n_layers:
        raise UserError(f"the map has layer {values.max():.0f}, and {n_layers} layers are named: name all of them")
    cortex = load_cortex(finer=True)
    found = {side: sample_labels(values, layer_img.affine, cortex[side]) for side in HEMISPHERES}
    if not any(labels.any() for labels in found.values()):
        raise UserError("no voxel with a layer lies in the cortex: give a map in MNI space with layers from 1 upwards")
    if mask_img is not None:
        inside = np.asarray(mask_img.dataobj) != 0
        for side, labels in found.items():
            tested = sample_labels(inside.astype(np.uint8), mask_img.affine, cortex[side]) > 0
            labels[(labels == 0) & tested] = n_layers + 1
    colours = ListedColormap([*layer_colours(n_layers), UNASSIGNED])
    # Zero, which is no layer, is left out by the threshold: NaN would take its neighbours' triangles along.
    drawn = {side: labels.astype(np.float64) for side, labels in found.items()}
    style = {"cmap": colours, "vmin": 0.5, "vmax": n_layers + 1.5, "threshold": 0.5, "avg_method": "median"}
    draw_cortex(figure, drawn, style, regions, views=views, below=below, above=above)
    return below / figure.get_figheight()


def cortex_value_figure(
    img: SpatialImage,
    label: str,
    regions: Mapping[Hemisphere, RegionSet] | None = None,
    dpi: int = 100,
    *,
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    views: Sequence[str] = VIEWS,
) -> bytes:
    """Draw a map of numbers (a loss, a noise ceiling) on the inflated cortex.

    Parameters
    ----------
    img : nibabel image, 3D
        NaN outside the mask; in MNI152 space, any grid.
    label : str
        Of the colour bar, with the unit.
    regions, dpi, views
        As in `cortex_figure`.
    limits : (float, float), optional
        Values of the two ends of the colours. Default: the 2nd and 98th percentile of what is drawn.
    cmap : str
        Matplotlib colour map.

    Returns
    -------
    bytes
        A PNG.

    Raises
    ------
    UserError
        When the map is not 3D, or nothing of it lies in the cortex.
    """
    cortex = load_cortex(finer=True)
    found = {side: sample_values(np.asarray(img.dataobj), img.affine, cortex[side]) for side in HEMISPHERES}
    every = np.concatenate([values[np.isfinite(values)] for values in found.values()])
    if not every.size:
        raise UserError("no voxel of the map lies in the cortex: give a map in MNI space, NaN outside the mask")
    low, high = limits or tuple(float(end) for end in np.percentile(every, [2, 98]))
    high = max(high, low + 1e-9)
    figure = Figure(figsize=(WIDTH, 2 * ROW + LEGEND + HEAD), dpi=2 * dpi, facecolor="white")
    drawn = {side: np.clip(values, low, high) for side, values in found.items()}
    scale = matplotlib.colormaps[cmap]
    draw_cortex(
        figure, drawn, {"cmap": scale, "vmin": low, "vmax": high}, regions, views=views, below=LEGEND, above=HEAD
    )
    _colour_bar(figure, scale, (low, high), (every.min() < low, every.max() > high), label)
    _region_key(figure, regions, 0.2 * LEGEND / figure.get_figheight())
    return smooth_png(figure)


def draw_cortex(
    figure: Figure,
    values: Mapping[Hemisphere, FloatArray],
    style: Mapping[str, Any],
    regions: Mapping[Hemisphere, RegionSet] | None = None,
    *,
    views: Sequence[str] = VIEWS,
    below: float = 0.0,
    above: float = 0.0,
) -> None:
    """Draw a number a vertex on both inflated hemispheres, left above right, a view a column.

    Parameters
    ----------
    figure : matplotlib Figure
    values : mapping of str to ndarray, shape (n_vertices,)
        ``"left"`` and ``"right"`` on the finer mesh of `hyperdecode.mapping.surface.load_cortex`; NaN where there is
        no map.
    style : mapping
        Further arguments of `nilearn.plotting.plot_surf`.
    regions : mapping of str to RegionSet, optional
        On the same vertices: borders are drawn, regions numbered from 1.
    views : sequence of str
    below, above : float
        Inches left free.
    """
    unknown = [view for view in views if view not in EYES]
    if unknown or not views:
        raise UserError(f"unknown views {', '.join(unknown) or 'none'}: choose among {', '.join(EYES)}")
    width, height = figure.get_size_inches()
    column, row = (width - MARGIN) / len(views), (height - below - above) / 2
    side_of_square = min(column, LONG * row)
    for number, side in enumerate(HEMISPHERES):
        cortex = load_cortex(finer=True)[side]
        outline = None if regions is None else majority(_bordered(regions[side]), cortex, SMOOTHING)
        middle = below + (1.5 - number) * row
        for place, view in enumerate(views):
            centre = MARGIN + (place + 0.5) * column
            rectangle = (centre - side_of_square / 2, middle - side_of_square / 2, side_of_square, side_of_square)
            scaled = np.array(rectangle) / [width, height, width, height]
            axes = figure.add_axes(tuple(scaled), projection="3d")
            seen = _Seen(cortex, side, view)
            _one_view(axes, seen, values[side], style)
            if regions is not None and outline is not None:
                _borders(axes, seen, outline, regions[side].names)
            if number == 0:
                figure.text(
                    centre / width, 1 - (above - 0.24) / height, view, ha="center", va="top", fontsize=12, color=DARK
                )
        figure.text(0.1 / width, middle / height, side, rotation=90, ha="left", va="center", fontsize=12, color=DARK)


def layer_legend(
    figure: Figure,
    layer_names: Sequence[str],
    regions: Mapping[Hemisphere, RegionSet] | None,
    *,
    unassigned: bool,
    top: float,
) -> None:
    """Name the colours of layers and the numbers of regions in the strip that ends at `top` (share of the height)."""
    patches = [
        Patch(facecolor=colour, edgecolor=DARK, linewidth=0.4, label=name)
        for colour, name in zip(layer_colours(len(layer_names)), layer_names, strict=True)
    ]
    if unassigned:
        patches.append(Patch(facecolor=UNASSIGNED, edgecolor=DARK, linewidth=0.4, label="no layer"))
    room = LEGEND / figure.get_figheight()
    letters = sum(len(str(patch.get_label())) + 6 for patch in patches)
    figure.legend(
        handles=patches, loc="center", bbox_to_anchor=(0.5, top - 0.28 * room), ncol=len(patches), frameon=False,
        fontsize=_size(figure, letters), handlelength=1.2, handleheight=1.1, columnspacing=1.6, borderaxespad=0,
    )  # fmt: skip
    _region_key(figure, regions, top - 0.78 * room)


def smooth_png(figure: Figure) -> bytes:
    """Return a figure that was set at twice its resolution as a PNG: seams and steps of triangles are averaged away."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    large = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    small = large.resize((large.width // 2, large.height // 2), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def numbered(names: Sequence[str]) -> dict[str, int]:
    """Return the numbers of regions in the figure, from 1, none where regions are too many to be told apart by them.

    Cortex in no region has no number.
    """
    own = [name for name in names if name not in (OTHER, OUTSIDE)]
    return {name: k for k, name in enumerate(own, start=1)} if len(own) <= MOST_NUMBERS else {}


class _Seen:
    """The triangles of a hemisphere that face the eye."""

    def __init__(self, cortex: Cortex, side: Hemisphere, view: str) -> None:
        self.cortex = cortex
        self.angles = EYES[view][HEMISPHERES.index(side)]
        up, around = np.deg2rad(self.angles)
        self.to_eye = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
        # Where nilearn puts the mesh.
        self.points = cortex.inflated - cortex.inflated.mean(axis=0)
        corners = self.points[cortex.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        facing = normals @ self.to_eye > 0
        self.faces = cortex.faces[facing]
        self.area = normals[facing] @ self.to_eye
        """Twice the area that the eye sees of each triangle."""
        self.slant = self.area / np.linalg.norm(normals[facing], axis=1)
        """Cosine of the angle between each triangle's normal and the eye."""


def _one_view(axes: Any, seen: _Seen, values: FloatArray, style: Mapping[str, Any]) -> None:
    background = np.where(seen.cortex.sulcal > 0, SULCUS, GYRUS)
    mesh = InMemoryMesh(seen.points.copy(), seen.faces)
    plot_surf(mesh, values, bg_map=background, hemi="left", view=seen.angles, axes=axes, colorbar=False, **style)
    axes.set_proj_type("ortho")
    low, high = seen.points.min(axis=0), seen.points.max(axis=0)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_box_aspect(high - low, zoom=ZOOM)
    axes.patch.set_alpha(0)
    for collection in axes.collections:
        collection.set_clip_on(False)


def _borders(axes: Any, seen: _Seen, region: NDArray[np.int64], names: Sequence[str]) -> None:
    """Draw lines between vertices of different regions, and number the regions."""
    faces = seen.faces
    # Drawn in front of all triangles, since lines and triangles are not sorted together.
    lift = seen.to_eye * np.ptp(seen.points)
    lines = []
    for one, left, right in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        own = region[faces[:, one]]
        cut = (own != region[faces[:, left]]) & (own != region[faces[:, right]]) & (seen.slant > GRAZING)
        ends = [(seen.points[faces[cut, one]] + seen.points[faces[cut, other]]) / 2 for other in (left, right)]
        lines.append(np.stack(ends, axis=1))
    width = 1.1 if numbered(names) else 0.6
    drawn = np.concatenate(lines) + lift
    axes.add_collection3d(Line3DCollection(drawn, colors=DARK, linewidths=width, capstyle="round", clip_on=False))
    _numbers(axes, seen, region, names, np.concatenate(lines).mean(axis=1), lift)


def _numbers(
    axes: Any, seen: _Seen, region: NDArray[np.int64], names: Sequence[str], borders: FloatArray, lift: FloatArray
) -> None:
    """Write each region's number where it is farthest from borders and from the rim, as the eye sees it."""
    centres = seen.points[seen.faces].mean(axis=1)
    flat = np.eye(3) - np.outer(seen.to_eye, seen.to_eye)
    limits = cKDTree(np.concatenate([borders, centres[seen.slant <= GRAZING]]) @ flat)
    for name, number in numbered(names).items():
        within = (region[seen.faces] == names.index(name)).all(axis=1) & (seen.slant > GRAZING)
        if seen.area[within].sum() <= SMALLEST * seen.area.sum():
            continue
        room, _ = limits.query(centres[within] @ flat)
        axes.text(
            *(centres[within][np.argmax(room)] + 1.1 * lift), str(number), ha="center", va="center", fontsize=11,
            fontweight="bold", color="black", path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip


def _bordered(regions: RegionSet) -> NDArray[np.intp]:
    """Return the region of each vertex, one number for all cortex that is in none."""
    nowhere = [k for k, name in enumerate(regions.names) if name in (OTHER, OUTSIDE)]
    return np.where(np.isin(regions.of_voxel, nowhere), nowhere[0] if nowhere else 0, regions.of_voxel)


def _region_key(figure: Figure, regions: Mapping[Hemisphere, RegionSet] | None, y: float) -> None:
    if regions is None:
        return
    words = "     ".join(f"{number} {name}" for name, number in numbered(regions["left"].names).items())
    figure.text(0.5, y, words, ha="center", va="center", fontsize=_size(figure, len(words)), color=DARK)


def _size(figure: Figure, letters: int) -> float:
    """Return the size in points at which a line of so many letters fits into a figure's width, at most 11."""
    return float(min(11.0, 120 * figure.get_figwidth() / max(letters, 1)))


def _colour_bar(
    figure: Figure, scale: Colormap, limits: tuple[float, float], beyond: tuple[bool, bool], label: str
) -> None:
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    height = figure.get_figheight()
    axes = figure.add_axes((0.38, 0.72 * LEGEND / height, 0.24, 0.13 / height))
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), scale), cax=axes, orientation="horizontal", extend=extend)
    figure.text(0.37, (0.72 * LEGEND + 0.065) / height, label, ha="right", va="center", fontsize=11, color=DARK)
    bar.ax.tick_params(labelsize=9)

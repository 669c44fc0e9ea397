"""Which region each voxel lies in, and how the layers of the generator are spread over regions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.mask import labels_on_grid
from hyperdecode.weights.areas import AREAS, SECTIONS, Area, area_of_name, without_side

__all__ = [
    "GROUPS",
    "NO_LAYER",
    "OTHER",
    "OUTSIDE",
    "Partition",
    "RegionSet",
    "labels_of_voxels",
    "layer_distribution",
    "regions_of_voxels",
]

Partition = Literal["groups", "sections", "areas", "hemispheres"]

GROUPS: tuple[str, ...] = (
    "primary visual",
    "early visual",
    "dorsal stream",
    "ventral stream",
    "MT+ complex and neighbours",
)
"""The regions of Dado et al. (2022, Figure 8): sections 1 to 5 of Glasser et al. (2016), in that order."""

OTHER = "other cortex"
OUTSIDE = "outside the atlas"
NO_LAYER = "no layer"

SPACES_UNKNOWN = ("", "unknown")


@dataclass(frozen=True, eq=False)
class RegionSet:
    """A region for each voxel.

    Attributes
    ----------
    names : tuple of str
        The regions in the order in which tables and figures show them; some may hold no voxel. `OTHER` (labelled, but
        in none of the groups) and `OUTSIDE` (not labelled) stand last.
    of_voxel : ndarray of intp, shape (n_voxels,)
        Position in `names` of each voxel's region.

    Raises
    ------
    UserError
        When names repeat, or a voxel has none of them.
    """

    names: tuple[str, ...]
    of_voxel: NDArray[np.intp]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or not self.names:
            raise UserError(f"regions need names that differ, got {', '.join(self.names) or 'none'}")
        if self.of_voxel.ndim != 1 or not self.of_voxel.size:
            raise UserError(f"regions need one number a voxel, got shape {self.of_voxel.shape}")
        if self.of_voxel.min() < 0 or self.of_voxel.max() >= len(self.names):
            raise UserError(
                f"numbers of regions run from 0 to {len(self.names) - 1}, got {self.of_voxel.min()} to "
                f"{self.of_voxel.max()}: give positions in the names"
            )

    @property
    def sizes(self) -> NDArray[np.intp]:
        """Voxels of each region, (n_regions,)."""
        return np.bincount(self.of_voxel, minlength=len(self.names))

    def at(self, voxels: ArrayLike) -> RegionSet:
        """Return the regions of some of the voxels (centres of a map with a stride, say), all names kept."""
        return RegionSet(self.names, self.of_voxel[np.asarray(voxels, dtype=np.intp)])


def labels_of_voxels(
    atlas_values: ArrayLike,
    atlas_affine: ArrayLike,
    voxels: ArrayLike,
    shape: tuple[int, ...],
    affine: ArrayLike | None,
    *,
    space: str = "",
    atlas_space: str = "",
) -> NDArray[np.int64]:
    """Return the label of an atlas at each voxel of a mask; the atlas may have another grid.

    Each voxel takes the label nearest to its centre in mm (`hyperdecode.fmri.mask.labels_on_grid`).

    Parameters
    ----------
    atlas_values : array-like of whole numbers, shape (x, y, z)
        Labels, 0 for none.
    atlas_affine : array-like, shape (4, 4)
        Voxel to mm, of the atlas.
    voxels : array-like of int, shape (n_voxels, 3)
        Voxel indices of the mask's members.
    shape : tuple of int
        Of the mask's grid.
    affine : array-like, shape (4, 4)
        Voxel to mm, of the mask.
    space, atlas_space : str
        What the headers say of the spaces (`hyperdecode.study.images.image_space`), where known.

    Returns
    -------
    ndarray of int64, shape (n_voxels,)
        0 where the atlas has no label.

    Raises
    ------
    UserError
        When the mask has no affine, voxels lie outside its grid, or none of them has a label.

    Warns
    -----
    DataWarning
        When the headers name different spaces, or more than half of the voxels have no label.
    """
    if affine is None:
        raise UserError(
            "the mask has no affine, so its voxels have no place in the atlas: save it as NIfTI with the affine of "
            "the functional data"
        )
    index = np.asarray(voxels)
    if index.ndim != 2 or index.shape[1] != 3 or not index.shape[0] or index.dtype.kind not in "iu":
        raise UserError(f"voxels are whole numbers of shape (n_voxels, 3), got {index.dtype} {index.shape}")
    if index.min() < 0 or (index >= np.array(shape[:3])).any():
        raise UserError(f"some voxels lie outside the grid {shape[:3]} of the mask: give indices into it")
    on_grid = labels_on_grid(atlas_values, atlas_affine, shape, affine)
    labels: NDArray[np.int64] = on_grid[tuple(index.T)]
    without = int((labels == 0).sum())
    if without == len(labels):
        raise UserError(
            f"none of {len(labels)} voxels has a label in the atlas: give an atlas in the space of the mask (an atlas "
            "in MNI space fits masks in MNI space alone)"
        )
    if space not in SPACES_UNKNOWN and atlas_space not in SPACES_UNKNOWN and space != atlas_space:
        warnings.warn(
            f"the mask says that it is in {space} space, the atlas {atlas_space}: labels were taken at the same mm",
            DataWarning,
            stacklevel=2,
        )
    if 2 * without > len(labels):
        warnings.warn(
            f"{without} of {len(labels)} voxels have no label in the atlas: is it in the space of the mask?",
            DataWarning,
            stacklevel=2,
        )
    return labels


def regions_of_voxels(
    labels: ArrayLike,
    names: Mapping[int, str] | None = None,
    by: Partition = "groups",
    *,
    groups: Mapping[str, Iterable[str | int]] | None = None,
) -> RegionSet:
    """Name the region of each voxel.

    Parameters
    ----------
    labels : array-like of int, shape (n_voxels,)
        Label of each voxel, 0 for none (`labels_of_voxels`).
    names : mapping of int to str, optional
        Label -> name. Default: the numbers themselves. HCP-MMP1 is known by the names of its areas.
    by : {"groups", "sections", "areas", "hemispheres"}
        The five groups of the paper with all else as `OTHER`, or the 22 sections (both for HCP-MMP1 alone); single
        areas with both hemispheres together; or apart.
    groups : mapping of str to iterable of str or int, optional
        Groups of your own: name -> names (with or without hemisphere) or labels of their areas; used instead of `by`.

    Returns
    -------
    RegionSet
        All groups, or the sections and areas that hold a voxel; `OTHER` and `OUTSIDE` where they hold one.

    Raises
    ------
    UserError
        For groups or sections of an atlas that is not HCP-MMP1, an unknown name in `groups`, an area in two groups,
        or labels that are no whole numbers.
    """
    here = np.asarray(labels)
    if here.ndim != 1 or not here.size or here.dtype.kind not in "iu":
        raise UserError(f"labels are whole numbers, one a voxel, got {here.dtype} of shape {here.shape}")
    present = np.unique(here[here != 0])
    titles = {int(label): str(int(label)) for label in present} | dict(names or {})
    if groups is not None:
        region_of, order = _own_groups(groups, titles)
    elif by in ("groups", "sections"):
        region_of, order = _sections(names, by)
    elif by in ("areas", "hemispheres"):
        region_of, order = _single_areas(titles, present, names is not None, apart=by == "hemispheres")
    else:
        raise UserError(f"unknown partition {by!r}: choose groups, sections, areas or hemispheres")
    of_label = {int(label): region_of.get(int(label), OTHER) for label in present} | {0: OUTSIDE}
    found = [of_label[int(label)] for label in here]
    there = set(found)
    keep_empty = groups is not None or by == "groups"
    kept = [name for name in order if keep_empty or name in there] + [n for n in (OTHER, OUTSIDE) if n in there]
    position = {name: k for k, name in enumerate(kept)}
    return RegionSet(tuple(kept), np.array([position[name] for name in found], dtype=np.intp))


def layer_distribution(layers: ArrayLike, regions: RegionSet, layer_names: Sequence[str]) -> pd.DataFrame:
    """Count the voxels of each layer in each region.

    Parameters
    ----------
    layers : array-like of int, shape (n_voxels,)
        Position in `layer_names` of each voxel's layer, -1 for none.
    regions : RegionSet
        Of the same voxels.
    layer_names : sequence of str
        The layers in the generator's order.

    Returns
    -------
    pandas.DataFrame
        One row a region and layer, `NO_LAYER` last: ``region``, ``layer``, ``n_voxels``, ``n_region`` (voxels of the
        region) and ``share`` (of the region's voxels; NaN where it has none). The shares of a region add up to 1.

    Raises
    ------
    UserError
        When a layer is none of the names, or voxels and layers differ in number.
    """
    counts = layer_counts(layers, regions, len(layer_names))
    sizes = regions.sizes
    counts = np.column_stack([counts, sizes - counts.sum(axis=1)])
    with np.errstate(invalid="ignore"):
        shares = counts / sizes[:, None]
    columns = [*layer_names, NO_LAYER]
    return pd.DataFrame(
        {
            "region": np.repeat(regions.names, len(columns)),
            "layer": np.tile(columns, len(regions.names)),
            "n_voxels": counts.ravel(),
            "n_region": np.repeat(sizes, len(columns)),
            "share": shares.ravel(),
        }
    )


def layer_counts(layers: ArrayLike, regions: RegionSet, n_layers: int) -> NDArray[np.int64]:
    """Return the voxels of each region and layer, (n_regions, n_layers); voxels of layer -1 are not counted."""
    found = np.asarray(layers)
    if found.shape != regions.of_voxel.shape or found.dtype.kind not in "iu":
        raise UserError(
            f"layers are whole numbers, one for each of {len(regions.of_voxel)} voxels, got {found.dtype} of shape "
            f"{found.shape}"
        )
    if found.min() < -1 or found.max() >= n_layers:
        raise UserError(
            f"layers run from -1 (none) to {n_layers - 1}, got {found.min()} to {found.max()}: name all layers"
        )
    some = found >= 0
    cells = regions.of_voxel[some] * n_layers + found[some]
    counts = np.bincount(cells, minlength=len(regions.names) * n_layers)
    return counts.reshape(len(regions.names), n_layers)


def _hcp_areas(names: Mapping[int, str] | None) -> dict[int, Area]:
    """Return label -> area where most names are those of HCP-MMP1, else nothing.

    Some areas are named by a number alone, as areas of any other atlas may be.
    """
    found = {label: area_of_name(name) for label, name in (names or {}).items()}
    areas = {label: area for label, area in found.items() if area is not None}
    told = any(not area.short.isdigit() for area in areas.values())
    return areas if told and 2 * len(areas) > len(found) else {}


def _sections(names: Mapping[int, str] | None, by: Partition) -> tuple[dict[int, str], list[str]]:
    areas = _hcp_areas(names)
    if not areas:
        raise UserError(
            f"{by} are those of HCP-MMP1, and these labels do not have the names of its areas: give groups of your "
            "own, or take single areas"
        )
    titles = list(GROUPS if by == "groups" else SECTIONS)
    return {k: titles[area.section - 1] for k, area in areas.items() if area.section <= len(titles)}, titles


def _single_areas(
    titles: Mapping[int, str], present: NDArray[np.generic], named: bool, *, apart: bool
) -> tuple[dict[int, str], list[str]]:
    """Name each label by itself; HCP-MMP1's areas by their short names, in the order of the sections."""
    areas = _hcp_areas(titles) if named else {}
    rank = {area.short: k for k, area in enumerate(AREAS)}
    region_of: dict[int, str] = {}
    key: dict[str, tuple[int, int]] = {}
    for label in sorted(int(k) for k in present):
        stem, side = without_side(titles[label])
        area = areas.get(label)
        name = area.short if area else stem
        region_of[label] = f"{name}_{side}" if apart and side else name
        key.setdefault(region_of[label], (rank[area.short], label) if area else (len(rank), label))
    return region_of, sorted(key, key=key.__getitem__)


def _own_groups(
    groups: Mapping[str, Iterable[str | int]], titles: Mapping[int, str]
) -> tuple[dict[int, str], list[str]]:
    by_name: dict[str, list[int]] = {}
    for label, title in titles.items():
        stem, side = without_side(title)
        area = area_of_name(title) if not title.isdigit() else None
        short = {area.short, f"{area.short}_{side}"} if area else set()
        for name in {title, stem} | short:
            by_name.setdefault(name.casefold(), []).append(label)
    region_of: dict[int, str] = {}
    for group, members in groups.items():
        if group in (OTHER, OUTSIDE) or isinstance(members, str):
            raise UserError(f"group {group!r} needs a list of areas and a name of its own, got {members!r}")
        for member in members:
            labels = by_name.get(member.casefold(), []) if isinstance(member, str) else [int(member)]
            if not labels:
                raise UserError(f"group {group!r} names the area {member!r}, which the atlas does not have")
            for label in labels:
                if region_of.setdefault(label, group) != group:
                    raise UserError(f"area {member!r} stands in the groups {region_of[label]!r} and {group!r}")
    return region_of, list(groups)

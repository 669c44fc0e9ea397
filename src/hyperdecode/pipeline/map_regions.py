"""Layers by region, for a subject's map: which atlas, which regions, the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.mapping.region_test import RegionTest, order_test, region_layer_test
from hyperdecode.mapping.regions import Partition, RegionSet, labels_of_voxels, layer_distribution, regions_of_voxels
from hyperdecode.study.images import image_space, read_image
from hyperdecode.study.settings import MappingSettings
from hyperdecode.weights.atlas import load_atlas

__all__ = ["RegionTables", "map_regions", "region_tables"]


@dataclass(frozen=True)
class RegionTables:
    """Layers by region.

    Attributes
    ----------
    groups, areas : pandas.DataFrame
        A row a region and layer: ``region``, ``layer``, ``n_voxels``, ``n_region``, ``share``; counts over permuted
        pairings (``null_mean``, ``null_sd``), ``z``, ``p_cell`` (of the cell alone), ``p_family`` (over all cells).
    """

    groups: pd.DataFrame
    areas: pd.DataFrame


def map_regions(
    study: Path, wanted: MappingSettings, mask: Any, where: NDArray[np.integer[Any]], by: Partition
) -> RegionSet | None:
    """Return the region of each voxel; None where the mask has no place in the atlas.

    Parameters
    ----------
    study : pathlib.Path
    wanted : MappingSettings
    mask : nibabel image
    where : array of int, shape (n_voxels, 3)
        Voxel indices.
    by : {"groups", "areas"}
        An image of the user's has single areas alone.

    Raises
    ------
    UserError
        When atlas and mask do not overlap, or the image of regions cannot be read.
    """
    names: Mapping[int, str] | None = None
    if wanted.region_image:
        image = read_image(study / wanted.region_image, n_dimensions=3)
        values, affine, atlas_space = np.asarray(image.dataobj), image.affine, image_space(image)
        by = "areas"
    elif image_space(mask) == "mni":
        atlas = load_atlas()
        values, affine, names, atlas_space = atlas.labels, atlas.affine, atlas.names, "mni"
    else:
        return None
    space = image_space(mask)
    labels = labels_of_voxels(values, affine, where, mask.shape, mask.affine, space=space, atlas_space=atlas_space)
    return regions_of_voxels(labels, names, by)


def region_tables(
    regions: tuple[RegionSet, RegionSet] | None,
    layers: NDArray[np.int8],
    permuted: NDArray[np.int8],
    layer_names: Sequence[str],
) -> tuple[RegionTables | None, dict[str, Any]]:
    """Count layers by region and test the counts against permuted pairings.

    Parameters
    ----------
    regions : (RegionSet, RegionSet) or None
        Groups and single areas, of `map_regions`.
    layers, permuted : arrays of int8, shapes (n_voxels,) and (n_permutations, n_voxels)
        Layer of each voxel, and under each permutation.
    layer_names : sequence of str

    Returns
    -------
    RegionTables or None
    dict
        Facts for the record: p of the whole table, and the rank correlation of layer and order of regions.
    """
    if regions is None:
        return None, {
            "regions": "Regions are those of an atlas in MNI space, and this mask lies elsewhere: name "
            "mapping.region_image to count layers by region."
        }
    groups, areas = regions
    tested = region_layer_test(layers, permuted, groups, layer_names)
    facts: dict[str, Any] = {
        "region_deviation_p": round(tested.p_deviation, 6),
        "region_association_p": round(tested.p_association, 6),
        "n_permutations": tested.n_permutations,
    }
    try:
        order = order_test(layers, permuted, groups, len(layer_names))
        facts |= {"order_rho": round(order.rho, 4), "order_p": round(order.p_value, 6), "order": list(order.order)}
    except UserError as error:
        facts["order_reason"] = str(error)
    single = _table(region_layer_test(layers, permuted, areas, layer_names), layers, areas, layer_names)
    return RegionTables(_table(tested, layers, groups, layer_names), single), facts


def _table(
    tested: RegionTest, layers: NDArray[np.int8], regions: RegionSet, layer_names: Sequence[str]
) -> pd.DataFrame:
    counts = layer_distribution(layers, regions, layer_names)
    cells = pd.DataFrame(
        {
            "region": np.repeat(tested.regions, len(tested.layers)),
            "layer": np.tile(tested.layers, len(tested.regions)),
            **{name: getattr(tested, name).ravel() for name in ("null_mean", "null_sd", "z", "p_cell", "p_family")},
        }
    )
    return counts.merge(cells, how="left", on=["region", "layer"])

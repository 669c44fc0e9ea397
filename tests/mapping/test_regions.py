import numpy as np
import pytest

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.mapping.regions import (
    GROUPS,
    NO_LAYER,
    OTHER,
    OUTSIDE,
    RegionSet,
    labels_of_voxels,
    layer_distribution,
    regions_of_voxels,
)

HCP = {
    1: "Primary_Visual_Cortex_L",
    2: "Second_Visual_Area_L",
    6: "Area_V3A_L",
    11: "Fusiform_Face_Complex_L",
    22: "Medial_Superior_Temporal_Area_L",
    31: "Primary_Motor_Cortex_L",
    181: "Primary_Visual_Cortex_R",
    191: "Fusiform_Face_Complex_R",
    328: "posterior_OFC_Complex_R",
}
LABELS = [1, 181, 2, 6, 11, 191, 22, 31, 328, 0, 1]


def named(regions):
    return [regions.names[k] for k in regions.of_voxel]


def test_groups_are_the_first_five_sections_with_all_else_in_rows_of_its_own():
    regions = regions_of_voxels(LABELS, HCP)
    assert regions.names == (*GROUPS, OTHER, OUTSIDE)
    primary, early, dorsal, ventral, motion = GROUPS
    assert named(regions) == [
        primary, primary, early, dorsal, ventral, ventral, motion, OTHER, OTHER, OUTSIDE, primary
    ]  # fmt: skip
    assert regions.sizes.tolist() == [3, 1, 1, 2, 1, 2, 1]
    assert regions.at([0, 9]).sizes.tolist() == [1, 0, 0, 0, 0, 0, 1]
    # An empty group stays, so that tables of subjects have the same rows; empty rows for the rest do not.
    assert regions_of_voxels([1, 2], HCP).names == GROUPS


def test_single_areas_bear_short_names_with_hemispheres_together_or_apart():
    together = regions_of_voxels(LABELS, HCP, "areas")
    assert together.names == ("V1", "V2", "V3A", "FFC", "MST", "4", "pOFC", OUTSIDE)
    assert together.sizes.tolist() == [3, 1, 1, 2, 1, 1, 1, 1]
    apart = regions_of_voxels(LABELS, HCP, "hemispheres")
    assert apart.names == ("V1_L", "V1_R", "V2_L", "V3A_L", "FFC_L", "FFC_R", "MST_L", "4_L", "pOFC_R", OUTSIDE)
    assert named(apart)[:2] == ["V1_L", "V1_R"]
    sections = regions_of_voxels([31, 1, 0], HCP, "sections")
    assert sections.names == ("Primary visual cortex", "Somatosensory and motor cortex", OUTSIDE)


def test_names_as_in_the_original_release_are_known_too():
    names = {1: "L_V1_ROI", 2: "L_MST_ROI", 201: "R_V1_ROI"}
    assert named(regions_of_voxels([201, 2], names)) == [GROUPS[0], GROUPS[4]]
    assert regions_of_voxels([201, 1, 2], names, "areas").names == ("V1", "MST")


def test_another_atlas_has_areas_by_name_or_number_but_no_groups_of_the_paper():
    assert regions_of_voxels([7, 3, 0, 7], by="areas").names == ("3", "7", OUTSIDE)
    assert regions_of_voxels([7, 3], {3: "cuneus_L", 7: "lingual_R"}, "areas").names == ("cuneus", "lingual")
    # Numbers are names of areas in HCP-MMP1 (4 is motor cortex), but not here.
    assert regions_of_voxels([4, 1], {1: "1", 4: "4"}, "areas").names == ("1", "4")
    for names in (None, {1: "1", 4: "4"}, {1: "cuneus", 4: "V1"}):
        with pytest.raises(UserError, match="give groups of your own"):
            regions_of_voxels([4, 1], names)


def test_groups_of_ones_own():
    groups = {"faces": ["FFC", "MST_L"], "empty": ["4"]}
    regions = regions_of_voxels([11, 191, 22, 1, 0], HCP, groups=groups)
    assert regions.names == ("faces", "empty", OTHER, OUTSIDE)
    assert regions.sizes.tolist() == [3, 0, 1, 1]
    assert regions_of_voxels([5, 6], groups={"a": [5], "b": [6]}).names == ("a", "b")
    with pytest.raises(UserError, match="names the area 'V9', which the atlas does not have"):
        regions_of_voxels([11], HCP, groups={"a": ["V9"]})
    with pytest.raises(UserError, match="stands in the groups 'a' and 'b'"):
        regions_of_voxels([11], HCP, groups={"a": ["FFC"], "b": [11]})
    with pytest.raises(UserError, match="needs a list"):
        regions_of_voxels([11], HCP, groups={"a": "FFC"})


def test_all_of_the_atlas_falls_into_groups_as_the_simulation_has_them(atlas):
    from hyperdecode.simulation.regions import REGIONS

    labels = np.arange(361)
    for names in (atlas.names, atlas.short_names):
        regions = regions_of_voxels(labels, names)
        assert regions.sizes.tolist() == [2, 6, 12, 14, 18, 360 - 52, 1]
        assert (regions_of_voxels(labels, names, "sections").sizes[:-1] >= 2).all()
        areas = regions_of_voxels(labels, names, "areas")
        assert {region.short for region in REGIONS} < set(areas.names) and len(areas.names) == 181


def small_atlas():
    values = np.zeros((10, 10, 10), np.int16)
    values[:5], values[5:] = 1, 2
    values[:, 8:] = 0
    return values, np.diag([2.0, 2, 2, 1])


def test_labels_come_from_another_grid_at_the_same_place():
    values, affine = small_atlas()
    coarse = np.array([[-4.0, 0, 0, 18], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
    voxels = [[0, 0, 0], [4, 0, 0], [2, 1, 1], [0, 4, 2]]
    # x = 18, 2, 10 mm; y = 16 mm has no label.
    assert labels_of_voxels(values, affine, voxels, (5, 5, 5), coarse).tolist() == [2, 1, 2, 0]
    assert labels_of_voxels(values, affine, [[9, 0, 0], [0, 1, 1]], values.shape, affine).tolist() == [2, 1]


def test_an_atlas_that_does_not_fit_is_told_or_refused():
    values, affine = small_atlas()
    far = affine + np.array([[0, 0, 0, 500.0]] + [[0] * 4] * 3)
    with pytest.raises(UserError, match="none of 2 voxels has a label in the atlas"):
        labels_of_voxels(values, affine, [[0, 0, 0], [1, 1, 1]], (10, 10, 10), far)
    with pytest.raises(UserError, match="the mask has no affine"):
        labels_of_voxels(values, affine, [[0, 0, 0]], (10, 10, 10), None)
    with pytest.raises(UserError, match="can be inverted"):
        labels_of_voxels(values, affine, [[0, 0, 0]], (10, 10, 10), np.zeros((4, 4)))
    with pytest.warns(DataWarning, match="2 of 3 voxels have no label"):
        labels_of_voxels(values, affine, [[0, 0, 0], [1, 9, 1], [1, 8, 1]], values.shape, affine)
    with pytest.warns(DataWarning, match="in scanner space, the atlas mni"):
        labels_of_voxels(values, affine, [[0, 0, 0]], values.shape, affine, space="scanner", atlas_space="mni")
    with pytest.raises(UserError, match="outside the grid"):
        labels_of_voxels(values, affine, [[0, 0, 10]], values.shape, affine)
    with pytest.raises(UserError, match=r"shape \(n_voxels, 3\)"):
        labels_of_voxels(values, affine, [0, 1, 2], values.shape, affine)


def test_layers_are_counted_by_region_with_a_row_for_none():
    regions = RegionSet(("a", "b", "c"), np.array([0, 0, 0, 1, 1]))
    table = layer_distribution([1, 1, -1, 0, 1], regions, ["layer 4", "layer 9"])
    counts = table.pivot(index="region", columns="layer", values="n_voxels")
    assert counts.loc["a"].to_dict() == {"layer 4": 0, "layer 9": 2, NO_LAYER: 1}
    assert counts.loc["b"].to_dict() == {"layer 4": 1, "layer 9": 1, NO_LAYER: 0}
    assert counts.loc["c"].sum() == 0 and table.loc[table.region == "c", "share"].isna().all()
    assert table.groupby("region").share.sum()[["a", "b"]].tolist() == pytest.approx([1, 1])
    assert table.loc[table.region == "a", "share"].tolist() == pytest.approx([0, 2 / 3, 1 / 3])


def test_layers_and_regions_that_do_not_fit_are_refused():
    regions = RegionSet(("a", "b"), np.array([0, 1]))
    with pytest.raises(UserError, match="layers run from -1"):
        layer_distribution([0, 2], regions, ["x", "y"])
    with pytest.raises(UserError, match="one for each of 2 voxels"):
        layer_distribution([0, 1, 1], regions, ["x", "y"])
    with pytest.raises(UserError, match="one for each of 2 voxels"):
        layer_distribution([0.0, 1.0], regions, ["x", "y"])
    with pytest.raises(UserError, match="names that differ"):
        RegionSet(("a", "a"), np.array([0]))
    with pytest.raises(UserError, match="run from 0 to 0, got 0 to 1"):
        RegionSet(("a",), np.array([0, 1]))
    with pytest.raises(UserError, match="labels are whole numbers"):
        regions_of_voxels([1.0, 2.0], HCP)
    with pytest.raises(UserError, match="unknown partition 'lobes'"):
        regions_of_voxels([1], HCP, "lobes")

import pytest

from hyperdecode.simulation.regions import REGIONS
from hyperdecode.weights.areas import AREAS, SECTIONS, area_of_name, without_side


def test_each_of_180_areas_stands_in_one_of_22_sections():
    assert len({area.short for area in AREAS}) == len({area.name for area in AREAS}) == len(AREAS) == 180
    counts = [sum(area.section == k for area in AREAS) for k in range(1, len(SECTIONS) + 1)]
    # Glasser et al. (2016), supplementary neuroanatomical results, areas of sections 1 to 22.
    assert counts == [1, 3, 6, 7, 9, 5, 9, 7, 5, 7, 8, 12, 8, 8, 5, 10, 10, 13, 16, 9, 9, 13]
    assert sum(counts) == 180


def test_visual_sections_hold_the_areas_that_they_should():
    of = {k: {area.short for area in AREAS if area.section == k} for k in range(1, 6)}
    assert of[1] == {"V1"} and of[2] == {"V2", "V3", "V4"}
    assert of[3] == {"V3A", "V3B", "V6", "V6A", "V7", "IPS1"}
    assert of[4] == {"V8", "VVC", "PIT", "FFC", "VMV1", "VMV2", "VMV3"}
    assert of[5] == {"V3CD", "LO1", "LO2", "LO3", "V4t", "FST", "MT", "MST", "PH"}


def test_the_simulation_uses_the_same_names():
    for region in REGIONS:
        assert area_of_name(region.short) == area_of_name(f"{region.name}_R")
        assert (area_of_name(region.short).short, area_of_name(region.short).name) == (region.short, region.name)


def test_the_atlas_has_these_areas_in_this_order(atlas):
    for label, name in atlas.names.items():
        assert area_of_name(name) is AREAS[(label - 1) % 180]
        assert atlas.short_names[label] == f"{AREAS[(label - 1) % 180].short}_{name[-1]}"
    assert len(atlas.short_names) == 360


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Area_PH_R", ("Area_PH", "R")),
        ("L_MST_ROI", ("MST", "L")),
        ("R_V1", ("V1", "R")),
        ("LO1", ("LO1", "")),
        ("lingual", ("lingual", "")),
    ],
)
def test_hemispheres_in_names(name, parts):
    assert without_side(name) == parts


def test_names_of_other_atlases_are_none():
    assert area_of_name("cuneus_L") is None and area_of_name("") is None and area_of_name("Area_PH_R").short == "PH"

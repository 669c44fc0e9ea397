import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.simulation.regions import REGIONS, lookup, region_labels


def by_name():
    return {region.short: region for region in REGIONS}


def test_the_atlas_has_every_region_on_both_sides(atlas):
    found = region_labels(atlas.names)
    assert len(found) == 2 * len(REGIONS)
    for label, region in found.items():
        assert atlas.names[label][:-2] == region.name
        assert found[label + 180 if label <= 180 else label - 180] is region


def test_early_areas_read_late_layers_and_small_places():
    order = [by_name()[name] for name in ("V1", "V2", "V3", "V4", "PIT", "VVC", "FFC")]
    assert [r.depth for r in order] == sorted((r.depth for r in order), reverse=True)
    assert [r.field for r in order] == sorted(r.field for r in order)
    assert [r.lateral for r in order] == sorted((r.lateral for r in order), reverse=True)
    assert max(REGIONS, key=lambda r: r.response).short == "FFC"


def test_lookup(atlas):
    found = region_labels(atlas.names)
    labels = np.array(list(found)[::-1], np.int16)
    np.testing.assert_allclose(lookup(labels, found, "depth"), [found[k].depth for k in labels])


def test_another_atlas_is_refused():
    with pytest.raises(UserError, match="no region Primary_Visual_Cortex_L: give HCP-MMP1"):
        region_labels({1: "Somewhere_L"})

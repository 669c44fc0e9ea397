import subprocess
import sys

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn.datasets import load_mni152_gm_template
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.simulation.head import GREY_MATTER, draw_warp, grow_head


def positions(head):
    return apply_affine(head.affine, np.moveaxis(np.indices(head.brain.shape), 0, -1))


def test_the_template_lies_in_mni(template_head):
    np.testing.assert_allclose(template_head.mni, positions(template_head), atol=1e-3)
    assert (np.diag(template_head.affine)[:3] == 4).all()


def test_grey_matter_is_where_the_template_has_it(own_head):
    """Pulled independently, by nibabel's resampling of the template at the true warp."""
    image = load_mni152_gm_template(resolution=1)
    index = apply_affine(np.linalg.inv(image.affine), own_head.mni.reshape(-1, 3)).T
    expected = ndimage.map_coordinates(ndimage.gaussian_filter(np.asarray(image.dataobj), 1.4), index, order=1)
    assert np.corrcoef(expected, own_head.grey.ravel())[0, 1] > 0.98
    shifted = ndimage.map_coordinates(np.asarray(image.dataobj), index + np.array([[12], [0], [0]]), order=1)
    assert np.corrcoef(shifted, own_head.grey.ravel())[0, 1] < 0.7


def test_tissues_share_the_brain(own_head):
    inside = ndimage.binary_erosion(own_head.brain, iterations=2)
    whole = own_head.grey + own_head.white + own_head.csf
    assert np.abs(whole[inside] - 1).mean() < 0.06
    for tissue in (own_head.grey, own_head.white, own_head.csf):
        assert tissue.min() >= 0 and tissue.max() < 1.05


def test_contrast(own_head):
    def mean(share, image=own_head.epi):
        return image[share > 0.8].mean()

    assert mean(own_head.csf) > mean(own_head.grey) > mean(own_head.white) > 500
    outside = ~ndimage.binary_dilation(own_head.epi > 100, iterations=2)
    assert own_head.epi[outside].max() < 100
    t1 = np.asarray(own_head.t1w.dataobj)
    index = apply_affine(np.linalg.inv(own_head.t1w.affine), positions(own_head).reshape(-1, 3)).T
    here = ndimage.map_coordinates(t1.astype(np.float32), index, order=1).reshape(own_head.brain.shape)
    assert mean(own_head.white, here) > 1.15 * mean(own_head.grey, here) > 1.15 * mean(own_head.csf, here)
    assert here[(own_head.epi > 150) & (own_head.epi < 400) & ~own_head.brain].mean() > 400  # scalp


def test_regions_lie_in_grey_matter_on_their_side(own_head, atlas):
    labelled = own_head.regions > 0
    assert (own_head.grey[labelled] >= GREY_MATTER).all() and labelled.sum() > 10_000
    x = own_head.mni[..., 0]
    assert (x[labelled & (own_head.regions <= 180)] < 6).all() and (x[own_head.regions > 180] > -6).all()
    v1 = [k for k, name in atlas.names.items() if name.startswith("Primary_Visual")]
    assert own_head.mni[np.isin(own_head.regions, v1)][:, 1].mean() < -70


def test_ventral_coverage_holds_every_region_that_responds(atlas, template_head):
    whole = grow_head(atlas, seed=0, voxel_size=4.0, coverage="whole")
    assert template_head.brain.size < whole.brain.size / 2
    for label in template_head.table:
        assert (template_head.regions == label).sum() == (whole.regions == label).sum() > 0, template_head.table[label]


def test_whole_coverage_leaves_room_to_move(own_head):
    for axis in range(3):
        faces = np.moveaxis(own_head.brain, axis, 0)
        assert not faces[0].any() and not faces[-1].any()


@pytest.mark.parametrize("seed", range(8))
def test_a_warp_has_no_fold(seed):
    warp = draw_warp("own", seed)
    assert warp.jacobian().min() > 0.25
    moved = np.linalg.norm(warp.displacement, axis=-1)
    assert 1.5 < moved.mean() < 6


def test_a_warp_of_a_grid_is_that_of_its_voxels():
    warp = draw_warp("own", 4)
    affine = np.diag([7.0, 9.0, 11.0, 1.0])
    affine[:3, 3] = -150, -130, -95  # beyond the grid of the displacement on one side
    places = apply_affine(affine, np.moveaxis(np.indices((30, 25, 20)), 0, -1))
    found = warp.on_grid((30, 25, 20), affine)
    np.testing.assert_allclose(found, warp(places), atol=1e-3)
    assert np.abs(found - places).max() > 4


def test_the_jacobian_is_the_volume_of_a_moved_cube():
    warp = draw_warp("own", 4)
    at, step = np.array([12, 20, 9]), 4.0
    corner = apply_affine(warp.grid, at)
    edges = [warp(corner + step * e)[None] - warp(corner - step * e)[None] for e in np.eye(3)]
    volume = np.linalg.det(np.concatenate(edges) / (2 * step))
    assert volume == pytest.approx(warp.jacobian()[tuple(at)], rel=0.02)


def test_heads_differ_and_come_again(atlas, own_head):
    again = grow_head(atlas, seed=3, voxel_size=4.0, coverage="whole", shape="own")
    np.testing.assert_array_equal(again.epi, own_head.epi)
    np.testing.assert_array_equal(np.asarray(again.t1w.dataobj), np.asarray(own_head.t1w.dataobj))
    point = np.array([[30.0, -60.0, -10.0]])
    a, b = (draw_warp("own", seed)(point) for seed in (3, 4))
    assert np.linalg.norm(a - b) > 1


def test_settings_out_of_range(atlas):
    for change, words in (
        ({"voxel_size": 0.5}, "voxel_size is in mm, from 1 to 10, got 0.5"),
        ({"coverage": "all"}, "coverage is 'ventral' or 'whole', got 'all'"),
        ({"shape": "odd"}, "shape is 'own' or 'mni', got 'odd'"),
    ):
        with pytest.raises(UserError, match=words):
            grow_head(atlas, seed=0, **change)


@pytest.mark.slow
def test_whole_brain_at_2_mm_fits_in_memory():
    code = (
        "from hyperdecode.weights.atlas import load_atlas; from hyperdecode.simulation.head import grow_head;"
        "import resource;"
        "head = grow_head(load_atlas(), seed=0, voxel_size=2.0, coverage='whole', shape='own'); head.t1w;"
        "print(head.brain.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    size, peak = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split())
    assert size > 600_000 and peak < 3_000_000  # kB

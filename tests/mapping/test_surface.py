import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn.datasets import load_fsaverage

from hyperdecode.errors import UserError
from hyperdecode.mapping.regions import GROUPS
from hyperdecode.mapping.surface import (
    HEMISPHERES,
    N_DEPTHS,
    load_cortex,
    majority,
    regions_on_cortex,
    sample_labels,
    sample_values,
)

AFFINE = np.array([[4.0, 0, 0, -90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
SHAPE = (46, 56, 48)


def coordinates():
    """Return the mm of each voxel, (3, x, y, z)."""
    return np.moveaxis(apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1)), -1, 0)


def test_both_hemispheres_lie_in_mni152_space_and_can_be_made_finer():
    own = load_fsaverage("fsaverage5")["white_matter"].parts
    for side, sign in (("left", -1), ("right", 1)):
        plain, fine = load_cortex()[side], load_cortex(finer=True)[side]
        assert len(plain.sulcal) == 10_242 and len(fine.sulcal) == 40_962 and len(fine.faces) == 4 * len(plain.faces)
        assert np.mean(np.sign(plain.pial[:, 0]) == sign) > 0.97
        thickness = np.linalg.norm(plain.pial - plain.white, axis=1)
        assert 1 < np.median(thickness) < 4
        moved = np.linalg.norm(plain.white - own[side].coordinates, axis=1)
        assert moved.min() > 1 and moved.max() < 4
        np.testing.assert_array_equal(fine.inflated[:10_242], plain.inflated)
        # A closed surface: vertices - edges + faces = 2, each edge in two triangles.
        edges, count = np.unique(
            np.sort(fine.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0, return_counts=True
        )
        assert (count == 2).all() and len(fine.sulcal) - len(edges) + len(fine.faces) == 2


def test_a_vertex_takes_the_label_that_most_of_its_points_meet():
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 4, SHAPE)
    volume[rng.random(SHAPE) < 0.5] = 0
    cortex = load_cortex()["left"]
    found = sample_labels(volume, AFFINE, cortex)
    for vertex in rng.integers(0, len(found), 200):
        points = np.linspace(cortex.white[vertex], cortex.pial[vertex], N_DEPTHS)
        voxels = np.rint((points - AFFINE[:3, 3]) / 4).astype(int)
        met = volume[tuple(voxels.T)]
        assert found[vertex] == (np.bincount(met[met > 0]).argmax() if met.any() else 0)


def test_sides_do_not_depend_on_how_the_volume_is_stored():
    x = coordinates()[0]
    volume = np.where(x < 0, 1, 2)
    flipped = AFFINE.copy()
    flipped[0] = -AFFINE[0]
    flipped[0, 3] = AFFINE[0, 3] + 4 * (SHAPE[0] - 1)
    for side, label in zip(HEMISPHERES, (1, 2), strict=True):
        found = sample_labels(volume, AFFINE, load_cortex()[side])
        assert np.mean(found == label) > 0.95
        again = sample_labels(volume[::-1].astype(np.float32), flipped, load_cortex()[side])
        np.testing.assert_array_equal(again, found)


def test_numbers_are_means_of_what_is_inside():
    cortex = load_cortex()["right"]
    height = coordinates()[2].copy()
    found = sample_values(height, AFFINE, cortex)
    np.testing.assert_allclose(found, (cortex.white[:, 2] + cortex.pial[:, 2]) / 2, atol=2.0)
    height[coordinates()[1] < -40] = np.nan
    behind = cortex.pial[:, 1] < -50
    cut = sample_values(height, AFFINE, cortex)
    assert np.isnan(cut[behind & (cortex.white[:, 1] < -50)]).all()
    ahead = np.minimum(cortex.white[:, 1], cortex.pial[:, 1]) > -36
    np.testing.assert_array_equal(cut[ahead], found[ahead])
    # A volume that ends before the cortex does.
    small = sample_values(height[:, :, :20], AFFINE, cortex)
    assert np.isnan(small[cortex.white[:, 2] > 20]).all() and np.isfinite(small).any()


def test_visual_groups_lie_where_they_should(atlas):
    regions = regions_on_cortex(atlas.labels, atlas.affine, atlas.names, finer=False)
    for side, sign in (("left", -1), ("right", 1)):
        cortex, found = load_cortex()[side], regions[side]
        assert found.names[:5] == GROUPS
        places = [cortex.pial[found.of_voxel == k].mean(axis=0) * [sign, 1, 1] for k in range(5)]
        primary, early, dorsal, ventral, motion = places
        assert primary[1] < -70 and primary[0] < 20 < ventral[0] < motion[0]
        assert ventral[2] < -5 < dorsal[2] and motion[1] > primary[1] and early[0] > primary[0]
        # Hardly any cortex is without a region; the medial wall is.
        assert 0.85 < 1 - np.mean(found.of_voxel == found.names.index("outside the atlas")) < 0.97


def test_borders_lose_islands_and_keep_halves():
    cortex = load_cortex()["left"]
    halves = (cortex.inflated[:, 1] > 0).astype(np.int64) + 1
    noisy = halves.copy()
    noisy[np.random.default_rng(0).choice(len(halves), 400, replace=False)] = 5
    smooth = majority(noisy, cortex)
    assert np.mean(smooth == halves) > 0.98 and np.mean(smooth == 5) < 0.002
    np.testing.assert_array_equal(majority(np.full(len(halves), 3), cortex), 3)


@pytest.mark.parametrize("read", [sample_labels, sample_values])
def test_what_is_no_volume_is_refused(read):
    cortex = load_cortex()["left"]
    with pytest.raises(UserError, match="one 3D volume"):
        read(np.ones((2, 2), int), AFFINE, cortex)
    with pytest.raises(UserError, match="can be inverted"):
        read(np.ones((2, 2, 2), int), np.zeros((4, 4)), cortex)


@pytest.mark.parametrize("value", [0.5, -1, np.nan])
def test_labels_are_whole_numbers(value):
    with pytest.raises(UserError, match="whole numbers with 0 for none"):
        sample_labels(np.full((2, 2, 2), value), AFFINE, load_cortex()["left"])


def test_nibabel_images_of_labels_fit(atlas):
    image = nib.Nifti1Image(atlas.labels, atlas.affine)
    found = sample_labels(np.asarray(image.dataobj), image.affine, load_cortex()["left"])
    assert set(np.unique(found)) <= set(range(181)) and len(np.unique(found)) > 175

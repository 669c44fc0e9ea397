from __future__ import annotations

import numpy as np
import pytest

from hyperdecode.errors import LeakageError, UserError
from hyperdecode.fmri.mask import voxel_mask


def test_planted_voxels_are_chosen():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((30, 200))
    planted = [3, 77, 150, 199]
    z[:, planted] += 3
    mask = voxel_mask(z, ["train"] * 30, n_voxels=4)
    assert np.flatnonzero(mask.selected).tolist() == planted
    np.testing.assert_allclose(mask.mean_z, z.mean(axis=0))
    assert mask.n_dropped_nan == 0


def test_nan_and_constant_voxels_are_dropped_and_counted():
    z = np.random.default_rng(0).standard_normal((10, 20))
    z[4, 2] = np.nan
    z[:, 5] = 9.0
    z[0, 6] = np.inf
    mask = voxel_mask(z, None, n_voxels=17)
    assert mask.n_dropped_nan == 3
    assert mask.selected.sum() == 17 and not mask.selected[[2, 5, 6]].any()
    with pytest.raises(UserError, match="asks for 18 voxels, 17 of 20"):
        voxel_mask(z, None, n_voxels=18)


def test_ties_keep_the_count_exact_and_repeatable():
    z = np.tile(np.array([[0.0], [1.0]]), (1, 50))
    mask = voxel_mask(z, ["train", "train"], n_voxels=7)
    assert np.flatnonzero(mask.selected).tolist() == list(range(7))


def test_test_trials_are_refused():
    z = np.zeros((3, 5))
    with pytest.raises(LeakageError, match="test trials"):
        voxel_mask(z, ["train", "test", "train"], n_voxels=2)
    with pytest.raises(UserError, match="roles"):
        voxel_mask(z, ["train"], n_voxels=2)

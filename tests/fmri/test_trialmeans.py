import numpy as np
import pytest

from hyperdecode.errors import LeakageError, UserError
from hyperdecode.fmri.mask import best_voxels, voxel_mask
from hyperdecode.fmri.trialmeans import TrialMeans


def responses(seed=0):
    z = np.random.default_rng(seed).standard_normal((70, 400)).astype(np.float32)
    z[3, 5], z[69, 6], z[:, 7], z[:, 8] = np.nan, -np.inf, 2.5, 0
    z[:, 9] = z[:, 10]  # a tie
    return z


@pytest.mark.parametrize("at_once", [1, 7, 32, 33, 70])
def test_means_do_not_depend_on_how_many_trials_come_at_once(at_once):
    z, means = responses(), TrialMeans(400)
    for start in range(0, 70, at_once):
        part = z[start : start + at_once]
        means.add(part, ["train"] * len(part))
    whole = voxel_mask(z, ["train"] * 70, 100)
    np.testing.assert_array_equal(means.mean, whole.mean_z)
    np.testing.assert_array_equal(best_voxels(means, 100).selected, whole.selected)
    unusable = np.flatnonzero(~means.usable)
    assert unusable.tolist() == [5, 6, 7, 8] and np.isnan(means.mean[unusable]).all()
    good = np.setdiff1d(np.arange(400), unusable)
    np.testing.assert_allclose(means.mean[good], z[:, good].astype(np.float64).mean(0), rtol=1e-13)


def test_the_voxels_are_those_of_highest_mean():
    z = responses(1)
    mean = np.where(np.isfinite(z).all(0) & (z != z[0]).any(0), z.astype(np.float64).mean(0), -np.inf)
    expected = np.sort(np.argsort(-mean, kind="stable")[:100])
    np.testing.assert_array_equal(np.flatnonzero(voxel_mask(z, None, 100).selected), expected)


def test_some_voxels_of_them():
    z, means = responses(), TrialMeans(400)
    means.add(z, None)
    places = np.array([300, 7, 20])
    some = means.at(places)
    np.testing.assert_array_equal(some.mean, means.mean[places])
    some.add(z[:, places], None)
    assert means.n_trials == 70 and some.n_trials == 140


def test_one_trial_has_a_mean():
    means = TrialMeans(3)
    means.add(np.array([[1, np.nan, 0]], np.float32), ["train"])
    np.testing.assert_array_equal(means.mean, [1, np.nan, 0])


def test_a_test_trial_or_another_width_is_refused():
    means = TrialMeans(400)
    with pytest.raises(LeakageError, match="mean over training trials"):
        means.add(responses(), ["train"] * 69 + ["test"])
    with pytest.raises(UserError, match="400 voxels"):
        means.add(responses()[:, :3], None)
    assert means.n_trials == 0

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.fmri.resample import resample, resampled_volumes
from hyperdecode.fmri.rigid import rigid_matrix
from hyperdecode.fmri.series import Series, in_order
from hyperdecode.fmri.smoothing import smooth

AFFINE = np.array([[-3.0, 0.1, 0, 70], [0.1, 2.95, -0.7, -90], [0, 0.7, 3.2, -50], [0, 0, 0, 1.0]])
SHAPE = (23, 19, 17)
STILL = np.eye(4)[None]


def to_mm(voxels, affine=AFFINE):
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def by_scipy(volume, voxels):
    """What `resample` was before it was compiled: scipy's spline, NaN outside and beside voxels that are not finite."""
    at, bad = voxels.T, ~np.isfinite(volume)
    values = ndimage.map_coordinates(np.where(bad, 0.0, volume), at, order=3, mode="nearest")
    values[ndimage.map_coordinates(bad.astype(np.float32), at, order=1, mode="nearest") > 0] = np.nan
    limits = np.array(volume.shape)[:, None] - 0.5
    values[~((at > -0.5) & (at < limits)).all(axis=0)] = np.nan
    return values


@pytest.fixture(scope="module")
def noise():
    """White noise: the hardest volume to interpolate. Scattered points, some of them outside."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1000, 1000, SHAPE), rng.uniform(-1, np.array(SHAPE), (5000, 3))


@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_scipys(noise, order):
    volume, voxels = noise
    ours = resample(np.asarray(volume[..., None], order=order), AFFINE, STILL, to_mm(voxels))[0]
    theirs = by_scipy(volume, voxels)
    assert 1000 < np.isfinite(theirs).sum() < 4900
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    # 16 units in the last place of the largest value
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=16 * np.spacing(np.float32(1000)))


@pytest.mark.parametrize("shape", [(1, 6, 4), (2, 1, 3), (30, 2, 1)])
def test_thin_volumes(shape):
    rng = np.random.default_rng(1)
    volume, voxels = rng.uniform(0, 1, shape), rng.uniform(-0.49, np.array(shape) - 0.51, (300, 3))
    ours = resample(volume[..., None], AFFINE, STILL, to_mm(voxels))[0]
    np.testing.assert_allclose(ours, by_scipy(volume, voxels), atol=2e-6)


def test_voxels_that_are_not_finite_spoil_what_lies_beside_them(noise):
    volume, voxels = noise
    spoiled = volume.copy()
    spoiled[10, 10, 10], spoiled[0, 0, 0], spoiled[5] = np.nan, np.inf, -np.inf
    # an affine of small whole numbers, so that grid points are exact voxels and touch no neighbour
    grid = np.indices(SHAPE).reshape(3, -1).T
    voxels = np.vstack([voxels, grid])
    ours = resample(spoiled[..., None], np.diag([2.0, 4, 2, 1]), STILL, voxels * [2, 4, 2])[0]
    theirs = by_scipy(spoiled, voxels)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    assert np.isnan(ours[-len(grid) :]).sum() == SHAPE[1] * SHAPE[2] + 2


def test_points_without_a_place_have_no_value(noise):
    volume, _ = noise
    places = to_mm(np.array([[5.0, 5, 5], [np.nan, 5, 5], [1e300, 0, 0], [-0.6, 5, 5], [5, 5, 16.4]]))
    values = resample(
        np.stack([volume, np.where(volume > 999, np.nan, volume)], axis=-1), AFFINE, [np.eye(4)] * 2, places
    )
    np.testing.assert_array_equal(np.isnan(values[0]), [False, True, True, True, False])
    assert np.isnan(values[1, 1:4]).all()


def test_motion_moves_the_points(noise):
    """A volume that is linear in mm is reproduced exactly, so values tell where they were taken."""
    grid = to_mm(np.indices(SHAPE).reshape(3, -1).T)
    slopes = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    volumes = (grid @ slopes).reshape(*SHAPE, 3)
    matrix = rigid_matrix([1.0, -2.0, 0.5, 0.05, -0.02, 0.03], grid.mean(axis=0))
    points = to_mm(np.random.default_rng(2).uniform(8, 10, (50, 3)))
    taken = resample(volumes, AFFINE, np.stack([matrix] * 3), points).T
    # a line's ends are flat, which reaches eight voxels in with a weight of 0.27^8
    np.testing.assert_allclose(taken, points @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-3)


def test_threads_change_nothing(noise):
    volume, voxels = noise
    series = np.stack([np.roll(volume, k, axis=0) for k in range(7)], axis=-1)
    matrices = np.stack([rigid_matrix([0.1 * k, 0, 0, 0.01, 0, 0], np.zeros(3)) for k in range(7)])
    one, two, five = (resample(series, AFFINE, matrices, to_mm(voxels), threads=n) for n in (1, 2, 5))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, five)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_scaled_file_is_never_held_as_floats(tmp_path, noise, suffix):
    volume, voxels = noise
    stored = np.rint(np.stack([volume, volume[::-1]], axis=-1)).astype(np.int16)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.25, 100)
    nib.save(image, tmp_path / f"bold{suffix}")
    proxy = nib.load(tmp_path / f"bold{suffix}").dataobj
    assert Series(proxy)._stored.dtype == np.int16
    ours = resample(proxy, AFFINE, [np.eye(4)] * 2, to_mm(voxels))
    np.testing.assert_array_equal(ours, resample(stored * 0.25 + 100, AFFINE, [np.eye(4)] * 2, to_mm(voxels)))


def test_volumes_are_read_when_they_are_needed():
    read = []

    def volumes():
        for k in range(20):
            read.append(k)
            yield (k,)

    for done, value in enumerate(in_order(lambda k: k * k, volumes(), 2)):
        assert value == done**2 and len(read) <= done + 4


def test_values_go_where_they_are_wanted(tmp_path, noise):
    volume, voxels = noise
    series, matrices = np.stack([volume, volume + 1], axis=-1), [np.eye(4)] * 2
    kept = np.memmap(tmp_path / "values", dtype=np.float32, mode="w+", shape=(2, 5000))
    calls = []
    resample(series, AFFINE, matrices, to_mm(voxels), out=kept, progress=lambda *seen: calls.append(seen))
    assert calls == [(1, 2), (2, 2)]
    for row, values in zip(kept, resampled_volumes(series, AFFINE, matrices, to_mm(voxels)), strict=True):
        np.testing.assert_array_equal(row, values)
    # some points only are the same values
    np.testing.assert_array_equal(resample(series, AFFINE, matrices, to_mm(voxels)[100:200]), kept[:, 100:200])


def test_smoothing_is_scipys(noise):
    volume = noise[0].astype(np.float32)
    before = volume.copy()
    for sigma in ((0.7, 0.9, 1.4), (0, 2.1, 0), (6.0, 0.1, 0.5)):
        theirs = ndimage.gaussian_filter(noise[0], sigma, mode="nearest", truncate=3.5)
        np.testing.assert_allclose(smooth(volume, sigma), theirs, atol=1e-3)
    np.testing.assert_array_equal(volume, before)


def test_unusable_shapes(noise):
    volume, voxels = noise
    with pytest.raises(UserError, match="4D series"):
        resample(volume, AFFINE, STILL, voxels)
    with pytest.raises(UserError, match=r"one 4x4 matrix a volume, got shape \(1, 4, 4\) for 2 volumes"):
        resample(np.stack([volume] * 2, axis=-1), AFFINE, STILL, voxels)
    with pytest.raises(UserError, match="3 coordinates"):
        resample(volume[..., None], AFFINE, STILL, voxels[:, :2])
    with pytest.raises(UserError, match="writes float32"):
        resample(volume[..., None], AFFINE, STILL, voxels, out=np.empty((1, 5000)))
    with pytest.raises(UserError, match="threads must be at least 1"):
        resample(volume[..., None], AFFINE, STILL, voxels, threads=0)

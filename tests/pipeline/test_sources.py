"""Runs are read a volume at a time; what comes out is what all volumes in memory would give."""

import nibabel as nib
import numpy as np
import pytest

from hyperdecode.pipeline.sources import FAINT, _not_faint, _series_inside


def in_memory(data):
    mean = data.mean(axis=3, dtype=np.float32)
    bright = np.percentile(mean[np.isfinite(mean)], 98)
    if bright <= 0 or np.percentile(mean[np.isfinite(mean)], 2) < -FAINT * bright:
        return (data != data[..., :1]).any(axis=3)
    return np.where(np.isfinite(mean), mean, np.inf) > FAINT * bright


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize("centre", [0, 200])
def test_faint_voxels_are_told_volume_by_volume(tmp_path, dtype, centre):
    rng = np.random.default_rng(0)
    # Many voxels lie about the limit: a mean summed in another order would tell some of them otherwise.
    level = centre * np.where(rng.random((12, 11, 10)) < 0.5, FAINT, 1)[..., None]
    data = (level + 5 * rng.standard_normal((12, 11, 10, 301)) * (rng.random((12, 11, 10, 1)) > 0.1)).astype(dtype)
    if dtype == np.float32:
        data[3, 3, 3, 5] = np.nan
    data = np.asfortranarray(data)
    inside = _not_faint(iter([data[..., k] for k in range(301)]))
    np.testing.assert_array_equal(inside, in_memory(data))
    assert 0.2 < inside.mean() < 1
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "bold.nii.gz")
    values = _series_inside(tmp_path / "bold.nii.gz", inside, 301)
    np.testing.assert_array_equal(values, data[inside].T.astype(np.float32))
    with pytest.raises(ValueError):
        _series_inside(tmp_path / "bold.nii.gz", inside, 300)

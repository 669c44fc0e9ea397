from __future__ import annotations

import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.fmri.realign import framewise_displacement, realign, rigid_matrix, rigid_parameters
from hyperdecode.fmri.resample import resample

AFFINE = np.array([[-3.0, 0.1, 0, 70], [0.1, 2.95, -0.7, -90], [0, 0.7, 3.2, -50], [0, 0, 0, 1.0]])
SHAPE = (48, 56, 36)


def points_of(shape, affine):
    return np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]


@pytest.fixture(scope="module")
def series():
    """A brain that moves by known amounts: each volume is sampled from a finer head, then noise and a gain."""
    template = load_mni152_template(resolution=2)
    head = ndimage.gaussian_filter(np.asarray(template.dataobj, dtype=np.float64), 0.8) * 900
    to_head = np.linalg.inv(template.affine)
    rng = np.random.default_rng(5)
    truth = np.cumsum(rng.normal(0, 1, (8, 6)) * [0.25, 0.25, 0.4, 0.004, 0.003, 0.003], axis=0)
    truth[0] = 0
    grid = points_of(SHAPE, AFFINE)
    centre = grid.mean(axis=0)
    volumes = np.empty((*SHAPE, len(truth)), dtype=np.float32)
    matrices = np.stack([rigid_matrix(p, centre) for p in truth])
    for k, matrix in enumerate(matrices):
        # volume point q shows the tissue of reference point inv(M) q
        source = to_head @ np.linalg.inv(matrix)
        at = source[:3, :3] @ grid.T + source[:3, 3:]
        volume = ndimage.map_coordinates(head, at, order=3).reshape(SHAPE)
        volumes[..., k] = volume * (1 + 0.01 * k) + rng.normal(0, 6, SHAPE)
    return volumes, matrices


def test_known_motion_is_found(series):
    volumes, truth = series
    motion = realign(volumes, AFFINE)
    inside = points_of(SHAPE, AFFINE)[(volumes[..., 0] > 300).ravel()][::50]

    def moved(matrix):
        return inside @ matrix[:3, :3].T + matrix[:3, 3]

    # The reference is the mean of the realigned volumes, which lies where the first volume lies up to a small shift.
    back = np.linalg.inv(motion.matrices[0])
    errors = [
        np.linalg.norm(moved(m @ back) - moved(t), axis=1).mean() for m, t in zip(motion.matrices, truth, strict=True)
    ]
    distances = [np.linalg.norm(moved(t) - inside, axis=1).mean() for t in truth]
    assert max(distances) > 1.0
    assert np.mean(errors) < 0.05 and max(errors) < 0.1
    assert motion.framewise_displacement[0] == 0 and motion.framewise_displacement.shape == (8,)


def test_realigned_volumes_agree_better(series):
    volumes, _ = series
    motion = realign(volumes, AFFINE, max_iterations=10)
    inside = points_of(SHAPE, AFFINE)[(ndimage.binary_erosion(volumes[..., 0] > 300, iterations=3)).ravel()]
    still = np.tile(np.eye(4), (volumes.shape[3], 1, 1))
    gain = (1 + 0.01 * np.arange(volumes.shape[3]))[:, None]
    before, after = ((resample(volumes, AFFINE, m, inside) / gain).std(axis=0).mean() for m in (still, motion.matrices))
    assert after < 0.5 * before


def test_resampling_is_exact_on_voxels_and_nan_outside(series):
    volumes, _ = series
    still = np.tile(np.eye(4), (volumes.shape[3], 1, 1))
    grid = points_of(SHAPE, AFFINE)
    values = resample(volumes, AFFINE, still, np.vstack([grid[::97], [[500.0, 0, 0]]]))
    np.testing.assert_allclose(values[:, :-1].T, volumes.reshape(-1, volumes.shape[3])[::97], atol=0.05)
    assert np.isnan(values[:, -1]).all()


def test_a_nan_voxel_spoils_its_neighbours_only(series):
    volumes, _ = series
    spoiled = volumes[..., :2].copy()
    spoiled[20, 20, 20, 1] = np.nan
    grid = points_of(SHAPE, AFFINE)
    still = np.tile(np.eye(4), (2, 1, 1))
    values = resample(spoiled, AFFINE, still, grid).T.reshape(*SHAPE, 2)
    assert np.isnan(values[20, 20, 20, 1]) and np.isnan(values).sum() < 30
    assert np.isfinite(values[..., 0]).all()


def test_parameters_make_their_matrix_again():
    parameters, centre = np.array([1.0, -2.0, 0.5, 0.02, -0.05, 0.1]), np.array([10.0, -20.0, 5.0])
    np.testing.assert_allclose(rigid_parameters(rigid_matrix(parameters, centre), centre), parameters, atol=1e-12)
    moves = np.array([[0, 0, 0, 0, 0, 0], [1, 0, -1, 0, 0.01, 0], [1, 0, -1, 0, 0.01, 0]])
    np.testing.assert_allclose(framewise_displacement(moves), [0, 2.5, 0])


def test_unusable_series():
    with pytest.raises(UserError, match="4D"):
        realign(np.zeros((4, 4, 4)), AFFINE)
    with pytest.raises(UserError, match="3 of 3 volumes are constant"):
        realign(np.zeros((12, 12, 12, 3)), AFFINE)

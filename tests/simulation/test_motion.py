import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from hyperdecode.errors import UserError
from hyperdecode.fmri.realign import framewise_displacement, realign, rigid_matrix, rigid_parameters
from hyperdecode.simulation.motion import Mover, draw_motion, rigid_matrices

SHAPE, SIZE = (34, 40, 32), 3.0
AFFINE = np.diag([-SIZE, SIZE, SIZE, 1.0])
AFFINE[:3, 3] = SIZE * np.array([17.0, -22.0, -14.0])
CENTRE = AFFINE[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + AFFINE[:3, 3]


def phantom(points, centre=CENTRE):
    """Smooth values at points in mm, (n,): a few broad bumps, none near the edge of the grid."""
    rng = np.random.default_rng(3)
    total = np.zeros(len(points))
    for _ in range(12):
        where, sd = centre + rng.uniform(-14, 14, 3), rng.uniform(7, 9)
        total += rng.uniform(300, 900) * np.exp(-0.5 * ((points - where) ** 2).sum(axis=1) / sd**2)
    return total


def grid_points():
    return (AFFINE[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + AFFINE[:3, 3:]).T


def test_motion_has_the_size_it_is_given():
    for scale in (0.05, 0.4):
        drawn = draw_motion(300, scale=scale, seed=2)
        assert drawn.shape == (300, 6) and (drawn[0] == 0).all()
        assert framewise_displacement(drawn)[1:].mean() == pytest.approx(scale)
    np.testing.assert_allclose(drawn, 8 * draw_motion(300, scale=0.05, seed=2))
    assert (draw_motion(300, scale=0.0, seed=2) == 0).all()


def test_motion_wanders_and_at_times_jerks():
    drawn = [draw_motion(350, scale=0.15, seed=seed) for seed in range(30)]
    moved = np.concatenate([framewise_displacement(d)[1:] for d in drawn])
    assert 2.5 < moved.max() / np.median(moved) < 12
    assert 0.003 < (moved > 2.5 * np.median(moved)).mean() < 0.03
    far = np.mean([np.abs(d[:, :3]).max() for d in drawn])
    assert 0.2 < far < 1.5  # mm: far more than a step, far less than a walk that never returns
    turned = np.concatenate([np.diff(d, axis=0) for d in drawn]).std(axis=0)
    np.testing.assert_allclose(50 * turned[3:], turned[:3], rtol=0.1)


def test_seeds_of_motion():
    np.testing.assert_array_equal(draw_motion(50, scale=0.1, seed=4), draw_motion(50, scale=0.1, seed=4))
    assert not np.allclose(draw_motion(50, scale=0.1, seed=4), draw_motion(50, scale=0.1, seed=5))


@pytest.mark.parametrize("scale", [-0.1, np.nan, np.inf])
def test_motion_that_is_refused(scale):
    with pytest.raises(UserError, match="framewise displacement"):
        draw_motion(10, scale=scale, seed=0)
    with pytest.raises(UserError, match="6 finite parameters"):
        rigid_matrices(np.zeros((4, 5)), CENTRE)


def test_matrices_are_those_of_realign():
    parameters = np.random.default_rng(0).normal(0, [1, 1, 1, 0.05, 0.05, 0.05], (5, 6))
    for matrix, row in zip(rigid_matrices(parameters, CENTRE), parameters, strict=True):
        np.testing.assert_allclose(matrix, rigid_matrix(row, CENTRE), atol=1e-12)


def test_a_moved_volume_is_the_moved_phantom():
    """The phantom is a function, so its moved values are known at every voxel without any interpolation."""
    mover = Mover(AFFINE, SHAPE)
    still = phantom(grid_points()).reshape(SHAPE).astype(np.float32)
    for row in ([0.7, -1.1, 0.4, 0, 0, 0], [0, 0, 0, 0.03, -0.02, 0.04], [-2.2, 0.9, 1.3, 0.02, 0.05, -0.03]):
        matrix = rigid_matrices(np.array([row]), CENTRE)[0]
        back = np.linalg.inv(matrix)
        expected = phantom(grid_points() @ back[:3, :3].T + back[:3, 3])
        error = mover.move(still, matrix).ravel() - expected
        change = expected - still.ravel()
        assert np.abs(error).max() < 0.01 * np.abs(change).max()
        assert error.std() < 0.002 * change.std()


@pytest.mark.parametrize("shape", [(9, 12, 7), (12, 7, 9)])
def test_a_shift_is_that_of_a_tensor_product_spline(shape):
    volume = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    for shift in ([0.3, -0.7, 0.2], [-2.4, 1.6, 3.1], [2.0, 0.0, -1.0]):
        matrix = np.eye(4)
        matrix[:3, 3] = np.array(shift) * 2
        found = Mover(np.diag([2.0, 2.0, 2.0, 1.0]), shape).move(volume, matrix)
        places = np.indices(shape).reshape(3, -1) - np.array(shift)[:, None]
        expected = map_coordinates(volume.astype(np.float64), places, order=3, mode="mirror").reshape(shape)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_no_motion_changes_nothing():
    volume = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    np.testing.assert_allclose(Mover(AFFINE, SHAPE).move(volume, np.eye(4)), volume, atol=1e-5)


def test_there_and_back():
    still = phantom(grid_points()).reshape(SHAPE).astype(np.float32)
    matrix = rigid_matrices(np.array([[0.9, -0.4, 1.2, 0.03, -0.04, 0.05]]), CENTRE)[0]
    mover = Mover(AFFINE, SHAPE)
    moved = mover.move(still, matrix)
    error = mover.move(moved, np.linalg.inv(matrix)) - still
    assert error.std() < 0.004 * (moved - still).std()


def test_realignment_finds_the_planted_motion():
    rng = np.random.default_rng(1)
    texture = gaussian_filter(rng.standard_normal(SHAPE), 1.3)
    inside = phantom(grid_points()).reshape(SHAPE) > 60
    still = (np.where(inside, 1000, 0) + np.where(inside, 150, 0) * texture / texture.std()).astype(np.float32)
    still = gaussian_filter(still, 0.8)
    planted = draw_motion(12, scale=0.6, seed=3)
    matrices = rigid_matrices(planted, CENTRE)
    mover = Mover(AFFINE, SHAPE)
    volumes = np.stack([mover.move(still, m) for m in matrices], axis=-1)
    found = realign(volumes, AFFINE, smoothing=4.0)
    truth = np.stack([rigid_parameters(m, found.centre) for m in matrices])
    error = found.parameters - truth
    error -= error[0]  # realign refers to the mean of all volumes, the truth to the first
    assert np.abs(error[:, :3]).max() < 0.05 and np.abs(error[:, 3:]).max() < 0.001
    assert np.abs(truth[:, :3]).max() > 0.4 and np.abs(truth[:, 3:]).max() > 0.005

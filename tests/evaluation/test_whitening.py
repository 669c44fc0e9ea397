import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.whitening import Whitening


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((5000, 12)) @ rng.standard_normal((12, 12)) + rng.standard_normal(12)


def test_samples_become_white_and_zero_is_the_average(samples):
    white = Whitening.of(samples.mean(0), np.cov(samples, rowvar=False), floor=1e-9)
    assert np.allclose(np.cov(white(samples), rowvar=False), np.eye(12), atol=1e-8)
    assert np.allclose(white(samples.mean(0)), 0)
    assert white.n_raised == 0
    assert np.allclose(white.matrix, white.matrix.T)
    assert np.allclose(white(samples[3]), white(samples)[3])


def test_distances_are_mahalanobis_whatever_the_axes(samples):
    turned = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    white = Whitening.of(samples.mean(0), np.cov(samples, rowvar=False), floor=1e-9)
    other = samples @ turned
    rotated = Whitening.of(other.mean(0), np.cov(other, rowvar=False), floor=1e-9)
    distance = np.linalg.norm(white(samples[0]) - white(samples[1]))
    difference = samples[0] - samples[1]
    assert distance**2 == pytest.approx(difference @ np.linalg.inv(np.cov(samples, rowvar=False)) @ difference)
    assert np.linalg.norm(rotated(other[0]) - rotated(other[1])) == pytest.approx(distance)


def test_directions_without_spread_are_not_blown_up():
    white = Whitening.of(np.zeros(3), np.diag([2.0, 1.0, 0.0]), floor=0.01)
    assert white.n_raised == 1
    assert np.allclose(white(np.eye(3)), np.diag([2**-0.5, 1, 10]))


def test_moments_that_do_not_fit():
    with pytest.raises(UserError, match="covariance"):
        Whitening.of(np.zeros(3), np.eye(2))
    with pytest.raises(UserError, match="some spread"):
        Whitening.of(np.zeros(3), np.zeros((3, 3)))
    with pytest.raises(UserError, match="floor"):
        Whitening.of(np.zeros(3), np.eye(3), floor=0)
    with pytest.raises(UserError, match="3 dimensions"):
        Whitening.of(np.zeros(3), np.eye(3))(np.zeros((2, 4)))

import numpy as np
import pytest

from hyperdecode.decoding.rescale import match_norm
from hyperdecode.errors import UserError


def test_length_is_matched_and_direction_kept():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=7)
    predicted = mean + 0.1 * rng.normal(size=(5, 7))
    stretched = match_norm(predicted, mean, 3.0)
    np.testing.assert_allclose(np.linalg.norm(stretched - mean, axis=1), 3.0)
    before, after = predicted - mean, stretched - mean
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    np.testing.assert_allclose(cosine, 1.0)


def test_one_prediction_does_not_touch_another():
    rng = np.random.default_rng(1)
    predicted = rng.normal(size=(4, 6))
    alone = match_norm(predicted[2:3], np.zeros(6), 2.0)
    np.testing.assert_array_equal(match_norm(predicted, np.zeros(6), 2.0)[2:3], alone)


def test_the_mean_stays_the_mean():
    mean = np.arange(3.0)
    np.testing.assert_array_equal(match_norm(mean[None], mean, 5.0), mean[None])


@pytest.mark.parametrize(("mean", "norm"), [(np.zeros(4), 1.0), (np.zeros(3), 0.0), (np.zeros(3), float("nan"))])
def test_bad_input(mean, norm):
    with pytest.raises(UserError):
        match_norm(np.ones((2, 3)), mean, norm)

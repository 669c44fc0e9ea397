import numpy as np
import pytest

from hyperdecode.decoding.rescale import averages_stretch, match_norm
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


def shrunken(n_repeats, noise, seed=0, n_stimuli=3000, dims=6):
    """Return predictions of single trials that are the best there are for a trial, their stimuli and true latents."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n_stimuli, dims))
    trials = np.repeat(y, n_repeats, axis=0) + noise * rng.standard_normal((n_stimuli * n_repeats, dims))
    return trials / (1 + noise**2) + 2.0, np.repeat(np.arange(n_stimuli).astype(str), n_repeats), y


@pytest.mark.parametrize("noise", [0.5, 2.0, 5.0])
def test_the_stretch_of_averages_is_the_best_there_is(noise):
    predicted, stimuli, y = shrunken(8, noise)
    averages = predicted.reshape(len(y), 8, -1).mean(1) - 2.0
    best = (averages * y).sum() / np.square(averages).sum()
    (stretch,) = averages_stretch(predicted, stimuli, np.full(6, 2.0), [8])
    assert abs(stretch / best - 1) < 0.05
    assert np.isclose(best, (1 + noise**2) / (1 + noise**2 / 8), rtol=0.05)


def test_the_stretch_grows_with_the_trials_of_an_average():
    predicted, stimuli, _ = shrunken(4, 3.0)
    stretch = averages_stretch(predicted, stimuli, np.full(6, 2.0), [1, 2, 4, 14])
    assert stretch[0] == 1 and (np.diff(stretch) > 0).all() and stretch[3] < 14


def test_nothing_is_stretched_beyond_what_its_trials_allow():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 5))
    alone = averages_stretch(noise, [str(k) for k in range(40)], np.zeros(5), [14])
    assert alone.tolist() == [1.0]
    (null,) = averages_stretch(
        noise - noise.reshape(10, 4, 5).mean(1).repeat(4, 0), np.repeat(list("abcdefghij"), 4), np.zeros(5), [14]
    )
    assert null == 14.0
    assert averages_stretch(np.zeros((4, 5)), ["a", "a", "b", "b"], np.zeros(5), [2]).tolist() == [1.0]

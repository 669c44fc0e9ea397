import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import (
    blind_predictions,
    matched_noise,
    random_derangement,
    shuffled_score,
    typical_face,
)


def test_mean_and_zero():
    p = np.random.default_rng(0).standard_normal((4, 3))
    blind = blind_predictions(p, [1.0, 2.0, 3.0])
    assert set(blind) == {"mean", "zero", "noise"}
    assert np.all(blind["mean"] == [1, 2, 3])
    assert np.all(blind["zero"] == 0)
    assert all(b.shape == p.shape for b in blind.values())
    with pytest.raises(UserError, match="training mean"):
        blind_predictions(p, [1.0, 2.0])


def test_noise_has_the_predictions_scale_and_none_of_their_content():
    p = np.random.default_rng(1).standard_normal((50, 4)) * [1, 2, 3, 4] + [0, 5, 0, -5]
    noise = matched_noise(p, n_draws=400, seed=2)
    assert np.allclose(noise.mean(axis=(0, 1)), p.mean(axis=0), atol=0.1)
    assert np.allclose(noise.std(axis=(0, 1)), p.std(axis=0), rtol=0.03)
    centred, fresh = p - p.mean(axis=0), noise - noise.mean(axis=(0, 1))
    assert abs(np.mean(fresh * centred)) < 0.05
    assert np.array_equal(matched_noise(p, 2, seed=2), matched_noise(p, 2, seed=2))


def test_shuffled_score_is_the_mean_over_derangements():
    scores = np.random.default_rng(3).standard_normal((5, 5))
    drawn = [scores[np.arange(5), random_derangement(5, seed)].mean() for seed in range(4000)]
    assert shuffled_score(scores) == pytest.approx(np.mean(drawn), abs=0.02)
    with pytest.raises(UserError):
        shuffled_score(np.ones((2, 3)))


def test_derangement_moves_every_face():
    assert all(not np.any(random_derangement(4, s) == np.arange(4)) for s in range(50))
    assert sorted(random_derangement(9, 1)) == list(range(9))
    with pytest.raises(UserError):
        random_derangement(1)


def test_the_typical_face_is_the_one_nearest_to_the_mean():
    faces = np.array([[4.0, 0], [0, 0], [1.5, 1], [0, 3]])
    assert typical_face(faces) == 2
    with pytest.raises(UserError, match="typical face"):
        typical_face(np.full((2, 2), np.nan))


def test_noise_is_not_what_a_caller_drew_with_the_same_seed():
    true = np.random.default_rng(0).standard_normal((36, 64))
    noise = matched_noise(true, 1, seed=0)[0]
    assert abs(np.corrcoef(noise.ravel(), true.ravel())[0, 1]) < 0.1

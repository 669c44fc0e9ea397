import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.metrics import lsim_scores
from hyperdecode.evaluation.permutation import pairing_permutation_test
from hyperdecode.evaluation.random_null import random_latents_test


def test_p_is_the_share_of_draws():
    scores = np.array([[0.0], [1.0]])
    assert random_latents_test(scores, 1.0, n_draws=20_000) == pytest.approx(0.5, abs=0.02)
    assert random_latents_test(scores, 1.1, n_draws=999) == 0.001
    assert random_latents_test(scores, 0.0, n_draws=999) == 1
    four = np.tile(scores, 4)
    assert random_latents_test(four, 1.0, n_draws=40_000) == pytest.approx(1 / 16, abs=0.01)


def test_a_predictor_that_never_saw_the_brain_passes_it():
    """The reason why the pairing is permuted instead."""
    rng = np.random.default_rng(0)
    true, blind = rng.standard_normal((36, 512)), 0.1 * rng.standard_normal((36, 512))
    observed = np.diagonal(lsim_scores(blind, true)).mean()
    assert random_latents_test(lsim_scores(rng.standard_normal((500, 512)), true), observed, 999) == 0.001
    assert pairing_permutation_test(lsim_scores(blind, true), 999).p_value > 0.05


def test_scores_that_are_none():
    with pytest.raises(UserError, match="random latents"):
        random_latents_test(np.full((2, 2), np.nan), 0.5)

import numpy as np
import pytest
from scipy.stats import binom

from hyperdecode.errors import UserError
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.paper_null import (
    NULL_COLUMNS,
    blind_null_table,
    pairs_binomial_test,
    random_latent_test,
)
from hyperdecode.evaluation.permutation import pairing_permutation_test


@pytest.fixture
def faces():
    rng = np.random.default_rng(0)
    return rng.standard_normal((36, 64)), rng.standard_normal((2000, 64))


def test_blind_predictors_pass_the_papers_null_and_not_the_permutation_test(faces):
    true, random = faces
    rng = np.random.default_rng(1)
    predicted = 0.3 * true + 0.5 * rng.standard_normal(true.shape)
    table = blind_null_table(predicted, true, np.zeros(64), random, n_draws=999).set_index("predictor")
    assert tuple(table.reset_index().columns) == NULL_COLUMNS
    assert (table["p_random_latents"] <= 0.001).all(), "even the mean face, noise around it, and zero"
    assert table.loc["decoder", "p_permutation"] < 0.01
    assert (table.loc[["mean", "zero"], "p_permutation"] == 1).all()
    assert table.loc["noise", "p_permutation"] > 0.01
    assert table.loc["mean", "identification"] == 0.5


def test_random_latents_are_not_better_than_random_latents(faces):
    true, random = faces
    own = (np.random.default_rng((2, k)).standard_normal(true.shape) for k in range(300))
    small = [random_latent_test(latents, true, random[:300], 499).p_value <= 0.05 for latents in own]
    assert 0.015 < np.mean(small) < 0.09
    test = random_latent_test(true, true, random, 499)
    assert test.statistic == 1 and test.p_value == 1 / 500
    assert test.null_mean == pytest.approx(1 / 3, abs=0.01)


def test_the_binomial_test_by_hand():
    scores = np.array([[3.0, 1, 2], [5, 1, 2], [1, 1, 1]])
    # wins 2, 0 and two ties: 3 of 6
    assert pairs_binomial_test(scores) == pytest.approx(binom.sf(2, 6, 0.5))


def test_the_binomial_test_rejects_without_any_decoding():
    """Nothing but noise; the permutation test of the same scores keeps its level."""
    n, binomial, pairing = 400, 0, 0
    for k in range(n):
        scores = np.random.default_rng((3, k)).standard_normal((36, 36))
        binomial += pairs_binomial_test(scores) <= 0.05
        pairing += pairing_permutation_test(win_rates(scores), 199).p_value <= 0.05
    assert binomial / n > 0.15
    assert 0.02 < pairing / n < 0.085


def test_what_does_not_fit(faces):
    true, random = faces
    with pytest.raises(UserError, match="one prediction a stimulus"):
        random_latent_test(true[1:], true, random)
    with pytest.raises(UserError, match="rows of one length"):
        random_latent_test(true, true, random[:, 1:])

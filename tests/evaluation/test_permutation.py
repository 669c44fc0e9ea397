from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import cosine_scores
from hyperdecode.evaluation.permutation import null_moments, null_statistics, pairing_permutation_test


def test_agrees_with_all_pairings_enumerated():
    scores = np.random.default_rng(0).standard_normal((6, 6)) + 0.4 * np.eye(6)
    null = np.array([scores[np.arange(6), list(p)].mean() for p in permutations(range(6))])
    result = pairing_permutation_test(scores, 50_000, seed=1)
    assert result.statistic == pytest.approx(np.trace(scores) / 6)
    assert result.p_value == pytest.approx(np.mean(null >= result.statistic - 1e-12), abs=0.01)
    assert result.null_mean == pytest.approx(null.mean(), abs=0.01)
    assert result.null_sd == pytest.approx(null.std(), abs=0.01)


@pytest.mark.parametrize("identify", [False, True])
def test_null_data_give_uniform_p(identify):
    rng = np.random.default_rng(3)
    p_values = []
    for seed in range(300):
        # a shared mean and scale: blind predictions that look good, and know nothing of the pairing
        true = rng.standard_normal((12, 30)) + 1
        scores = cosine_scores(1 + 0.2 * rng.standard_normal((12, 30)), true)
        p_values.append(pairing_permutation_test(win_rates(scores) if identify else scores, 200, seed).p_value)
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) < 0.1


def test_planted_signal_is_detected_and_p_is_never_zero():
    rng = np.random.default_rng(4)
    true = rng.standard_normal((36, 512))
    scores = cosine_scores(0.3 * true + rng.standard_normal((36, 512)), true)
    assert pairing_permutation_test(scores, 999).p_value == 1 / 1000
    assert pairing_permutation_test(win_rates(scores), 5_001).p_value == 1 / 5_002


def test_a_constant_prediction_has_p_one():
    scores = np.tile(np.random.default_rng(5).standard_normal(20), (20, 1))
    assert pairing_permutation_test(scores, 500).p_value == 1


def test_seed_decides():
    scores = np.random.default_rng(6).standard_normal((10, 10))
    assert pairing_permutation_test(scores, 300, 1) == pairing_permutation_test(scores, 300, 1)
    assert pairing_permutation_test(scores, 300, 1) != pairing_permutation_test(scores, 300, 2)


@pytest.mark.parametrize("scores", [np.ones((2, 3)), np.ones((1, 1)), np.array([[1, np.nan], [0, 1]])])
def test_bad_matrix(scores):
    with pytest.raises(UserError):
        pairing_permutation_test(scores)


def test_no_permutations():
    with pytest.raises(UserError, match="at least one permutation"):
        pairing_permutation_test(np.eye(3), 0)


def test_all_pairings_are_as_likely_as_each_other():
    # entry (i, j) = j 4^i: the statistic names the permutation
    codes = np.array([[j * 4**i for j in range(4)] for i in range(4)], float)
    found, counts = np.unique(4 * null_statistics(codes[None], 48_000, seed=1), return_counts=True)
    assert len(found) == 24
    assert chisquare(counts).pvalue > 0.001


def test_indices_of_many_faces_are_carried_whole():
    for n in (2, 3, 36, 64, 65, 300):
        linear = np.add.outer(np.arange(n) ** 2, np.arange(n) * 1.5)
        null = null_statistics(linear[None], 500, seed=n)
        np.testing.assert_allclose(null, np.trace(linear) / n)


def test_exact_moments_are_those_of_all_pairings():
    s = np.random.default_rng(7).standard_normal((2, 5, 5))
    null = np.array([s[:, range(5), list(p)].mean(axis=1) for p in permutations(range(5))])
    mean, sd = null_moments(s)
    np.testing.assert_allclose(mean, null.mean(axis=0))
    np.testing.assert_allclose(sd, null.std(axis=0))
    assert null_moments(np.full((1, 5, 5), 0.1))[1] == [0]


def test_matrices_share_the_pairings_of_a_seed():
    s = np.random.default_rng(8).standard_normal((9, 9))
    null = null_statistics([s, -2 * s], 20_001, seed=5)
    np.testing.assert_allclose(null[1], -2 * null[0])
    single = pairing_permutation_test(s, 20_001, seed=5)
    assert single.null_mean == pytest.approx(null[0].mean())
    assert single.null_sd == pytest.approx(null[0].std())
    assert len(np.unique(null[0])) > 19_000  # no block is drawn twice

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import kstest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import cosine_scores
from hyperdecode.evaluation.permutation import pairing_permutation_test


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

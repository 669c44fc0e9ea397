from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control

from hyperdecode.errors import UserError
from hyperdecode.evaluation.corrections import benjamini_hochberg, max_statistic_test
from hyperdecode.evaluation.permutation import pairing_permutation_test


@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_q_values_are_those_of_scipy(n):
    p = np.random.default_rng(n).uniform(size=n) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), rtol=1e-12)


def test_equal_p_values_have_equal_q():
    p = np.array([0.02, 0.5, 0.02, 1.0, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))


def test_a_test_that_was_not_made_is_not_counted():
    p = np.array([0.01, np.nan, 0.03, 0.2])
    q = benjamini_hochberg(p)
    assert np.isnan(q[1])
    np.testing.assert_allclose(q[[0, 2, 3]], false_discovery_control(p[[0, 2, 3]]))
    assert np.isnan(benjamini_hochberg([np.nan, np.nan])).all()


@pytest.mark.parametrize("p", [[0.1, 1.2], [-0.1], [[0.1, 0.2]]])
def test_what_is_no_p_value(p):
    with pytest.raises(UserError, match="from 0 to 1"):
        benjamini_hochberg(p)


def test_max_statistic_against_all_pairings_enumerated():
    s = np.random.default_rng(0).standard_normal((3, 6, 6)) * np.array([1, 100, 0.01])[:, None, None]
    s[0] += 0.7 * np.eye(6)
    null = np.array([s[:, range(6), list(p)].mean(axis=1) for p in permutations(range(6))])
    z = (null - null.mean(axis=0)) / null.std(axis=0)
    exact = (z.max(axis=1)[:, None] >= z[0] - 1e-9).mean(axis=0)
    np.testing.assert_allclose(max_statistic_test(s, 60_000, seed=3), exact, atol=0.01)


def test_one_metric_and_repeated_metrics_cost_nothing():
    s = np.random.default_rng(1).standard_normal((8, 8)) + 0.5 * np.eye(8)
    alone = pairing_permutation_test(s, 5_000, seed=2).p_value
    np.testing.assert_allclose(max_statistic_test([s], 5_000, seed=2), alone)
    np.testing.assert_allclose(max_statistic_test([s, 3 * s + 1, 1e-6 * s], 5_000, seed=2), alone)


def test_a_family_is_rejected_in_five_per_cent_of_null_subjects():
    rng = np.random.default_rng(5)
    rejected = sum(max_statistic_test(rng.standard_normal((5, 10, 10)), 199, seed).min() <= 0.05 for seed in range(400))
    assert binomtest(rejected, 400, 0.05).pvalue > 0.001


def test_a_metric_that_is_blind_to_the_pairing_has_p_one():
    blind = np.tile(np.arange(6.0), (6, 1))
    p = max_statistic_test([blind, np.eye(6)], 2_000)
    assert p[0] == 1
    assert p[1] < 0.01
    assert max_statistic_test([blind]) == [1]


def test_matrices_of_another_shape():
    with pytest.raises(UserError, match="square"):
        max_statistic_test(np.ones((2, 3, 4)))

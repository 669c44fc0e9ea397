from itertools import combinations

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.identification import identification_accuracy, matched_pools, n_way_rates, win_rates


def test_counts_the_foils_that_the_right_face_beats():
    scores = np.array([[0.9, 0.1, 0.2, 0.3], [0.5, 0.4, 0.3, 0.6], [0.1, 0.2, 0.0, 0.3], [1.0, 0.0, 0.0, 0.0]])
    assert np.allclose(identification_accuracy(scores), [1, 1 / 3, 0, 1 / 3])


def test_equals_the_definition_for_every_pairing():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (7, 7)) / 7
    for i in range(7):
        for j in range(7):
            others = np.delete(scores[i], j)
            expected = np.mean((scores[i, j] > others) + 0.5 * (scores[i, j] == others))
            assert win_rates(scores)[i, j] == pytest.approx(expected)


def test_a_constant_prediction_is_at_chance_in_spite_of_rounding():
    scores = np.full((5, 5), 0.3) + 1e-16 * np.arange(5)
    assert np.all(identification_accuracy(scores) == 0.5)
    same_rows = np.tile(np.random.default_rng(1).standard_normal(6), (6, 1))
    assert identification_accuracy(same_rows).mean() == pytest.approx(0.5)


def test_unrelated_predictions_are_at_chance():
    scores = np.random.default_rng(2).standard_normal((400, 400))
    assert identification_accuracy(scores).mean() == pytest.approx(0.5, abs=0.04)


def test_bad_input():
    with pytest.raises(UserError, match="at least two"):
        win_rates([[1.0]])
    with pytest.raises(UserError, match="1 similarity scores"):
        win_rates([[1.0, np.nan], [0.0, 1.0]])
    with pytest.raises(UserError, match="one prediction a stimulus"):
        identification_accuracy(np.ones((2, 3)))


def by_enumeration(scores, j, n, pool):
    """Expected accuracy of one prediction, foil set by foil set."""
    found = []
    for foils in combinations(pool, n - 1):
        others = scores[list(foils)]
        if (others > scores[j]).any():
            found.append(0.0)
        else:
            found.append(1 / (1 + (others == scores[j]).sum()))
    return np.mean(found)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_n_way_is_the_mean_over_all_sets_of_foils(n):
    scores = np.random.default_rng(n).integers(0, 4, (6, 8)) / 3
    rates = n_way_rates(scores, n)
    for i in range(6):
        for j in range(8):
            assert rates[i, j] == pytest.approx(by_enumeration(scores[i], j, n, [k for k in range(8) if k != j]))


def test_n_way_with_pools():
    rng = np.random.default_rng(0)
    scores, pools = rng.integers(0, 5, (9, 9)) / 4, rng.random((9, 9)) < 0.6
    np.fill_diagonal(pools, False)
    pools[:, 0] = pools[:, 1] = True
    np.fill_diagonal(pools, False)
    pools[0, 2] = pools[1, 2] = True
    rates = n_way_rates(scores, 3, pools)
    for i in range(9):
        for j in range(9):
            assert rates[i, j] == pytest.approx(by_enumeration(scores[i], j, 3, np.flatnonzero(pools[j])))


def test_two_way_is_the_win_rate_and_blind_is_chance():
    scores = np.random.default_rng(1).integers(0, 9, (36, 36)) / 8
    assert np.allclose(n_way_rates(scores, 2), win_rates(scores))
    for n in (2, 10, 36):
        assert np.allclose(n_way_rates(np.ones((1, 36)), n), 1 / n)
        assert n_way_rates(np.random.default_rng(n).random((1, 36)), n).mean() == pytest.approx(1 / n)
    exact = np.random.default_rng(2).random((50, 36))
    assert np.allclose(n_way_rates(exact, 36), exact == exact.max(axis=1, keepdims=True))


def test_matched_foils_are_the_most_alike():
    attributes = np.array([[0, 0], [0, 1], [10, 0], [10, 1], [0, 2], [10, 2], [0.0, 3]])
    pools = matched_pools(attributes, share=1 / 3)
    assert (pools.sum(axis=1) == 2).all()
    assert np.array_equal(np.flatnonzero(pools[1]), [0, 4])
    assert np.array_equal(np.flatnonzero(pools[5]), [2, 3])
    # Units do not matter, and an attribute that all share says nothing.
    other = np.column_stack([attributes * [100, 0.01], np.ones(7)])
    assert np.array_equal(matched_pools(other), pools)


def test_guessing_the_attribute_wins_nothing_among_matched_foils():
    rng = np.random.default_rng(0)
    group = np.repeat([-1.0, 1.0], 30)
    true = np.column_stack([5 * group, rng.standard_normal((60, 8))])
    predicted = np.column_stack([5 * group, rng.standard_normal((60, 8))])
    scores = -np.linalg.norm(predicted[:, None] - true, axis=2)
    assert np.diagonal(n_way_rates(scores, 2)).mean() > 0.7
    assert np.diagonal(n_way_rates(scores, 2, matched_pools(group[:, None]))).mean() == pytest.approx(0.5, abs=0.08)


def test_pools_that_cannot_be():
    with pytest.raises(UserError, match="smallest pool has 3"):
        n_way_rates(np.zeros((4, 4)), 5)
    with pytest.raises(UserError, match="without the stimulus itself"):
        n_way_rates(np.zeros((4, 4)), 2, np.ones((4, 4)))
    with pytest.raises(UserError, match="matched foils"):
        matched_pools(np.zeros((1, 2)))

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.identification import identification_accuracy, win_rates


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

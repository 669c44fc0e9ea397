import numpy as np
import pytest
from scipy.stats import false_discovery_control, pearsonr

from hyperdecode.errors import UserError
from hyperdecode.evaluation.attribute_scores import ATTRIBUTE_COLUMNS, attribute_table

NAMES = ("gender", "age", "smile")


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((36, 3))
    return true * [0.8, 0.3, 0] + rng.standard_normal((36, 3)), 5 * true + 2


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_columns_are_those_of_scipy(scores, alternative):
    table = attribute_table(*scores, NAMES, alternative=alternative)
    assert tuple(table.columns) == ATTRIBUTE_COLUMNS
    for k, row in table.iterrows():
        theirs = pearsonr(scores[0][:, k], scores[1][:, k], alternative=alternative)
        two_sided = pearsonr(scores[0][:, k], scores[1][:, k])
        np.testing.assert_allclose([row.r, row.p_value], theirs)
        np.testing.assert_allclose([row.low, row.high], two_sided.confidence_interval(0.95))
        assert row.p_permutation == pytest.approx(row.p_value, abs=0.02)
    np.testing.assert_allclose(table.q_value, false_discovery_control(table.p_value))
    assert (table.df == 34).all()
    assert list(table.attribute) == list(NAMES)


def test_a_constant_prediction_has_no_correlation_and_is_not_counted(scores):
    predicted, true = scores
    predicted[:, 2] = 0.1
    table = attribute_table(predicted, true, NAMES)
    assert table.loc[2, ["r", "t", "p_value", "q_value", "low", "high", "p_permutation"]].isna().all()
    np.testing.assert_allclose(table.q_value[:2], false_discovery_control(table.p_value[:2]))


def test_a_negative_correlation_is_no_decoding(scores):
    table = attribute_table(-scores[1], scores[1], NAMES)
    assert (table.p_permutation == 1).all()
    assert (table.p_value > 0.999).all()


def test_what_does_not_fit(scores):
    with pytest.raises(UserError, match="2 names"):
        attribute_table(*scores, NAMES[:2])
    with pytest.raises(UserError, match="four or more"):
        attribute_table(scores[0][:3], scores[1][:3], NAMES)
    with pytest.raises(UserError, match="alternative"):
        attribute_table(*scores, NAMES, alternative="less")

import numpy as np
import pytest
from scipy.stats import false_discovery_control, pearsonr

from hyperdecode.errors import UserError
from hyperdecode.evaluation.dimensions import DIMENSION_COLUMNS, dimension_table


def test_each_dimension_is_scipys_correlation():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((36, 20))
    predicted = 3 + 0.1 * (true * np.linspace(0, 1, 20) + rng.standard_normal((36, 20)))
    table = dimension_table(predicted, true)
    assert tuple(table.columns) == DIMENSION_COLUMNS
    peers = [pearsonr(p, t, alternative="greater") for p, t in zip(predicted.T, true.T, strict=True)]
    assert np.allclose(table["r"], [peer.statistic for peer in peers])
    assert np.allclose(table["p_value"], [peer.pvalue for peer in peers])
    assert np.allclose(table["q_value"], false_discovery_control(table["p_value"]))
    assert list(table["dimension"]) == list(range(20))


def test_dimensions_that_do_not_vary_are_not_tested():
    true = np.random.default_rng(1).standard_normal((8, 3))
    predicted = true.copy()
    predicted[:, 1] = 0.1 + 0.2
    table = dimension_table(predicted, true)
    assert table.loc[1, ["r", "p_value", "q_value"]].isna().all()
    assert table["r"][[0, 2]].tolist() == pytest.approx([1, 1])
    assert (table["p_value"][[0, 2]] < 1e-12).all()


def test_too_few_faces_are_refused():
    with pytest.raises(UserError, match="four faces"):
        dimension_table(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(UserError, match="same four faces"):
        dimension_table(np.zeros((5, 2)), np.zeros((6, 2)))

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from hyperdecode.errors import UserError
from hyperdecode.evaluation.bootstrap import bootstrap_difference, bootstrap_interval


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("kind", ["exponential", "normal"])
def test_limits_are_those_of_scipy(kind, level):
    x = getattr(np.random.default_rng(0), kind)(size=36)
    theirs = bootstrap((x,), np.mean, n_resamples=100_000, confidence_level=level, method="BCa", rng=1)
    ours = bootstrap_interval(x, level, 100_000)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.02 * x.std())


@pytest.mark.parametrize(("kind", "mean", "expected"), [("exponential", 1, 0.921), ("normal", 0, 0.938)])
def test_coverage_of_36_values(kind, mean, expected):
    """BCa is known to cover less than 95 % of few skewed values: the docstring says how much."""
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(600):
        low, high = bootstrap_interval(getattr(rng, kind)(size=36), n_draws=1_000, seed=seed)
        held += low <= mean <= high
    assert binomtest(held, 600, expected).pvalue > 0.001


def test_constant_values():
    assert bootstrap_interval(np.full(36, 0.3)) == (0.3, 0.3)
    assert bootstrap_interval([2.0]) == (2.0, 2.0)


def test_percentiles_where_no_mean_is_below():
    # one draw: the share of means below is 0, 1/2 or 1, and BCa is undefined at 0 and 1
    low, high = bootstrap_interval([0.0, 1.0, 5.0], n_draws=1, seed=0)
    assert np.isfinite([low, high]).all()
    assert low == high


def test_scale_and_order_change_nothing():
    x = np.random.default_rng(3).exponential(size=36)
    np.testing.assert_allclose(bootstrap_interval(7 + 2 * x), 7 + 2 * np.array(bootstrap_interval(x)))
    assert bootstrap_interval(x, seed=1) == bootstrap_interval(x, seed=1)
    assert bootstrap_interval(x, seed=1) != bootstrap_interval(x, seed=2)


def test_a_paired_difference_is_narrow_where_faces_differ():
    rng = np.random.default_rng(4)
    faces = rng.standard_normal(36)
    first, second = faces + 0.2 + 0.05 * rng.standard_normal(36), faces
    low, high = bootstrap_difference(first, second)
    assert 0.15 < low < 0.2 < high < 0.25
    reverse = bootstrap_difference(second, first)
    np.testing.assert_allclose([-reverse[1], -reverse[0]], [low, high], atol=0.005)


@pytest.mark.parametrize("bad", [[], [1.0, np.nan], [[1.0, 2.0]]])
def test_bad_values(bad):
    with pytest.raises(UserError, match="finite score a face"):
        bootstrap_interval(bad)


def test_bad_settings():
    with pytest.raises(UserError, match="level"):
        bootstrap_interval([1.0, 2.0], level=1.0)
    with pytest.raises(UserError, match="draw"):
        bootstrap_interval([1.0, 2.0], n_draws=0)
    with pytest.raises(UserError, match="paired"):
        bootstrap_difference([1.0, 2.0], [1.0])

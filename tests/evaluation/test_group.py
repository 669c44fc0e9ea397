import numpy as np
import pytest
from scipy.stats import binomtest, chi2, norm, ttest_1samp

from hyperdecode.errors import UserError
from hyperdecode.evaluation.group import group_test


def test_combinations_by_hand():
    p = np.array([0.01, 0.2])
    test = group_test(p, [0.7, 0.55], 0.5)
    assert test.some_p == pytest.approx(chi2.sf(-2 * np.log(p).sum(), 4))
    assert test.some_stouffer_p == pytest.approx(norm.sf(norm.isf(p).sum() / 2**0.5))
    assert test.every_p == 0.2
    assert np.isnan(test.population_p) and np.isnan(test.df)
    assert test.claim == "some subject"


def test_two_subjects_never_speak_for_others():
    test = group_test([0.001, 0.001], [0.9, 0.91], 0.5)
    assert test.claim == "every subject"
    assert "not shown of others" in test.words


def test_three_subjects_speak_for_others():
    scores = [0.7, 0.75, 0.72]
    test = group_test([0.001, 0.001, 0.3], scores, 0.5)
    assert test.population_p == pytest.approx(ttest_1samp(scores, 0.5, alternative="greater").pvalue)
    assert test.claim == "population"
    # one subject that carries all is no population
    assert group_test([1e-5, 0.5, 0.6], [0.95, 0.5, 0.49], 0.5).claim == "some subject"


def test_no_wide_claim_without_the_narrow_one():
    """Three scores that happen to lie close together make a small t-test p; the subjects' own tests found nothing."""
    test = group_test([0.3, 0.35, 0.32], [0.53, 0.531, 0.529], 0.5)
    assert test.population_p < 0.001 and test.some_p > 0.05
    assert test.claim == "none"


def test_any_claim_is_as_rare_as_one_test():
    rng, n = np.random.default_rng(0), 2000
    z = rng.standard_normal((n, 4))
    claims = [group_test(norm.sf(row), 0.5 + 0.05 * row, 0.5).claim for row in z]
    any_claim = n - claims.count("none")
    assert binomtest(any_claim, n, 0.05).pvalue > 0.001


def test_nothing_and_one_subject():
    assert group_test([0.4, 0.6], [0.51, 0.49], 0.5).claim == "none"
    alone = group_test([0.03], [0.6], 0.5)
    assert (alone.some_p, alone.every_p) == (pytest.approx(0.03), 0.03)
    assert np.isfinite(group_test([1.0, 1.0], [0.5, 0.5], 0.5).some_stouffer_p)


def test_what_is_no_group():
    with pytest.raises(UserError, match="a subject"):
        group_test([0.0, 0.1], [0.5, 0.5], 0.5)
    with pytest.raises(UserError, match="a subject"):
        group_test([0.1], [0.5, 0.5], 0.5)
    with pytest.raises(UserError, match="chance nan"):
        group_test([0.1], [0.5], float("nan"))

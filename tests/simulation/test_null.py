"""The test of uniformity that null subjects are held to, and what a null subject's voxels hold."""

import numpy as np
import pytest

from benchmarks.null_subjects import ALPHA, Size, alarm, make_world, noticed, scanned, uniformity
from hyperdecode.evaluation.permutation import pairing_permutation_test

SMALL = Size(n_train=40, n_test=6, test_repeats=4, n_runs=2)


@pytest.fixture(scope="module")
def world(atlas):
    return make_world(size=SMALL)


def permutation_p(rng, n, effect=0.0):
    """p-values of the product's own permutation test on scores that carry an effect on the diagonal."""
    scores = rng.standard_normal((n, 12, 12)) + effect * np.eye(12)
    return np.array([pairing_permutation_test(s, 999, seed=k).p_value for k, s in enumerate(scores)])


def test_uniform_p_values_raise_no_alarm():
    """Over 100 sets of 60 the alarm, a Bonferroni bound, rings for about as many as it should: none."""
    rng = np.random.default_rng(0)
    rung = [alarm(uniformity({"a": rng.random(60), "b": rng.integers(1, 1001, 60) / 1000})) for _ in range(100)]
    assert min(rung) >= ALPHA
    assert np.mean(np.array(rung) < 0.05) <= 0.1


def test_permutation_p_values_are_uniform_without_an_effect():
    assert alarm(uniformity({"p": permutation_p(np.random.default_rng(1), 150)})) >= ALPHA


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: permutation_p(rng, 150, effect=0.5),
        lambda rng: rng.random(150) ** 2,
        lambda rng: rng.random(150) ** 0.4,
        lambda rng: np.ones(150),
        lambda rng: np.clip(rng.normal(0.5, 0.1, 150), 0, 1),
        lambda rng: np.where(rng.random(150) < 0.2, 0.001, rng.random(150)),
    ],
    ids=["small effect", "too small", "too large", "always one", "too even", "a fifth significant"],
)
def test_other_p_values_raise_it(make):
    assert alarm(uniformity({"p": make(np.random.default_rng(2))})) < ALPHA


def test_the_share_that_raises_the_alarm():
    """`noticed` is the least share that does, so one p-value less does not."""
    n, n_tests = 200, 24
    at = round(noticed(n, n_tests) * n)
    shares = []
    for k in (at - 1, at):
        p = np.concatenate([np.full(k, 0.04), np.linspace(0.0501, 1, n - k)])
        rows = uniformity({"p": p})
        assert rows[0].share == k / n
        shares.append(n_tests * rows[0].share_p < ALPHA)
    assert shares == [False, True]


def between_faces(trials):
    """Variance of test faces' averages over what noise alone gives them: 1 when repeats have nothing in common."""
    names = np.array(trials.split.stimuli)
    usable = np.isfinite(trials.z).all(axis=0)
    tests = [trials.z[names == name][:, usable] for name in trials.split.test_stimuli]
    voxels = np.argsort(-np.mean([t.mean(axis=0) for t in tests], axis=0))[:60]
    within = np.mean([t[:, voxels].var(axis=0, ddof=1) for t in tests], axis=0)
    between = np.var([t[:, voxels].mean(axis=0) for t in tests], axis=0, ddof=1)
    return float(between.mean() / (within.mean() / len(tests[0])))


def test_null_voxels_are_active_but_repeats_of_a_face_agree_in_nothing(world):
    """Voxels of both respond; only those that see respond more alike to the same face."""
    ratios = {null: [] for null in (True, False)}
    for null, found in ratios.items():
        for k in range(4):
            trials = scanned(world, k, null=null, noise_ceiling=0.3)
            found.append(between_faces(trials))
            z = trials.z[:, np.isfinite(trials.z).all(axis=0)].mean(axis=0)
            assert np.sort(z)[-60:].mean() > 0.5
    assert abs(np.mean(ratios[True]) - 1) < 0.25, ratios
    assert np.mean(ratios[False]) > 1.4, ratios

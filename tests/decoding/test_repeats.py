import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from hyperdecode.decoding.repeats import average_repeats, reliability_weights
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import DataWarning, LeakageError, UserError

D, V = 5, 80


def world(seed):
    rng = np.random.default_rng(seed)
    return rng, rng.standard_normal((D, V))


def errors_on_new(rng, pattern, decoders, noise=2.0):
    y = rng.standard_normal((500, D))
    x = y @ pattern + noise * rng.standard_normal((500, V))
    return [float(((decoder.predict(x) - y) ** 2).mean()) for decoder in decoders]


def two_runs(rng, pattern, noisy=5.0, n=120):
    """Show stimuli in two runs of which the second is noisier; a third of them in both."""
    y = rng.standard_normal((n, D))
    shown = np.concatenate([np.arange(2 * n // 3), np.arange(n // 3, n)])
    run = np.repeat([0, 1], 2 * n // 3)
    x = y[shown] @ pattern + np.where(run, noisy, 1.0)[:, None] * rng.standard_normal((len(run), V))
    return x, y[shown], [f"s{k}" for k in shown], run.tolist()


def test_averages_are_means_of_the_trials_of_each_stimulus():
    x = np.arange(12.0).reshape(4, 3)
    y = np.array([[1.0], [2.0], [1.0], [1.0]])
    mean, latents, counts, names = average_repeats(x, y, ["b", "a", "b", "b"], roles=["train"] * 4)
    assert names == ["b", "a"]
    assert counts.tolist() == [3, 1]
    assert np.array_equal(mean, [x[[0, 2, 3]].mean(0), x[1]])
    assert np.array_equal(latents, [[1.0], [2.0]])
    ours = average_repeats(torch.from_numpy(x).float(), y, ["b", "a", "b", "b"])[:2]
    assert all(isinstance(part, torch.Tensor) and part.dtype == torch.float32 for part in ours)
    assert np.allclose(ours[0], mean)


def test_weights_find_the_noise_of_each_run():
    rng, pattern = world(0)
    x, _, stimuli, runs = two_runs(rng, 0 * pattern)
    weights = reliability_weights(x, stimuli, runs, roles=["train"] * len(x))
    assert weights.mean() == pytest.approx(1)
    assert weights[0] / weights[-1] == pytest.approx(25, rel=0.15)  # no signal: the ratio is that of noise variances
    assert set(np.round(weights[:80], 12)) == {round(weights[0], 12)}
    with_signal = reliability_weights(*[two_runs(rng, 3 * pattern)[k] for k in (0, 2, 3)])
    assert 1.1 < with_signal[0] / with_signal[-1] < 10


def test_weighing_a_noisier_run_less_decodes_better():
    gains = []
    for seed in range(8):
        rng, pattern = world(seed)
        x, y, stimuli, runs = two_runs(rng, pattern)
        weights = reliability_weights(x, stimuli, runs)
        grid = np.logspace(0, 5, 11)
        plain = RidgeDecoder(alphas=grid).fit(x, y, groups=stimuli)
        weighted = RidgeDecoder(alphas=grid).fit(x, y, groups=stimuli, sample_weight=weights)
        before, after = errors_on_new(rng, pattern, [plain, weighted])
        gains.append(1 - after / before)
    assert np.mean(gains) > 0.05
    assert min(gains) > 0


def test_averages_of_more_repeats_weigh_more_and_decode_better():
    gains, averaging = [], []
    for seed in range(12):
        rng, pattern = world(seed)
        counts = np.repeat([1, 1, 1, 5], 40)
        y = rng.standard_normal((len(counts), D))
        shown = np.repeat(np.arange(len(counts)), counts)
        x = y[shown] @ pattern + 8 * rng.standard_normal((len(shown), V))
        mean, latents, n_repeats, names = average_repeats(x, y[shown], [f"s{k}" for k in shown])
        weights = reliability_weights(mean, names, n_repeats=n_repeats)
        assert weights[-1] / weights[0] == pytest.approx((D + 64) / (D + 64 / 5), rel=0.25)
        alphas = np.logspace(1, 5, 9)
        found = []
        for a, b, w in ((x, y[shown], None), (mean, latents, None), (mean, latents, weights)):
            tried = [Ridge(alpha).fit(a, b, sample_weight=w) for alpha in alphas]
            found.append(min(errors_on_new(np.random.default_rng(99), pattern, tried, noise=8 / np.sqrt(5))))
        averaging.append(1 - found[2] / found[0])
        gains.append(1 - found[2] / found[1])
    assert np.mean(gains) > 0.005 and np.mean(np.array(gains) > 0) >= 0.75
    assert np.mean(averaging) > 0 and np.mean(np.array(averaging) > 0) >= 0.75


def test_runs_without_repeats_get_the_mean_noise():
    rng, pattern = world(1)
    x, _, stimuli, runs = two_runs(rng, pattern)
    more = rng.standard_normal((20, V))
    with pytest.warns(DataWarning, match="no stimulus of run 7"):
        weights = reliability_weights(
            np.concatenate([x, more]), stimuli + [f"new{k}" for k in range(20)], [*runs, *[7] * 20]
        )
    assert weights[-21] < weights[-1] < weights[0]


def test_nothing_to_tell_rows_apart_means_equal_weights():
    rng, _ = world(2)
    x = rng.standard_normal((10, V))
    names = [f"s{k}" for k in range(10)]
    with pytest.warns(DataWarning, match="shown twice"):
        assert np.array_equal(reliability_weights(x, names, list(range(10))), np.ones(10))
    with pytest.warns(DataWarning, match="of 3 trials"):
        assert np.array_equal(reliability_weights(x, names, n_repeats=[3] * 10), np.ones(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(reliability_weights(x, ["a", "a", *names[2:]]), np.ones(10))


def test_a_test_trial_is_refused():
    x = np.random.default_rng(0).standard_normal((4, V))
    roles = ["train"] * 3 + ["test"]
    with pytest.raises(LeakageError, match="average_repeats must never see test trials, got 1"):
        average_repeats(x, x[:, :2], list("abcd"), roles)
    with pytest.raises(LeakageError, match="reliability_weights must never see test trials, got 1"):
        reliability_weights(x, list("aabb"), roles=roles)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: average_repeats(x, np.arange(8.0).reshape(4, 2), list("abca")), "stimulus 'a' have different"),
        (lambda x: average_repeats(x, x[:3], list("abca")), "4 trials of responses and 3"),
        (lambda x: average_repeats(x, x, list("abc")), "4 trials and 3 stimuli"),
        (lambda x: reliability_weights(x, list("aabb"), [1, 2]), "4 trials and 2 runs"),
        (lambda x: reliability_weights(x, list("abcd"), n_repeats=[1, 2]), "n_repeats of shape \\(2,\\)"),
        (lambda x: reliability_weights(x, list("abcd"), n_repeats=[1, 2, 0, 1]), "1 or more"),
        (lambda x: reliability_weights(np.where(x > 9, np.nan, x), list("aabb")), "NaN"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call(np.arange(4.0 * 3).reshape(4, 3))
    assert "\n" not in str(caught.value)

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.ceiling import (
    averaged_repeats,
    correlation_ceiling,
    metric_ceiling,
    signal_share,
    split_half_reliability,
)
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import correlation_scores, cosine_scores
from hyperdecode.fmri.quality import noise_ceiling_of_test_repeats


def trials(rng, n_faces=36, repeats=14, width=20, signal=1.0, noise=2.0):
    """Decoded values with known variances a column; also the noise-free ones."""
    truth = rng.normal(0, signal, (n_faces, width))
    counts = np.broadcast_to(repeats, n_faces)
    names = [f"face{k}" for k, count in enumerate(counts) for _ in range(count)]
    values = np.repeat(truth, counts, axis=0)
    return values + rng.normal(0, noise, values.shape), names, truth


@pytest.mark.parametrize(("n", "share"), [(1, 1 / 5), (4, 1 / 2), (14, 14 / 18)])
def test_planted_variances_are_found(n, share):
    found = []
    for seed in range(40):
        values, names, _ = trials(np.random.default_rng(seed))
        found.append(signal_share(values, names, n, n_draws=1))
    mean = np.mean([ceiling.value for ceiling in found])
    spread = np.std([ceiling.value for ceiling in found])
    assert mean == pytest.approx(share, abs=4 * spread / 40**0.5 + 0.003)
    assert {ceiling.n_averaged for ceiling in found} == {n}


@pytest.mark.parametrize("width", [1, 20])
def test_intervals_hold_the_planted_share(width):
    inside = 0
    for seed in range(200):
        values, names, _ = trials(np.random.default_rng(seed), width=width)
        ceiling = signal_share(values, names, n_draws=500, seed=seed)
        inside += ceiling.low <= 14 / 18 <= ceiling.high
    # Percentiles of 36 faces cover somewhat less than they say; 0.85 is far below that and far above a wrong one.
    assert 0.85 <= inside / 200 <= 0.995


def test_of_one_voxel_it_is_the_ceiling_of_the_quality_report():
    values, names, _ = trials(np.random.default_rng(1), repeats=[2, 3, 5, 7] * 9, width=1)
    for n in (1, 3):
        theirs = noise_ceiling_of_test_repeats(values, names, n)[0]
        assert signal_share(values, names, n).value == pytest.approx(float(theirs), rel=1e-5)


def test_the_mean_of_split_halves_is_the_share():
    values, names, _ = trials(np.random.default_rng(2), noise=3.0)
    assert split_half_reliability(values, names) == pytest.approx(signal_share(values, names).value, abs=0.01)


def test_a_bootstrap_sample_of_all_faces_once_is_the_estimate_itself(monkeypatch):
    values, names, _ = trials(np.random.default_rng(3), repeats=[2, 5, 4] * 12)

    class Once:
        def multinomial(self, g, p, size):
            return np.ones((size, g))

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Once())
    ceiling = signal_share(values, names, 3)
    assert ceiling.low == ceiling.high
    # The share but for the correction of faces drawn twice, 36 / 35 of the variance between faces.
    assert ceiling.value < ceiling.low < ceiling.value + 0.03


def test_no_correlation_exceeds_the_ceiling_and_the_right_decoder_reaches_it():
    reached = []
    for seed in range(30):
        values, names, truth = trials(np.random.default_rng(seed), repeats=5)
        averages = values.reshape(36, 5, -1).mean(1)
        a, b = averages - averages.mean(0), truth - truth.mean(0)
        pooled = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        reached.append(pooled - correlation_ceiling(values, names, n_draws=1).value)
    assert abs(np.mean(reached)) < 4 * np.std(reached) / 30**0.5 + 0.002


def test_noise_has_no_ceiling():
    values, names, _ = trials(np.random.default_rng(0), signal=0.0)
    ceiling = correlation_ceiling(values, names)
    assert ceiling.low == 0 and ceiling.value < 0.4
    assert abs(split_half_reliability(values, names)) < 0.25


@pytest.mark.parametrize("n", [1, 14])
def test_metrics_reach_what_a_decoder_without_misfit_reaches(n):
    """Brute force: fresh averages of n trials scored against the truth that was planted."""
    scorers = {
        "cosine": cosine_scores,
        "identification": lambda p, t: win_rates(correlation_scores(p, t)),
    }
    rng = np.random.default_rng(0)
    values, names, truth = trials(rng, width=12, noise=2.5)
    for name, scorer in scorers.items():
        fresh = [
            np.diagonal(scorer(truth + rng.normal(0, 2.5 / n**0.5, truth.shape), truth)).mean() for _ in range(200)
        ]
        ceiling = metric_ceiling(values, names, scorer, n)
        assert ceiling.low <= ceiling.value <= ceiling.high
        assert ceiling.value == pytest.approx(np.mean(fresh), abs=0.03), name


def test_metrics_of_noise_are_at_chance():
    values, names, _ = trials(np.random.default_rng(5), signal=0.0)
    ceiling = metric_ceiling(values, names, lambda p, t: win_rates(correlation_scores(p, t)))
    assert ceiling.low == pytest.approx(0.5, abs=0.03)


def test_repeats_that_differ_in_number():
    assert averaged_repeats(["a", "b", "b"]) == pytest.approx(4 / 3)
    values, names, _ = trials(np.random.default_rng(6), repeats=[14, 13, 12, 1] * 9)
    assert signal_share(values, names).n_averaged == pytest.approx(averaged_repeats(names))


def test_what_has_no_ceiling():
    values, names, _ = trials(np.random.default_rng(0), repeats=1)
    with pytest.raises(UserError, match="0 of 36 test faces were shown more than once"):
        signal_share(values, names)
    values, names, _ = trials(np.random.default_rng(0), n_faces=4, repeats=2)
    values[0, 0] = np.nan
    with pytest.raises(UserError, match="1 values"):
        signal_share(values, names)
    with pytest.raises(UserError, match="the same values"):
        signal_share(np.ones((8, 2)), names)
    with pytest.raises(UserError, match="one row of values"):
        signal_share(np.ones((7, 2)), names)
    with pytest.raises(UserError, match="n_averaged 0"):
        signal_share(np.zeros((8, 2)), names, 0)

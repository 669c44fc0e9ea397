from __future__ import annotations

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import cosine_drift, frame_times
from hyperdecode.fmri.quality import dvars, noise_ceiling_of_test_repeats, split_half_of_test_repeats, tsnr


def planted(n_stimuli=36, repeats=14, n_voxels=400, signal=1.0, noise=7.0, seed=0):
    """Answers with the given variances of signal and of noise, trials in random order."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, signal**0.5, (n_stimuli, n_voxels))
    z = np.repeat(truth, repeats, axis=0) + rng.normal(0, noise**0.5, (n_stimuli * repeats, n_voxels))
    names = np.repeat([f"face{i}" for i in range(n_stimuli)], repeats)
    order = rng.permutation(len(z))
    return z[order], names[order].tolist()


def test_tsnr_is_mean_over_noise_and_blind_to_a_straight_line():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 4.0, (200, 300))
    ratio = tsnr(200 + noise)
    # The sd of a 200-volume estimate is off by 5 percent, its mean over 300 voxels by 0.3 percent.
    assert ratio.mean() == pytest.approx(50, rel=0.015)
    drifting = 200 + noise + np.linspace(-30, 30, 200)[:, None]
    np.testing.assert_allclose(tsnr(drifting), ratio, rtol=1e-5)


def test_tsnr_counts_the_degrees_of_freedom_that_drift_takes():
    rng = np.random.default_rng(1)
    times = frame_times(60, 2.0)
    drift = cosine_drift(times, 0.1)
    assert drift.shape[1] >= 20
    noise = rng.normal(0, 4.0, (60, 3000))
    slow = 40 * drift @ rng.standard_normal((drift.shape[1], 3000))
    assert 1 / np.mean(1 / tsnr(200 + noise + slow, drift) ** 2) ** 0.5 == pytest.approx(50, rel=0.01)
    assert np.median(tsnr(200 + noise + slow)) < 40


def test_tsnr_of_voxels_that_cannot_be_used(monkeypatch):
    series = 100 + np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    series[:, 2] = 7.0
    series[3, 4] = np.nan
    whole = tsnr(series)
    assert np.flatnonzero(np.isnan(whole)).tolist() == [2, 4]
    monkeypatch.setattr("hyperdecode.fmri.repeats.BLOCK_BYTES", 8 * 20 * 2)
    np.testing.assert_array_equal(tsnr(series), whole)
    with pytest.raises(UserError, match="at least 3 volumes"):
        tsnr(series[:2])
    with pytest.raises(UserError, match="more volumes than drift columns"):
        tsnr(series, np.random.default_rng(0).standard_normal((20, 19)))


def smooth_in_time(n_volumes, n_voxels, rho, seed=0):
    rng = np.random.default_rng(seed)
    series = np.empty((n_volumes, n_voxels))
    series[0] = rng.standard_normal(n_voxels)
    for t in range(1, n_volumes):
        series[t] = rho * series[t - 1] + np.sqrt(1 - rho**2) * rng.standard_normal(n_voxels)
    return series * rng.uniform(1, 20, n_voxels) + 500


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_dvars_is_one_whatever_scale_and_autocorrelation(rho):
    values = dvars(smooth_in_time(300, 2000, rho))
    assert np.isnan(values[0]) and len(values) == 300
    assert values[1:].mean() == pytest.approx(1, abs=0.02)
    assert values[1:].std() < 0.05


def test_dvars_shows_a_spike_at_its_volume_and_the_next():
    series = smooth_in_time(200, 500, 0.3)
    clean = dvars(series)
    series[80] += 60.0
    spiked = dvars(series)
    assert sorted(np.argsort(spiked[1:])[-2:] + 1) == [80, 81]
    assert spiked[80] > 2 * clean[80]
    rest = np.delete(np.arange(1, 200), [79, 80])
    np.testing.assert_allclose(spiked[rest], clean[rest], rtol=0.05)


def test_dvars_leaves_out_what_is_not_finite_and_refuses_a_constant_series():
    series = smooth_in_time(50, 40, 0.0)
    with_gap = np.hstack([series, np.full((50, 3), np.nan)])
    np.testing.assert_allclose(dvars(with_gap), dvars(series))
    with pytest.raises(UserError, match="no voxel of the series changes"):
        dvars(np.ones((10, 4)))


def test_split_half_reliability_of_planted_variances():
    z, stimuli = planted(n_stimuli=60, repeats=14, signal=1.0, noise=7.0)
    # Of the average of 14 repeats: 1 / (1 + 7/14).
    got = split_half_of_test_repeats(z, stimuli, n_splits=20)
    assert got.mean() == pytest.approx(2 / 3, abs=0.02)


def test_split_half_reliability_of_noise_is_symmetric_about_zero():
    z, stimuli = planted(repeats=6, n_voxels=3000, signal=0.0, seed=3)
    got = split_half_of_test_repeats(z, stimuli, n_splits=20)
    # 3,000 voxels: the share above 0 has a standard error of 0.009, the mean one of 0.005.
    assert (got > 0).mean() == pytest.approx(0.5, abs=0.04)
    assert got.mean() == pytest.approx(0, abs=0.025)
    assert got.min() >= -1 and got.max() <= 1


def test_split_half_matches_halves_worked_out_one_by_one():
    z, _ = planted(n_stimuli=8, repeats=2, n_voxels=5, noise=2.0)
    stimuli = np.repeat([f"s{i}" for i in range(8)], 2).tolist()
    # Two repeats leave one division up to swapping a stimulus's two halves: their average over all 2^8 swaps.
    total = np.zeros(5)
    for swaps in np.ndindex(*[2] * 8):
        first = z[np.arange(8) * 2 + np.array(swaps)]
        second = z[np.arange(8) * 2 + 1 - np.array(swaps)]
        total += [np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]
    r = total / 256
    got = split_half_of_test_repeats(z, stimuli, n_splits=3000)
    np.testing.assert_allclose(got, 2 * r / (1 + np.abs(r)), atol=0.02)


def test_odd_and_unequal_repeats_and_unusable_voxels():
    rng = np.random.default_rng(0)
    counts = [3, 5, 4, 2, 7, 1, 3, 3, 5, 4]
    truth = rng.standard_normal((10, 6))
    z = np.repeat(truth, counts, axis=0)
    stimuli = np.repeat([f"s{i}" for i in range(10)], counts).tolist()
    z[0, 1] = np.nan
    z[:, 2] = 0.1
    got = split_half_of_test_repeats(z, stimuli, n_splits=5)
    assert np.flatnonzero(np.isnan(got)).tolist() == [1, 2]
    np.testing.assert_allclose(got[[0, 3, 4, 5]], 1.0, atol=1e-6)
    ceiling = noise_ceiling_of_test_repeats(z, stimuli)
    assert np.flatnonzero(np.isnan(ceiling)).tolist() == [1, 2]
    np.testing.assert_allclose(ceiling[[0, 3, 4, 5]], 1.0, atol=1e-6)


def test_divisions_come_from_the_seed_and_blocks_change_nothing(monkeypatch):
    z, stimuli = planted(n_voxels=50)
    first = split_half_of_test_repeats(z, stimuli, n_splits=3, seed=1)
    monkeypatch.setattr("hyperdecode.fmri.repeats.BLOCK_BYTES", 8 * 4 * len(z) * 7)
    np.testing.assert_allclose(split_half_of_test_repeats(z, stimuli, n_splits=3, seed=1), first, rtol=1e-6)
    assert (split_half_of_test_repeats(z, stimuli, n_splits=3, seed=2) != first).any()


@pytest.mark.parametrize(("n_averaged", "expected"), [(1, 1 / 8), (None, 2 / 3), (28, 0.8)])
def test_noise_ceiling_of_planted_variances(n_averaged, expected):
    z, stimuli = planted(n_stimuli=200, signal=1.0, noise=7.0)
    got = noise_ceiling_of_test_repeats(z, stimuli, n_averaged)
    assert got.mean() == pytest.approx(expected, abs=0.01)


def test_noise_ceiling_is_held_at_zero_and_bad_input_refused():
    z, stimuli = planted(signal=0.0, n_voxels=500)
    got = noise_ceiling_of_test_repeats(z, stimuli)
    assert got.min() == 0 and 0.3 < (got == 0).mean() < 0.7
    with pytest.raises(UserError, match="above 0"):
        noise_ceiling_of_test_repeats(z, stimuli, 0)
    with pytest.raises(UserError, match="0 of 36 stimuli"):
        noise_ceiling_of_test_repeats(z[:36], [f"s{i}" for i in range(36)])
    with pytest.raises(UserError, match="at least 3 repeated stimuli"):
        split_half_of_test_repeats(z[:4], ["a", "a", "b", "b"])
    with pytest.raises(UserError, match="trials x voxels"):
        split_half_of_test_repeats(z[0], stimuli)

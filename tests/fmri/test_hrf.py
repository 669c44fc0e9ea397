from __future__ import annotations

import numpy as np
import pytest
from nilearn.glm.first_level import compute_regressor, spm_hrf

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.design import OVERSAMPLING, frame_times, trial_columns
from hyperdecode.fmri.hrf import CANONICAL, LIBRARY, best_hrf, choose_hrf, hrf_kernels, hrf_library

T_R, N_VOLUMES, N_TRIALS = 1.5, 240, 40


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(5)
    onsets = 4.0 + 8.0 * np.arange(N_TRIALS) + rng.uniform(0, 4, N_TRIALS)
    return onsets, np.full(N_TRIALS, 1.5), rng.permutation(N_TRIALS) >= 10


def responses(onsets, durations):
    """Return every trial's response under every HRF of the library, (n_hrfs, n_volumes, n_trials)."""
    return trial_columns(onsets, durations, frame_times(N_VOLUMES, T_R), hrf_library(T_R))


def test_kernels_make_nilearns_regressors():
    times = frame_times(60, 2.0)
    for hrf in ("spm", "spm + derivative", "spm + derivative + dispersion", "glover", "glover + derivative"):
        ours = trial_columns([10.0], [1.0], times, hrf_kernels(hrf, 2.0))[:, :, 0].T
        theirs = compute_regressor(([10.0], [1.0], [1.0]), hrf, times)[0]
        np.testing.assert_allclose(ours[:, 0], theirs[:, 0], atol=1e-10)
        # nilearn's further columns are orthogonal to those before; the span is the same.
        inside = ours @ np.linalg.lstsq(ours, theirs, rcond=None)[0]
        np.testing.assert_allclose(inside, theirs, atol=1e-8)


def test_library_lies_in_three_dimensions_around_the_canonical_response():
    for t_r in (0.7, 1.5, 2.0):
        library = hrf_library(t_r)
        sizes = np.linalg.svd(library, compute_uv=False)
        assert sizes[2] > 1e-3 * sizes[0] and sizes[3] < 1e-12 * sizes[0]
        np.testing.assert_allclose(library[CANONICAL], spm_hrf(t_r, OVERSAMPLING), atol=1e-15)
        np.testing.assert_allclose(library.sum(axis=1), 1.0)


def test_library_peaks_where_its_entries_say():
    library = hrf_library(1.0)
    peak = library.argmax(axis=1) / OVERSAMPLING
    np.testing.assert_allclose(peak, [5 + h.delay for h in LIBRARY], atol=0.3)
    height = {h: library[k].max() for k, h in enumerate(LIBRARY)}
    for narrow, middle, wide in zip(*(LIBRARY[k : k + 8] for k in (0, 8, 16)), strict=True):
        assert height[narrow] > height[middle] > height[wide]


def test_recovers_planted_responses(events):
    onsets, durations, is_training = events
    rng = np.random.default_rng(0)
    planted = np.repeat(np.arange(len(LIBRARY)), 5)
    amplitude = rng.normal(3, 1, (N_TRIALS, planted.size))
    bold = 500 + np.einsum("vtn,nv->tv", responses(onsets, durations)[planted], amplitude)
    scores = 0
    for _ in range(4):
        noisy = bold + 0.3 * rng.standard_normal(bold.shape)
        scores = scores + choose_hrf(noisy, onsets, durations, T_R, is_training, block=17)
    chosen = best_hrf(scores)
    delays = np.array([h.delay for h in LIBRARY])
    assert np.abs(delays[chosen] - delays[planted]).mean() < 0.15
    assert np.abs(delays[chosen] - delays[planted]).max() <= 1.0
    assert (chosen == planted).mean() > 0.6
    assert (chosen == CANONICAL).mean() < 0.15


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_test_trials_do_not_influence_the_choice(events, size):
    onsets, durations, is_training = events
    rng = np.random.default_rng(1)
    n = 200
    every = responses(onsets, durations)
    bold = 500 + every[2] @ rng.normal(1, 1, (N_TRIALS, n)) + rng.standard_normal((N_VOLUMES, n))
    scores = choose_hrf(bold, onsets, durations, T_R, is_training)
    # Each test trial of each voxel gets a response of the library of its own, of any sign.
    kind = rng.integers(len(LIBRARY), size=(10, n))
    amplitude = size * rng.standard_normal((10, n))
    test = every[:, :, ~is_training]
    added = sum(test[kind[k], :, k].T * amplitude[k] for k in range(10))
    spoiled = choose_hrf(bold + added, onsets, durations, T_R, is_training)
    np.testing.assert_allclose(spoiled, scores, rtol=1e-6, atol=1e-9 * scores.max())
    np.testing.assert_array_equal(best_hrf(spoiled), best_hrf(scores))
    # The same change in training trials does move it: the test above can fail.
    moved = choose_hrf(bold + added, onsets, durations, T_R, np.ones(N_TRIALS, bool))
    assert (best_hrf(moved) != best_hrf(choose_hrf(bold, onsets, durations, T_R, np.ones(N_TRIALS, bool)))).any()


def test_unmeasured_voxels_score_nothing_and_get_the_canonical_response(events):
    onsets, durations, is_training = events
    bold = 500 + np.random.default_rng(0).standard_normal((N_VOLUMES, 5))
    clean = choose_hrf(bold, onsets, durations, T_R, is_training)
    bold[:, 1] = 7.0
    bold[3, 2] = np.nan
    scores = choose_hrf(bold, onsets, durations, T_R, is_training)
    assert (scores[:, [1, 2]] < 1e-12).all()
    assert best_hrf(scores)[2] == CANONICAL
    np.testing.assert_array_equal(scores[:, [0, 3, 4]], clean[:, [0, 3, 4]])


def test_a_run_that_says_nothing_is_left_out(events):
    onsets, durations, _ = events
    bold = np.random.default_rng(0).standard_normal((N_VOLUMES, 3))
    with pytest.warns(DataWarning, match="0 training and 40 other"):
        assert not choose_hrf(bold, onsets, durations, T_R, np.zeros(N_TRIALS, bool)).any()
    crowded = np.arange(2.0, 340.0, 3.0)
    with pytest.warns(DataWarning, match="says nothing of the HRF"):
        choose_hrf(bold, crowded, np.ones(crowded.size), T_R, np.arange(crowded.size) == 50)


def test_mistakes_are_named(events):
    onsets, durations, is_training = events
    bold = np.zeros((N_VOLUMES, 3))
    with pytest.raises(UserError, match="names 3 trials, the run has 40"):
        choose_hrf(bold, onsets, durations, T_R, is_training[:3])
    with pytest.raises(UserError, match="volumes x voxels"):
        choose_hrf(bold[0], onsets, durations, T_R, is_training)
    with pytest.raises(UserError, match="unknown HRF 'fir'"):
        hrf_kernels("fir", T_R)
    with pytest.raises(UserError, match="24 HRFs x voxels"):
        best_hrf(np.zeros((3, 4)))

from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel, compute_regressor
from nilearn.glm.first_level.design_matrix import create_cosine_drift

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.fmri.autoregression import SeparateAR1
from hyperdecode.fmri.design import cosine_drift, frame_times, nuisance_matrix, trial_columns, trial_regressors
from hyperdecode.fmri.hrf import CANONICAL, LIBRARY, hrf_kernels
from hyperdecode.fmri.singletrial import single_trial_zmaps, z_from_t
from hyperdecode.fmri.solvers import Design, orthonormal
from hyperdecode.fmri.trialridge import PENALTIES

pytestmark = [
    pytest.mark.filterwarnings("ignore:The following conditions contain events with null:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Given mask will be used:RuntimeWarning"),
]

T_R, N_VOLUMES, SHAPE = 1.5, 90, (4, 3, 3)


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(3)
    onsets = 3.0 + 6.0 * np.arange(18) + rng.uniform(0, 2, 18)
    durations = rng.choice([0.0, 0.9, 1.5], 18)
    x = trial_regressors(onsets, durations, frame_times(N_VOLUMES, T_R))
    n = int(np.prod(SHAPE))
    noise, rho = rng.normal(0, 1.0, (N_VOLUMES, n)), np.linspace(-0.4, 0.95, n)
    for k in range(1, N_VOLUMES):
        noise[k] += rho * noise[k - 1]
    bold = 800 + np.geomspace(0.5, 40, n) * (x @ rng.normal(1, 1, (18, n))) + noise
    bold[:, 0] += 4000 * x[:, 4]  # one voxel with a very large t
    confounds = rng.standard_normal((N_VOLUMES, 3))
    return bold, onsets, durations, confounds


def nilearn_maps(bold, events, confounds, *, noise_model="ols", hrf="spm", slice_time_ref=0.0):
    """Return nilearn's t and z of each trial type, asked one by one."""
    image = nib.Nifti1Image(bold.T.reshape(*SHAPE, N_VOLUMES), np.eye(4))
    model = FirstLevelModel(
        t_r=T_R, hrf_model=hrf, drift_model="cosine", high_pass=0.01, noise_model=noise_model, minimize_memory=False,
        slice_time_ref=slice_time_ref, mask_img=nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)),
    )  # fmt: skip
    model.fit(image, events=events, confounds=pd.DataFrame(confounds))
    maps = {}
    for name in events["trial_type"].unique():
        images = model.compute_contrast(name, output_type="all")
        maps[name] = tuple(images[kind].get_fdata().reshape(-1) for kind in ("stat", "z_score"))
    return maps


HRFS = ["spm", "spm + derivative", "spm + derivative + dispersion", "glover", "glover + derivative"]


@pytest.mark.parametrize("hrf", HRFS)
@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
@pytest.mark.parametrize("method", ["lss", "lsa"])
def test_t_and_z_equal_nilearns_asked_trial_by_trial(run, method, noise_model, hrf):
    bold, onsets, durations, confounds = run
    scrubbed = np.zeros((N_VOLUMES, 2))
    scrubbed[[20, 51], [0, 1]] = 1
    confounds = pd.DataFrame(np.hstack([confounds, scrubbed])).add_prefix("c")
    ours = single_trial_zmaps(
        bold, onsets, durations, T_R, method=method, noise_model=noise_model, hrf=hrf, confounds=confounds, block=7,
        slice_time_ref=0.5,
    )  # fmt: skip
    events = pd.DataFrame({"onset": onsets, "duration": durations})
    names = [f"trial{i:02d}" for i in range(len(onsets))]
    options = {"noise_model": noise_model, "hrf": hrf, "slice_time_ref": 0.5}
    if method == "lsa":
        maps = nilearn_maps(bold, events.assign(trial_type=names), confounds, **options)
        theirs = [maps[name] for name in names]
    else:
        theirs = []
        for trial in range(len(onsets)):
            kind = np.where(np.arange(len(onsets)) == trial, "this", "others")
            theirs.append(nilearn_maps(bold, events.assign(trial_type=kind), confounds, **options)["this"])
    t, z = (np.stack(part) for part in zip(*theirs, strict=True))
    np.testing.assert_allclose(ours.z, z, atol=1e-4)
    # The t that our z stands for, through nilearn's tail: the same number of degrees of freedom.
    n_kernels = 1 + hrf.count("+")
    n_columns = n_kernels * (len(onsets) if method == "lsa" else 2)
    assert (
        ours.dof == N_VOLUMES - n_columns - confounds.shape[1] - 1 - cosine_drift(frame_times(90, T_R), 0.01).shape[1]
    )
    np.testing.assert_allclose(z_from_t(t, ours.dof), ours.z, atol=1e-4)
    assert np.abs(ours.z).max() > 8


def test_every_lss_model_has_a_coefficient_of_its_own(run):
    """One AR coefficient for all models of a voxel would give other numbers than nilearn's."""
    bold, onsets, durations, confounds = run
    times = frame_times(N_VOLUMES, T_R)
    basis = orthonormal(nuisance_matrix(times, 0.01, confounds))
    design = Design.of(trial_regressors(onsets, durations, times)[None], basis, onsets)
    solver = SeparateAR1(design)
    y = bold - basis @ (basis.T @ bold)
    power = (y**2).sum(axis=0)
    own, lagged, _, lag = solver.products.with_voxels(y)
    bins = solver._bins(own, lagged, power, lag)
    assert (np.ptp(bins, axis=1) > 0).mean() > 0.5
    assert np.ptp(bins) > 20
    trial, voxel = 7, 5
    x = np.column_stack([design.flat[:, trial], np.delete(design.flat, trial, axis=1).sum(axis=1)])
    e = y[:, voxel] - x @ np.linalg.lstsq(x, y[:, voxel], rcond=None)[0]
    assert bins[voxel, trial] == int(100 * (e[1:] @ e[:-1] / (N_VOLUMES - 1)) / (e @ e / N_VOLUMES))


def test_one_trial_alone(run):
    bold, _, _, confounds = run
    events = pd.DataFrame({"onset": [40.0], "duration": [1.5], "trial_type": ["this"]})
    for noise_model, hrf in (("ols", "spm"), ("ar1", "spm"), ("ols", "spm + derivative"), ("ar1", "glover")):
        theirs = nilearn_maps(bold, events, confounds, noise_model=noise_model, hrf=hrf)["this"][1]
        for method in ("lss", "lsa"):
            ours = single_trial_zmaps(
                bold, [40.0], [1.5], T_R, method=method, noise_model=noise_model, hrf=hrf, confounds=confounds
            )
            np.testing.assert_allclose(ours.z[0], theirs, atol=1e-4)


def test_library_gives_each_voxel_its_own_response(run):
    bold, onsets, durations, confounds = run
    index = np.random.default_rng(1).integers(0, len(LIBRARY), bold.shape[1])
    index[:4] = CANONICAL
    for method, noise_model in (("lss", "ar1"), ("lsa", "ols"), ("ridge", "ols")):
        options = {"method": method, "noise_model": noise_model, "confounds": confounds}
        ours = single_trial_zmaps(bold, onsets, durations, T_R, hrf="library", hrf_index=index, **options)
        spm = single_trial_zmaps(bold, onsets, durations, T_R, **options)
        np.testing.assert_allclose(ours.z[:, :4], spm.z[:, :4], atol=1e-5)
        alone = single_trial_zmaps(
            bold[:, 9:10], onsets, durations, T_R, hrf="library", hrf_index=index[9:10], **options
        )
        np.testing.assert_allclose(ours.z[:, 9:10], alone.z, atol=1e-5)
        assert np.abs(ours.z - spm.z)[:, index != CANONICAL].max() > 0.1


def ridge_by_hand(y, x, fixed, penalty):
    """Return amplitudes, posterior sd and the GCV score of one voxel, from the normal equations as they stand."""
    n, k = x.shape
    columns = np.hstack([fixed, x])
    normal = columns.T @ columns + np.diag(np.r_[np.zeros(fixed.shape[1]), np.full(k, penalty)])
    inverse = np.linalg.inv(normal)
    hat = columns @ inverse @ columns.T
    residual = y - hat @ y
    amplitude = np.zeros((k, columns.shape[1]))
    amplitude[:, 0] = 1
    amplitude[:, fixed.shape[1] :] = np.eye(k)
    freedom = n - np.trace(hat)
    variance = (residual @ residual) / freedom
    sd = np.sqrt(variance * np.diag(amplitude @ inverse @ amplitude.T))
    return amplitude @ inverse @ columns.T @ y, sd, (residual @ residual) / freedom**2


@pytest.mark.parametrize(("noise_model", "hrf"), [("ols", "spm"), ("ar1", "spm"), ("ols", "spm + derivative")])
def test_ridge_is_the_posterior_at_the_penalty_of_least_gcv(run, noise_model, hrf):
    bold, onsets, durations, _ = run
    times = frame_times(N_VOLUMES, T_R)
    raw, *derivatives = trial_columns(onsets, durations, times, hrf_kernels(hrf, T_R))
    nuisance = nuisance_matrix(times, 0.01)
    for derivative in derivatives:
        # The common response's derivative, orthogonal to it as much as a trial's is to its own on average.
        slope = ((raw * derivative).sum(axis=0) / (raw**2).sum(axis=0)).mean()
        common = derivative.sum(axis=1) - slope * raw.sum(axis=1)
        nuisance = np.column_stack([nuisance, common])
    drift = nuisance_matrix(times, 0.01)
    x = raw - drift @ np.linalg.lstsq(drift, raw, rcond=None)[0]
    ours = single_trial_zmaps(bold, onsets, durations, T_R, method="ridge", noise_model=noise_model, hrf=hrf)

    def best(y, rho):
        def white(a):
            return np.concatenate([a[:1], a[1:] - rho * a[:-1]])

        fixed = np.column_stack([white(x.sum(axis=1)), white(nuisance)])
        trials = white(x)
        beside = trials - fixed @ np.linalg.lstsq(fixed, trials, rcond=None)[0]
        unit = (beside**2).sum() / len(onsets)
        fits = [ridge_by_hand(white(y), trials, fixed, unit * penalty) for penalty in PENALTIES]
        chosen = int(np.argmin([fit[2] for fit in fits]))
        amplitude, sd, _ = fits[chosen]
        d = amplitude - amplitude.mean()
        mean = np.linalg.lstsq(fixed, white(y) - trials @ d, rcond=None)[0]
        return amplitude, sd, white(y) - trials @ d - fixed @ mean, chosen

    chosen = set()
    for voxel in range(bold.shape[1]):
        y = bold[:, voxel]
        amplitude, sd, residual, k = best(y, 0.0)
        if noise_model == "ar1":
            rho = (residual[1:] @ residual[:-1]) / (residual @ residual) * N_VOLUMES / (N_VOLUMES - 1)
            amplitude, sd, _, k = best(y, int(100 * rho) / 100)
        chosen.add(k)
        np.testing.assert_allclose(ours.beta[:, voxel], amplitude, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(ours.z[:, voxel], amplitude / sd, rtol=1e-4, atol=1e-4)
    assert len(chosen) > 3


def test_regressors_equal_nilearns(run):
    _, onsets, durations, _ = run
    for t_r, reference in ((1.5, 0.0), (2.0, 0.5), (0.8, 1.0)):
        times = frame_times(150, t_r, reference)
        ours = trial_regressors(onsets, durations, times)
        for i, (onset, duration) in enumerate(zip(onsets, durations, strict=True)):
            theirs = compute_regressor(([onset], [duration], [1.0]), "spm", times)[0][:, 0]
            np.testing.assert_allclose(ours[:, i], theirs, atol=1e-10)


def test_drift_equals_nilearns():
    times = frame_times(156, 2.0)
    np.testing.assert_allclose(cosine_drift(times, 0.01), create_cosine_drift(0.01, times)[:, :-1], atol=1e-10)


def test_constant_and_nan_voxels_give_nan_and_touch_no_other(run):
    bold, onsets, durations, _ = run
    clean = single_trial_zmaps(bold, onsets, durations, T_R)
    spoiled = bold.copy()
    spoiled[:, 3] = 812.25
    spoiled[:, 4] = 0
    spoiled[5, 9] = np.nan
    spoiled[7, 10] = np.inf
    ours = single_trial_zmaps(spoiled, onsets, durations, T_R)
    bad = np.isin(np.arange(bold.shape[1]), [3, 4, 9, 10])
    assert np.isnan(ours.z[:, bad]).all() and np.isnan(ours.beta[:, bad]).all()
    np.testing.assert_array_equal(ours.z[:, ~bad], clean.z[:, ~bad])


def test_beta_recovers_planted_amplitudes_without_noise():
    onsets, durations = 10.0 + 20.0 * np.arange(6), np.full(6, 1.0)
    x = trial_regressors(onsets, durations, frame_times(80, 2.0))
    amplitudes = np.random.default_rng(0).normal(5, 2, (6, 4))
    bold = 100 + x @ amplitudes + 0.01 * np.linspace(0, 1, 80)[:, None] ** 3
    lsa = single_trial_zmaps(bold, onsets, durations, 2.0, method="lsa")
    np.testing.assert_allclose(lsa.beta, amplitudes, rtol=1e-2)
    assert lsa.dof == 80 - 6 - 1 - cosine_drift(frame_times(80, 2.0), 0.01).shape[1]


def test_block_size_changes_nothing(run):
    bold, onsets, durations, _ = run
    one, many = (single_trial_zmaps(bold, onsets, durations, T_R, block=b).z for b in (1, 10_000))
    np.testing.assert_allclose(one, many, atol=1e-5)


@pytest.mark.parametrize(("method", "noise_model"), [("lss", "ols"), ("lss", "ar1"), ("lsa", "ar1"), ("ridge", "ar1")])
def test_memory_grows_with_the_block_and_not_with_the_voxels(method, noise_model):
    n_volumes, n_trials, block = 120, 40, 1000
    onsets = 3.0 + 4.0 * np.arange(n_trials)

    def peak(n_voxels, block):
        """Return the most bytes held beside input and output."""
        bold = np.random.default_rng(0).standard_normal((n_volumes, n_voxels)).astype(np.float32) + 100
        tracemalloc.start()
        maps = single_trial_zmaps(
            bold, onsets, np.ones(n_trials), T_R, method=method, noise_model=noise_model, block=block
        )
        most = tracemalloc.get_traced_memory()[1] - maps.z.nbytes - maps.beta.nbytes
        tracemalloc.stop()
        return most

    peak(100, block)  # what is compiled and cached once
    one, wide = peak(4 * block, block), peak(4 * block, 2 * block)
    per_voxel = 2 * n_volumes + (18 if method == "ridge" else 10) * n_trials
    assert wide - one < 8 * block * per_voxel
    assert peak(8 * block, block) < 1.1 * one


def test_scale_of_a_voxel_does_not_matter(run):
    bold, onsets, durations, _ = run
    scaled = single_trial_zmaps(bold * 1e-3, onsets, durations, T_R).z
    np.testing.assert_allclose(scaled, single_trial_zmaps(bold, onsets, durations, T_R).z, atol=1e-5)


def test_z_is_monotone_and_finite():
    t = np.array([-np.inf, -1e6, -50, -8, -1, -1e-9, 0, 1e-9, 1, 8, 50, 1e6, np.inf])
    for dof in (3, 130, 1e5):
        z = z_from_t(t, dof)
        assert np.isfinite(z).all() and (np.diff(z) >= 0).all() and (z[1:6] == -z[11:6:-1]).all()
    assert z_from_t(8.0, 130) < 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"onsets": [4.0, 500.0]}, "past the run's end"),
        ({"onsets": [4000.0, 40_000.0]}, "look like milliseconds"),
        ({"onsets": [-30.0, 40.0]}, "more than 24 s before the first volume"),
        ({"noise_model": "ar2"}, "'ols' or 'ar1'"),
        ({"hrf": "fir"}, "unknown HRF"),
        ({"hrf": "library"}, "needs hrf_index"),
        ({"hrf": "library", "hrf_index": [0, 1]}, "3 integers"),
        ({"hrf": "library", "hrf_index": [0, 1, 24]}, "0 to 23, got 0 to 24"),
        ({"hrf_index": [0, 1, 2]}, "belongs to hrf='library'"),
        ({"confounds": np.full((N_VOLUMES, 1), np.nan)}, "row 4 of column 1"),
        ({"onsets": [4.0]}, "1 onsets, 2 durations"),
        ({"onsets": [4.0, 4.0], "method": "lsa"}, "cannot be told"),
        ({"onsets": [4.0, 134.9]}, "leaves no response"),
        ({"onsets": [4.0, np.nan]}, "finite"),
        ({"t_r": 0.0}, "repetition time"),
        ({"method": "glm"}, "'lss', 'lsa' or 'ridge'"),
        ({"confounds": np.zeros((5, 1))}, "5 rows"),
        ({"bold": np.zeros((4, 4, 4, 90))}, "volumes x voxels"),
    ],
)
def test_mistakes_are_named(change, words):
    arguments = {
        "bold": np.random.default_rng(0).standard_normal((N_VOLUMES, 3)),
        "onsets": [4.0, 40.0],
        "durations": [1.0, 1.0],
        "t_r": T_R,
    } | change
    with pytest.raises(UserError, match=words):
        single_trial_zmaps(**arguments)


def test_a_trial_inside_scrubbed_volumes_is_refused(run):
    bold, _, durations, _ = run
    onsets = np.array([4.0, 40.0, 80.0])
    gone = (frame_times(N_VOLUMES, T_R) > 38) & (frame_times(N_VOLUMES, T_R) < 79)
    scrubbed = np.eye(N_VOLUMES)[:, gone]
    for method in ("lss", "lsa", "ridge"):
        with pytest.raises(UserError, match=r"trial 2 \(onset 40 s\) leaves no response.*scrubbed"):
            single_trial_zmaps(bold, onsets, durations[:3], T_R, method=method, confounds=scrubbed)
    kept = single_trial_zmaps(bold, onsets[[0, 2]], durations[[0, 2]], T_R, confounds=scrubbed)
    assert kept.dof == N_VOLUMES - gone.sum() - cosine_drift(frame_times(N_VOLUMES, T_R), 0.01).shape[1] - 1 - 2


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_dependent_confounds_cost_no_degree_of_freedom(run, noise_model):
    bold, onsets, durations, confounds = run
    doubled = np.hstack([confounds, confounds[:, :1], confounds @ [[1.0], [2.0], [0.5]], np.zeros((N_VOLUMES, 1))])
    once, twice = (
        single_trial_zmaps(bold, onsets, durations, T_R, noise_model=noise_model, confounds=c)
        for c in (confounds, doubled)
    )
    assert once.dof == twice.dof
    np.testing.assert_allclose(once.z, twice.z, atol=1e-5)


def test_gaps_in_the_first_rows_become_the_next_number(run):
    bold, onsets, durations, confounds = run
    gaps, filled = confounds.copy(), confounds.copy()
    gaps[0, 0] = gaps[:2, 2] = np.nan
    filled[0, 0], filled[:2, 2] = confounds[1, 0], confounds[2, 2]
    one, other = (single_trial_zmaps(bold, onsets, durations, T_R, confounds=c).z for c in (gaps, filled))
    np.testing.assert_array_equal(one, other)
    for row in (1, 50, N_VOLUMES - 1):
        gaps = confounds.copy()
        gaps[row, 1] = np.nan
        with pytest.raises(UserError, match=f"got nan in row {row + 1} of column 2"):
            single_trial_zmaps(bold, onsets, durations, T_R, confounds=gaps)
    gaps[row, 1] = np.inf
    with pytest.raises(UserError, match="got inf in row 90"):
        single_trial_zmaps(bold, onsets, durations, T_R, confounds=gaps)


def test_odd_events_are_warned_of_or_refused(run):
    bold = run[0]
    with pytest.warns(
        DataWarning, match=r"1 trials start before the one before is over \(trial 1 at 41 s, trial 3 last"
    ):
        single_trial_zmaps(bold, [41.0, 4.0, 40.0], [1.0, 1.0, 1.5], T_R)
    with pytest.warns(DataWarning, match=r"1 trials start before the first volume \(the first at -2 s"):
        single_trial_zmaps(bold, [-2.0, 40.0], [1.0, 1.0], T_R)
    for method in ("lss", "lsa", "ridge"):
        with pytest.raises(UserError, match=r"trials 1 and 3 both start at 40 s \(2 rows"):
            single_trial_zmaps(bold, [40.0, 4.0, 40.0], [1.0, 1.0, 1.5], T_R, method=method)
    # Back to back is not an overlap, nor is a sum that rounding takes a hair past the next onset.
    single_trial_zmaps(bold, 0.1 + 1.1 * np.arange(5), np.full(5, 1.1), T_R)


def test_more_trials_than_volumes_is_for_lss_only():
    bold = np.random.default_rng(0).standard_normal((40, 3))
    onsets = np.linspace(1, 60, 50)
    with pytest.raises(UserError, match="use method 'lss'"):
        single_trial_zmaps(bold, onsets, np.ones(50), 2.0, method="lsa")
    assert np.isfinite(single_trial_zmaps(bold, onsets, np.ones(50), 2.0).z).all()


@pytest.mark.parametrize("dof", [5.0, 6.0, 8.0, 13.0, 30.0, 75.0, 150.0, 400.0, 1000.0, 2000.0])
def test_spline_of_z_is_exact_to_a_billionth(dof):
    """A large array goes by a spline, a small one by the formula.

    A cubic spline through exact values is furthest off near the middle of its intervals; so every interval is
    looked at in eleven places, and a spline of knots twice as far apart is sixteen times as far off.
    """
    between = np.linspace(0, 12, 11 * 2047 + 1)
    t = np.concatenate([-between, between, np.linspace(-45, 45, 9001), [np.nextafter(12.0, 13), 0.0, -0.0]])
    few = np.concatenate([z_from_t(part, dof) for part in np.array_split(t, 60)])
    assert np.abs(z_from_t(t, dof) - few).max() < 1e-9
    rising = z_from_t(np.linspace(-45, 45, 20_001), dof)
    assert (np.diff(rising) > 0)[np.abs(rising[1:]) < 36].all()
    assert np.isnan(z_from_t(np.full(10_000, np.nan), dof)).all()


def test_a_key_press_within_a_trial_is_no_overlap():
    bold = np.random.default_rng(0).standard_normal((60, 3)) + 100
    # Overlaps are warned of, and warnings are errors in these tests.
    single_trial_zmaps(bold, [5.0, 5.6, 30.0, 60.0], [1.5, 0.0, 1.5, 1.5], t_r=2.0)
    with pytest.warns(DataWarning, match="1 trials start before the one before is over"):
        single_trial_zmaps(bold, [5.0, 5.6, 6.0, 30.0, 60.0], [1.5, 0.0, 1.5, 1.5, 1.5], t_r=2.0)

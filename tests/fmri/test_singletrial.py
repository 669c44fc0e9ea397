from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel, compute_regressor
from nilearn.glm.first_level.design_matrix import create_cosine_drift

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import cosine_drift, frame_times, trial_regressors
from hyperdecode.fmri.singletrial import single_trial_zmaps, z_from_t

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
    bold = 800 + 40 * (x @ rng.normal(1, 1, (18, n))) + np.cumsum(rng.normal(0, 1.0, (N_VOLUMES, n)), axis=0)
    bold[:, 0] += 4000 * x[:, 4]  # one voxel with a very large t
    confounds = rng.standard_normal((N_VOLUMES, 3))
    return bold, onsets, durations, confounds


def nilearn_z(bold, events, confounds, slice_time_ref=0.0):
    image = nib.Nifti1Image(bold.T.reshape(*SHAPE, N_VOLUMES), np.eye(4))
    model = FirstLevelModel(
        t_r=T_R, hrf_model="spm", drift_model="cosine", high_pass=0.01, noise_model="ols", minimize_memory=False,
        slice_time_ref=slice_time_ref, mask_img=nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)),
    )  # fmt: skip
    model.fit(image, events=events, confounds=pd.DataFrame(confounds, columns=list("abc")))
    return {
        name: model.compute_contrast(name, output_type="z_score").get_fdata().reshape(-1)
        for name in events["trial_type"].unique()
    }


def test_lss_equals_nilearn_asked_trial_by_trial(run):
    bold, onsets, durations, confounds = run
    ours = single_trial_zmaps(bold, onsets, durations, T_R, confounds=confounds, block=7, slice_time_ref=0.5)
    for trial in range(len(onsets)):
        kind = np.where(np.arange(len(onsets)) == trial, "this", "others")
        events = pd.DataFrame({"onset": onsets, "duration": durations, "trial_type": kind})
        np.testing.assert_allclose(ours.z[trial], nilearn_z(bold, events, confounds, 0.5)["this"], atol=1e-4)
    assert np.abs(ours.z).max() > 8


def test_lsa_equals_nilearn(run):
    bold, onsets, durations, confounds = run
    ours = single_trial_zmaps(bold, onsets, durations, T_R, confounds=confounds, method="lsa", block=10)
    names = [f"trial{i:02d}" for i in range(len(onsets))]
    events = pd.DataFrame({"onset": onsets, "duration": durations, "trial_type": names})
    theirs = nilearn_z(bold, events, confounds)
    np.testing.assert_allclose(ours.z, np.stack([theirs[name] for name in names]), atol=1e-4)


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
        ({"onsets": [4.0]}, "1 onsets, 2 durations"),
        ({"onsets": [4.0, 4.0], "method": "lsa"}, "cannot be told"),
        ({"onsets": [4.0, 134.9]}, "leaves no response"),
        ({"onsets": [4.0, np.nan]}, "finite"),
        ({"t_r": 0.0}, "repetition time"),
        ({"method": "glm"}, "'lss' or 'lsa'"),
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


def test_more_trials_than_volumes_is_for_lss_only():
    bold = np.random.default_rng(0).standard_normal((40, 3))
    onsets = np.linspace(1, 60, 50)
    with pytest.raises(UserError, match="use method 'lss'"):
        single_trial_zmaps(bold, onsets, np.ones(50), 2.0, method="lsa")
    assert np.isfinite(single_trial_zmaps(bold, onsets, np.ones(50), 2.0).z).all()


@pytest.mark.parametrize("dof", [3.0, 40.0, 331.0])
def test_many_z_are_those_of_few(dof):
    """A large array goes by a spline, a small one by the formula."""
    t = np.concatenate([np.linspace(-45, 45, 20_001), [0.0, -0.0, 1e-9, -12.0, 12.0, np.nextafter(12.0, 13)]])
    few = np.concatenate([z_from_t(part, dof) for part in np.array_split(t, 20)])
    many = z_from_t(t, dof)
    assert np.abs(many - few).max() < 1e-9
    assert (np.diff(many[:20_001]) > 0)[np.abs(few[1:20_001]) < 36].all()
    assert np.isnan(z_from_t(np.full(10_000, np.nan), dof)).all()

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds

from hyperdecode.errors import UserError
from hyperdecode.fmri.confounds import motion_confounds, motion_names, scrub_columns

N = 30


@pytest.fixture(scope="module")
def parameters():
    return np.cumsum(np.random.default_rng(0).normal(0, 0.1, (N, 6)), axis=0)


@pytest.fixture(scope="module")
def fmriprep_run(parameters, tmp_path_factory):
    """What fMRIPrep writes: parameters, their backward differences, squares of both; n/a in the first row."""
    folder = tmp_path_factory.mktemp("fmriprep")
    table = pd.DataFrame(parameters, columns=["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"])
    for name in list(table):
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[name].diff() ** 2
    stem = folder / "sub-01_task-faces"
    table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    (folder / f"{stem.name}_desc-confounds_timeseries.json").write_text(json.dumps({}))
    bold = f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, N), np.float32), np.eye(4)), bold)
    return bold


@pytest.mark.parametrize(("model", "columns"), [("basic", 6), ("derivatives", 12), ("power2", 12), ("full", 24)])
def test_expansions_are_those_that_nilearn_takes(fmriprep_run, parameters, model, columns):
    theirs, _ = load_confounds(fmriprep_run, strategy=["motion"], motion=model, demean=False)
    ours = pd.DataFrame(motion_confounds(parameters, model), columns=motion_names(model))
    assert ours.shape == (N, columns) and set(ours) == set(theirs)
    np.testing.assert_allclose(ours[theirs.columns].to_numpy()[1:], theirs.to_numpy()[1:], atol=1e-12)


def test_the_first_difference_is_nought(parameters):
    full = pd.DataFrame(motion_confounds(parameters, "full"), columns=motion_names("full"))
    np.testing.assert_array_equal(full.filter(like="derivative1").iloc[0], 0)
    np.testing.assert_array_equal(full["rot_y"], parameters[:, 4])
    assert motion_confounds(parameters[:1], "full").shape == (1, 24)


def test_scrubbed_volumes_have_a_column_each():
    moved = [np.nan, 0.1, 0.7, 0.2, 0.51, 0.5]
    spikes = [False, True, True, False, False, False]
    np.testing.assert_array_equal(scrub_columns(moved, spikes, 0.5), np.eye(6)[:, [1, 2, 4]])
    np.testing.assert_array_equal(scrub_columns(moved, spikes, None), np.eye(6)[:, [1, 2]])
    assert scrub_columns(moved, None, 1.0).shape == (6, 0)


def test_scrubbing_is_leaving_out():
    rng = np.random.default_rng(1)
    design, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    scrub = scrub_columns(np.zeros(20), np.arange(20) == 7)
    with_column = np.linalg.lstsq(np.hstack([design, scrub]), y, rcond=None)[0][:3]
    left_out = np.linalg.lstsq(np.delete(design, 7, axis=0), np.delete(y, 7), rcond=None)[0]
    np.testing.assert_allclose(with_column, left_out, atol=1e-12)


def test_unusable_motion(parameters):
    with pytest.raises(UserError, match="unknown motion model '24': choose one of basic, derivatives, power2, full"):
        motion_confounds(parameters, "24")
    with pytest.raises(UserError, match=r"6 finite parameters a volume.*\(30, 5\)"):
        motion_confounds(parameters[:, :5], "basic")
    with pytest.raises(UserError, match="6 finite parameters"):
        motion_confounds(np.full((4, 6), np.nan), "basic")
    with pytest.raises(UserError, match="one value a volume"):
        scrub_columns(np.zeros(4), np.zeros(3, bool))
    with pytest.raises(UserError, match="above 0, got -1"):
        scrub_columns(np.zeros(4), None, -1)
    with pytest.raises(UserError, match="all 4 volumes"):
        scrub_columns(np.ones(4), None, 0.5)

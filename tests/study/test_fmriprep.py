from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn._utils.data_gen import create_fake_bids_dataset
from nilearn.interfaces.fmriprep import load_confounds

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.study.bids import index_bids
from hyperdecode.study.fmriprep import (
    find_fmriprep_runs,
    intersect_masks,
    load_fmriprep_confounds,
    load_fmriprep_run,
)

SHAPE, N_VOLUMES, T_R = (5, 4, 3), 40, 1.5
STEM = "sub-01_task-faces_run-1"
MNI = "space-MNI152NLin2009cAsym_res-2"
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


def save(path, values, affine=None, t_r=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]) if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec")
    if t_r:
        image.header.set_zooms((2, 2, 2, t_r))
    nib.save(image, path)
    return path


def raw_study(root, names=(STEM,)):
    (root / "sub-01").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "tiny"}')
    (root / "task-faces_bold.json").write_text(json.dumps({"RepetitionTime": T_R}))
    for name in names:
        folder = root / "sub-01" / (name.split("_")[1] if "_ses-" in name else "") / "func"
        save(folder / f"{name}_bold.nii.gz", np.ones((*SHAPE, N_VOLUMES), np.int16), t_r=T_R)
        (folder / f"{name}_events.tsv").write_text("onset\tduration\ttrial_type\n2\t1\tface\n")
    return index_bids(root).runs


def confounds_table(non_steady=1, spike=None, rng=0):
    rng = np.random.default_rng(rng)
    table = pd.DataFrame({name: rng.standard_normal(N_VOLUMES) for name in MOTION})
    for name in MOTION:
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[f"{name}_derivative1"] ** 2
    table["csf"], table["white_matter"] = rng.standard_normal((2, N_VOLUMES))
    table["framewise_displacement"] = 0.1
    table["std_dvars"] = 1.0
    table.loc[0, ["framewise_displacement", "std_dvars"]] = np.nan
    if spike is not None:
        table.loc[spike, "framewise_displacement"] = 3.0
    for k in range(2):
        table[f"cosine{k:02d}"] = np.cos(np.pi * (k + 1) * np.arange(N_VOLUMES) / N_VOLUMES)
    for k in range(non_steady):
        table[f"non_steady_state_outlier{k:02d}"] = (np.arange(N_VOLUMES) == k).astype(float)
    return table


def fmriprep_run(
    folder, stem=STEM, spaces=(MNI,), sidecar=None, table=None, suffix="timeseries", extension=".nii.gz", seed=0
):
    func = folder / "sub-01" / (stem.split("_")[1] if "_ses-" in stem else "") / "func"
    rng = np.random.default_rng(seed)
    for space in spaces:
        name = f"{stem}_{space}" if space else stem
        series = rng.uniform(100, 200, (*SHAPE, N_VOLUMES)).astype(np.float32)
        save(func / f"{name}_desc-preproc_bold{extension}", series, t_r=T_R)
        content = (
            {"RepetitionTime": T_R, "StartTime": 0.7, "SliceTimingCorrected": True} if sidecar is None else sidecar
        )
        (func / f"{name}_desc-preproc_bold.json").write_text(json.dumps(content))
        save(func / f"{name}_desc-brain_mask{extension}", np.ones(SHAPE, np.uint8))
    table = confounds_table() if table is None else table
    table.to_csv(func / f"{stem}_desc-confounds_{suffix}.tsv", sep="\t", index=False, na_rep="n/a")
    (func / f"{stem}_desc-confounds_{suffix}.json").write_text("{}")
    return func


@pytest.fixture
def prep(tmp_path):
    return tmp_path / "fmriprep"


@pytest.fixture
def study(tmp_path):
    return tmp_path / "study"


def one_line(error, *names):
    assert "\n" not in str(error.value)
    for name in names:
        assert name in str(error.value)


def test_series_mask_and_confounds_of_a_run(study, prep):
    runs = raw_study(study)
    func = fmriprep_run(prep)
    (found,) = find_fmriprep_runs(prep, runs)
    assert found.bold == func / f"{STEM}_{MNI}_desc-preproc_bold.nii.gz"
    assert found.mask == func / f"{STEM}_{MNI}_desc-brain_mask.nii.gz"
    assert found.confounds == func / f"{STEM}_desc-confounds_timeseries.tsv"
    assert found.raw is runs[0] and found.raw.events.parent == study / "sub-01" / "func"
    assert (found.space, found.res, found.stem) == ("MNI152NLin2009cAsym", "2", STEM)
    assert found.t_r == T_R and found.slice_time_ref == pytest.approx(0.7 / 1.5)
    assert find_fmriprep_runs(prep, runs, "", "") == [found]  # as an empty line of study.toml
    assert find_fmriprep_runs(prep.parent, runs) == [found]  # the folder above `fmriprep`


def test_series_and_events_of_a_run(study, prep):
    run = one_run(study, prep)
    kept, left = load_fmriprep_run(run), load_fmriprep_run(run, in_memory=False)
    np.testing.assert_array_equal(kept.image.dataobj, nib.load(run.bold).get_fdata(dtype=np.float32))
    assert nib.is_proxy(left.image.dataobj) and left.t_r == T_R
    assert kept.events.to_dict("list") == {"onset": [2.0], "duration": [1.0], "trial_type": ["face"]}
    run.raw.events.write_text("onset\tduration\ttrial_type\n60\t1\tface\n")
    with pytest.raises(UserError, match="1 onsets lie past the run's end") as error:
        load_fmriprep_run(run)
    one_line(error, run.raw.events.name)
    with pytest.raises(UserError, match="was found without its raw run") as error:
        load_fmriprep_run(find_fmriprep_runs(prep, None)[0])
    one_line(error, run.bold.name)


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        ({"RepetitionTime": T_R, "SliceTimingCorrected": False}, 0.5),
        ({"RepetitionTime": T_R, "SliceTimingCorrected": False, "StartTime": 0.0}, 0.5),
        ({}, 0.5),
        ({"RepetitionTime": T_R, "StartTime": 0}, 0.0),
    ],
)
def test_slice_time_reference(study, prep, sidecar, expected):
    fmriprep_run(prep, sidecar=sidecar)
    (found,) = find_fmriprep_runs(prep, raw_study(study))
    assert found.slice_time_ref == expected and found.t_r == T_R


@pytest.mark.parametrize("start", [-0.1, 1.6, "late", True])
def test_impossible_start_time(study, prep, start):
    fmriprep_run(prep, sidecar={"RepetitionTime": T_R, "StartTime": start})
    with pytest.raises(UserError, match="StartTime in the sidecar must lie between 0 and the TR") as error:
        find_fmriprep_runs(prep, raw_study(study))
    one_line(error, f"{STEM}_{MNI}_desc-preproc_bold.nii.gz")


def test_several_spaces(study, prep):
    runs = raw_study(study)
    fmriprep_run(prep, spaces=("", "space-T1w", "space-MNI152NLin6Asym", "space-MNIPediatricAsym_cohort-2"))
    with pytest.raises(UserError, match="has several space-") as error:
        find_fmriprep_runs(prep, runs)
    one_line(error, STEM, "MNI152NLin6Asym, MNIPediatricAsym:cohort-2, T1w, func")
    for space, part in (
        ("T1w", "_space-T1w_desc"),
        ("func", f"{STEM}_desc"),
        ("MNIPediatricAsym:cohort-2", "_space-MNIPediatricAsym_cohort-2_desc"),
    ):
        (found,) = find_fmriprep_runs(prep, runs, space)
        assert part in found.bold.name and found.space == space and found.res == "none"
    with pytest.raises(UserError, match="has no space-MNI152NLin2009cAsym") as error:
        find_fmriprep_runs(prep, runs, "MNI152NLin2009cAsym")
    one_line(error, "one of MNI152NLin6Asym, MNIPediatricAsym:cohort-2, T1w, func")


def test_sidecar_of_the_native_series_is_not_that_of_another_space(study, prep):
    func = fmriprep_run(prep, spaces=("", "space-T1w"))
    (func / f"{STEM}_desc-preproc_bold.json").write_text('{"RepetitionTime": 1.5, "StartTime": 0.1}')
    runs = raw_study(study)
    assert find_fmriprep_runs(prep, runs, "T1w")[0].slice_time_ref == pytest.approx(0.7 / 1.5)
    assert find_fmriprep_runs(prep, runs, "func")[0].slice_time_ref == pytest.approx(0.1 / 1.5)


def test_several_resolutions(study, prep):
    runs = raw_study(study)
    fmriprep_run(prep, spaces=("space-MNI152NLin2009cAsym", "space-MNI152NLin2009cAsym_res-2", "space-T1w"))
    with pytest.raises(UserError, match="has several res-") as error:
        find_fmriprep_runs(prep, runs, "MNI152NLin2009cAsym")
    one_line(error, "2, none")
    (found,) = find_fmriprep_runs(prep, runs, "MNI152NLin2009cAsym", "2")
    assert "_res-2_" in found.bold.name
    (found,) = find_fmriprep_runs(prep, runs, "MNI152NLin2009cAsym", "none")
    assert "_res-" not in found.bold.name
    with pytest.raises(UserError, match="has no res-1"):
        find_fmriprep_runs(prep, runs, "MNI152NLin2009cAsym", "1")


def test_runs_and_sessions_must_agree(study, prep):
    stems = [f"sub-01_ses-{s}_task-faces_run-{r}" for s in "ab" for r in ("1", "2")]
    runs = raw_study(study, stems)
    for seed, stem in enumerate(stems):
        fmriprep_run(prep, stem=stem.replace("run-", "run-0"), seed=seed)
    found = find_fmriprep_runs(prep, runs)
    assert [f.stem for f in found] == stems
    for stem, run in zip(stems, found, strict=True):
        assert run.bold.name.startswith(stem.replace("run-", "run-0"))
        assert run.confounds is not None and run.confounds.parent == run.bold.parent
    alone = find_fmriprep_runs(prep, None)
    assert [f.bold for f in alone] == [f.bold for f in found] and all(f.raw is None for f in alone)
    for path in (prep / "sub-01" / "ses-b" / "func").glob("*run-02*"):
        path.unlink()
    with pytest.raises(UserError, match="no preprocessed series of sub-01_ses-b_task-faces_run-2") as error:
        find_fmriprep_runs(prep, runs)
    one_line(error, str(prep))


def test_other_acquisitions_are_other_runs(study, prep):
    runs = raw_study(study, ["sub-01_task-faces_acq-mb_dir-AP_run-1"])
    fmriprep_run(prep, stem="sub-01_task-faces_acq-sb_dir-AP_run-1")
    with pytest.raises(UserError, match="no preprocessed series"):
        find_fmriprep_runs(prep, runs)


def test_echoes_that_were_combined(study, prep):
    runs = raw_study(study, [f"sub-01_task-faces_echo-{e}" for e in (1, 2, 3)])
    assert len(runs) == 1
    for echo in (1, 2, 3):
        fmriprep_run(prep, stem=f"sub-01_task-faces_echo-{echo}")
    with pytest.raises(UserError, match="no preprocessed series of sub-01_task-faces:"):
        find_fmriprep_runs(prep, runs)
    fmriprep_run(prep, stem="sub-01_task-faces")
    (found,) = find_fmriprep_runs(prep, runs)
    assert found.bold.name == f"sub-01_task-faces_{MNI}_desc-preproc_bold.nii.gz"
    assert [run.bold for run in find_fmriprep_runs(prep, None)] == [found.bold]


def test_missing_files(study, prep):
    runs = raw_study(study)
    with pytest.raises(UserError, match="no such folder"):
        find_fmriprep_runs(prep, runs)
    prep.mkdir()
    with pytest.raises(UserError, match=r"holds no sub-\* folder"):
        find_fmriprep_runs(prep, runs)
    (prep / "sub-01").mkdir()
    with pytest.raises(UserError, match=r"holds no .*_desc-preproc_bold") as error:
        find_fmriprep_runs(prep, runs)
    one_line(error, str(prep))
    func = fmriprep_run(prep)
    mask = func / f"{STEM}_{MNI}_desc-brain_mask.nii.gz"
    save(mask, np.ones((5, 4, 4), np.uint8))
    with pytest.raises(UserError, match="lies on another grid than") as error:
        find_fmriprep_runs(prep, runs)
    one_line(error, mask.name, f"{STEM}_{MNI}_desc-preproc_bold.nii.gz")
    mask.unlink()
    with pytest.raises(UserError, match="has no brain mask beside it") as error:
        find_fmriprep_runs(prep, runs)
    one_line(error, mask.name)


def test_repetition_time_of_the_header_disagrees(study, prep):
    fmriprep_run(prep, sidecar={"RepetitionTime": 2.0, "StartTime": 1.0})
    with pytest.warns(DataWarning, match=r"header says TR 1\.5 s, the sidecar 2 s"):
        (found,) = find_fmriprep_runs(prep, raw_study(study))
    assert found.t_r == 2.0 and found.slice_time_ref == 0.5


def test_nilearns_own_layout(tmp_path):
    root = create_fake_bids_dataset(tmp_path, n_sub=2, n_ses=2, tasks=["main"], n_runs=[2])
    (root / "dataset_description.json").write_text('{"Name": "fake"}')
    for path in root.rglob("*_bold.nii.gz"):  # its headers state no true repetition time
        image = nib.load(path)
        image.header.set_zooms((*image.header.get_zooms()[:3], 1.5))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    dataset = index_bids(root)
    assert len(dataset.runs) == 8
    found = find_fmriprep_runs(root / "derivatives", dataset.runs, "T1w")
    for run, raw in zip(found, dataset.runs, strict=True):
        assert run.bold.name == f"{raw.stem}_space-T1w_desc-preproc_bold.nii.gz"
        assert run.t_r == 1.5 and run.confounds is not None and run.confounds.name.startswith(raw.stem)
    confounds = load_fmriprep_confounds(found[0], ("motion", "high_pass"), motion="derivatives")
    theirs, kept = load_confounds(str(found[0].bold), strategy=("motion", "high_pass"), motion="derivatives")
    assert confounds.names[: theirs.shape[1]] == tuple(theirs.columns)
    np.testing.assert_array_equal(confounds.values[:, : theirs.shape[1]], theirs.to_numpy())
    assert np.flatnonzero(~confounds.scrubbed).tolist() == kept.tolist()


def one_run(study, prep, **options):
    fmriprep_run(prep, **options)
    return find_fmriprep_runs(prep, raw_study(study))[0]


@pytest.mark.parametrize(("model", "columns"), [("basic", 6), ("power2", 12), ("derivatives", 12), ("full", 24)])
@pytest.mark.parametrize("suffix", ["timeseries", "regressors"])
def test_confounds_by_name(study, prep, model, columns, suffix):
    run = one_run(study, prep, suffix=suffix)
    found = load_fmriprep_confounds(run, ("motion",), motion=model)
    assert found.values.shape == (N_VOLUMES, columns + 1) and len(found.names) == columns + 1
    assert not found.has_cosines
    # NaN of the first row, as fMRIPrep writes, does not get through.
    assert np.isfinite(found.values).all()
    source = pd.read_csv(run.confounds, sep="\t")
    ours = found.values[:, found.names.index("trans_x")]
    np.testing.assert_allclose(ours, source["trans_x"] - source["trans_x"][1:].mean(), atol=1e-12)


def test_cosines_and_scrubbing(study, prep):
    run = one_run(study, prep, table=confounds_table(non_steady=2, spike=20))
    found = load_fmriprep_confounds(run, ["high_pass", "scrub"], scrub=0, fd_threshold=0.5)
    assert found.has_cosines
    assert np.flatnonzero(found.scrubbed).tolist() == [0, 1, 20]
    assert found.names == ("cosine00", "cosine01", "scrubbed_00000", "scrubbed_00001", "scrubbed_00020")
    one_hot = found.values[:, 2:]
    assert one_hot.sum(0).tolist() == [1, 1, 1] and one_hot.argmax(0).tolist() == [0, 1, 20]
    unscrubbed = load_fmriprep_confounds(run, "motion", motion="basic")
    assert np.flatnonzero(unscrubbed.scrubbed).tolist() == [0, 1]


def test_scrubbing_by_a_threshold_of_ones_own(study, prep):
    run = one_run(study, prep, table=confounds_table(non_steady=0, spike=20))
    assert load_fmriprep_confounds(run, ("scrub",), scrub=0, fd_threshold=4.0).scrubbed.sum() == 0
    assert load_fmriprep_confounds(run, ("scrub",), scrub=0, fd_threshold=2.0).scrubbed.sum() == 1


def test_no_confounds_asked_for(study, prep):
    found = load_fmriprep_confounds(one_run(study, prep), ())
    assert found.values.shape == (N_VOLUMES, 1) and found.names == ("scrubbed_00000",)
    assert not found.has_cosines


def test_native_and_uncompressed_series_have_confounds_too(study, prep):
    run = one_run(study, prep, spaces=("",), extension=".nii")
    assert run.bold.name == f"{STEM}_desc-preproc_bold.nii"
    assert load_fmriprep_confounds(run, ("motion",), motion="basic").values.shape == (N_VOLUMES, 7)


@pytest.mark.parametrize(
    ("strategy", "options", "words"),
    [
        (("motions",), {}, "unknown strategy of confounds 'motions': choose among motion, high_pass, wm_csf"),
        (("motion",), {"motion": "some"}, "'some' was provided"),
        (("motion",), {"movement": "full"}, "movement"),
        (("compcor",), {}, "high_pass.* must be included"),
        (("global_signal",), {}, "global_signal"),
        (("compcor", "high_pass"), {}, "compcor"),
        (("ica_aroma",), {}, "ica_aroma"),
        (("ica_aroma",), {"ica_aroma": "full"}, "AROMA"),
    ],
)
def test_confounds_that_cannot_be_had(study, prep, strategy, options, words):
    run = one_run(study, prep)
    with pytest.raises(UserError, match=words) as error:
        load_fmriprep_confounds(run, strategy, **options)
    one_line(error)
    if strategy != ("motions",):
        one_line(error, run.confounds.name)


def test_unusable_confounds(study, prep):
    run = one_run(study, prep)
    table = confounds_table()
    table.iloc[:-1].to_csv(run.confounds, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(UserError, match=r"has 39 rows, .* has 40 volumes") as error:
        load_fmriprep_confounds(run, ("motion",))
    one_line(error, run.confounds.name)
    table.loc[7, "trans_x"] = np.nan
    table.to_csv(run.confounds, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(UserError, match="trans_x has no number in row 8") as error:
        load_fmriprep_confounds(run, ("motion",), motion="basic", demean=False)
    one_line(error, run.confounds.name)
    every = confounds_table(non_steady=0)
    every["framewise_displacement"] = 3.0
    every.to_csv(run.confounds, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(UserError, match="scrubbing leaves no volume"):
        load_fmriprep_confounds(run, ("motion", "scrub"), scrub=0, std_dvars_threshold=0.5)
    run.confounds.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a tab-separated table"):
        load_fmriprep_confounds(run, ("motion",))
    run.confounds.unlink()
    (run,) = find_fmriprep_runs(prep, [run.raw])
    with pytest.raises(UserError, match="has no confounds of sub-01_task-faces_run-1") as error:
        load_fmriprep_confounds(run, ("motion",))
    one_line(error, "desc-confounds_timeseries.tsv", "bold.confounds = []")
    assert load_fmriprep_confounds(run, ()).values.shape == (N_VOLUMES, 0)


def test_components_of_ica_aroma(study, prep):
    table = confounds_table(non_steady=0).assign(aroma_motion_01=np.arange(N_VOLUMES) % 7)
    run = one_run(study, prep, table=table)
    assert load_fmriprep_confounds(run, ("ica_aroma",)).names == ("aroma_motion_01",)


def test_confounds_under_both_names(study, prep):
    fmriprep_run(prep)
    fmriprep_run(prep, suffix="regressors")
    with pytest.raises(UserError, match="are confounds of one run") as error:
        find_fmriprep_runs(prep, raw_study(study))
    one_line(error, "desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")


def masks(tmp_path, *values, affine=None):
    return [save(tmp_path / f"mask{k}.nii.gz", v, affine) for k, v in enumerate(values)]


def test_intersection_of_masks(tmp_path):
    one, other = np.random.default_rng(0).integers(0, 2, (2, *SHAPE)).astype(np.uint8)
    paths = masks(tmp_path, one, other[..., None], np.where(one, 1.0, 0.2))
    found = intersect_masks(paths)
    np.testing.assert_array_equal(np.asarray(found.dataobj), (one & other).astype(np.uint8))
    np.testing.assert_array_equal(found.affine, np.diag([2, 2, 2, 1]))


def test_masks_that_do_not_fit(tmp_path):
    good = np.ones(SHAPE, np.float32)
    hole = good.copy()
    hole[0, 0, 0] = np.nan
    half = good.copy()
    half[2:] = 0
    cases = [
        ([good, np.ones((5, 4, 4), np.uint8)], "lies on another grid", ("mask0.nii.gz", "mask1.nii.gz")),
        ([good, np.ones((*SHAPE, 2), np.uint8)], "expected one 3D volume", ("mask1.nii.gz",)),
        ([hole], "NaN or infinite", ("mask0.nii.gz",)),
        ([half, 1 - half], "no voxel is left", ("mask1.nii.gz",)),
        ([good * 0], "nothing but zeros", ("mask0.nii.gz",)),
    ]
    for values, words, names in cases:
        with pytest.raises(UserError, match=words) as error:
            intersect_masks(masks(tmp_path, *values))
        one_line(error, *names)
    paths = masks(tmp_path, good, good)
    save(paths[1], good, np.diag([-2.0, 2, 2, 1]))
    with pytest.raises(UserError, match="lies on another grid"):
        intersect_masks(paths)
    with pytest.raises(UserError, match="no mask to intersect"):
        intersect_masks([])

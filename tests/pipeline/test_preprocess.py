from __future__ import annotations

import json
import tomllib

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tomli_w

from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, trial_regressors
from hyperdecode.fmri.normalise import Anatomy, Normalisation, mni_template
from hyperdecode.pipeline import preprocess as pipeline
from hyperdecode.pipeline import spatial
from hyperdecode.pipeline.preprocess import preprocess
from hyperdecode.study.config import bold_settings

T_R, N_VOLUMES = 2.0, 70
STEM = "sub-01_task-faces"
SPACE = f"{STEM}_space-MNI152NLin2009aSym_res-8"


@pytest.fixture(scope="module")
def still():
    return Normalisation(np.eye(4), np.eye(4), np.zeros((2, 2, 2, 3), np.float32), np.eye(4))


@pytest.fixture
def bids(tmp_path, monkeypatch, still):
    """A subject who lies still in MNI space, with one voxel that answers to faces and one that is NaN."""
    brain = mni_template(4)
    anatomy = Anatomy(brain.brain, brain.affine, still.t1_from_template, still.warp, still.warp_affine)
    monkeypatch.setattr(spatial, "register_anatomy", lambda t1w: anatomy)
    monkeypatch.setattr(spatial, "normalise", lambda mean, anatomy: still)
    monkeypatch.setattr(spatial, "register_epi", lambda mean: still)
    root = tmp_path / "study"
    (root / "sub-01" / "func").mkdir(parents=True)
    (root / "sub-01" / "anat").mkdir()
    (root / "dataset_description.json").write_text('{"Name": "tiny", "BIDSVersion": "1.9.0"}')
    (root / "sub-01" / "func" / f"{STEM}_bold.json").write_text(json.dumps({"RepetitionTime": T_R}))
    template = mni_template(8)
    rng = np.random.default_rng(0)
    onsets = 6.0 + 8.0 * np.arange(16)
    kinds = ["face", "house"] * 8
    data = (template.brain[..., None] / template.brain.max() * 800).astype(np.float32) + 20
    data = data + rng.normal(0, 3, (*template.mask.shape, N_VOLUMES)).astype(np.float32)
    times = frame_times(N_VOLUMES, T_R, 0.5)
    data[10, 10, 10] += 15 * trial_regressors(onsets[::2], np.full(8, 2.0), times).sum(axis=1)
    data[12, 12, 12, 5] = np.nan
    assert template.mask[10, 10, 10] and template.mask[12, 12, 12]
    image = nib.Nifti1Image(data, template.affine)
    image.header.set_zooms((8, 8, 8, T_R))
    nib.save(image, root / "sub-01" / "func" / f"{STEM}_bold.nii.gz")
    events = pd.DataFrame({"onset": onsets, "duration": 2.0, "trial_type": kinds})
    events.to_csv(root / "sub-01" / "func" / f"{STEM}_events.tsv", sep="\t", index=False)
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4)), root / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    return root


@pytest.fixture
def quick_figures(monkeypatch):
    for module, name in ((pipeline, "draw_contrast"), (spatial, "draw_registration")):
        monkeypatch.setattr(module, name, lambda path, *args: path.write_bytes(b"picture"))
    monkeypatch.setattr(pipeline, "mask_figure", lambda *args: b"picture")


def work(bids, out=None, contrast="face > house", smoothing_fwhm=0, **change):
    call = {name: change.pop(name) for name in ("force", "skip_failed", "failed") if name in change}
    settings = bold_settings(**{"n_voxels": 50, "voxel_size": 8} | change)
    (run,) = preprocess(bids, out, contrast=contrast, bold=settings, smoothing_fwhm=smoothing_fwhm, **call)
    return run


def test_every_output_and_the_planted_voxel(bids):
    run = work(bids)
    folder = bids / "derivatives" / "hyperdecode" / "sub-01" / "func"
    assert all(path.is_file() for path in run.files.values())
    assert run.files["contrast"] == folder / f"{SPACE}_contrast-faceHouse_stat-z_statmap.nii.gz"
    assert json.loads((bids / "derivatives" / "hyperdecode" / "dataset_description.json").read_text())["GeneratedBy"]
    affine = mni_template(8).affine
    here = affine[:3, :3] @ [10, 10, 10] + affine[:3, 3]
    assert run.peaks.iloc[0][["x", "y", "z"]].tolist() == here.tolist() and run.peaks.iloc[0]["stat"] > 5
    image = nib.load(run.files["single_trial"])
    z = np.asarray(image.dataobj)
    assert z.shape[3] == 16 and int(image.header["sform_code"]) == 4
    trials = pd.read_csv(run.files["trials"], sep="\t")
    assert trials["volume"].tolist() == list(range(16)) and trials["trial_type"].tolist()[:2] == ["face", "house"]
    assert z[10, 10, 10, ::2].mean() > z[10, 10, 10, 1::2].mean() + 1
    assert np.asarray(nib.load(run.files["mask"]).dataobj).sum() == 50
    assert np.isnan(z[12, 12, 12]).all() and (z[0, 0, 0] == 0).all()
    # The head moves a little, so the corners of one voxel's cell are read through the one that is NaN.
    assert any(note.startswith("8 of ") and "no finite value" in note for note in run.notes)
    assert any("8 voxels without a finite z" in note for note in run.notes)
    bold = nib.load(run.files["bold"])
    assert bold.header.get_zooms()[3] == T_R and bold.shape[3] == N_VOLUMES
    motion = pd.read_csv(run.files["motion"], sep="\t")
    assert len(motion) == N_VOLUMES and np.isnan(motion["framewise_displacement"][0])


@pytest.mark.usefixtures("quick_figures")
def test_nothing_is_redone_or_written_over(bids, tmp_path):
    out = tmp_path / "out"
    all_steps = ("realign", "anatomy", "register", "bold", "zmaps", "mask", "contrast")
    assert work(bids, out).redone == all_steps
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert work(bids, out).redone == ()
    assert work(bids, out, contrast="house > face").redone == ("contrast",)
    for change, words in (
        ({"n_voxels": 60}, "mask_voxels"),
        ({"glm": "lsa"}, "glm"),
        ({"smoothing_fwhm": 6}, "smoothing_fwhm_mm"),
    ):
        with pytest.raises(UserError, match=f"other {words}: use --force"):
            work(bids, out, **change)
    assert {p: p.read_bytes() for p in before} == before
    assert work(bids, out, n_voxels=60, force=True).redone == all_steps


@pytest.mark.usefixtures("quick_figures")
def test_an_interrupted_step_is_done_again(bids, tmp_path):
    out = tmp_path / "out"
    run = work(bids, out)
    run.files["single_trial"].unlink()
    assert work(bids, out).redone == ("zmaps",)
    (record,) = (out / "records").glob("contrast_*.toml")
    begun = {key: tomllib.loads(record.read_text())[key] for key in ("step", "settings")}
    record.write_text(tomli_w.dumps(begun))
    run.files["peaks"].unlink()
    assert work(bids, out).redone == ("contrast",)


def test_mistakes_stop_before_anything_is_written(bids, tmp_path):
    out = tmp_path / "out"
    for change, words in (
        ({"contrast": "faces > other"}, "no condition 'faces' in the events, there are: face, house"),
        ({"glm": "glm"}, "one of lss, lsa, ridge"),
        ({"voxel_size": 0}, "1 to 8"),
        ({"n_voxels": 0}, "2 to"),
        ({"source": "fmriprep"}, "needs bold.source_dir"),
    ):
        with pytest.raises(UserError, match=words):
            work(bids, out, **change)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give OUT"):
        work(bids, tmp_path / "file" / "out")
    with pytest.raises(UserError, match="another data set"):
        work(bids, bids)
    assert not out.exists()


@pytest.mark.usefixtures("quick_figures")
def test_without_a_t1w_and_in_native_space(bids, tmp_path):
    (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").unlink()
    run = work(bids, tmp_path / "mni")
    assert "anatomy" not in run.redone and "registration_figure" in run.files
    native = work(bids, tmp_path / "native", space="native")
    z = nib.load(native.files["single_trial"])
    assert z.shape[:3] == nib.load(bids / "sub-01" / "func" / f"{STEM}_bold.nii.gz").shape[:3]
    assert int(z.header["sform_code"]) == 1 and "registration_figure" not in native.files


@pytest.mark.usefixtures("quick_figures")
def test_two_runs_of_which_one_is_broken(bids, tmp_path):
    func = bids / "sub-01" / "func"
    for path in list(func.glob(f"{STEM}_*")):
        path.with_name(path.name.replace(STEM, f"{STEM}_run-1")).write_bytes(path.read_bytes())
        path.rename(path.with_name(path.name.replace(STEM, f"{STEM}_run-2")))
    broken = func / f"{STEM}_run-2_bold.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"run-2_bold\.nii\.gz is truncated.*--skip-failed"):
        work(bids, tmp_path / "out")
    failed = {}
    run = work(bids, tmp_path / "out", skip_failed=True, failed=failed)
    assert run.stem == f"{STEM}_run-1" and list(failed) == [f"{STEM}_run-2"]


def test_a_mask_larger_than_the_brain(bids, tmp_path):
    with pytest.raises(UserError, match="asks for 100000 voxels"):
        work(bids, tmp_path / "out", n_voxels=100_000)


@pytest.mark.usefixtures("quick_figures")
def test_two_sessions_on_different_grids_meet_on_one(bids, tmp_path):
    """The head lies 6 mm farther to the left in the second session, whose grid is flipped: both give the same maps."""
    raw = bids / "sub-01" / "func"
    image = nib.load(raw / f"{STEM}_bold.nii.gz")
    data = np.nan_to_num(np.asarray(image.dataobj), nan=800.0)
    moved = image.affine.copy()
    moved[0, 3] -= 6.0
    flipped = moved @ np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = moved[:3, 3] + moved[:3, 0] * (data.shape[0] - 1)
    for session, values, affine in (("a", data, image.affine), ("b", data[::-1], flipped)):
        stem = f"sub-01_ses-{session}_task-faces"
        func = bids / "sub-01" / f"ses-{session}" / "func"
        func.mkdir(parents=True)
        written = nib.Nifti1Image(values, affine)
        written.header.set_zooms((8, 8, 8, T_R))
        nib.save(written, func / f"{stem}_bold.nii.gz")
        for ending in ("bold.json", "events.tsv"):
            (func / f"{stem}_{ending}").write_bytes((raw / f"{STEM}_{ending}").read_bytes())
    for path in raw.iterdir():
        path.unlink()
    settings = bold_settings(n_voxels=50, voxel_size=8)
    runs = preprocess(bids, tmp_path / "out", bold=settings)
    assert [run.files["single_trial"].parent.parent.name for run in runs] == ["ses-a", "ses-b"]
    one, other = (np.asarray(nib.load(run.files["single_trial"]).dataobj, np.float64) for run in runs)
    both = np.isfinite(one).all(axis=3) & np.isfinite(other).all(axis=3) & (one != 0).any(axis=3)
    assert both.sum() > 1000
    assert np.corrcoef(one[both].ravel(), other[both].ravel())[0, 1] > 0.95

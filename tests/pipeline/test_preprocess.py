from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import hyperdecode.pipeline.preprocess as module
from hyperdecode.errors import UserError
from hyperdecode.fmri.design import frame_times, trial_regressors
from hyperdecode.fmri.normalise import Anatomy, Normalisation, mni_template
from hyperdecode.pipeline.preprocess import preprocess

T_R, N_VOLUMES = 2.0, 70
STEM = "sub-01_task-faces"
SPACE = f"{STEM}_space-MNI152NLin2009aSym_res-8"


@pytest.fixture(scope="module")
def still():
    return Normalisation(np.eye(4), np.eye(4), np.zeros((2, 2, 2, 3), np.float32), np.eye(4))


@pytest.fixture
def bids(tmp_path, monkeypatch, still):
    """A subject who lies still in MNI space, with one voxel that answers to faces and one that is NaN."""
    monkeypatch.setattr(module, "register_anatomy", lambda t1w: Anatomy(*[np.zeros(1)] * 5))
    monkeypatch.setattr(module, "normalise", lambda mean, anatomy: still)
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
    for name in ("draw_contrast", "draw_mask", "draw_registration"):
        monkeypatch.setattr(module, name, lambda path, *args: path.write_bytes(b"picture"))


def work(bids, out=None, **change):
    options = {"contrast": "face > house", "mask_voxels": 50, "voxel_size": 8, "smoothing_fwhm": 0} | change
    return preprocess(bids, out, **options)[0]


def test_every_output_and_the_planted_voxel(bids):
    run = work(bids)
    folder = bids / "derivatives" / "hyperdecode" / "sub-01" / "func"
    assert {p.name for p in run.files.values()} <= {p.name for p in folder.iterdir()}
    assert run.files["contrast"] == folder / f"{SPACE}_contrast-faceHouse_stat-z_statmap.nii.gz"
    assert json.loads((bids / "derivatives" / "hyperdecode" / "dataset_description.json").read_text())["GeneratedBy"]
    affine = mni_template(8).affine
    here = affine[:3, :3] @ [10, 10, 10] + affine[:3, 3]
    assert run.peaks.iloc[0][["x", "y", "z"]].tolist() == here.tolist() and run.peaks.iloc[0]["stat"] > 5
    z = np.asarray(nib.load(run.files["single_trial"]).dataobj)
    assert z.shape[3] == 16
    trials = pd.read_csv(run.files["trials"], sep="\t")
    assert trials["volume"].tolist() == list(range(16)) and trials["trial_type"].tolist()[:2] == ["face", "house"]
    assert z[10, 10, 10, ::2].mean() > z[10, 10, 10, 1::2].mean() + 1
    assert np.asarray(nib.load(run.files["mask"]).dataobj).sum() == 50
    assert np.isnan(z[12, 12, 12]).all()
    assert not np.asarray(nib.load(run.files["brain_mask"]).dataobj)[12, 12, 12]
    assert any("voxels without a finite z" in note and not note.startswith("0 ") for note in run.notes)
    bold = nib.load(run.files["bold"])
    assert bold.header.get_zooms()[3] == T_R and bold.shape[3] == N_VOLUMES


@pytest.mark.usefixtures("quick_figures")
def test_nothing_is_redone_or_written_over(bids, tmp_path):
    out = tmp_path / "out"
    assert work(bids, out).redone == ("motion", "spatial", "single-trial", "contrast")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert work(bids, out).redone == ()
    assert work(bids, out, contrast="house > face").redone == ("contrast",)
    for change, words in ({"mask_voxels": 60}, "mask_voxels"), ({"smoothing_fwhm": 6}, "smoothing_fwhm_mm"):
        with pytest.raises(UserError, match=f"other {words}: use --force"):
            work(bids, out, **change)
    assert {p: p.read_bytes() for p in before} == before
    assert work(bids, out, mask_voxels=60, force=True).redone[-1] == "contrast"


@pytest.mark.usefixtures("quick_figures")
def test_an_interrupted_step_is_done_again(bids, tmp_path):
    out = tmp_path / "out"
    run = work(bids, out)
    run.files["single_trial"].unlink()
    assert work(bids, out).redone == ("single-trial",)
    record = run.files["contrast"].with_name(run.files["contrast"].name.replace(".nii.gz", ".json"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"complete": False}))
    assert work(bids, out).redone == ("contrast",)


def test_mistakes_stop_before_anything_is_written(bids, tmp_path):
    out = tmp_path / "out"
    for change, words in (
        ({"contrast": "faces > other"}, "no condition 'faces' in the events, there are: face, house"),
        ({"method": "glm"}, "'lss' or 'lsa'"),
        ({"voxel_size": 0}, "from 1 to 8"),
        ({"mask_voxels": 0}, "at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            work(bids, out, **change)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="give OUT"):
        work(bids, tmp_path / "file" / "out")
    with pytest.raises(UserError, match="another data set"):
        work(bids, bids)
    (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").unlink()
    with pytest.raises(UserError, match="sub-01 has no T1w image"):
        work(bids, out)
    assert not out.exists()


def test_a_mask_larger_than_the_brain(bids, tmp_path):
    with pytest.raises(UserError, match="asks for 100000 voxels"):
        work(bids, tmp_path / "out", mask_voxels=100_000)

"""The kinds of input of a study: each must lead to the same masked trials where the data are the same."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.pipeline.cluster import Where
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.masked import load_masked
from tests.pipeline.studies import TASK, func, new_study, settings

SPACE = "space-MNI152NLin2009cAsym_res-8_"


def with_bold(**bold):
    base = settings(one_back=0.0).model_dump()
    return StudyConfig.model_validate(base | {"bold": {"n_voxels": 200} | bold, "evaluation": {"n_permutations": 100}})


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, tiny_generator):
    study = new_study(tmp_path_factory.mktemp("sources") / "study", with_bold(), tiny_generator)
    simulate(study, with_bold(), read_stimuli(study), tiny_generator)
    return study


@pytest.fixture(scope="module")
def as_is(simulated, tiny_generator, tmp_path_factory):
    """The study, its BOLD taken as it lies, up to the mask."""
    study = Path(shutil.copytree(simulated, tmp_path_factory.mktemp("as-is") / "study"))
    for step in ("zmaps", "mask"):
        run_study(study, with_bold(), read_stimuli(study), tiny_generator, only=step)
    return study


@pytest.fixture
def study(simulated, tmp_path):
    return Path(shutil.copytree(simulated, tmp_path / "study"))


@pytest.fixture
def run(tiny_generator):
    def work(study, config, *steps, **options):
        for step in steps or (None,):
            result = run_study(study, config, read_stimuli(study), tiny_generator, only=step, **options)
        return result

    return work


def made(study, ending):
    return study / "derivatives" / "hyperdecode" / "sub-01" / f"sub-01_{ending}"


def masked(study):
    return load_masked(made(study, "desc-masked_zmaps.zarr.zip"))


def zmap(study, run, space=""):
    stem = f"sub-01_{TASK}_run-0{run}_{space}"
    return made(study, "").parent / "func" / f"{stem}desc-singletrial_stat-z_statmap.nii.gz"


def brain_of(study):
    """Where the z-maps of both runs have values."""
    return np.logical_and(*[(np.asarray(nib.load(zmap(study, run)).dataobj) != 0).any(axis=3) for run in (1, 2)])


def fmriprep_of(as_is, study, cosines=False):
    """Lay fMRIPrep's output out beside a study: the same BOLD by fMRIPrep's names."""
    folder = study / "derivatives" / "fmriprep"
    (folder / "sub-01" / "func").mkdir(parents=True)
    (folder / "dataset_description.json").write_text('{"Name": "fMRIPrep", "BIDSVersion": "1.4.0"}')
    for run in (1, 2):
        stem = folder / "sub-01" / "func" / f"sub-01_{TASK}_run-0{run}_"
        bold = nib.load(func(study, run, "bold.nii.gz"))
        nib.save(bold, f"{stem}{SPACE}desc-preproc_bold.nii.gz")
        Path(f"{stem}{SPACE}desc-preproc_bold.json").write_text('{"RepetitionTime": 1.5}')
        mask = nib.Nifti1Image(brain_of(as_is).astype(np.uint8), bold.affine)
        nib.save(mask, f"{stem}{SPACE}desc-brain_mask.nii.gz")
        n = bold.shape[3]
        rng = np.random.default_rng(run)
        moved = pd.DataFrame({f"{kind}_{axis}": rng.normal(0, 0.01, n) for kind in ("trans", "rot") for axis in "xyz"})
        k = np.arange(n)[:, None] + 0.5
        if cosines:
            for j in range(int(2 * n * 0.01 * 1.5)):
                moved[f"cosine{j:02d}"] = np.sqrt(2 / n) * np.cos(np.pi / n * k[:, 0] * (j + 1))
        moved["framewise_displacement"] = [np.nan, *rng.random(n - 1) / 10]
        moved.to_csv(f"{stem}desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
        Path(f"{stem}desc-confounds_timeseries.json").write_text("{}")
    return folder


def test_fmriprep_output_gives_the_same_z(as_is, study, run):
    fmriprep_of(as_is, study, cosines=True)
    plain = {"source": "fmriprep", "source_dir": "derivatives/fmriprep"}
    run(study, with_bold(**plain, confounds=()), "zmaps", "mask")
    for number in (1, 2):
        ours, theirs = (np.asarray(nib.load(p).dataobj) for p in (zmap(as_is, number), zmap(study, number, SPACE)))
        inside = brain_of(as_is)
        np.testing.assert_allclose(theirs[inside], ours[inside], atol=1e-4)
        assert (theirs[~inside] == 0).all()
    # fMRIPrep's cosines are this package's drift: with them the model adds none, and z is the same.
    run(study, with_bold(**plain, confounds=("high_pass",)), "zmaps")
    again = np.asarray(nib.load(zmap(study, 1, SPACE)).dataobj)
    np.testing.assert_allclose(again[inside], np.asarray(nib.load(zmap(as_is, 1)).dataobj)[inside], atol=1e-4)
    sidecar = json.loads(
        zmap(study, 1, SPACE).with_name(zmap(study, 1, SPACE).name.replace(".nii.gz", ".json")).read_text()
    )
    assert sidecar["HighPass"] == 0 and sidecar["Confounds"] == ["cosine00", "cosine01"][: len(sidecar["Confounds"])]
    # Motion among the confounds changes z and takes its degrees of freedom.
    run(study, with_bold(**plain, confounds=("motion", "high_pass")), "zmaps")
    assert not np.allclose(np.asarray(nib.load(zmap(study, 1, SPACE)).dataobj)[inside], again[inside], atol=1e-3)
    table = zmap(study, 1, SPACE).with_name(f"sub-01_{TASK}_run-01_{SPACE}desc-nuisance_timeseries.tsv")
    motion = {f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"}
    assert set(pd.read_csv(table, sep="\t").columns) == motion | {"cosine00"}


def test_fmriprep_folder_that_is_not_there(study, run):
    with pytest.raises(UserError, match=r"nowhere"):
        run(study, with_bold(source="fmriprep", source_dir="nowhere"), "zmaps")


def test_estimates_made_elsewhere_lead_to_the_same_trials(as_is, study, run):
    folder = study / "elsewhere" / "sub-01"
    folder.mkdir(parents=True)
    for number in (1, 2):
        stem = folder / f"sub-01_{TASK}_run-{number}_stat-z_statmap"
        shutil.copy(zmap(as_is, number), f"{stem}.nii.gz")
        table = zmap(as_is, number).with_name(f"sub-01_{TASK}_run-0{number}_desc-singletrial_trials.tsv")
        shutil.copy(table, f"{stem}.tsv")
    for bold in study.rglob("*_bold.nii.gz"):
        bold.unlink()
    result = run(study, with_bold(source="estimates", source_dir="elsewhere"))
    ours, theirs = masked(as_is), masked(study)
    np.testing.assert_array_equal(theirs["voxels"], ours["voxels"])
    np.testing.assert_array_equal(theirs["z"], ours["z"])
    text = result.report.read_text()
    assert "One map a trial was made elsewhere" in text and "sub-01" in text


def test_kept_bold_gives_the_same_z(as_is, study, run):
    run(study, with_bold(keep_bold=True), "bold", "zmaps")
    kept = zmap(study, 1).with_name(f"sub-01_{TASK}_run-01_desc-preproc_bold.nii.gz")
    assert nib.load(kept).shape == nib.load(func(study, 1, "bold.nii.gz")).shape
    for number in (1, 2):
        ours, theirs = (np.asarray(nib.load(zmap(s, number)).dataobj) for s in (as_is, study))
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.slow
def test_two_workers_make_the_same_bytes(as_is, study, run):
    assert run(study, with_bold(), "zmaps", where=Where(2)).ran != []
    for number in (1, 2):
        assert zmap(study, number).read_bytes() == zmap(as_is, number).read_bytes()


def test_a_broken_run_stops_or_is_left_out(study, run):
    broken = func(study, 2, "bold.nii.gz")
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"run-02_bold\.nii\.gz is truncated.*--skip-failed"):
        run(study, with_bold())
    result = run(study, with_bold(), skip_failed=True)
    assert list(result.skipped) == [f"sub-01_{TASK}_run-02"]
    assert "Left out" in result.report.read_text()
    trials = pd.read_csv(made(study, "trials.tsv"), sep="\t")
    assert set(trials["run"]) == {f"sub-01_{TASK}_run-01"}


def test_the_hrf_is_chosen_from_the_library(study, run):
    run(study, with_bold(hrf="library"), "hrf", "zmaps")
    chosen = np.asarray(nib.load(made(study, "desc-hrf_dseg.nii.gz")).dataobj)
    inside = brain_of(study)
    finite = inside & np.isfinite(np.asarray(nib.load(zmap(study, 1)).dataobj)).all(axis=3)
    # Voxels that are constant, NaN in the z-maps, have no response to choose.
    np.testing.assert_array_equal(chosen[inside] > 0, finite[inside])
    assert chosen.max() <= 24
    assert len(np.unique(chosen[finite])) > 2


def test_regions_of_the_atlas_and_of_an_image(study, run):
    run(study, with_bold(), "zmaps")
    run(study, with_bold(voxels="regions", regions=("Primary_Visual_Cortex",)), "mask")
    mask = nib.load(made(study, "desc-regions_mask.nii.gz"))
    x, y, z = nib.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0)).mean(axis=0)
    assert abs(x) < 15 and y < -70 and -20 < z < 25
    run(study, with_bold(voxels="all"), "mask")
    everything = np.asarray(nib.load(made(study, "desc-brain_mask.nii.gz")).dataobj) > 0
    assert everything.sum() > 5 * np.asarray(mask.dataobj).sum()
    labels = np.zeros(mask.shape, np.int16)
    labels[np.asarray(mask.dataobj) > 0] = 7
    nib.save(nib.Nifti1Image(labels, mask.affine), study / "mine.nii.gz")
    run(study, with_bold(voxels="regions", regions=("7",), region_image="mine.nii.gz"), "mask")
    again = np.asarray(nib.load(made(study, "desc-regions_mask.nii.gz")).dataobj)
    np.testing.assert_array_equal(again, np.asarray(mask.dataobj))
    with pytest.raises(UserError, match="Primary_Visual_Cortex"):
        run(study, with_bold(voxels="regions", regions=("Primry_Visual_Cortex",)), "mask")


def test_reliability_needs_training_faces_that_repeat(study, run):
    run(study, with_bold(), "zmaps")
    with pytest.raises(UserError, match="test repeats are no way out"):
        run(study, with_bold(voxels="reliable"), "mask")


def test_mixed_headers_need_a_word_from_the_user(study, run):
    path = func(study, 1, "bold.nii.gz")
    image = nib.load(path)
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    nib.save(image, path)
    with pytest.raises(UserError, match=r"set bold\.source to raw or as-is"):
        run(study, with_bold(), "zmaps")
    assert run(study, with_bold(source="as-is"), "zmaps").ran


def test_raw_bold_in_its_own_space_through_to_the_report(as_is, study, run):
    result = run(study, with_bold(source="raw", space="native", confounds=("scrub",)))
    text = result.report.read_text()
    assert "realigned to the first volume and then to the mean, brought to the mean of the first run" in text
    for title in ("Head motion", "Temporal signal-to-noise ratio", "Design matrix", "Distribution of z"):
        assert title in text
    # The simulated head lies still: realigning it moves next to nothing, so z is that of the BOLD as it lies.
    ours, theirs = (np.asarray(nib.load(zmap(s, 1)).dataobj, np.float64) for s in (as_is, study))
    both = np.isfinite(ours).all(axis=3) & np.isfinite(theirs).all(axis=3)
    both &= (ours != 0).any(axis=3) & (theirs != 0).any(axis=3)
    assert both.sum() > 200
    assert np.corrcoef(ours[both].ravel(), theirs[both].ravel())[0, 1] > 0.8
    # Nothing that one step writes is what another step has read: a second run finds all of it fresh.
    assert run(study, with_bold(source="raw", space="native", confounds=("scrub",))).ran == []
    with pytest.raises(UserError, match="'wm_csf' needs fMRIPrep's output, raw BOLD has motion and scrub"):
        run(study, with_bold(source="raw", confounds=("motion", "wm_csf")))
    motion = pd.read_csv(func(study, 1, "x").parents[2] / "derivatives" / "hyperdecode" / "sub-01" / "func"
                         / f"sub-01_{TASK}_run-01_desc-confounds_timeseries.tsv", sep="\t")  # fmt: skip
    assert motion[["trans_x", "trans_y", "trans_z"]].abs().to_numpy().max() < 0.3

"""A small study from stimuli to report with the tiny generator: what it makes, redoes, refuses and never leaks."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.generators import PGGAN
from hyperdecode.pipeline.faces import decoded_faces
from hyperdecode.pipeline.records import read_facts
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.stimulus_set import make_stimuli, read_stimuli
from tests.pipeline.masked import load_masked

RUNS = [f"zmaps_sub-01_task-faces_run-0{k}" for k in (1, 2, 3)]
AFTER_MASK = [
    "decode_sub-01_weighted-ridge",
    "posterior_sub-01",
    "ceiling_sub-01",
    "learning_sub-01",
    "reconstruct_sub-01_weighted-ridge",
    "evaluate_sub-01_weighted-ridge",
    "moves_sub-01",
    "report",
]


def settings(noise_ceiling=1.0, **changes):
    base = {
        "seed": 1,
        "subjects": ["01"],
        "stimuli": {"n_train": 150, "n_test": 8, "test_repeats": 3, "render": 64, "size": 32, "truncation": 1.0},
        "schedule": {"n_runs": 3},
        "simulation": {"noise_ceiling": noise_ceiling, "voxel_size": 8.0},
        "bold": {"n_voxels": 300},
        "evaluation": {"n_permutations": 400},
    }
    return StudyConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, tiny_generator):
    """A study with stimuli and noiseless BOLD, not analysed."""
    study = tmp_path_factory.mktemp("simulated") / "study"
    config = settings()
    write_config(study, config)
    stimuli = make_stimuli(study, config, tiny_generator)
    assert simulate(study, config, stimuli, tiny_generator) == ["01"]
    return study


@pytest.fixture(scope="module")
def analysed(simulated, tiny_generator, tmp_path_factory):
    """Return a copy of it, analysed, and what ran."""
    study = tmp_path_factory.mktemp("analysed") / "study"
    shutil.copytree(simulated, study)
    return study, run_study(study, settings(), read_stimuli(study), tiny_generator).ran


@pytest.fixture
def study(analysed, tmp_path):
    """Return a copy of the analysed study to change."""
    return Path(shutil.copytree(analysed[0], tmp_path / "study"))


@pytest.fixture
def fresh(simulated, tmp_path):
    """Return a copy of the simulated study to change before it is analysed."""
    return Path(shutil.copytree(simulated, tmp_path / "fresh"))


@pytest.fixture
def run(tiny_generator):
    def work(study, config=None, **options):
        return run_study(study, config or settings(), read_stimuli(study), tiny_generator, **options)

    return work


def func(study, run, ending):
    return study / "sub-01" / "func" / f"sub-01_task-faces_run-0{run}_{ending}"


def made(study, ending):
    return study / "derivatives" / "hyperdecode" / "sub-01" / f"sub-01_{ending}"


def zmap(study, run):
    return made(study, "").parent / "func" / f"sub-01_task-faces_run-0{run}_desc-singletrial_stat-z_statmap.nii.gz"


def edit_image(path, edit):
    image = nib.load(path)
    data = edit(np.asarray(image.dataobj).astype(np.float32))
    zooms = image.header.get_zooms()
    changed = nib.Nifti1Image(data, image.affine)
    changed.header.set_zooms(zooms)
    changed.header.set_xyzt_units("mm", "sec")
    # The code says that the BOLD lies in MNI space, which `run` goes by.
    changed.set_sform(image.affine, code=int(image.header["sform_code"]))
    changed.set_qform(image.affine, code=int(image.header["qform_code"]))
    nib.save(changed, path)


def scores(study):
    return pd.read_csv(study / "table.tsv", sep="\t").set_index("metric")


def test_raw_data(simulated):
    events = [pd.read_csv(func(simulated, run, "events.tsv"), sep="\t") for run in (1, 2, 3)]
    assert [len(table) for table in events] == [58, 58, 58]
    assert json.loads((simulated / "dataset_description.json").read_text())["DatasetType"] == "raw"
    for run, table in enumerate(events, start=1):
        bold = nib.load(func(simulated, run, "bold.nii.gz"))
        sidecar = json.loads(func(simulated, run, "bold.json").read_text())
        assert sidecar["RepetitionTime"] == bold.header.get_zooms()[3] == 1.5
        assert bold.shape[3] * 1.5 >= table["onset"].max() + 15


def test_the_whole_chain(analysed):
    study, ran = analysed
    assert ran == [*RUNS, "mask_sub-01", *AFTER_MASK[:4], "full_stimuli", *AFTER_MASK[4:]]
    text = (study / "report.html").read_text()
    assert "What was seen was decoded from the responses of the one subject." in text
    assert "The subjects are simulated: no brain was measured." in text
    identified = scores(study).loc["identification"]
    assert identified["decoder"] > 0.9 and identified["p_value"] < 0.01
    assert identified["decoder"] > identified["best_blind_score"] + 0.2
    mask = np.asarray(nib.load(made(study, "desc-mostactive_mask.nii.gz")).dataobj)
    assert mask.sum() == 300
    assert len(list(made(study, "").parent.glob("reconstructions/weighted-ridge/test-*.png"))) == 8
    description = json.loads((study / "derivatives" / "hyperdecode" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"


def test_catch_trials_are_modelled_and_never_decoded(fresh, study, run):
    """A repeat and a key press stay in the model: what follows them is theirs no less, and the z-maps know it."""
    path = func(fresh, 1, "events.tsv")
    events = pd.read_csv(path, sep="\t")
    second = events.iloc[[10]].assign(trial_type="repeat", onset=events["onset"][10] + 2.2)
    press = pd.DataFrame({"onset": [40.0], "duration": [0.0], "trial_type": ["press"], "stim_file": ["n/a"]})
    pd.concat([events, second, press]).sort_values("onset").to_csv(path, sep="\t", index=False)
    run(fresh, only="zmaps")
    trials = made(fresh, "").parent / "func" / "sub-01_task-faces_run-01_desc-singletrial_trials.tsv"
    assert pd.read_csv(trials, sep="\t")["stim_file"].tolist() == events["stim_file"].tolist()
    with_them, without = (np.asarray(nib.load(zmap(s, 1)).dataobj) for s in (fresh, study))
    assert with_them.shape == without.shape
    moved = np.nanmean(np.abs(with_them - without), axis=(0, 1, 2))
    assert moved[10] == moved.max() and moved[10] > 2 * np.median(moved)
    events.assign(trial_type="press", stim_file="n/a").to_csv(path, sep="\t", index=False)
    with pytest.raises(UserError, match="shows no face: name the stimulus of each trial in stim_file"):
        run(fresh, only="zmaps")


def test_roles_and_averages_are_those_of_the_stimuli(analysed):
    study, _ = analysed
    trials = pd.read_csv(made(study, "trials.tsv"), sep="\t")
    manifest = pd.read_csv(study / "stimuli" / "manifest.tsv", sep="\t").set_index("stim_file")
    assert (trials["role"].to_numpy() == manifest.loc[trials["stim_file"], "role"].to_numpy()).all()
    assert trials["role"].value_counts().to_dict() == {"train": 150, "test": 24}
    events = pd.concat([pd.read_csv(func(study, k, "events.tsv"), sep="\t") for k in (1, 2, 3)])
    assert trials["stim_file"].tolist() == events["stim_file"].tolist()
    z = load_masked(made(study, "desc-masked_zmaps.zarr.zip"))
    maps = np.concatenate([np.asarray(nib.load(zmap(study, k)).dataobj).reshape(-1, 58).T for k in (1, 2, 3)])
    np.testing.assert_array_equal(z["z"], maps[:, z["voxels"]])
    training = maps[(trials["role"] == "train").to_numpy()].mean(0)
    others = np.setdiff1d(np.flatnonzero(np.isfinite(training)), z["voxels"])
    assert training[z["voxels"]].min() >= training[others].max()
    latents, fitted = (
        load_file(made(study, f"desc-weightedridge_{name}.safetensors")) for name in ("latents", "decoder")
    )
    stimuli = read_stimuli(study)
    np.testing.assert_array_equal(latents["true"], stimuli.latents(stimuli.names("test"), "w").numpy())
    average = [z["z"][(trials["stim_file"] == name).to_numpy()].mean(0) for name in stimuli.names("test")]
    predicted = np.array(average) @ fitted["coef_"].T + fitted["intercept_"] - latents["training_mean"]
    stretch = read_facts(study / "derivatives/hyperdecode/records", "decode_sub-01_weighted-ridge")["stretch"]
    assert 1 < stretch < 3
    np.testing.assert_allclose(latents["training_mean"] + stretch * predicted, latents["predicted"], rtol=0, atol=1e-3)


def test_a_second_run_redoes_nothing(study, run, tiny_generator):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert run(study).ran == []
    assert simulate(study, settings(), read_stimuli(study), tiny_generator) == []
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_one_changed_bold_redoes_its_run_and_what_hangs_on_it(study, run):
    def louder(data):
        data[..., 20:25] += 30
        return data

    edit_image(func(study, 2, "bold.nii.gz"), louder)
    assert run(study).ran == [RUNS[1], "mask_sub-01", *AFTER_MASK]
    assert run(study).ran == []


def test_changed_settings_redo_what_depends_on_them(study, run):
    assert run(study, settings(bold={"n_voxels": 150})).ran == ["mask_sub-01", *AFTER_MASK]
    again = settings(bold={"n_voxels": 150}, evaluation={"n_permutations": 300})
    assert run(study, again).ran == ["evaluate_sub-01_weighted-ridge", "report"]
    assert run(study, again.model_copy(update={"name": "renamed"})).ran == ["report"]
    fewer = again.model_copy(update={"decoding": again.decoding.model_copy(update={"posterior": 2})})
    assert run(study, fewer).ran == ["posterior_sub-01", "report"]
    none = again.model_copy(update={"decoding": again.decoding.model_copy(update={"posterior": 0})})
    assert run(study, none).ran == ["report"] and "How sure is it" not in (study / "report.html").read_text()
    other = again.model_copy(update={"name": "renamed", "bold": again.bold.model_copy(update={"high_pass": 0.004})})
    assert run(study, other).ran == [*RUNS, "mask_sub-01", *AFTER_MASK]


def test_lost_and_damaged_outputs_come_back(study, run):
    victims = {
        zmap(study, 3): RUNS[2],
        made(study, "desc-weightedridge_latents.safetensors"): "decode_sub-01_weighted-ridge",
        made(study, "desc-weightedridge_scores.tsv"): "evaluate_sub-01_weighted-ridge",
        study / "report.html": "report",
    }
    before = {path: path.read_bytes() for path in victims}
    for k, path in enumerate(victims):
        path.unlink() if k % 2 else path.write_bytes(before[path][:-20])
    ran = run(study).ran
    assert set(victims.values()) <= set(ran) and RUNS[0] not in ran and "full_stimuli" not in ran
    for path in (
        zmap(study, 3),
        made(study, "desc-weightedridge_latents.safetensors"),
        made(study, "desc-weightedridge_scores.tsv"),
    ):
        assert path.read_bytes() == before[path]


def test_one_step_alone(fresh, study, run):
    with pytest.raises(UserError, match=r"step decode_sub-01_weighted-ridge needs .*: run the earlier steps first"):
        run(fresh, only="decode")
    assert run(fresh, only="zmaps").ran == RUNS
    assert run(study, settings(bold={"n_voxels": 150}), only="mask").ran == ["mask_sub-01"]
    assert run(study, only="evaluate", force=True).ran == ["evaluate_sub-01_weighted-ridge"]
    with pytest.raises(UserError, match=r"no step 'maps': choose among realign, .*, zmaps, mask"):
        run(study, only="maps")


def alter(study, role, run_number=2):
    """Turn the z-maps of one role's trials in a run into noise; the z-map step itself is not run again."""
    trials = pd.read_csv(made(study, "trials.tsv"), sep="\t")
    trials = trials[trials["run"].str.endswith(f"run-0{run_number}")]
    rows = np.flatnonzero(trials["role"] == role)
    rng = np.random.default_rng(0)

    def noise(data):
        data[..., rows] = rng.normal(3, 4, (*data.shape[:3], len(rows)))
        return data

    edit_image(zmap(study, run_number), noise)


def test_test_trials_touch_neither_mask_nor_decoder(study, run):
    fitted = [made(study, name) for name in ("desc-mostactive_mask.nii.gz", "desc-weightedridge_decoder.safetensors")]
    before = [path.read_bytes() for path in fitted]
    latents = load_file(made(study, "desc-weightedridge_latents.safetensors"))
    alter(study, "test")
    for step in ("mask", "decode"):
        assert run(study, only=step).ran
    assert [path.read_bytes() for path in fitted] == before
    changed = load_file(made(study, "desc-weightedridge_latents.safetensors"))
    assert np.abs(changed["predicted"] - latents["predicted"]).max() > 0.1
    np.testing.assert_array_equal(changed["training_mean"], latents["training_mean"])


def test_training_trials_touch_both(study, run):
    """The control of the test above."""
    fitted = [made(study, name) for name in ("desc-mostactive_mask.nii.gz", "desc-weightedridge_decoder.safetensors")]
    before = [path.read_bytes() for path in fitted]
    alter(study, "train")
    for step in ("mask", "decode"):
        run(study, only=step)
    assert all(path.read_bytes() != old for path, old in zip(fitted, before, strict=True))


def edit_manifest(study, edit):
    path = study / "stimuli" / "manifest.tsv"
    edit(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False)


def test_the_order_of_the_manifest_does_not_matter(study, run):
    before = {
        path.name: path.read_bytes() for path in made(study, "").parent.glob("reconstructions/weighted-ridge/*.png")
    }
    table = scores(study)["decoder"]
    edit_manifest(study, lambda m: m.iloc[::-1])
    run(study, force=True)
    after = {
        path.name: path.read_bytes() for path in made(study, "").parent.glob("reconstructions/weighted-ridge/*.png")
    }
    assert after == before
    pd.testing.assert_series_equal(scores(study)["decoder"], table, rtol=1e-4)


def test_a_role_changed_in_the_manifest_is_heeded(study, run):
    moved = pd.read_csv(made(study, "trials.tsv"), sep="\t").query("role == 'train'")["stim_file"].iloc[0]

    def to_test(manifest):
        manifest.loc[manifest["stim_file"] == moved, "role"] = "test"
        return manifest

    edit_manifest(study, to_test)
    run(study)
    trials = pd.read_csv(made(study, "trials.tsv"), sep="\t")
    assert (trials.loc[trials["stim_file"] == moved, "role"] == "test").all()
    assert load_file(made(study, "desc-weightedridge_latents.safetensors"))["predicted"].shape[0] == 9


@pytest.mark.slow
def test_a_null_study_says_so(tmp_path, simulated, tiny_generator, run):
    study, config = tmp_path / "null", settings(noise_ceiling=1e-6)
    shutil.copytree(simulated / "stimuli", study / "stimuli")
    simulate(study, config, read_stimuli(study), tiny_generator)
    run(study, config)
    identified = scores(study).loc["identification"]
    assert identified["p_value"] > 0.05 and abs(identified["decoder"] - 0.5) < 0.25
    assert "Nothing was decoded." in (study / "report.html").read_text()


@pytest.mark.slow
def test_other_seeds_make_other_data(tmp_path, simulated, tiny_generator):
    study, config = tmp_path / "two", settings(subjects=["01", "02"])
    shutil.copytree(simulated / "stimuli", study / "stimuli")
    assert simulate(study, config, read_stimuli(study), tiny_generator) == ["01", "02"]
    one, two = (
        np.asarray(nib.load(study / f"sub-{s}" / "func" / f"sub-{s}_task-faces_run-01_bold.nii.gz").dataobj)
        for s in ("01", "02")
    )
    assert (one != two).any()
    assert func(study, 1, "bold.nii.gz").read_bytes() == func(simulated, 1, "bold.nii.gz").read_bytes()


def test_nan_voxels_are_dropped_and_counted(fresh, study, run):
    where = np.argwhere(np.asarray(nib.load(made(study, "desc-mostactive_mask.nii.gz")).dataobj) > 0)[:3]

    def holes(data):
        for i, place in enumerate(where):
            data[(*place, 4 + i)] = np.nan
        return data

    edit_image(func(fresh, 1, "bold.nii.gz"), holes)
    run(fresh)
    mask = np.asarray(nib.load(made(fresh, "desc-mostactive_mask.nii.gz")).dataobj)
    assert mask.sum() == 300 and not any(mask[tuple(place)] for place in where)
    dropped = r"(\d+) voxels without usable values \(NaN or constant\) were left out of the mask"
    # Without noise, all voxels that do not respond are constant.
    constant = int(re.search(dropped, (study / "report.html").read_text())[1])
    text = (fresh / "report.html").read_text()
    assert int(re.search(dropped, text)[1]) == constant + 3
    assert "3 voxel series with NaN" in text


def test_nan_in_a_run_of_test_faces_alone_drops_the_voxel_too(study, run):
    """A voxel without a response to a test face can not be read when that face is decoded."""
    place = tuple(np.argwhere(np.asarray(nib.load(made(study, "desc-mostactive_mask.nii.gz")).dataobj) > 0)[0])
    trials = pd.read_csv(made(study, "trials.tsv"), sep="\t")
    rows = np.flatnonzero((trials["role"] == "test") & trials["run"].str.endswith("run-01"))

    def hole(data):
        data[(*place, rows)] = np.nan
        return data

    edit_image(zmap(study, 1), hole)
    run(study, only="mask")
    mask = np.asarray(nib.load(made(study, "desc-mostactive_mask.nii.gz")).dataobj)
    assert mask.sum() == 300 and not mask[place]


def test_too_few_voxels_and_a_report_asked_for_afterwards(study, run):
    report = (study / "report.html").read_bytes()
    mask = made(study, "desc-mostactive_mask.nii.gz").read_bytes()
    config = settings(bold={"n_voxels": 100_000})
    with pytest.raises(UserError, match=r"the mask asks for 100000 voxels, \d+ of \d+ are usable"):
        run(study, config)
    assert made(study, "desc-mostactive_mask.nii.gz").read_bytes() == mask
    with pytest.raises(UserError, match="run the earlier steps first"):
        run(study, config, only="report")
    assert (study / "report.html").read_bytes() == report


def test_the_sidecars_repetition_time_wins_with_a_warning(fresh, run):
    path = func(fresh, 1, "bold.nii.gz")
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    image.header.set_zooms((8, 8, 8, 2.0))
    nib.save(nib.Nifti1Image(data, image.affine, image.header), path)
    with pytest.warns(DataWarning, match=r"the header says TR 2 s, the sidecar 1\.5 s: using the sidecar's"):
        run(fresh)
    assert "the header says TR 2 s, the sidecar 1.5 s" in (fresh / "report.html").read_text()
    assert scores(fresh).loc["identification", "decoder"] > 0.9


def test_a_sidecar_with_null(fresh, run):
    path = func(fresh, 1, "bold.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"EchoTime": None}))
    assert run(fresh, only="zmaps").ran == RUNS


def test_stimuli_of_another_generator(study, make_tiny):
    with pytest.raises(UserError, match="its latents mean other faces"):
        run_study(study, settings(), read_stimuli(study), make_tiny(1))


def test_a_subject_who_is_not_there(study, run):
    with pytest.raises(UserError, match=r"no BOLD of sub-03, task-faces"):
        run(study, settings(subjects=["01", "03"]))


def test_events_that_name_no_stimulus(fresh, run):
    path = func(fresh, 1, "events.tsv")
    events = pd.read_csv(path, sep="\t")
    events.drop(columns="stim_file").to_csv(path, sep="\t", index=False)
    with pytest.raises(UserError, match="has no column stim_file"):
        run(fresh)
    events.loc[3, "stim_file"] = "cat.png"
    events.to_csv(path, sep="\t", index=False)
    with pytest.raises(UserError, match=r"'cat\.png' is no stimulus"):
        run(fresh)


def test_a_test_face_never_shown(fresh, run):
    shown = "test-0002.png"
    for k in (1, 2, 3):
        path = func(fresh, k, "events.tsv")
        events = pd.read_csv(path, sep="\t")
        events[events["stim_file"] != shown].to_csv(path, sep="\t", index=False)
    with pytest.raises(UserError, match=r"never saw the test stimulus test-0002\.png"):
        run(fresh)


def test_runs_on_different_grids(fresh, run):
    edit_image(func(fresh, 3, "bold.nii.gz"), lambda data: data[1:])
    with pytest.raises(UserError, match=r"run-03_bold\.nii\.gz \(20, 17, 16\) lies on another grid"):
        run(fresh)


def test_real_data_are_not_simulated_over(tmp_path, simulated, tiny_generator):
    study = tmp_path / "real"
    shutil.copytree(simulated / "stimuli", study / "stimuli")
    (study / "sub-01" / "func").mkdir(parents=True)
    func(study, 1, "bold.nii.gz").write_bytes(b"precious")
    with pytest.raises(UserError, match="holds BOLD that was not simulated here"):
        simulate(study, settings(), read_stimuli(study), tiny_generator)
    assert func(study, 1, "bold.nii.gz").read_bytes() == b"precious"


def test_real_data_put_beside_simulated_ones_are_kept(fresh, tiny_generator):
    path = func(fresh, 1, "bold.nii.gz")
    path.write_bytes(b"precious")
    func(fresh, 1, "bold.json").write_text('{"RepetitionTime": 2.0, "Manufacturer": "Siemens"}')
    with pytest.raises(UserError, match="holds BOLD that was not simulated here"):
        simulate(fresh, settings(), read_stimuli(fresh), tiny_generator, force=True)
    assert path.read_bytes() == b"precious"


def test_a_readme_of_the_user_is_kept_and_does_no_harm(tmp_path, simulated, tiny_generator):
    study = tmp_path / "mine"
    shutil.copytree(simulated / "stimuli", study / "stimuli")
    (study / "README").write_text("my notes")
    assert simulate(study, settings(), read_stimuli(study), tiny_generator) == ["01"]
    assert simulate(study, settings(), read_stimuli(study), tiny_generator) == []
    assert (study / "README").read_text() == "my notes"


def test_a_generator_without_w_goes_through_the_whole_chain(make_tiny_pggan_tensors, tmp_path):
    """A PGGAN study decodes z; asked for w it says what to change."""
    pggan = PGGAN(make_tiny_pggan_tensors(), "tiny-pggan")
    stimuli = {"n_train": 60, "n_test": 5, "test_repeats": 2, "render": 16, "size": 16}
    config = settings(stimuli=stimuli, decoding={"space": "z"}, bold={"n_voxels": 100}, generator="tiny-pggan")
    write_config(tmp_path, config)
    made_faces = make_stimuli(tmp_path, config, pggan)
    assert np.array_equal(made_faces.latents(["test-0001.png"], "w"), pggan.sample(1, 1))
    simulate(tmp_path, config, made_faces, pggan)
    with pytest.raises(UserError, match=r"decoding\.space = 'w', but tiny-pggan has only the latent space z"):
        run_study(tmp_path, settings(stimuli=stimuli), made_faces, pggan)
    run_study(tmp_path, config, made_faces, pggan)
    latents = load_file(made(tmp_path, "desc-weightedridge_latents.safetensors"))
    assert np.array_equal(latents["true"], pggan.sample(5, 1).numpy())
    cosines = (latents["predicted"] * latents["true"]).sum(1) / np.linalg.norm(latents["predicted"], axis=1)
    assert (cosines > 0).all(), "noiseless voxels tell nothing of z"
    assert len(list(tmp_path.glob("derivatives/hyperdecode/sub-01/reconstructions/weighted-ridge/*.png"))) == 5


def test_decoded_faces_are_those_that_are_drawn_and_the_true_ones(study):
    """What `hyperdecode faces interpolate --study` goes from and to."""
    decoded, shown = decoded_faces(study, "01")
    latents = load_file(made(study, "desc-weightedridge_latents.safetensors"))
    assert decoded.names == shown.names == tuple(f"test-{k:04d}" for k in range(1, 9))
    assert np.array_equal(decoded.latents, latents["drawn"]) and decoded.space == "w"
    stimuli = read_stimuli(study)
    assert np.array_equal(shown.latents, stimuli.latents(stimuli.names("test"), "w"))
    with pytest.raises(UserError, match=r"nothing was decoded for sub-07 .* run `hyperdecode run"):
        decoded_faces(study, "07")

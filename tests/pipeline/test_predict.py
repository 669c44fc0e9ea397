"""New trials through a fitted decoder: the right faces, the right voxels, nothing of the study touched."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.pipeline import latents as latent_spaces
from hyperdecode.pipeline.new_trials import NewTrials, new_runs
from hyperdecode.pipeline.predict import predict
from hyperdecode.pipeline.records import is_fresh, run_step
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.pipeline.subjects import subject_chain
from hyperdecode.stimuli.pictures import to_uint8
from hyperdecode.study.bids import index_bids
from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import FittedDecoder, read_decoder, training_fingerprint, write_decoder
from hyperdecode.study.stimulus_set import make_stimuli, read_picture, read_stimuli
from tests.pipeline.masked import load_masked

pytestmark = pytest.mark.filterwarnings("ignore:.*show training faces:hyperdecode.errors.DataWarning")
N_VOXELS = 200


def settings(**bold):
    return StudyConfig.model_validate(
        {
            "seed": 1,
            "subjects": ["01"],
            "stimuli": {"n_train": 90, "n_test": 6, "test_repeats": 3, "render": 64, "size": 32, "truncation": 1.0},
            "schedule": {"n_runs": 3, "one_back": 0.0},
            "simulation": {"noise_ceiling": 1.0, "voxel_size": 8.0},
            "bold": {"n_voxels": N_VOXELS, **bold},
            "decoding": {"model": "ridge"},
        }
    )


NATIVE = {"source": "raw", "space": "native", "confounds": []}


def fit(study, config, generator):
    """Fit a ridge in closed form to the masked trials, and write it as the study's decoder."""
    layout, stimuli = Layout(study), read_stimuli(study)
    masked = load_masked(layout.masked("01"))
    table = pd.read_csv(layout.subject("01", "trials.tsv"), sep="\t")
    rows = np.flatnonzero(table["role"] == "train")
    names = list(table["stim_file"][rows])
    x, y = masked["z"][rows].astype(np.float64), stimuli.latents(names, "w").double().numpy()
    mean, scale, centre = x.mean(0), x.std(0), y.mean(0)
    z = (x - mean) / scale
    weights = z.T @ np.linalg.solve(z @ z.T + 100 * np.eye(len(z)), y - centre)
    coef = (weights / scale[:, None]).T
    mask = nib.load(layout.subject("01", "desc-mostactive_mask.nii.gz"))
    fitted = FittedDecoder(
        model="ridge",
        coef=coef,
        intercept=centre - coef @ mean,
        latent_space="w",
        latent_mean=centre,
        training_norm=float(np.linalg.norm(y - centre, axis=1).mean()),
        generator=generator.name,
        generator_fingerprint=generator.fingerprint,
        truncation=1.0,
        voxels=masked["voxels"],
        shape=mask.shape,
        affine=mask.affine,
        space="mni",
        training_fingerprint=training_fingerprint(names, x, y),
        n_training_trials=len(names),
        extra={"x_mean_": mean, "x_scale_": scale},
    )
    write_decoder(layout.decoded("01", "ridge", "decoder"), fitted)
    return fitted


def analyse(study, config, generator):
    """Do the study's own runs up to the mask, and fit its decoder."""
    layout = Layout(study)
    for step in steps(study, config):
        run_step(step, study, layout.records)
    return fit(study, config, generator)


def steps(study, config):
    """Steps of the analysis of the study's own runs up to the mask."""
    runs = [run for run in index_bids(study).runs if run.task == config.task]
    return [step for _, step in subject_chain(Layout(study), config.bold, read_stimuli(study), "01", runs).steps()]


def rename(study, task="imagery"):
    """Make the third run one of another task: the study has not seen its trials."""
    for path in sorted((study / "sub-01" / "func").glob("*run-03*")):
        path.rename(path.with_name(path.name.replace("task-faces_run-03", f"task-{task}_run-01")))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, tiny_generator):
    """Two runs of the study's task, and one of task imagery that shows faces no less."""
    study = tmp_path_factory.mktemp("predict") / "study"
    write_config(study, settings())
    simulate(study, settings(), make_stimuli(study, settings(), tiny_generator), tiny_generator)
    rename(study)
    return study


@pytest.fixture(scope="module")
def analysed(simulated, tiny_generator, tmp_path_factory):
    study = Path(shutil.copytree(simulated, tmp_path_factory.mktemp("analysed") / "study"))
    analyse(study, settings(), tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


@pytest.fixture
def work(tiny_generator):
    def call(study, config=None, **options):
        return predict(study, config or settings(), read_stimuli(study), tiny_generator, "01", **options)

    return call


def func(study, ending, run="task-faces_run-01"):
    return Layout(study).derivatives / "sub-01" / "func" / f"sub-01_{run}_{ending}"


def zmap(study, run="task-faces_run-01"):
    return func(study, "desc-singletrial_stat-z_statmap.nii.gz", run)


def trials_of(study, run="task-faces_run-01"):
    return func(study, "desc-singletrial_trials.tsv", run)


def decoder(study):
    return read_decoder(Layout(study).decoded("01", "ridge", "decoder"))


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def edit_maps(study, path, edit, affine=None):
    image = nib.load(zmap(study))
    data = edit(np.asarray(image.dataobj, np.float32).copy())
    nib.save(nib.Nifti1Image(data, image.affine if affine is None else affine), path)
    return path


def identified(decoded, true):
    """Share of the other faces that a decoded face is less like than its own; 0.5 by chance."""
    a, b = (values - values.mean(0) for values in (decoded, true))
    a, b = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (a, b))
    likeness = a @ b.T
    return (likeness < np.diag(likeness)[:, None]).sum() / (len(a) * (len(a) - 1))


def correlations(decoded, true):
    a, b = decoded - decoded.mean(0), true - true.mean(0)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_an_imagery_run_shows_its_faces(study, work, tiny_generator):
    """Faces of the new run are told from each other: its maps lie on the decoder's voxels, in their order."""
    before = contents(study)
    result = work(study, task="imagery")
    assert result.ran == (
        "zmaps_sub-01_task-imagery_run-01",
        "predict_sub-01_task-imagery_desc-ridge",
        "draw_sub-01_task-imagery_desc-ridge",
    )
    assert result.folder == Layout(study).derivatives / "sub-01" / "predictions" / "task-imagery_desc-ridge"
    table = pd.read_csv(result.table, sep="\t")
    events = pd.read_csv(study / "sub-01" / "func" / "sub-01_task-imagery_run-01_events.tsv", sep="\t")
    assert list(table["stim_file"]) == list(events["stim_file"]) and result.n == len(events)
    stimuli = read_stimuli(study)
    true = stimuli.latents(list(table["stim_file"]), "w").numpy()
    found = load_file(result.latents)
    assert found["predicted"].shape == true.shape and found["predicted"].dtype == np.float32
    assert identified(found["predicted"], true) > 0.8
    fitted = decoder(study)
    z = np.asarray(nib.load(zmap(study, "task-imagery_run-01")).dataobj)[
        np.unravel_index(fitted.voxels, fitted.shape)
    ].T
    assert np.allclose(found["predicted"], fitted.predict(z), atol=1e-4)
    # The measure tells: the same voxels in another order say nothing.
    assert identified(fitted.predict(z[:, ::-1]), true) < 0.65
    # Nothing that was there has been touched; the study's own analysis stays up to date.
    after = contents(study)
    assert {path: after[path] for path in before} == before
    assert all(is_fresh(step, study, Layout(study).records) for step in steps(study, settings()))
    # Pictures are those of the stretched latents.
    norm = np.linalg.norm(found["drawn"] - decoder(study).latent_mean, axis=1)
    assert np.allclose(norm, decoder(study).training_norm, rtol=1e-4)
    for k in (0, result.n - 1):
        picture = to_uint8(tiny_generator.images(torch.from_numpy(found["drawn"][k : k + 1])))[0]
        assert np.array_equal(read_picture(result.pictures[k]), picture)
        assert table["picture"][k] == result.pictures[k].name
    assert set(table["stimulus_role"]) <= {"train", "test"}
    assert json.loads(result.table.with_suffix(".json").read_text())["LatentSpace"] == "w"


def test_maps_of_a_file_give_the_latents_of_the_masked_trials(study, work):
    """The same trials by way of a NIfTI and by way of the study's masked z."""
    result = work(study, zmaps=zmap(study), trials=trials_of(study), pictures=False)
    z = load_masked(Layout(study).masked("01"))["z"][: result.n]
    assert np.array_equal(load_file(result.latents)["predicted"], decoder(study).predict(z))
    table = pd.read_csv(result.table, sep="\t")
    own = pd.read_csv(trials_of(study), sep="\t")
    assert table[list(own.columns)].equals(own)
    assert result.pictures == () and result.sheet is None and not list(result.folder.glob("*.png"))
    assert work(study, zmaps=zmap(study), trials=trials_of(study), pictures=False).ran == ()
    assert work(study, zmaps=zmap(study), trials=trials_of(study)).ran == (
        "draw_sub-01_sub-01_task-faces_run-01_desc-singletrial_stat-z_statmap_desc-ridge",
    )


def test_one_map_without_a_table(study, work, tmp_path):
    one = edit_maps(study, tmp_path / "one.nii", lambda data: data[..., 4])
    result = work(study, zmaps=one)
    every = work(study, zmaps=zmap(study), pictures=False)
    assert result.n == 1
    assert np.allclose(load_file(result.latents)["predicted"][0], load_file(every.latents)["predicted"][4], atol=1e-6)
    assert Image.open(result.sheet).size[0] < 200


def test_average_over_a_column(study, work):
    path = study / "sub-01" / "func" / "sub-01_task-imagery_run-01_events.tsv"
    events = pd.read_csv(path, sep="\t")
    cues = [f"cue {k % 5}" for k in range(len(events))]
    events.assign(cue=cues).to_csv(path, sep="\t", index=False)
    result = work(study, task="imagery", average="cue")
    table = pd.read_csv(result.table, sep="\t")
    single = load_file(work(study, task="imagery", pictures=False).latents)["predicted"]
    mean = load_file(result.latents)["predicted"]
    assert list(table["cue"]) == ["cue 0", "cue 1", "cue 2", "cue 3", "cue 4"]
    for k, cue in enumerate(table["cue"]):
        # Linear: the decoded average is the average of the decoded.
        assert np.allclose(mean[k], single[np.asarray(cues) == cue].mean(0), atol=1e-5)
    assert table["n_averaged"].sum() == len(events) and table["picture"][0] == "average-0001.png"
    assert "onset" not in table and "run" in table and len(result.pictures) == 5


def test_averages_leave_trials_without_a_value_out():
    table = pd.DataFrame({"face": ["b", None, "a", "b"], "hand": ["l", "l", "l", "l"], "onset": list("0123")})
    trials = NewTrials(np.arange(8, dtype=np.float32).reshape(4, 2), table)
    with pytest.warns(DataWarning, match="1 of 4 trials have no face"):
        mean = trials.averaged("face")
    assert mean.z.tolist() == [[3, 4], [4, 5]]
    assert mean.table.to_dict("list") == {"face": ["b", "a"], "hand": ["l", "l"], "n_averaged": [2, 1]}
    with pytest.raises(UserError, match="no column 'stim_file': it has face, hand, onset"):
        trials.averaged("stim_file")


def test_trials_of_one_type(study, work):
    path = study / "sub-01" / "func" / "sub-01_task-imagery_run-01_events.tsv"
    events = pd.read_csv(path, sep="\t")
    events["trial_type"] = ["cue" if k % 3 == 0 else "imagine" for k in range(len(events))]
    events.to_csv(path, sep="\t", index=False)
    result = work(study, task="imagery", trial_types=("imagine",), pictures=False)
    assert result.folder.name == "task-imagery_imagine_desc-ridge"
    table = pd.read_csv(result.table, sep="\t")
    assert list(table["onset"]) == [round(t, 5) for t in events["onset"][events["trial_type"] == "imagine"]]
    everything = work(study, task="imagery", pictures=False)
    rows = np.flatnonzero(events["trial_type"] == "imagine")
    assert np.array_equal(load_file(result.latents)["predicted"], load_file(everything.latents)["predicted"][rows])
    with pytest.raises(UserError, match="no trial has the trial_type 'rest': there are cue, imagine"):
        work(study, task="imagery", trial_types=("rest",))


def test_training_faces_are_named_and_nothing_is_scored(study, work):
    with pytest.warns(DataWarning, match=r"\d+ of \d+ trials show training faces: the decoder was fitted on them"):
        result = work(study, zmaps=zmap(study), trials=trials_of(study), pictures=False)
    roles = pd.read_csv(result.table, sep="\t")["stimulus_role"].value_counts()
    assert result.notes == (
        f"{roles['test']} of {result.n} trials show test faces: nothing is scored here, `hyperdecode run` scores them",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert work(study, zmaps=zmap(study), pictures=False, out=study / "unnamed").notes == ()


def test_attribute_scores(study, work, monkeypatch):
    rng = np.random.default_rng(0)
    normals = torch.from_numpy(rng.standard_normal((2, 16)).astype(np.float32))
    found = AttributeNormals(("smile", "age"), normals, torch.zeros(2), torch.ones(2), "w")
    monkeypatch.setattr(latent_spaces, "attribute_spaces", lambda name: {"w": found})
    result = work(study, zmaps=zmap(study), pictures=False)
    table, latents = pd.read_csv(result.table, sep="\t"), load_file(result.latents)["predicted"]
    for k, name in enumerate(("smile", "age")):
        assert np.allclose(table[f"decoded_{name}"], latents @ normals[k].numpy(), rtol=1e-4, atol=1e-4)
    # A table of predictions can be given again: its own columns make way for the new ones.
    again = work(study, zmaps=zmap(study), trials=result.table, pictures=False, force=True)
    assert list(pd.read_csv(again.table, sep="\t").columns) == list(table.columns)


def test_the_sheet_shows_what_was_shown_above_what_was_decoded(study, work):
    plain = work(study, zmaps=zmap(study))
    named = work(study, zmaps=zmap(study), trials=trials_of(study), out=study / "named")
    assert named.folder == study / "named" and (study / "named" / "records").is_dir()
    small, large = Image.open(plain.sheet), Image.open(named.sheet)
    assert small.width == large.width and large.height > 1.9 * small.height
    pixels = np.asarray(large, np.float64)
    stimuli = read_stimuli(study)
    first = pd.read_csv(named.table, sep="\t")["stim_file"][0]
    face = Image.fromarray(stimuli.pictures([first])[0]).resize((160, 160), Image.Resampling.LANCZOS)
    top = 6 + 2 * (160 // 6)
    assert np.abs(pixels[top : top + 160, 6:166] - np.asarray(face)).mean() < 12


def test_latents_z_are_drawn_through_w(study, work, tiny_generator):
    stem = Layout(study).decoded("01", "ridge", "decoder")
    write_decoder(stem, replace(decoder(study), latent_space="z", truncation=0.5))
    result = work(study, zmaps=zmap(study))
    z = torch.from_numpy(load_file(result.latents)["drawn"][:1])
    wanted = to_uint8(tiny_generator.images(tiny_generator.to_w(z, 0.5)))[0]
    assert np.array_equal(read_picture(result.pictures[0]), wanted)


def test_pictures_of_predictions_as_they_are(study, work):
    config = StudyConfig.model_validate(settings().model_dump() | {"decoding": {"model": "ridge", "match_norm": False}})
    found = load_file(work(study, config, zmaps=zmap(study), pictures=False).latents)
    assert np.array_equal(found["predicted"], found["drawn"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_without_a_value(study, work, tmp_path, value):
    fitted = decoder(study)
    holes = np.unravel_index(fitted.voxels[:3], fitted.shape)

    def harm(data):
        data[(*holes, 5)] = value
        data[np.unravel_index(fitted.voxels[7], fitted.shape)] = 0
        return data

    path = edit_maps(study, tmp_path / "holes.nii.gz", harm)
    with pytest.raises(UserError, match=r"holes\.nii\.gz: 4 of the decoder's 200 voxels have no value.*--fill-missing"):
        work(study, zmaps=path)
    with pytest.warns(DataWarning, match="4 of the decoder's 200 voxels have no value.*training mean stands in"):
        result = work(study, zmaps=path, fill_missing=True, pictures=False)
    z = np.asarray(nib.load(zmap(study)).dataobj, np.float32)[np.unravel_index(fitted.voxels, fitted.shape)].T
    z[5, :3], z[:, 7] = fitted.extra["x_mean_"][:3], fitted.extra["x_mean_"][7]
    assert np.allclose(load_file(result.latents)["predicted"], fitted.predict(z), atol=1e-5)
    # A value that is not finite elsewhere in the brain is nobody's business.
    elsewhere = np.setdiff1d(np.arange(np.prod(fitted.shape)), fitted.voxels)

    def around(data):
        data.reshape(-1, data.shape[3])[elsewhere] = value
        return data

    path = edit_maps(study, tmp_path / "around.nii.gz", lambda data: around(np.ascontiguousarray(data)))
    result = work(study, zmaps=path, pictures=False)
    whole = work(study, zmaps=zmap(study), pictures=False)
    assert np.array_equal(*(load_file(one.latents)["predicted"] for one in (result, whole)))


def test_maps_outside_the_field_of_view_cannot_be_filled(study, work, tmp_path):
    path = edit_maps(
        study, tmp_path / "half.nii.gz", lambda data: np.where(np.arange(len(data))[:, None, None, None] < 2, data, 0)
    )
    with pytest.raises(UserError, match=r"give maps that cover its mask$"):
        work(study, zmaps=path, fill_missing=True)


def test_other_grids_and_other_voxels(study, work, tmp_path):
    affine = nib.load(zmap(study)).affine.copy()
    affine[0, 3] += 4
    with pytest.raises(UserError, match=r"moved\.nii\.gz: the data lie on the grid .* with affine .*fitted on .* with"):
        work(study, zmaps=edit_maps(study, tmp_path / "moved.nii.gz", lambda data: data, affine))
    with pytest.raises(UserError, match=r"flat\.nii\.gz: the data lie on the grid"):
        work(study, zmaps=edit_maps(study, tmp_path / "flat.nii.gz", lambda data: data[:, :, 1:]))
    mask = Layout(study).subject("01", "desc-mostactive_mask.nii.gz")
    image = nib.load(mask)
    data = np.asarray(image.dataobj).copy()
    x, y, z = np.argwhere(data)[0]
    data[x, y, z], data[tuple(np.argwhere(data == 0)[0])] = 0, 1
    nib.save(nib.Nifti1Image(data, image.affine), mask)
    with pytest.raises(
        UserError, match=r"mask\.nii\.gz: the data have 1 of 200 voxels that the decoder was not fitted"
    ):
        work(study, zmaps=zmap(study))


def test_maps_that_are_no_z_are_noticed(study, work, tmp_path):
    path = edit_maps(study, tmp_path / "betas.nii.gz", lambda data: data * 300)
    with pytest.warns(DataWarning, match="may not be z of the study's own model"):
        work(study, zmaps=path, pictures=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "either --zmaps, or"),
        ({"zmaps": "x.nii.gz", "task": "imagery"}, "one of the two"),
        ({"task": "imagery", "trials": "x.tsv"}, "--trials belongs to --zmaps"),
        ({"zmaps": "nowhere.nii.gz"}, r"nowhere\.nii\.gz does not exist"),
        ({"task": "music"}, "no run of sub-01 with task music: its runs are sub-01_task-faces_run-01, "),
        ({"run": "01"}, "sub-01_task-faces_run-01 is a run that the study was analysed with"),
        ({"task": "imagery", "session": "2"}, "no run of sub-01 with task imagery session 2"),
        ({"task": "imagery", "model": "dense"}, r"desc-dense_decoder\.safetensors is not there: .*ridge_decoder\.json"),
        ({"task": "imagery", "average": "colour"}, "no column 'colour': it has run, volume, onset"),
    ],
)
def test_what_cannot_be_asked(study, work, options, expected):
    options = {key: Path(value) if key in ("zmaps", "trials") else value for key, value in options.items()}
    with pytest.raises(UserError, match=expected) as caught:
        work(study, **options)
    assert "\n" not in str(caught.value)


def test_unknown_subject_and_other_generator(study, make_tiny, tiny_generator):
    with pytest.raises(UserError, match=r"no subject '02' in study\.toml: choose among 01"):
        predict(study, settings(), read_stimuli(study), tiny_generator, "02", task="imagery")
    with pytest.raises(UserError, match="its latents mean other faces"):
        predict(study, settings(), read_stimuli(study), make_tiny(1), "01", task="imagery")


def test_tables_that_do_not_fit(study, work, tmp_path):
    short = tmp_path / "short.tsv"
    pd.read_csv(trials_of(study), sep="\t").iloc[1:].to_csv(short, sep="\t", index=False)
    with pytest.raises(UserError, match=r"short\.tsv has \d+ rows and .* \d+ volumes: give one row a volume"):
        work(study, zmaps=zmap(study), trials=short)
    short.write_bytes(b"\x89\x00\xff\xfe")
    with pytest.raises(UserError, match=r"short\.tsv is not readable as a table"):
        work(study, zmaps=zmap(study), trials=short)


def test_predictions_from_something_else_are_not_replaced_unasked(study, work, tmp_path):
    path = edit_maps(study, tmp_path / "new.nii.gz", lambda data: data)
    first = work(study, zmaps=path)
    kept = contents(first.folder)
    assert work(study, zmaps=path).ran == () and contents(first.folder) == kept
    edit_maps(study, path, lambda data: data[..., :-2] * 0.5)
    with pytest.raises(UserError, match=r"was made with other files: use --force"):
        work(study, zmaps=path)
    assert contents(first.folder) == kept
    again = work(study, zmaps=path, force=True)
    assert again.n == first.n - 2 and len(list(again.folder.glob("*.png"))) == again.n
    fitted = decoder(study)
    write_decoder(Layout(study).decoded("01", "ridge", "decoder"), replace(fitted, coef=fitted.coef * 2))
    with pytest.raises(UserError, match=r"was made with other files: use --force"):
        work(study, zmaps=path)


def test_a_killed_prediction_goes_on(study, work, monkeypatch, tiny_generator):
    path = zmap(study)

    def stop(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(study, zmaps=path, progress=stop)
    result = work(study, zmaps=path)
    assert [name.split("_")[0] for name in result.ran] == ["draw"] and all(file.is_file() for file in result.pictures)
    assert not [file for file in result.folder.iterdir() if file.name.startswith(".")]


@pytest.fixture(scope="module")
def raw(simulated, tiny_generator, tmp_path_factory):
    """The study with its BOLD taken as a scanner's, realigned on its own grid; no registration to MNI."""
    study = Path(shutil.copytree(simulated, tmp_path_factory.mktemp("raw") / "study"))
    analyse(study, settings(**NATIVE), tiny_generator)
    return study


def test_a_raw_run_of_another_day_is_brought_to_the_reference(raw, work, tmp_path):
    """The head lay elsewhere: found out by the mean of the run, with nothing of the study estimated again."""
    study = Path(shutil.copytree(raw, tmp_path / "study"))
    folder = study / "sub-01" / "func"
    for path in sorted(folder.glob("*task-faces_run-02*")):
        shutil.copy(path, path.with_name(path.name.replace("task-faces", "task-again")))
    bold = folder / "sub-01_task-again_run-02_bold.nii.gz"
    image = nib.load(bold)
    affine = image.affine.copy()
    affine[:3, 3] += [6, -9, 5]
    moved = nib.Nifti1Image(np.asarray(image.dataobj), affine, image.header)
    moved.set_sform(affine, code=1)
    moved.set_qform(affine, code=1)
    nib.save(moved, bold)
    before = contents(study)

    result = work(study, settings(**NATIVE), task="again", pictures=False)
    assert [name.split("_")[0] for name in result.ran] == ["realign", "join", "zmaps", "predict"]
    after = contents(study)
    assert {path: after[path] for path in before} == before
    assert all(is_fresh(step, study, Layout(study).records) for step in steps(study, settings(**NATIVE)))

    layout = Layout(study)
    masked = load_masked(layout.masked("01"))["z"]
    table = pd.read_csv(layout.subject("01", "trials.tsv"), sep="\t")
    rows = np.flatnonzero(table["run"] == "sub-01_task-faces_run-02")
    own = decoder(study).predict(masked[rows])
    found = load_file(result.latents)["predicted"]
    assert np.median(correlations(found, own)) > 0.97
    # As the scanner says where the head lay, the voxels would be others.
    image = nib.load(zmap(study, "task-again_run-02"))
    assert np.allclose(image.affine, decoder(study).affine)


def test_a_run_needs_the_study_analysed(simulated, work, tmp_path, raw, tiny_generator):
    study = Path(shutil.copytree(raw, tmp_path / "study"))
    reference = func(study, "desc-hmc_boldref.nii.gz")
    reference.unlink()
    with pytest.raises(UserError, match=r"run-01_desc-hmc_boldref\.nii\.gz is not there.*`hyperdecode run"):
        work(study, settings(**NATIVE), task="imagery")
    Layout(study).subject("01", "trials.tsv").unlink()
    with pytest.raises(UserError, match=r"trials\.tsv is not there: analyse the study first"):
        work(study, settings(**NATIVE), task="imagery")
    with pytest.raises(UserError, match="must those of new trials be: give --zmaps"):
        new_runs(Layout(study), settings(source="estimates", source_dir="x"), "01", task="imagery")


def test_the_library_of_responses_is_not_chosen_again(simulated, work, tmp_path, tiny_generator):
    study = Path(shutil.copytree(simulated, tmp_path / "study"))
    config = settings(hrf="library")
    analyse(study, config, tiny_generator)
    chosen = Layout(study).subject("01", "desc-hrf_dseg.nii.gz")
    before = contents(study)
    result = work(study, config, task="imagery", pictures=False)
    assert [name.split("_")[0] for name in result.ran] == ["zmaps", "predict"]
    assert contents(study)[chosen] == before[chosen]
    chosen.unlink()
    zmap(study, "task-imagery_run-01").unlink()
    with pytest.raises(UserError, match=r"hrf_dseg\.nii\.gz is not there"):
        work(study, config, task="imagery")


def test_kept_bold(simulated, work, tmp_path, tiny_generator):
    """With bold.keep_bold the new run's series are kept, those of the study not written again."""
    study = Path(shutil.copytree(simulated, tmp_path / "study"))
    config = settings(keep_bold=True)
    analyse(study, config, tiny_generator)
    before = contents(study)
    result = work(study, config, task="imagery", pictures=False)
    assert [name.split("_")[0] for name in result.ran] == ["bold", "zmaps", "predict"]
    after = contents(study)
    assert {path: after[path] for path in before} == before


def test_a_run_that_fmriprep_has_done(simulated, work, tmp_path, tiny_generator):
    study = Path(shutil.copytree(simulated, tmp_path / "study"))
    func = study / "derivatives" / "fmriprep" / "sub-01" / "func"
    func.mkdir(parents=True)
    (func.parents[1] / "dataset_description.json").write_text('{"Name": "fMRIPrep", "BIDSVersion": "1.4.0"}')
    space = "space-MNI152NLin2009cAsym_"
    for bold in sorted((study / "sub-01" / "func").glob("*_bold.nii.gz")):
        stem = bold.name.removesuffix("bold.nii.gz")
        image = nib.load(bold)
        shutil.copy(bold, func / f"{stem}{space}desc-preproc_bold.nii.gz")
        (func / f"{stem}{space}desc-preproc_bold.json").write_text('{"RepetitionTime": 1.5}')
        mean = np.asarray(image.dataobj).mean(axis=3)
        brain = nib.Nifti1Image((mean > mean.max() / 10).astype(np.uint8), image.affine)
        nib.save(brain, func / f"{stem}{space}desc-brain_mask.nii.gz")
        moved = np.random.default_rng(0).normal(0, 0.01, (image.shape[3], 6))
        names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
        pd.DataFrame(moved, columns=names).to_csv(func / f"{stem}desc-confounds_timeseries.tsv", sep="\t", index=False)
    config = settings(source="fmriprep", source_dir="derivatives/fmriprep")
    fitted = analyse(study, config, tiny_generator)
    before = contents(study)
    result = work(study, config, task="imagery", pictures=False)
    assert [name.split("_")[0] for name in result.ran] == ["zmaps", "predict"]
    after = contents(study)
    assert {path: after[path] for path in before} == before
    table = pd.read_csv(result.table, sep="\t")
    true = read_stimuli(study).latents(list(table["stim_file"]), fitted.latent_space).numpy()
    assert identified(load_file(result.latents)["predicted"], true) > 0.8

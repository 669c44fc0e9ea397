"""Brain maps of a tiny study: activations, occlusion, files, regions."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from scipy.spatial.distance import cdist

from hyperdecode.errors import UserError
from hyperdecode.fmri.quality import noise_ceiling_of_test_repeats
from hyperdecode.mapping.chunks import Unit
from hyperdecode.pipeline.activations import PART, Activations
from hyperdecode.pipeline.brainmaps import BrainMaps, neighbourhoods_of
from hyperdecode.pipeline.cluster import HERE, Where, spreading
from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.pipeline.map_generator import GeneratorReadout
from hyperdecode.pipeline.map_study import map_study
from hyperdecode.pipeline.map_units import FileResults
from hyperdecode.pipeline.records import read_facts, run_step
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.trials import read_trials
from hyperdecode.study.images import read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import read_decoder
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import new_study, settings, work

LAYERS = (4, 6, 19)
pytestmark = pytest.mark.filterwarnings("ignore:.*alone in their:hyperdecode.errors.DataWarning")


def configured(base=None, **mapping):
    config = base or settings()
    wanted = {"readout": "linear", "layers": LAYERS, "n_permutations": 100, "size_mm": 24.0} | mapping
    return type(config).model_validate(
        config.model_dump()
        | {
            "stimuli": config.stimuli.model_dump() | {"n_test": 6},
            "bold": config.bold.model_dump() | {"n_voxels": 100},
            "decoding": config.decoding.model_dump() | {"posterior": 0},
            "mapping": wanted,
        }
    )


CONFIG = configured()


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_generator):
    folder = new_study(tmp_path_factory.mktemp("maps") / "study", CONFIG, tiny_generator)
    work(folder, CONFIG, tiny_generator)
    run_study(folder, CONFIG, read_stimuli(folder), tiny_generator)
    return folder


def maps(study, generator, config=CONFIG):
    return BrainMaps(Layout(study), config, read_stimuli(study), generator)


def whole(generator, stimuli, names, layer, side):
    """Activations as a user would make them: all of it, averaged over cells."""
    made = generator.activations(stimuli.latents(names, "w"), [layer])[layer]
    cells = min(side, made.shape[-1])
    step = made.shape[-1] // cells
    return made.reshape(*made.shape[:2], cells, step, cells, step).mean((3, 5)).flatten(1).double().numpy()


def test_coordinates_keep_the_distances_of_activations(study, tiny_generator):
    stimuli = read_stimuli(study)
    names = [*stimuli.names("train"), *stimuli.names("test")]
    found = maps(study, tiny_generator).activations.coordinates()
    assert list(found) == list(LAYERS)
    for depth, name in ((4, "b8.conv2"), (6, "b16.conv2")):
        training, test = found[depth]
        assert (len(training), len(test)) == (20, 6)
        features = whole(tiny_generator, stimuli, names, name, 16)
        distances = cdist(features, features)
        np.testing.assert_allclose(
            cdist(*[np.concatenate([training, test])] * 2), distances, atol=1e-4 * distances.max()
        )
    pictures = stimuli.pictures(names).astype(float).reshape(26, 16, 2, 16, 2, 3).mean((2, 4)).reshape(26, -1) / 127.5
    rows = np.concatenate(found[19])
    np.testing.assert_allclose(cdist(rows, rows), cdist(pictures, pictures), atol=1e-4)


def test_a_centre_crop_is_the_centre(study, tmp_path, tiny_generator):
    config = configured(view="crop", side=4)
    layout = Layout(study, tmp_path / "out")
    activations = Activations(layout, config, read_stimuli(study), tiny_generator)
    run_step(activations.step(), study, layout.records)
    training, test = activations.coordinates()[6]
    stimuli = read_stimuli(study)
    made = tiny_generator.activations(stimuli.latents(activations.names, "w"), ["b16.conv2"])["b16.conv2"]
    centre = made[:, :, 6:10, 6:10].flatten(1).double().numpy()
    rows = np.concatenate([training, test])
    np.testing.assert_allclose(cdist(rows, rows), cdist(centre, centre), atol=1e-4 * np.abs(centre).max())


def test_activations_go_on_after_a_kill_and_give_the_same(study, tmp_path, tiny_generator, monkeypatch):
    monkeypatch.setattr("hyperdecode.pipeline.activations.PART", 10)
    layout = Layout(study, tmp_path / "out")
    made = []

    def progress(done, total):
        made.append((done, total))
        if done == 20 and len(made) == 2:
            raise KeyboardInterrupt

    activations = Activations(layout, CONFIG, read_stimuli(study), tiny_generator, progress)
    with pytest.raises(KeyboardInterrupt):
        run_step(activations.step(), study, layout.records)
    calls = []
    features = Activations._features
    monkeypatch.setattr(Activations, "_features", lambda self, names: calls.append(len(names)) or features(self, names))
    run_step(activations.step(), study, layout.records)
    assert sum(calls) == 6, "only what was not made"
    assert made[-1] == (26, 26)
    again, first = load_file(layout.activations), load_file(Layout(study).activations)
    assert PART != 10 and set(again) == set(first)
    for name, values in first.items():
        np.testing.assert_allclose(again[name], values, rtol=0, atol=1e-6 * np.abs(values).max())
    assert [path.name for path in layout.activations.parent.iterdir()] == ["activations.safetensors"]


def test_two_depths_of_one_layer_are_refused(study, tiny_generator):
    with pytest.raises(UserError, match=r"mapping.layers 10 and 19 are both|mapping.layers 9 and 10 are both"):
        _ = maps(study, tiny_generator, configured(layers=(9, 10, 19))).activations.layers


def test_files_of_a_map(study, tiny_generator):
    files = MapFiles(Layout(study), "01")
    assert all(path.is_file() for path in files.paths)
    raw = read_image(files.path("desc-layers_dseg.nii.gz"), n_dimensions=3)
    mask = read_image(Layout(study).subject("01", "desc-mostactive_mask.nii.gz"), n_dimensions=3)
    np.testing.assert_array_equal(raw.affine, mask.affine)
    inside = np.asarray(mask.dataobj) > 0
    layers = np.asarray(raw.dataobj)
    assert set(np.unique(layers[inside])) <= {0, 1, 2, 3} and not layers[~inside].any() and layers[inside].any()
    held = np.asarray(read_image(files.path("desc-layersthresholded_dseg.nii.gz"), n_dimensions=3).dataobj)
    assert np.all((held == layers) | (held == 0))
    told = layers > 0
    loss = np.asarray(read_image(files.path("desc-occlusion_loss.nii.gz"), n_dimensions=4).dataobj)[inside]
    away = (loss - loss.mean(0)) / loss.std(0)
    np.testing.assert_array_equal(away.argmax(1)[told[inside]] + 1, layers[told])
    p = np.asarray(read_image(files.path("desc-occlusion_p.nii.gz"), n_dimensions=4).dataobj)
    assert (p[~inside] == 1).all() and (p > 0).all()
    np.testing.assert_array_equal((p <= 0.05).any(-1) & told, held > 0)
    table = pd.read_csv(files.path("desc-occlusion_layers.tsv"), sep="\t")
    assert table["depth"].tolist() == list(LAYERS)
    assert table["n_voxels"].tolist() == [int((layers == k).sum()) for k in (1, 2, 3)]
    assert table["n_voxels_thresholded"].tolist() == [int((held == k).sum()) for k in (1, 2, 3)]
    assert (table["similarity"] > table["blind_similarity"]).all(), "noiseless subject"
    ceiling = np.asarray(read_image(files.path("desc-noiseceiling_map.nii.gz"), n_dimensions=3).dataobj)
    trials = read_trials(Layout(study), read_stimuli(study), "01", "w")
    faces = [trials.split.stimuli[row] for row in trials.test_rows]
    expected = noise_ceiling_of_test_repeats(trials.z[trials.test_rows], faces)
    np.testing.assert_array_equal(ceiling.ravel()[trials.voxels], expected)
    assert np.isnan(ceiling[~inside]).all()
    regions = pd.read_csv(files.path("desc-layers_regions.tsv"), sep="\t")
    assert regions["n_voxels"].sum() == inside.sum()
    assert regions["region"].iloc[0] == "primary visual" and {"p_cell", "p_family", "null_mean"} <= set(regions)
    facts = read_facts(Layout(study).records, "map_sub-01")
    assert facts["n_centres"] == 100 and 0 < facts["region_deviation_p"] <= 1 and len(facts["fitted_on"]) == 3


def test_test_trials_change_no_readout(study, tmp_path, tiny_generator, monkeypatch):
    """The penalty and weights of each layer's ridge are of training trials alone."""
    from hyperdecode.pipeline import brainmaps

    kept = []
    monkeypatch.setattr(brainmaps, "readout_of_activations", lambda ridge, *rest: kept.append(ridge) or 1 / 0)
    found = maps(study, tiny_generator)
    read = brainmaps.read_trials
    for change in (0.0, 5.0):

        def altered(*args, change=change):
            trials = read(*args)
            trials.z[trials.test_rows] += change
            return trials

        monkeypatch.setattr(brainmaps, "read_trials", altered)
        with pytest.raises(ZeroDivisionError):
            found.step("01").work()
    np.testing.assert_array_equal(kept[0].coef_, kept[1].coef_)


def test_nothing_is_done_twice_and_settings_count(study, tiny_generator):
    stimuli = read_stimuli(study)
    assert run_study(study, CONFIG, stimuli, tiny_generator).ran == []
    assert run_study(study, configured(alpha=0.1), stimuli, tiny_generator, only="map").ran == ["map_sub-01"]
    ball = configured(shape="ball", stride=2)
    assert run_study(study, ball, stimuli, tiny_generator, only="map").ran == ["map_sub-01"]
    facts = read_facts(Layout(study).records, "map_sub-01")
    assert facts["n_centres"] < 40
    none = configured(readout="none")
    assert run_study(study, none, stimuli, tiny_generator).ran == ["report"]
    run_study(study, CONFIG, stimuli, tiny_generator)


def test_a_mask_that_has_no_place_in_the_atlas(study, tmp_path, tiny_generator):
    """Scanner space: maps without regions, and the record says why."""
    import nibabel as nib

    moved = tmp_path / "study"
    shutil.copytree(study, moved)
    path = Layout(moved).subject("01", "desc-mostactive_mask.nii.gz")
    image = nib.load(path)
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    step = maps(moved, tiny_generator).step("01")
    run_step(step, moved, Layout(moved).records)
    assert "mapping.region_image" in read_facts(Layout(moved).records, step.name)["regions"]
    assert len(pd.read_csv(MapFiles(Layout(moved), "01").path("desc-layers_regions.tsv"), sep="\t")) == 0


def through(study, generator, tmp_path, **options):
    """Losses of the study's decoder through the generator, into a folder of their own."""
    config = configured(readout="generator", side=4)
    trials = read_trials(Layout(study), read_stimuli(study), "01", "w")
    mask = read_image(Layout(study).subject("01", "desc-mostactive_mask.nii.gz"), n_dimensions=3)
    where = np.stack(np.unravel_index(trials.voxels, mask.shape), axis=1)
    around = neighbourhoods_of(where, np.asarray(mask.affine), config.mapping)
    decoder = read_decoder(Layout(study).decoded("01", "weighted-ridge", "decoder"))
    layers = {4: "b8.conv2", 6: "b16.conv2", 19: "image"}
    readout = GeneratorReadout(generator, layers, 4, 1.0, dict.fromkeys(layers, decoder), tmp_path / "units", **options)
    return trials, around, decoder, readout.losses(trials, around, second_order=False, seed=0)


def test_the_generator_readout_is_occlusion_done_by_hand(study, tmp_path, tiny_generator):
    trials, around, decoder, (losses, layers, facts) = through(study, tiny_generator, tmp_path)
    assert facts == {} and [layer.depth for layer in layers] == [4, 6, 19]
    mean, x = trials.training_z.mean(0), trials.test_z
    centre = int(around.sizes.argmax())
    occluded = x.copy()
    occluded[:, around.of(centre)] = mean[around.of(centre)]

    def maps(latents):
        made = torch.as_tensor(np.asarray(latents), dtype=torch.float32)
        return tiny_generator.activations(made, ["b16.conv2"], crop=4)["b16.conv2"].flatten(1).double().numpy()

    true, training = maps(trials.test_latents), maps(trials.training_latents)
    scale = training.shape[1] * training.var(0).mean()

    def similarity(responses):
        return 1 / (1 + np.sqrt(cdist(maps(decoder.predict(responses)), true, "sqeuclidean") / scale))

    expected = similarity(x) - similarity(occluded)
    np.testing.assert_allclose(losses[1][centre], expected, atol=1e-4 * np.abs(losses[1]).max() + 1e-6)
    np.testing.assert_allclose(layers[1].similarity, np.diagonal(similarity(x)), rtol=1e-4)


def test_a_killed_searchlight_goes_on_and_workers_give_the_same(study, tmp_path, tiny_generator):
    first = through(study, tiny_generator, tmp_path / "a")[-1][0]

    def killed(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        through(study, tiny_generator, tmp_path / "b", progress=killed)
    kept = list((tmp_path / "b" / "units").glob("*-all/*"))
    assert len(kept) == 1
    seen = []
    again = through(study, tiny_generator, tmp_path / "b", progress=lambda done, total: seen.append(done))[-1][0]
    assert seen[0] == 1, "what was done is not done again"
    with spreading(Where(2)) as side_by_side:
        apart = through(study, tiny_generator, tmp_path / "c", side_by_side=side_by_side)[-1][0]
    for mine, resumed, sent in zip(first, again, apart, strict=True):
        np.testing.assert_array_equal(mine, resumed)
        np.testing.assert_array_equal(mine, sent)


def test_a_unit_that_was_cut_short_is_done_again(tmp_path):
    results, unit = FileResults(tmp_path), Unit(0, 4, 0, 2)
    results.put(unit, {"a": np.ones((4, 2))})
    assert results.has(unit)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    assert not results.has(unit) and not list(tmp_path.iterdir())


def test_maps_by_themselves_and_in_the_report(study, tiny_generator):
    stimuli = read_stimuli(study)
    second = configured(readout="second-order", side=4, stride=1)
    (found,) = map_study(study, second, stimuli, tiny_generator)
    facts = read_facts(Layout(study).records, "map_sub-01")
    assert facts["second_order_checked"] >= 2 and 0 <= facts["second_order_same_layer"] <= 1
    assert not (Layout(study).derivatives / "work").exists() or not list((Layout(study).derivatives / "work").iterdir())
    assert "of 100 voxels" in found.words and len(found.layers) == 3
    with pytest.raises(UserError, match="choose linear, generator or second-order"):
        map_study(study, configured(readout="none"), stimuli, tiny_generator)
    assert run_study(study, CONFIG, stimuli, tiny_generator).ran == ["map_sub-01"], "as the report has it"
    html = (study / "report.html").read_text()
    assert '<section id="maps"' in html and "Layers on the brain of sub-01" in html and "srcdoc=" in html
    assert "primary visual" in html and "activations at depth 4" in html
    surfaces = sorted(path.name for path in (study / "derivatives/hyperdecode/sub-01").glob("*.gii"))
    assert len(surfaces) == 10 and "hemi-L" in surfaces[0]


def test_a_worker_that_dies_is_no_loss(tmp_path):
    """Its unit is done again by another process, with the same result."""
    marker = tmp_path / "died"

    def run(unit):
        import os

        if unit.first_centre == 4 and not marker.exists():
            marker.touch()
            os._exit(1)
        return {"a": np.full(unit.shape, unit.first_centre, np.float32)}

    units = [Unit(at, at + 4, 0, 2) for at in range(0, 16, 4)]
    with spreading(Where(2)) as side_by_side:
        found = dict(side_by_side(run, units))
    assert marker.exists() and set(found) == set(units)
    for unit, arrays in found.items():
        np.testing.assert_array_equal(arrays["a"], np.full((4, 2), unit.first_centre))


def test_each_layer_may_have_its_activation_model(study, tmp_path, tiny_generator):
    """As in the paper: latents of layer K's map are those of the model trained on layer K."""
    own = tmp_path / "study"
    shutil.copytree(study, own)
    config = configured(readout="generator", decoder="activation", layers=(4, 9), side=4, stride=3)
    found = maps(own, tiny_generator, config)
    assert [step.name.removeprefix("decode_sub-01_") for _, step in found.steps("01")] == [
        "activation-4",
        "activation-9",
        "map_sub-01",
    ]
    map_study(own, config, read_stimuli(own), tiny_generator)
    faces = pd.read_csv(MapFiles(Layout(own), "01").path("desc-occlusion_faces.tsv"), sep="\t")
    trials = read_trials(Layout(own), read_stimuli(own), "01", "w")
    for depth, layer in found.activations.layers.items():
        decoder = read_decoder(Layout(own).decoded("01", f"activation-{depth}", "decoder"))

        def activation(latents, layer=layer):
            made = torch.as_tensor(np.asarray(latents), dtype=torch.float32)
            return tiny_generator.activations(made, [layer], crop=4)[layer].flatten(1).double().numpy()

        scale = activation(trials.training_latents).var(0).sum()
        away = activation(decoder.predict(trials.test_z)) - activation(trials.test_latents)
        expected = 1 / (1 + np.sqrt((away**2).sum(1) / scale))
        np.testing.assert_allclose(faces[f"depth_{depth}"], expected, rtol=1e-3)
    with pytest.raises(UserError, match="no activation model of layer 6"):
        _ = maps(own, tiny_generator, configured(readout="generator", decoder="activation")).models


def test_an_atlas_that_does_not_fit_is_refused_before_the_work(study, tmp_path, tiny_generator, monkeypatch):
    import nibabel as nib

    away = np.eye(4)
    away[:3, 3] = 2000
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.int16), away), tmp_path / "far.nii.gz")
    found = maps(study, tiny_generator, configured(region_image=str(tmp_path / "far.nii.gz")))
    monkeypatch.setattr(BrainMaps, "_losses", lambda *_: pytest.fail("occluded in vain"))
    with pytest.raises(UserError, match="none of 100 voxels has a label"):
        found.step("01").work()


@pytest.mark.slow  # `.ci/run` compares linear maps, the test of a killed searchlight those through the generator
@pytest.mark.parametrize("readout", ["linear", "generator"])
def test_maps_made_on_workers_are_the_same(readout, study, tmp_path, tiny_generator):
    """Whole steps go there, or pieces of them; either way they tell how far they are."""
    config, told = configured(readout=readout, side=4, stride=2), []
    for name, where in (("here", HERE), ("there", Where(2))):
        told.clear()
        own = Path(shutil.copytree(study, tmp_path / name / "study"))
        map_study(own, config, read_stimuli(own), tiny_generator, where=where, progress=lambda *what: told.append(what))
        assert told and all(done <= total for done, total in told)
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*occlusion*") if path.is_file()}
        for name in ("here", "there")
    )
    assert len(here) > 10 and here == there

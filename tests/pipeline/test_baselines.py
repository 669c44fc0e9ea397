"""Baselines of a study: what is fitted on what, what is decoded, what a second run does."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hyperdecode.baselines.eigenfaces import read_eigenfaces
from hyperdecode.baselines.networks import VaeGanSize
from hyperdecode.baselines.vaegan import VaeGan
from hyperdecode.decoding.models import MODELS, Context, build_decoder
from hyperdecode.errors import LeakageError, UserError
from hyperdecode.pipeline import baseline_models as module
from hyperdecode.pipeline.analyse import Analysis
from hyperdecode.pipeline.baselines import NEED_GENERATOR, Baselines, TrainingScale
from hyperdecode.pipeline.certificate import study_certificate, training_hashes
from hyperdecode.pipeline.fitted_on import FITTED_ON
from hyperdecode.pipeline.records import read_facts, run_step
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.pipeline.trials import DecodingTrials
from hyperdecode.split import Split
from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import make_stimuli, read_picture, read_stimuli
from tests.pipeline.masked import load_masked, save_masked

SIZE = VaeGanSize(latent_dim=7, side=16, widths=(5, 6), critic=(4,))


def settings(names=("eigenfaces",), model="ridge", **changes):
    base = {
        "seed": 1,
        "subjects": ["01"],
        "stimuli": {"n_train": 120, "n_test": 8, "test_repeats": 3, "render": 64, "size": 32, "truncation": 1.0},
        "schedule": {"n_runs": 2},
        "simulation": {"noise_ceiling": 0.6, "voxel_size": 8.0},
        "bold": {"n_voxels": 300},
        "evaluation": {"n_permutations": 500, "baselines": list(names)},
        "decoding": {"model": model, "posterior": 0},
    }
    return StudyConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    """A study that was analysed, with its baseline."""
    study = tmp_path_factory.mktemp("baselines") / "study"
    write_config(study, settings())
    simulate(study, settings(), make_stimuli(study, settings(), tiny_generator), tiny_generator)
    run_study(study, settings(), read_stimuli(study), tiny_generator)
    work(study, tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


@pytest.fixture
def tiny_vaegan(monkeypatch):
    torch.manual_seed(0)
    network = VaeGan(SIZE)
    monkeypatch.setattr(module, "load_vaegan", lambda: network)
    return network


def work(study, generator, config=None):
    """Run all steps of the baselines; return the names of those that had something to do."""
    config = config or settings()
    made = Baselines(Layout(study), config, read_stimuli(study), generator)
    steps = [*made.shared(), *(pair for label in config.subjects for pair in made.steps(label))]
    assert {kind for kind, _ in steps} == {"baselines"}
    return [step.name for _, step in steps if run_step(step, study, Layout(study).records)]


def scores(study, name="eigenfaces"):
    return pd.read_csv(Layout(study).decoded("01", name, "scores.tsv"), sep="\t").set_index("metric")


def latents(study, name="eigenfaces"):
    return load_file(Layout(study).decoded("01", name, "latents.safetensors"))


def best(study, name="eigenfaces"):
    return pd.read_csv(Layout(study).baseline(name, "scores.tsv"), sep="\t").set_index("metric")


def test_planted_faces_are_decoded(study, tiny_generator):
    table = scores(study)
    assert set(table["subject"]) == {"sub-01"} and set(table["model"]) == {"eigenfaces"}
    main = pd.read_csv(Layout(study).decoded("01", "ridge", "scores.tsv"), sep="\t")
    missing = set(main["metric"]) - set(table.index)
    assert missing <= {"lsim_white", "cosine_white", "identification_matched"}, "these are of the generator's latents"
    assert set(table.reset_index().columns) == set(main.columns)
    for blind in ("mean", "zero", "noise", "random", "nearest", "average", "shuffled"):
        assert np.isfinite(table.loc["pixcorr", f"blind_{blind}"]), blind
    for metric in ("identification", "pixcorr", "ssim_hyper-paper"):
        row = table.loc[metric]
        assert row["decoder"] > row["blind_shuffled"] + 0.02 and row["p_value"] < 0.05, metric
    without = best(study)
    for metric in ("pixcorr", "ssim_hyper-paper"):
        assert without.loc[metric, "decoder"] > table.loc[metric, "decoder"], "better than the best possible"
    faces = pd.read_csv(Layout(study).decoded("01", "eigenfaces", "faces.tsv"), sep="\t")
    assert list(faces["stim_file"]) == read_stimuli(study).names("test")
    np.testing.assert_allclose(faces["pixcorr"].mean(), table.loc["pixcorr", "decoder"])


def test_voxels_that_know_nothing_decode_nothing(study, tiny_generator):
    path = Layout(study).masked("01")
    masked = load_masked(path)
    masked["z"] = np.random.default_rng(5).standard_normal(masked["z"].shape).astype(np.float32)
    save_masked(masked, path)
    work(study, tiny_generator)
    assert scores(study).loc["identification", "p_value"] > 0.05


def test_pictures_are_as_large_as_the_stimuli(study, tiny_generator):
    layout, side = Layout(study), tiny_generator.resolution
    for name in read_stimuli(study).names("test"):
        for path in (layout.reconstruction("01", "eigenfaces", name), layout.best_possible("eigenfaces", name)):
            assert read_picture(path).shape == (side, side, 3)
    assert layout.best_possible("eigenfaces", "a.png") == layout.derivatives / "baselines" / "eigenfaces" / "a.png"


def test_eigenfaces_are_fitted_to_training_faces_alone(study, tiny_generator, monkeypatch):
    stimuli = read_stimuli(study)
    encoded = load_file(Layout(study).baseline("eigenfaces", "latents.safetensors"))["latents"]
    train = (stimuli.manifest["role"] == "train").to_numpy()
    np.testing.assert_allclose(encoded[train].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(encoded[train].std(0, ddof=1), 1, atol=1e-3)
    path = Layout(study).baseline("eigenfaces", "components.safetensors")
    model = read_eigenfaces(path.read_bytes(), "")
    np.testing.assert_allclose(model.encode(stimuli.pictures(stimuli.names("test"))), encoded[~train], atol=1e-4)
    facts = read_facts(Layout(study).records, "baseline_eigenfaces")
    assert facts["components"] == 119 == encoded.shape[1] and "fewer than 512" in facts["warnings"][0]
    everyone = type(stimuli).names
    monkeypatch.setattr(type(stimuli), "names", lambda self, role: everyone(self, "train") + everyone(self, "test"))
    with pytest.raises(LeakageError, match="eigenfaces must never see test trials, got 8 among 128"):
        Baselines(Layout(study), settings(), stimuli, tiny_generator).latents("eigenfaces").work()


def test_test_trials_change_no_fit(study, tiny_generator):
    """Other responses and other pictures in the test trials: the same decoder, as its training predictions show."""
    stimuli, layout = read_stimuli(study), Layout(study)
    before, facts = latents(study), read_facts(layout.records, "decode_sub-01_eigenfaces")
    path = layout.masked("01")
    masked = load_masked(path)
    trials = pd.read_csv(layout.subject("01", "trials.tsv"), sep="\t")
    test = (trials["role"] == "test").to_numpy()
    names = stimuli.names("test")
    # The responses to two test faces change places: so must what is decoded, and nothing else.
    first, second = ((trials["stim_file"] == name).to_numpy() for name in names[:2])
    masked["z"][first], masked["z"][second] = masked["z"][second], masked["z"][first].copy()
    save_masked(masked, path)
    encoded = load_file(layout.baseline("eigenfaces", "latents.safetensors"))
    encoded["latents"][(stimuli.manifest["role"] == "test").to_numpy()] = 0
    save_file(encoded, layout.baseline("eigenfaces", "latents.safetensors"))
    made = Baselines(layout, settings(), stimuli, tiny_generator)
    made.decode("01", "eigenfaces").work()
    after = latents(study)
    np.testing.assert_allclose(after["predicted"][[1, 0, *range(2, 8)]], before["predicted"], atol=1e-5)
    np.testing.assert_array_equal(after["training_mean"], before["training_mean"])
    assert test.sum() == 24 and not after["true"].any() and "alpha" in facts


def test_the_record_says_which_trials_were_used(study):
    facts = read_facts(Layout(study).records, "decode_sub-01_eigenfaces")[FITTED_ON]
    hashes = training_hashes(Layout(study), read_stimuli(study), "01")
    assert [fact["uses"] for fact in facts] == ["fit", "scatter"]
    assert [fact["trials_sha256"] for fact in facts] == [hashes["train"], hashes["test"]]
    config = settings()
    certificate = study_certificate(Layout(study), config, read_stimuli(study), ["ridge"])
    said = {record.what: record.role for record in certificate.records if record.step == "decode_sub-01_eigenfaces"}
    assert set(said) == {"decoder of eigenfaces", "stretch of eigenfaces"}
    assert said["decoder of eigenfaces"] == "train", "the certificate knows nothing of the baseline"


def test_drawn_latents_have_the_length_of_training_latents(study, tiny_generator):
    made, units = latents(study), _units(study)
    encoded = load_file(Layout(study).baseline("eigenfaces", "latents.safetensors"))["latents"]
    train = encoded[(read_stimuli(study).manifest["role"] == "train").to_numpy()]
    length = np.linalg.norm((train - train.mean(0)) * units, axis=1).mean()
    away = (made["drawn"] - made["training_mean"]) * units
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), length, rtol=1e-3)
    raw = (made["predicted"] - made["training_mean"]) * units
    cosines = (raw * away).sum(1) / np.linalg.norm(raw, axis=1) / np.linalg.norm(away, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    plain = settings(decoding={"model": "ridge", "match_norm": False, "posterior": 0})
    work(study, tiny_generator, plain)
    np.testing.assert_array_equal(latents(study)["drawn"], latents(study)["predicted"])


def test_a_second_run_does_nothing_and_another_mask_fits_anew(study, tiny_generator):
    assert work(study, tiny_generator) == []
    before = latents(study)["predicted"]
    fewer = settings(bold={"n_voxels": 150})
    stimuli = read_stimuli(study)
    ran = run_study(study, fewer, stimuli, tiny_generator, only="mask").ran
    assert ran == ["mask_sub-01"]
    assert work(study, tiny_generator, fewer) == [f"{what}_sub-01_eigenfaces" for what in STEPS]
    assert np.abs(latents(study)["predicted"] - before).max() > 0.01
    Layout(study).best_possible("eigenfaces", stimuli.names("test")[0]).unlink()
    assert work(study, tiny_generator, fewer) == ["bestpossible_eigenfaces"]


STEPS = ("decode", "reconstruct", "evaluate")


def test_baselines_leave_the_study_as_it_is(study, tiny_generator):
    stimuli = read_stimuli(study)
    for names in ((), ("eigenfaces",)):
        config = settings(names)
        evaluate = Analysis(Layout(study), config, stimuli, tiny_generator).evaluate("01", "ridge")
        assert not run_step(evaluate, study, Layout(study).records), "scores of the study depend on its baselines"
    assert Baselines(Layout(study), settings(()), stimuli, tiny_generator).steps("01") == []


def test_vaegan_is_decoded_too(study, tiny_generator, tiny_vaegan):
    both = settings(("eigenfaces", "vaegan"))
    ran = work(study, tiny_generator, both)
    assert ran == ["baseline_vaegan", "bestpossible_vaegan", *(f"{what}_sub-01_vaegan" for what in STEPS)]
    assert work(study, tiny_generator, both) == []
    stimuli, layout = read_stimuli(study), Layout(study)
    names = stimuli.names("test")
    np.testing.assert_allclose(
        latents(study, "vaegan")["true"], tiny_vaegan.encode(stimuli.pictures(names)), rtol=0, atol=1e-4
    )
    assert scores(study, "vaegan").loc["identification", "decoder"] > 0.6
    table = scores(study, "vaegan")
    assert table.loc["identification", "decoder"] > table.loc["identification", "blind_shuffled"] + 0.1
    best_one = read_picture(layout.best_possible("vaegan", names[0])).astype(float)
    small = tiny_vaegan.images(tiny_vaegan.encode(stimuli.pictures(names[:1])))[0]
    there = (small + 1).permute(1, 2, 0).numpy() * 127.5
    assert np.abs(best_one.mean((0, 1)) - there.mean((0, 1))).max() < 1.5, "another picture"


def test_other_weights_of_the_vaegan_are_decoded_anew(study, tiny_generator, tiny_vaegan, monkeypatch):
    config = settings(("vaegan",))
    assert len(work(study, tiny_generator, config)) == 5
    torch.manual_seed(1)
    other = VaeGan(SIZE)
    assert other.fingerprint != tiny_vaegan.fingerprint
    monkeypatch.setattr(module, "load_vaegan", lambda: other)
    assert len(work(study, tiny_generator, config)) == 5


def test_without_weights_the_study_says_so(study, tiny_generator, monkeypatch):
    def none():
        raise UserError("this installation has no VAE-GAN weights")

    monkeypatch.setattr(module, "load_vaegan", none)
    with pytest.raises(UserError, match="no VAE-GAN weights"):
        work(study, tiny_generator, settings(("vaegan",)))


def test_decoders_that_need_the_generator_are_replaced_and_it_is_said(study, tiny_generator):
    config = settings(model="hyper-2")
    work(study, tiny_generator, config)
    facts = read_facts(Layout(study).records, "decode_sub-01_eigenfaces")
    assert facts["decoder"] == "weighted-ridge" and facts["instead_of"] == "hyper-2"
    assert "hyper-2 works through the generator" in facts["warnings"][-1]
    assert scores(study).loc["identification", "decoder"] > 0.6


def test_which_decoders_need_the_generator():
    context = Context(scale=(np.zeros(3), np.ones(3)), bands=["a", "b"])
    for name in MODELS:
        if name in NEED_GENERATOR:
            with pytest.raises(UserError, match="needs the generator"):
                build_decoder(name, context)
        else:
            build_decoder(name, context)


def test_stimuli_that_were_cropped_are_compared_with_what_was_shown(tmp_path, tiny_generator):
    changes = {"n_train": 20, "n_test": 4, "test_repeats": 1, "render": 64, "size": 32, "crop": 0.5}
    config = settings(stimuli=changes)
    stimuli = make_stimuli(tmp_path, config, tiny_generator)
    layout = Layout(tmp_path)
    run_step(Analysis(layout, config, stimuli, tiny_generator).full_stimuli(), tmp_path, layout.records)
    for _, step in Baselines(layout, config, stimuli, tiny_generator).shared():
        run_step(step, tmp_path, layout.records)
    name = stimuli.names("test")[0]
    middle = read_picture(layout.full_stimulus(name))[16:48, 16:48]
    np.testing.assert_array_equal(middle, read_picture(stimuli.folder / name))
    assert read_picture(layout.best_possible("eigenfaces", name)).shape == (32, 32, 3)
    assert best(tmp_path).loc["pixcorr", "decoder"] > best(tmp_path).loc["pixcorr", "blind_shuffled"]


def test_latents_weigh_as_much_as_pictures_differ_along_them():
    rng, units = np.random.default_rng(0), np.array([1.0, 0.5, 0.1])
    values = rng.standard_normal((6, 3)) * [2.0, 3.0, 0.0] + 5
    split = Split.of(list("abcdef"), ["train"] * 5 + ["test"])
    trials = DecodingTrials(np.zeros((6, 2), np.float32), values, split, np.arange(2), ("f",), ("",) * 6)
    scale = TrainingScale.of(trials, units)
    np.testing.assert_allclose(scale.mean, values[:5].mean(0))
    standardised = (values[:5] - scale.mean) / scale.sd
    np.testing.assert_allclose(standardised.var(0).mean(), 1)
    shares = values[:5].var(0) * units**2
    np.testing.assert_allclose(standardised.var(0) / 3, shares / shares.sum())
    same = TrainingScale.of(replace(trials, latents=np.full((6, 3), 2.0)), units)
    np.testing.assert_allclose(same.sd, 1 / units)


def test_names_of_study_toml():
    with pytest.raises(ValueError, match="named twice"):
        settings(("eigenfaces", "eigenfaces"))
    with pytest.raises(ValueError, match="eigenfaces"):
        settings(("pca",))


def _units(study):
    path = Layout(study).baseline("eigenfaces", "components.safetensors")
    return read_eigenfaces(path.read_bytes(), "").latent_units

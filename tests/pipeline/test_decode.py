"""Decoders of a study by name: what each writes, what resumes, what stands in the report beside the default."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from hyperdecode.decoding import models
from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.decoding.models import MODELS
from hyperdecode.errors import UserError
from hyperdecode.pipeline.compare import compare
from hyperdecode.pipeline.decode import training_data
from hyperdecode.pipeline.records import read_facts
from hyperdecode.pipeline.run import decode_study, run_study
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.pipeline.trials import read_trials
from hyperdecode.split import Split
from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import read_decoder
from hyperdecode.study.settings import ModelName
from hyperdecode.study.stimulus_set import make_stimuli, read_stimuli
from tests.pipeline.masked import load_masked


def settings(decoding=(), **changes):
    base = {
        "seed": 1,
        "subjects": ["01"],
        "stimuli": {"n_train": 90, "n_test": 6, "test_repeats": 3, "render": 64, "size": 32, "truncation": 1.0},
        "schedule": {"n_runs": 2},
        "simulation": {"noise_ceiling": 0.5, "voxel_size": 8.0},
        "bold": {"n_voxels": 200},
        "evaluation": {"n_permutations": 200},
        "decoding": {"model": "ridge"} | dict(decoding),
    }
    return StudyConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    study = tmp_path_factory.mktemp("decoders") / "study"
    write_config(study, settings())
    simulate(study, settings(), make_stimuli(study, settings(), tiny_generator), tiny_generator)
    run_study(study, settings(), read_stimuli(study), tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


def made(study, ending):
    return study / "derivatives" / "hyperdecode" / "sub-01" / f"sub-01_{ending}"


def decoded_stretch(study, model="ridge"):
    return read_facts(study / "derivatives/hyperdecode/records", f"decode_sub-01_{model}")["stretch"]


def test_averages_are_unshrunk_where_asked_and_in_length_alone(study, tiny_generator):
    before = load_file(made(study, "desc-ridge_latents.safetensors"))
    scores = pd.read_csv(made(study, "desc-ridge_scores.tsv"), sep="\t").set_index("metric")["decoder"]
    stretch = decoded_stretch(study)
    assert 1 < stretch < 3, "three trials a face"
    run_study(study, settings({"unshrink": False}), read_stimuli(study), tiny_generator)
    after = load_file(made(study, "desc-ridge_latents.safetensors"))
    mean = before["training_mean"]
    np.testing.assert_allclose(before["predicted"] - mean, stretch * (after["predicted"] - mean), rtol=0, atol=1e-4)
    np.testing.assert_allclose(before["drawn"], after["drawn"], rtol=0, atol=1e-4)
    plain = pd.read_csv(made(study, "desc-ridge_scores.tsv"), sep="\t").set_index("metric")["decoder"]
    for metric in ("identification", "cosine", "pixcorr"):
        assert abs(scores[metric] - plain[metric]) < 1e-3
    assert scores["lsim"] > plain["lsim"] and scores["r_squared"] > plain["r_squared"] + 0.01


def test_every_name_of_study_toml_is_a_decoder():
    assert ModelName.__args__ == tuple(MODELS)


def test_another_decoder_stands_beside_the_default(study, tiny_generator):
    config = settings({"beside": ["ridge-per-latent"]})
    ran = run_study(study, config, read_stimuli(study), tiny_generator).ran
    steps = ("decode", "reconstruct", "evaluate")
    assert ran == [f"{step}_sub-01_ridge-per-latent" for step in steps] + ["report"]
    text = (study / "report.html").read_text()
    assert "sub-01, ridge-per-latent" in text and "ridge is ahead of ridge-per-latent on" in text
    table = pd.read_csv(study / "table.tsv", sep="\t")
    assert list(dict.fromkeys(table["model"])) == ["ridge", "ridge-per-latent"]
    faces = {name: pd.read_csv(made(study, f"desc-{name}_faces.tsv"), sep="\t") for name in ("ridge", "ridgeperlatent")}
    won = int((faces["ridge"]["cosine"] > faces["ridgeperlatent"]["cosine"]).sum())
    assert f"Cosine: ridge is ahead of ridge-per-latent on {won} of 6 test faces" in text


def test_a_saved_decoder_predicts_what_the_study_decoded(study, tiny_generator):
    decoder = read_decoder(made(study, "desc-ridge_decoder"))
    latents = load_file(made(study, "desc-ridge_latents.safetensors"))
    masked = load_masked(made(study, "desc-masked_zmaps.zarr.zip"))
    trials = pd.read_csv(made(study, "trials.tsv"), sep="\t")
    names = read_stimuli(study).names("test")
    average = np.array([masked["z"][(trials["stim_file"] == name).to_numpy()].mean(0) for name in names])
    away, centre = latents["predicted"] - latents["training_mean"], decoder.latent_mean
    factors = (away / (decoder.predict(average) - centre)).ravel()
    np.testing.assert_allclose(np.median(factors), decoded_stretch(study), rtol=1e-3)
    np.testing.assert_allclose(decoded_stretch(study) * (decoder.predict(average) - centre), away, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(decoder.voxels, masked["voxels"])
    assert decoder.generator_fingerprint == tiny_generator.fingerprint and decoder.n_training_trials == 90
    assert json.loads(made(study, "desc-ridge_decoder.json").read_text())["settings"]["per_latent"] is False


def test_decode_by_name_makes_faces_and_scores(study, tiny_generator):
    stimuli = read_stimuli(study)
    table = decode_study(study, settings(), stimuli, tiny_generator, "banded-ridge")
    assert set(table["model"]) == {"banded-ridge"} and set(table["subject"]) == {"sub-01"}
    assert float(table.set_index("metric").loc["identification", "decoder"]) > 0.6
    pictures = study / "derivatives" / "hyperdecode" / "sub-01" / "reconstructions" / "banded-ridge"
    assert sorted(path.name for path in pictures.iterdir()) == sorted(stimuli.names("test"))
    steps = []
    decode_study(
        study, settings(), stimuli, tiny_generator, "banded-ridge", announce=lambda *said: steps.append(said[3])
    )
    assert steps == [False] * 4, "a second call does nothing again"
    made(study, "desc-masked_zmaps.zarr.zip").unlink()
    with pytest.raises(UserError, match="run the earlier steps first"):
        decode_study(study, settings(), stimuli, tiny_generator, "ridge-per-latent")


def test_a_decoder_with_a_prior_is_saved_without_listing_it(study, tiny_generator, monkeypatch):
    monkeypatch.setattr("hyperdecode.study.saved_decoder.MAX_LISTED", 100)
    table = decode_study(study, settings(), read_stimuli(study), tiny_generator, "ridge-per-component")
    assert float(table.set_index("metric").loc["identification", "decoder"]) > 0.6
    said = json.loads(made(study, "desc-ridgepercomponent_decoder.json").read_text())["settings"]
    assert said["prior_covariance"] == "float64 array of shape (16, 16)" and said["cv"] == "loo"


def test_a_killed_training_goes_on_to_the_same_weights(study, tiny_generator, monkeypatch):
    short = models.Model(
        "short",
        True,
        lambda c: DenseDecoder(
            n_epochs=120, learning_rate=1e-3, seed=c.seed, progress=c.progress, checkpoint=c.checkpoint
        ),
    )
    monkeypatch.setitem(models.MODELS, "dense", short)
    stimuli = read_stimuli(study)
    whole = Path(shutil.copytree(study, study.parent / "whole"))
    decode_study(whole, settings(), stimuli, tiny_generator, "dense")

    def killed(what, done, total):
        assert what == "epoch" and total == 120
        if done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_study(study, settings(), stimuli, tiny_generator, "dense", progress=killed)
    assert not made(study, "desc-dense_decoder.safetensors").exists()
    assert made(study, "desc-dense_checkpoint.safetensors").exists()
    done = []
    decode_study(study, settings(), stimuli, tiny_generator, "dense", progress=lambda what, k, n: done.append(k))
    assert min(done) > 50, "it started anew"
    assert not made(study, "desc-dense_checkpoint.safetensors").exists()
    for name in ("desc-dense_decoder.safetensors", "desc-dense_latents.safetensors"):
        assert made(study, name).read_bytes() == made(whole, name).read_bytes()


def test_the_credible_set_of_each_face(study, tiny_generator):
    posterior = load_file(made(study, "desc-posterior_latents.safetensors"))
    assert posterior["draws"].shape == (4, 6, tiny_generator.latent_dim)
    assert (posterior["sd"] > 0).all() and posterior["draws"].std(0).max() > 0
    pictures = sorted((study / "derivatives/hyperdecode/sub-01/reconstructions/posterior").iterdir())
    assert len(pictures) == 4 * 6 and len({path.read_bytes() for path in pictures}) == 4 * 6
    assert "How sure is it" in (study / "report.html").read_text()


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="named twice"):
        settings({"beside": ["ridge"]})
    with pytest.raises(ValueError, match="holds nothing out"):
        settings({"n_folds": 1})
    assert settings({"n_folds": 0}).decoding.cv == "loo"


def test_repeats_of_training_faces_are_averaged_and_weighed(study):
    """Of 45 training faces a third is shown once, twice and three times."""
    trials = read_trials(Layout(study), read_stimuli(study), "01", "w")
    rows = trials.split.training_rows
    source = np.r_[0:45, 0:30, 0:15]
    shown, latents = np.array(trials.split.stimuli, dtype=object), trials.latents.copy()
    shown[rows], latents[rows] = shown[rows[source]], latents[rows[source]]
    again = replace(trials, split=Split.of(list(shown), trials.split.roles), latents=latents)
    plain = training_data(again, settings())
    assert plain["groups"] == again.training_stimuli and len(plain["X"]) == 90 and "sample_weight" not in plain
    averaged = training_data(again, settings({"repeats": "average", "weights": "reliability"}))
    np.testing.assert_allclose(averaged["X"][0], trials.z[rows[source == 0]].mean(0), atol=1e-5)
    assert averaged["X"].shape == (45, 200) and averaged["roles"] == ["train"] * 45 and "groups" not in averaged
    assert (np.diff(averaged["sample_weight"][[40, 20, 0]]) > 0).all(), "more repeats do not weigh more"
    assert "groups" not in training_data(trials, settings())


@pytest.mark.slow
def test_compare_fits_each_model_at_each_noise_level(study, tiny_generator):
    stimuli, config = read_stimuli(study), settings()
    said = []
    table = compare(
        study,
        config,
        stimuli,
        tiny_generator,
        ceilings=(0.02, 1.0),
        spaces=("w", "z"),
        models=("ridge",),
        tell=lambda *words: said.append(words),
    )
    assert table[["noise_ceiling", "space", "model"]].to_numpy().tolist() == [
        [0.02, "w", "ridge"],
        [1.0, "w", "ridge"],
        [0.02, "z", "ridge"],
        [1.0, "z", "ridge"],
    ]
    by = table.set_index(["noise_ceiling", "space"])["cosine"]
    assert by[(1.0, "w")] > by[(0.02, "w")] + 0.1, "noise makes no difference"
    assert said[-1][1] < said[-1][2] == 2 * (1 + 1 * (1 + 2))
    out = study / "derivatives" / "comparison"
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    before = (out / "ceiling-1/derivatives/hyperdecode/records/mask_sub-01.toml").read_bytes()
    more = compare(study, config, stimuli, tiny_generator, ceilings=(1.0,), spaces=("w",), models=("ridge-per-latent",))
    assert len(more) == 5 and (more["model"] == "ridge-per-latent").sum() == 1
    assert (out / "ceiling-1/derivatives/hyperdecode/records/mask_sub-01.toml").read_bytes() == before
    for wrong, message in (
        ({"models": ("rigde",)}, "no decoder 'rigde': choose among weighted-ridge, ridge,"),
        ({"ceilings": (0.0,)}, "noise ceilings lie above 0"),
        ({"spaces": ("w+",)}, "has no latent space"),
    ):
        with pytest.raises(UserError, match=message):
            compare(study, config, stimuli, tiny_generator, **wrong)

"""The step that judges decoded latents and faces, and the faces of blind predictors that it needs."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from scipy.stats import pearsonr

from hyperdecode.decoding.posterior import latent_prior
from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.evaluation.attribute_scores import ATTRIBUTE_COLUMNS
from hyperdecode.evaluation.metrics import lsim_scores
from hyperdecode.evaluation.pictures import ssim_pairs
from hyperdecode.evaluation.presets import PRESETS
from hyperdecode.evaluation.summary import TABLE_COLUMNS
from hyperdecode.evaluation.whitening import Whitening
from hyperdecode.features.registry import load_feature_network
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.pipeline import scoring
from hyperdecode.pipeline.analyse import Analysis
from hyperdecode.pipeline.blind_faces import BlindFaces
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import read_facts, run_step
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import EvaluationSettings
from hyperdecode.study.stimulus_set import make_stimuli, read_picture

N_TEST = 12


def settings(**evaluation):
    stimuli = {"n_train": 30, "n_test": N_TEST, "render": 64, "size": 32, "truncation": 0.8}
    return StudyConfig.model_validate(
        {"seed": 2, "subjects": ["01"], "stimuli": stimuli, "evaluation": {"n_permutations": 200, **evaluation}}
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_generator):
    """Latents decoded half, as a decoder would leave them, and their faces."""
    folder = tmp_path_factory.mktemp("scoring")
    stimuli = make_stimuli(folder, settings(), tiny_generator)
    layout = Layout(folder)
    true = stimuli.latents(stimuli.names("test"), "w").numpy()
    mean = stimuli.latents(stimuli.names("train"), "w").numpy().mean(0)
    noise = np.random.default_rng(0).standard_normal(true.shape).astype(np.float32)
    predicted = mean + 0.6 * (true - mean) + 0.3 * true.std(0) * noise
    path = layout.decoded("01", "ridge", "latents.safetensors")
    path.parent.mkdir(parents=True)
    save_file({"predicted": predicted, "drawn": predicted, "true": true, "training_mean": mean}, path)
    analysis = Analysis(layout, settings(), stimuli, tiny_generator)
    for step in (analysis.full_stimuli(), analysis.reconstruct("01", "ridge")):
        run_step(step, folder, layout.records)
    return analysis, {"predicted": predicted, "true": true, "mean": mean}


def judged(analysis, config=None):
    """Run the step again and return its tables by file name."""
    again = Analysis(analysis.layout, config or analysis.config, analysis.stimuli, analysis.generator)
    step = again.evaluate("01", "ridge")
    run_step(step, analysis.layout.study, analysis.layout.records, force=True)
    return {path.name.split("_")[-1]: pd.read_csv(path, sep="\t", na_values="n/a") for path in step.outputs}


def test_blind_faces(study, tiny_generator):
    analysis, found = study
    blind = BlindFaces(analysis.layout, analysis.config, analysis.stimuli, tiny_generator)
    pictures, latents = blind.read(), blind.latents
    assert {name: len(some) for name, some in pictures.items()} == {"random": N_TEST, "nearest": 1, "average": 1}
    assert latents["random"].shape == (1000, 16)
    space = LatentSpace(tiny_generator, "w", 0.8)
    assert np.array_equal(space.pictures(latents["random"][:2]), pictures["random"][:2])
    train = analysis.stimuli.latents(analysis.stimuli.names("train"), "w").numpy()
    nearest = np.linalg.norm(train - found["mean"], axis=1).argmin()
    assert np.array_equal(latents["nearest"][0], train[nearest].astype(float))
    assert np.array_equal(space.pictures(train[nearest][None]), pictures["nearest"])
    mean = analysis.stimuli.pictures(analysis.stimuli.names("train")).mean((0, 1, 2))
    assert np.allclose(pictures["average"].mean((0, 1, 2)), mean, atol=1.5)
    # Random faces are no stimuli.
    shown = torch.cat([analysis.stimuli.latents(analysis.stimuli.names(role), "w") for role in ("train", "test")])
    assert np.abs(latents["random"][:, None] - shown.numpy()).max(2).min() > 1e-3


def test_zero_stands_for_the_average_face_in_both_spaces(tiny_generator):
    mean = tiny_generator.w_statistics()[0]
    expected = LatentSpace(tiny_generator, "w", 0.8).pictures(mean[None].numpy())
    for space in ("w", "z"):
        assert np.array_equal(LatentSpace(tiny_generator, space, 0.8).average_face(), expected)


def test_no_average_of_cropped_stimuli(study, tiny_generator):
    analysis, _ = study
    config = analysis.config.model_copy(update={"stimuli": analysis.config.stimuli.model_copy(update={"crop": 0.8})})
    blind = BlindFaces(analysis.layout, config, analysis.stimuli, tiny_generator)
    assert list(blind.files) == ["random", "nearest"]


def test_tables_of_the_strict_preset(study, tiny_generator, monkeypatch):
    analysis, found = study
    monkeypatch.setattr(scoring.Scoring, "networks", property(lambda self: {}))
    tables = judged(analysis)
    scores = tables["scores.tsv"].set_index("metric")
    assert list(tables["scores.tsv"].columns) == ["subject", "model", *TABLE_COLUMNS]
    left_out = {"identification_36", "identification_matched", "ms_ssim"}  # 12 faces, no attributes, 64 px
    strict = PRESETS["strict"]
    assert list(scores.index) == [m for m in strict.latent_metrics + strict.picture_metrics if m not in left_out]
    white = Whitening.of(*latent_prior(tiny_generator, "w", 0.8))
    expected = np.diagonal(lsim_scores(white(found["predicted"]), white(found["true"]))).mean()
    assert scores.loc["lsim_white", "decoder"] == pytest.approx(expected, rel=1e-5)
    assert scores.loc["identification", "decoder"] > 0.8 > scores.loc["identification", "best_blind_score"]
    blind = ["blind_mean", "blind_zero", "blind_noise", "blind_random", "blind_nearest", "blind_shuffled"]
    assert scores[blind].notna().all(axis=None)
    layout, names = analysis.layout, analysis.stimuli.names("test")
    average = read_picture(layout.derivatives / "blind" / "average.png")[None]
    shown = np.stack([read_picture(layout.full_stimulus(name)) for name in names])
    own = ssim_pairs(average, shown, "hyper-code").mean()
    assert scores.loc["ssim_hyper-code", "blind_average"] == pytest.approx(own, rel=1e-5)
    assert list(tables["faces.tsv"].columns) == ["stim_file", *scores.index]
    dimensions = tables["dimensions.tsv"]
    assert list(dimensions.columns) == ["dimension", "r", "p_value", "q_value"]
    peers = [pearsonr(p, t).statistic for p, t in zip(found["predicted"].T, found["true"].T, strict=True)]
    assert np.allclose(dimensions["r"], peers, atol=1e-5)
    assert list(tables["attributescores.tsv"].columns) == ["subject", "model", *ATTRIBUTE_COLUMNS]
    assert tables["attributescores.tsv"].empty, "this generator has no attributes"


def test_attributes_give_a_table_and_matched_foils(study, monkeypatch):
    analysis, found = study
    normals = torch.linalg.qr(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)))[0].T
    none = torch.zeros(2)
    attributes = AttributeNormals(("age", "smile"), normals, none, none + 1, "w")
    monkeypatch.setattr(LatentSpace, "attributes", property(lambda self: attributes))
    monkeypatch.setattr(scoring.Scoring, "networks", property(lambda self: {}))
    tables = judged(analysis)
    table = tables["attributescores.tsv"].set_index("attribute")
    assert list(table.index) == ["age", "smile"]
    age = [latents @ normals[0].numpy() for latents in (found["predicted"], found["true"])]
    assert table.loc["age", "r"] == pytest.approx(pearsonr(*age).statistic, abs=1e-5)
    assert set(table["subject"]) == {"sub-01"} and set(table["model"]) == {"ridge"}
    row = tables["scores.tsv"].set_index("metric").loc["identification_matched"]
    assert row["pool"] == "4 of 11 other test faces, most like it in attributes"


def test_features_of_dlib(study):
    try:
        load_feature_network("dlib")
    except WeightFileError:
        raise
    except UserError as error:
        pytest.skip(f"dlib's weights are neither in the cache nor to be had: {error}")
    analysis, _ = study
    scores = judged(analysis)["scores.tsv"].set_index("metric")
    assert {"fsim_dlib", "identification_features"} <= set(scores.index)
    row = scores.loc["fsim_dlib"]
    assert row["space"] == "feature"
    assert row["decoder"] > row["blind_random"]
    assert 0 < row["blind_average"] < 1


def test_networks_that_cannot_be_had_are_said(study, monkeypatch):
    analysis, _ = study

    def refuse(name):
        raise UserError("no connection")

    monkeypatch.setattr(scoring, "load_feature_network", refuse)
    scores = judged(analysis)["scores.tsv"]
    assert not scores["metric"].str.startswith("fsim").any()
    facts = read_facts(analysis.layout.records, "evaluate_sub-01_ridge")
    assert facts["warnings"] == ["no feature similarity (fsim_dlib): no connection"]


def test_the_papers_preset(study, monkeypatch):
    analysis, _ = study
    monkeypatch.setattr(scoring.Scoring, "networks", property(lambda self: {}))
    scores = judged(analysis, settings(preset="hyper-paper"))["scores.tsv"].set_index("metric")
    assert list(scores.index) == ["identification", "lsim", "lsim_raw", "ssim_hyper-paper"]
    assert list(scores["null"]) == ["pairing", *["random latents"] * 3]
    assert scores["p_value"].notna().all()


def test_the_step_is_redone_when_the_preset_changes_and_not_else(study):
    analysis, _ = study
    layout = analysis.layout
    judged(analysis)
    assert not run_step(analysis.evaluate("01", "ridge"), layout.study, layout.records)
    assert not run_step(analysis.full_stimuli(), layout.study, layout.records)
    other = Analysis(layout, settings(preset="hyper-code"), analysis.stimuli, analysis.generator)
    assert run_step(other.evaluate("01", "ridge"), layout.study, layout.records)


def test_every_preset_can_be_named_in_study_toml():
    assert EvaluationSettings.model_fields["preset"].annotation.__args__ == tuple(PRESETS)

"""Ceilings of a study whose masked trials are made of known signal and noise."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.pipeline import latents as latent_spaces
from hyperdecode.pipeline.ceilings import CEILING_COLUMNS, Ceilings
from hyperdecode.pipeline.decode import Decoding
from hyperdecode.pipeline.records import read_facts, run_step
from hyperdecode.report.ceilingfigure import ceiling_figure
from hyperdecode.study.config import StudyConfig, write_config
from hyperdecode.study.derivatives import write_image, write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import make_stimuli
from tests.pipeline.masked import load_masked, save_masked

N_VOXELS, NOISE = 60, 6.0


def settings(test_repeats=6, n_test=24):
    return StudyConfig.model_validate(
        {
            "seed": 1,
            "subjects": ["01"],
            "stimuli": {
                "n_train": 150,
                "n_test": n_test,
                "test_repeats": test_repeats,
                "render": 64,
                "size": 32,
                "truncation": 1.0,
            },
            "schedule": {"n_runs": 2},
            "decoding": {"model": "ridge", "posterior": 0},
        }
    )


def make_study(folder, config, generator, signal=1.0):
    """Write stimuli, masked trials that follow them linearly, and a decoder."""
    write_config(folder, config)
    stimuli = make_stimuli(folder, config, generator)
    layout = Layout(folder)
    test = [name for name in stimuli.names("test") for _ in range(config.stimuli.test_repeats)]
    shown = [*stimuli.names("train"), *test]
    latents = stimuli.latents(shown, "w").double().numpy()
    rng = np.random.default_rng(0)
    standard = (latents - latents.mean(0)) / latents.std(0)
    response = signal * standard @ rng.standard_normal((latents.shape[1], N_VOXELS))
    z = (response + NOISE * rng.standard_normal(response.shape)).astype(np.float32)
    path = layout.masked("01")
    path.parent.mkdir(parents=True)
    save_masked({"z": z, "voxels": np.arange(N_VOXELS)}, path)
    roles = ["train" if name in set(stimuli.names("train")) else "test" for name in shown]
    table = pd.DataFrame({"stim_file": shown, "role": roles, "run": "1"})
    write_table(layout.subject("01", "trials.tsv"), table)
    mask = np.zeros((5, 4, 5), np.uint8)
    mask.flat[:N_VOXELS] = 1
    decoding = Decoding(layout, config, stimuli, generator)
    write_image(decoding.inputs("01")[2], mask, np.eye(4))
    run_step(decoding.step("01", "ridge"), folder, layout.records)
    return layout, stimuli, response


def judge(layout, config, stimuli, generator):
    step = Ceilings(layout, config, stimuli, generator).step("01")
    ran = run_step(step, layout.study, layout.records)
    tables = [pd.read_csv(path, sep="\t") for path in step.outputs]
    return ran, *tables, read_facts(layout.records, step.name)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    return make_study(tmp_path_factory.mktemp("ceilings") / "study", settings(), tiny_generator)


@pytest.fixture
def normals(monkeypatch, tiny_generator):
    width = tiny_generator.latent_dim
    rows = torch.eye(width)[:2]
    found = AttributeNormals(("smile", "age"), rows, torch.zeros(2), torch.ones(2), "w")
    monkeypatch.setattr(latent_spaces, "attribute_spaces", lambda name: {"w": found})


def test_the_step_writes_curve_and_ceilings(made, normals, tiny_generator):
    layout, stimuli, response = made
    ran, curve, ceilings, facts = judge(layout, settings(), stimuli, tiny_generator)
    assert ran and tuple(ceilings.columns) == CEILING_COLUMNS
    assert list(curve.columns) == ["subject", "metric", "n_repeats", "score", "low", "high"]
    assert curve.n_repeats.max() == 6 and set(curve.subject) == {"sub-01"}
    by = ceilings.set_index("what")
    assert set(by.index) == {
        *("voxels", "latents", "voxels_single", "latents_single", "identification", "cosine", "smile", "age")
    }
    assert by.index.is_unique and (by.loc[["voxels", "smile"], "n"] == 6).all() and by.loc["voxels_single", "n"] == 1
    assert ((by.low <= by.ceiling) & (by.ceiling <= by.high)).all()
    # The voxels' signal over these test faces and the noise were planted.
    signal = response[150::6].var(axis=0, ddof=1).sum()
    for what, n in (("voxels_single", 1), ("voxels", 6)):
        planted = signal / (signal + N_VOXELS * NOISE**2 / n)
        assert by.loc[what, "ceiling"] == pytest.approx(planted, abs=0.03)
        assert by.loc[what, "low"] < planted < by.loc[what, "high"]
    last = curve[curve.n_repeats == 6].set_index("metric")["score"]
    for metric in ("cosine", "identification"):
        assert last[metric] <= by.loc[metric, "high"]
    assert facts["reliability_average"] == pytest.approx(by.loc["latents", "ceiling"] ** 2, abs=1e-3)
    assert facts["split_half_reliability"] == pytest.approx(facts["reliability_average"], abs=0.03)
    assert facts["accuracy"] == pytest.approx(last["identification"], abs=1e-3)
    assert facts["power_low"] <= facts["power"] <= facts["power_high"]
    assert "With 24 test faces, each shown 6 times" in facts["power_words"]
    assert "faces would suffice for 80%" in facts["power_words"] and "Twice the repeats" in facts["power_words"]
    assert not judge(layout, settings(), stimuli, tiny_generator)[0], "a second run does nothing again"
    limits = {("sub-01", what): row.ceiling for what, row in by.iterrows()}
    assert "ceiling" in ceiling_figure(curve, limits).alt


def test_the_end_of_the_curve_is_the_score_of_the_study(made, tiny_generator):
    layout, stimuli, _ = made
    curve = judge(layout, settings(), stimuli, tiny_generator)[1]
    latents = load_file(layout.decoded("01", "ridge", "latents.safetensors"))
    mean, sd = latent_spaces.LatentSpace(tiny_generator, "w", 1.0).scale
    arrays = (latents[name] for name in ("predicted", "true", "training_mean"))
    table = evaluate_latents(*arrays, mean=mean, sd=sd, n_permutations=100).table.set_index("metric")
    last = curve[curve.n_repeats == 6].set_index("metric")["score"]
    for metric in ("identification", "cosine"):
        assert last[metric] == pytest.approx(table.loc[metric, "decoder"], abs=1e-3)


def test_ceilings_of_latents_are_those_of_the_decoder_without_noise(made, tiny_generator):
    """What the decoder gives for the responses without noise, against what it gives for averages."""
    layout, stimuli, response = made
    by = judge(layout, settings(), stimuli, tiny_generator)[2].set_index("what")
    decoder = load_file(layout.decoded("01", "ridge", "decoder.safetensors"))
    noise_free = response[150::6] @ decoder["coef_"].T
    noise = NOISE**2 / 6 * (decoder["coef_"] ** 2).sum(axis=1)
    _, sd = latent_spaces.LatentSpace(tiny_generator, "w", 1.0).scale
    signal = (noise_free / sd).var(axis=0, ddof=1).sum()
    planted = np.sqrt(signal / (signal + (noise / sd**2).sum()))
    assert by.loc["latents", "ceiling"] == pytest.approx(planted, abs=0.04)
    assert by.loc["latents", "low"] < planted < by.loc["latents", "high"]


def test_test_faces_shown_once(tmp_path, tiny_generator):
    config = settings(test_repeats=1)
    layout, stimuli, _ = make_study(tmp_path / "study", config, tiny_generator)
    _, curve, ceilings, facts = judge(layout, config, stimuli, tiny_generator)
    assert curve.n_repeats.tolist() == [1, 1]
    assert len(ceilings) == 0 and tuple(ceilings.columns) == CEILING_COLUMNS
    assert "0 of 24 test faces were shown more than once" in facts["reason"]
    assert "each shown once" in facts["power_words"] and "Twice" not in facts["power_words"]


@pytest.mark.filterwarnings("ignore::hyperdecode.errors.DataWarning")
def test_voxels_that_know_nothing(tmp_path, tiny_generator):
    config = settings()
    layout, stimuli, _ = make_study(tmp_path / "study", config, tiny_generator, signal=0.0)
    _, curve, ceilings, facts = judge(layout, config, stimuli, tiny_generator)
    by = ceilings.set_index("what")
    assert (by.loc[["voxels", "latents", "identification"], "low"] < [0.01, 0.01, 0.6]).all()
    assert ((curve.low <= curve.score) & (curve.score <= curve.high)).all()
    assert 0.3 < facts["accuracy"] < 0.7 and facts["power_low"] < 0.1
    # Nothing is made of a chance result that its limits do not carry.
    assert "probability" in facts["power_words"] or "not above chance" in facts["power_words"]


def test_few_faces_have_no_power(tmp_path, tiny_generator):
    config = settings(n_test=5)
    layout, stimuli, _ = make_study(tmp_path / "study", config, tiny_generator)
    _, curve, ceilings, facts = judge(layout, config, stimuli, tiny_generator)
    assert len(ceilings) and len(curve) == 12 and "power" not in facts
    assert "at least 8 test faces" in facts["power_words"]


def test_it_refuses_another_decoders_voxels(made, tmp_path, tiny_generator):
    layout, stimuli, _ = made
    step = Ceilings(layout, settings(), stimuli, tiny_generator).step("01")
    moved = layout.masked("01")
    was = load_masked(moved)
    try:
        save_masked({"z": was["z"], "voxels": was["voxels"][::-1].copy()}, moved)
        with pytest.raises(ValueError, match="in another order"):
            replace(step).work()
    finally:
        save_masked(was, moved)

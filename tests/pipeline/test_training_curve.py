"""The learning curve of a study: parts of the training trials, the same test faces."""

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.pipeline.decode import Decoding
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import read_facts, run_step
from hyperdecode.pipeline.training_curve import TrainingCurve, with_training_trials
from hyperdecode.pipeline.trials import read_trials
from hyperdecode.report.ceilingfigure import learning_figure
from tests.pipeline.masked import load_masked, save_masked
from tests.pipeline.test_ceilings import make_study, settings


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    return make_study(tmp_path_factory.mktemp("learning") / "study", settings(), tiny_generator)


def learn(layout, config, stimuli, generator):
    step = TrainingCurve(Decoding(layout, config, stimuli, generator)).step("01")
    ran = run_step(step, layout.study, layout.records)
    return ran, pd.read_csv(step.outputs[0], sep="\t"), read_facts(layout.records, step.name)


def test_the_curve_climbs_and_ends_at_the_score_of_the_study(made, tiny_generator):
    layout, stimuli, _ = made
    ran, curve, facts = learn(layout, settings(), stimuli, tiny_generator)
    assert ran and not learn(layout, settings(), stimuli, tiny_generator)[0]
    assert list(curve.columns) == ["subject", "metric", "n_trials", "score", "low", "high", "power"]
    found = curve.set_index(["metric", "n_trials"])["score"]
    assert curve.n_trials.unique().tolist() == [38, 75, 112, 150]
    for metric in ("identification", "cosine"):
        assert found[metric, 38] < found[metric, 150]
    latents = load_file(layout.decoded("01", "ridge", "latents.safetensors"))
    mean, sd = LatentSpace(tiny_generator, "w", 1.0).scale
    arrays = (latents[name] for name in ("predicted", "true", "training_mean"))
    table = evaluate_latents(*arrays, mean=mean, sd=sd, n_permutations=100).table.set_index("metric")
    for metric in ("identification", "cosine"):
        assert found[metric, 150] == pytest.approx(table.loc[metric, "decoder"], abs=1e-3)
    assert facts["trials_words"].startswith("ridge fitted to 38, 75, 112, 150 training trials reached a 2-way")
    assert "would do for 80%" in facts["trials_words"]
    assert "from" in learning_figure(curve).alt and "training trials" in learning_figure(curve).alt


def test_test_trials_change_no_decoder_of_the_curve(made, tiny_generator, monkeypatch):
    """Every fit of the curve is of training trials alone: test trials altered, the same weights."""
    layout, stimuli, _ = made
    from hyperdecode.pipeline import training_curve

    kept = []
    fit = training_curve.fit_decoder

    def spy(*args):
        kept.append(fit(*args))
        return kept[-1]

    monkeypatch.setattr(training_curve, "fit_decoder", spy)
    step = TrainingCurve(Decoding(layout, settings(), stimuli, tiny_generator)).step("01")
    step.work()
    path = layout.masked("01")
    was = load_masked(path)
    try:
        save_masked({**was, "z": np.concatenate([was["z"][:150], 9 - was["z"][150:]])}, path)
        step.work()
    finally:
        save_masked(was, path)
    assert len(kept) == 8
    for before, after in zip(kept[:4], kept[4:], strict=True):
        np.testing.assert_array_equal(before.coef, after.coef)


def test_parts_keep_all_test_trials(made):
    layout, stimuli, _ = made
    trials = read_trials(layout, stimuli, "01", "w")
    part = with_training_trials(trials, np.array([4, 2]))
    assert part.training_stimuli == [trials.training_stimuli[2], trials.training_stimuli[4]]
    np.testing.assert_array_equal(part.training_z, trials.training_z[[2, 4]])
    np.testing.assert_array_equal(part.test_z, trials.test_z)


def test_decoders_trained_for_long_are_stood_in_for(made, tiny_generator):
    layout, stimuli, _ = made
    config = settings().model_copy(update={"decoding": settings().decoding.model_copy(update={"model": "dense"})})
    assert TrainingCurve(Decoding(layout, config, stimuli, tiny_generator)).model == "ridge"


def test_too_few_training_faces_give_a_reason(tmp_path, tiny_generator):
    config = settings()
    config = config.model_copy(update={"stimuli": config.stimuli.model_copy(update={"n_train": 15})})
    layout, stimuli, _ = make_study(tmp_path / "study", config, tiny_generator)
    _, curve, facts = learn(layout, config, stimuli, tiny_generator)
    assert len(curve) == 0 and "20 training faces or more, got 15" in facts["reason"]

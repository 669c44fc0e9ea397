"""Trials that do not fit memory give the decoder, latents and certificate that they give in memory."""

import numpy as np
import pytest

from hyperdecode.decoding.views import AveragedTrials, TrialRows
from hyperdecode.errors import UserError
from hyperdecode.pipeline import trials as trials_module
from hyperdecode.pipeline.decode import Decoding, training_data
from hyperdecode.pipeline.run import run_study
from hyperdecode.pipeline.training_curve import with_training_trials
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.pipeline.uncertainty import Uncertainty
from hyperdecode.split import Split
from hyperdecode.study.fitted_decoder import training_fingerprint
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import read_decoder
from hyperdecode.study.stimulus_set import read_stimuli
from hyperdecode.study.trial_store import TrialStore, open_store, write_store
from tests.pipeline.estimated import estimated_study, settings


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_generator):
    folder = estimated_study(tmp_path_factory.mktemp("large") / "study", tiny_generator)
    run_study(folder, settings(), read_stimuli(folder), tiny_generator)
    return folder


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(trials_module, "fits_memory", lambda shape: False)
    monkeypatch.setattr(trials_module, "BLOCK_BYTES", 8 * 40 * 2)


def test_a_decoder_fitted_from_disk_is_the_one_fitted_in_memory(study, tiny_generator, on_disk):
    layout, stimuli = Layout(study), read_stimuli(study)
    step = Decoding(layout, settings(), stimuli, tiny_generator).step("01", "weighted-ridge")
    before = {path: path.read_bytes() for path in step.outputs}
    was = read_decoder(layout.decoded("01", "weighted-ridge", "decoder"))
    step.work()
    now = read_decoder(layout.decoded("01", "weighted-ridge", "decoder"))
    np.testing.assert_allclose(now.coef, was.coef, rtol=0, atol=1e-5 * np.abs(was.coef).max())
    assert now.training_fingerprint == was.training_fingerprint and now.settings == was.settings
    assert set(before) == set(step.outputs)


def test_only_training_trials_are_handed_on(study, on_disk):
    trials = read_trials(Layout(study), read_stimuli(study), "01", "w")
    assert isinstance(trials.z, TrialStore) and isinstance(trials.training_z, TrialRows)
    z = open_store(Layout(study).masked("01"))[:]
    np.testing.assert_array_equal(trials.training_z[:], z[trials.split.training_rows])
    assert len(trials.training_z) + len(trials.test_rows) == len(z)
    names = np.array(trials.split.stimuli)
    averages = np.array([z[names == name].mean(0) for name in trials.test_names])
    np.testing.assert_array_equal(trials.test_z, averages.astype(np.float64))
    np.testing.assert_array_equal(trials.decoded_averages(lambda x: x[:, :3]), trials.test_z[:, :3])
    np.testing.assert_array_equal(trials.decoded_test_trials(lambda x: x[:, 3:5]), z[trials.test_rows, 3:5])
    part = with_training_trials(trials, np.array([1, 5, 7]))
    np.testing.assert_array_equal(part.training_z[:], trials.training_z[np.array([1, 5, 7])])
    np.testing.assert_array_equal(part.test_z, trials.test_z)


def test_repeats_are_averaged_without_reading_test_trials(tmp_path, monkeypatch):
    z = np.random.default_rng(0).standard_normal((30, 12)).astype(np.float32)
    shown = [f"s{k % 10}" for k in range(30)]
    with write_store(tmp_path / "z.zarr.zip", 30, np.arange(12)) as writer:
        writer.add(z)
    split = Split.of(shown, ["test" if name in ("s0", "s7") else "train" for name in shown])
    latents = np.random.default_rng(1).standard_normal((10, 4))[np.arange(30) % 10]
    config = settings(decoding={"repeats": "average", "posterior": 0})
    found = []
    for values in (z, open_store(tmp_path / "z.zarr.zip")):
        trials = DecodingTrials(values, latents, split, np.arange(12), ("s0", "s7"), ("",) * 30)
        found.append(training_data(trials, config))
    one, other = found
    assert isinstance(one["X"], np.ndarray) and isinstance(other["X"], AveragedTrials)
    np.testing.assert_array_equal(one["X"], other["X"][:])
    np.testing.assert_array_equal(one["Y"], other["Y"])
    assert one["roles"] == other["roles"] == ["train"] * 8
    names = trials.training_stimuli
    assert training_fingerprint(names, trials.training_z, trials.training_latents) == training_fingerprint(
        names, z[split.training_rows], trials.training_latents
    )


def test_what_cannot_read_in_blocks_says_so_in_one_line(study, tiny_generator, on_disk, monkeypatch):
    monkeypatch.setattr("hyperdecode.memory.working_memory", lambda: 1000)
    step = Decoding(Layout(study), settings(), read_stimuli(study), tiny_generator).step("01", "dense")
    with pytest.raises(UserError, match="take a decoder that reads in blocks") as caught:
        step.work()
    assert "\n" not in str(caught.value)


def test_a_posterior_that_does_not_fit_says_how_to_leave_it_out(study, tiny_generator, on_disk, monkeypatch):
    monkeypatch.setattr("hyperdecode.memory.working_memory", lambda: 1000)
    step = Uncertainty(Layout(study), settings(), read_stimuli(study), tiny_generator).step("01")
    with pytest.raises(UserError, match=r"decoding\.posterior = 0"):
        step.work()

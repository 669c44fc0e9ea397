"""``hyperdecode map`` as its user meets it."""

import json
from functools import partial

import pytest

from hyperdecode.pipeline.run import run_study
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import new_study, work
from tests.pipeline.test_brainmaps import configured

pytestmark = pytest.mark.filterwarnings("default::hyperdecode.errors.DataWarning")
CONFIG = configured(readout="none")


@pytest.fixture
def program(called):
    """Call the program: (exit code, stdout, stderr)."""
    return partial(called, "map")


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_generator):
    folder = new_study(tmp_path_factory.mktemp("cli-map") / "study", CONFIG, tiny_generator)
    work(folder, CONFIG, tiny_generator)
    return folder


def test_before_the_analysis_and_after(program, study, tiny_generator):
    code, _, err = program(study)
    assert code == 2 and "which is not there: run hyperdecode run" in err and err.count("\n") == 1
    assert not Layout(study).activations.exists(), "nothing is done in vain"
    run_study(study, CONFIG, read_stimuli(study), tiny_generator)
    assert not Layout(study).activations.exists(), "a study without maps makes none"
    code, out, err = program(study)
    assert code == 0, err
    assert "sub-01: In" in out and "of 100 voxels" in out and "Beyond chance" in out
    assert 'readout = "linear" in [mapping] of study.toml' in out
    assert "alone in their cube" in err
    code, again, err = program(study, "--json")
    (found,) = json.loads(again)
    assert code == 0 and "(up to date)" in err and found["words"] in " ".join(err.split())
    assert found["subject"] == "01" and sum(one["n_voxels"] for one in found["layers"]) == 100


def test_mistakes_are_one_line(monkeypatch, program, study, tmp_path):
    monkeypatch.setattr("hyperdecode.pipeline.cluster.PATIENCE_S", 1)
    for words, said in (
        ((study, "--readout", "layers"), "expected one of none, linear, generator, second-order"),
        ((tmp_path / "nowhere",), "no study at"),
        ((study, "--readout", "generator", "--scheduler", "127.0.0.1:9"), "no Dask scheduler answers at 127.0.0.1:9"),
    ):
        code, _, err = program(*words)
        assert code == 2 and said in " ".join(err.split()) and "Traceback" not in err

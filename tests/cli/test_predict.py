"""``hyperdecode predict`` as its user meets it: what it says, where it writes, one line for each mistake."""

import re
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from hyperdecode.pipeline.simulate import simulate
from hyperdecode.study.config import write_config
from hyperdecode.study.stimulus_set import make_stimuli
from tests.pipeline.test_predict import analyse, rename, settings, trials_of, zmap

# The program prints these warnings; as errors they would be tracebacks.
pytestmark = pytest.mark.filterwarnings("default::hyperdecode.errors.DataWarning")


@pytest.fixture
def program(called):
    """Call the program: (exit code, stdout, stderr)."""
    return partial(called, "predict")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    study = tmp_path_factory.mktemp("cli-predict") / "study"
    write_config(study, settings())
    simulate(study, settings(), make_stimuli(study, settings(), tiny_generator), tiny_generator)
    rename(study)
    analyse(study, settings(), tiny_generator)
    return study


@pytest.fixture
def study(analysed, tmp_path):
    return Path(shutil.copytree(analysed, tmp_path / "study"))


def said(out, label):
    """Return the path that a line of the output names."""
    return Path(re.search(rf"^{label}: (.+)$", out, re.MULTILINE)[1])


def test_new_runs(program, study):
    code, out, err = program(study, "--subject", "sub-01", "--task", "imagery")
    assert code == 0, err
    folder = study / "derivatives" / "hyperdecode" / "sub-01" / "predictions" / "task-imagery_desc-ridge"
    assert said(out, "Pictures") == folder and said(out, "Latents") == folder / "latents.safetensors"
    table = pd.read_csv(folder / "predictions.tsv", sep="\t")
    assert f"{len(table)} trials decoded: {folder / 'predictions.tsv'}" in out
    assert Image.open(said(out, "All of them")).format == "JPEG"
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(table["picture"])
    assert err.startswith("Warning: ") and "training faces" in err and err.count("\n") == 1
    tests = int((table["stimulus_role"] == "test").sum())
    assert f"Note: {tests} of {len(table)} trials show test faces: nothing is scored here" in out
    code, out, _ = program(study, "--task", "imagery")
    assert code == 0 and "Everything was up to date; nothing was done again." in out


def test_maps_and_their_table(program, study, tmp_path):
    options = (
        "--zmaps",
        zmap(study),
        "--trials",
        trials_of(study),
        "--average",
        "stim_file",
        "--out",
        tmp_path / "out",
    )
    code, out, err = program(study, "-s", "01", *options, "--no-pictures", "--model", "ridge")
    assert code == 0, err
    assert f"averages decoded: {tmp_path / 'out' / 'predictions.tsv'}" in out and "Pictures" not in out
    assert not list((tmp_path / "out").glob("*.png"))


def test_one_type_of_trials(program, study):
    events = study / "sub-01" / "func" / "sub-01_task-imagery_run-01_events.tsv"
    table = pd.read_csv(events, sep="\t")
    table["trial_type"] = ["cue", "imagine", *["rest"] * (len(table) - 2)]
    table.to_csv(events, sep="\t", index=False)
    words = ("--trial-type", "imagine", "--trial-type", "cue", "--no-pictures")
    code, out, err = program(study, "-s", "01", "--task", "imagery", *words)
    assert code == 0, err
    assert "2 trials decoded" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "give either --zmaps, or --task"),
        (("--task", "music"), "has no run of sub-01 with task music"),
        (("--run", "02"), "is a run that the study was analysed with"),
        (("--task", "imagery", "--model", "dense"), "hyperdecode decode"),
        (("--zmaps", "study.toml"), "is truncated or not a NIfTI|does not exist"),
    ],
)
def test_mistakes_are_one_line(program, study, words, expected):
    code, _, err = program(study, "-s", "01", *words)
    assert code == 2 and err.startswith("Error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert re.search(expected, err)


def test_a_damaged_decoder_is_one_line(program, study):
    path = study / "derivatives" / "hyperdecode" / "sub-01" / "sub-01_desc-ridge_decoder.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    code, _, err = program(study, "-s", "01", "--task", "imagery")
    assert code == 2 and err.count("\n") == 1 and "is not the file that" in err

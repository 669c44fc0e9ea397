"""What commands answer to a script, and that one word means one thing in all of them."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from hyperdecode.cli import answer, shared
from hyperdecode.cli.main import app
from hyperdecode.errors import UserError
from hyperdecode.pipeline.run import run_study
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.estimated import estimated_study, settings

MAKES_FILES = {
    "demo", "init", "present", "simulate", "explore", "weights fetch", "weights import", "weights check",
    "attributes import", "faces sample", "faces edit", "faces interpolate",
}  # fmt: skip
"""Commands whose answer is files, not data."""


def verbs(command=None, name=""):
    """Give each command that does something: its name, and its flags by name."""
    command = command or typer.main.get_command(app)
    if hasattr(command, "commands"):
        for word, one in command.commands.items():
            yield from verbs(one, f"{name} {word}".strip())
        return
    yield name, {flag: one for one in command.params for flag in one.opts if flag.startswith("-")}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    folder = estimated_study(tmp_path_factory.mktemp("answers") / "study", tiny_generator)
    run_study(folder, settings(), read_stimuli(folder), tiny_generator)
    return folder


@pytest.fixture
def ask(called):
    """Ask a command for JSON: what it answers, what it says beside."""

    def work(*words, code=0):
        got, out, err = called(*words, "--json")
        assert got == code, err
        return json.loads(out), err

    return work


def test_a_flag_means_the_same_in_every_command():
    kinds = defaultdict(lambda: defaultdict(set))
    for verb, flags in verbs():
        for flag, one in flags.items():
            if flag.startswith("--"):
                kinds[flag][str(one.bare_type()), one.multiple].add(verb)
    # What may be given several times in some; the label of a run or its number; whole millimetres of MNI's grid.
    several = {"--model", "--space", "--subject", "--run", "--voxel-size"}
    assert {flag: dict(found) for flag, found in kinds.items() if len(found) > 1 and flag not in several} == {}
    for verb, flags in verbs():
        assert ("--workers" in flags) == ("--scheduler" in flags) == ("--slurm" in flags), verb
        assert ("--json" in flags) == (verb not in MAKES_FILES), verb
        assert ("-s" in flags) == ("--subject" in flags), verb


def test_flags_of_preprocess_are_the_keys_of_a_study():
    own = {"--contrast", "--smoothing", "--skip-failed", "--workers", "--scheduler", "--slurm", "--json", "--force"}
    keys = {f"--{name.replace('_', '-')}" for name in BoldSettings.model_fields}
    assert set(dict(verbs())["preprocess"]) - own <= keys


@pytest.mark.parametrize(("typed", "offered"), [(["pre"], "preprocess"), (["run", "study", "--skip"], "--skip-failed")])
def test_the_shell_completes_commands_and_flags(typed, offered):
    asked = {"COMP_WORDS": " ".join(["hyperdecode", *typed]), "COMP_CWORD": str(len(typed))}
    command = [Path(sys.executable).with_name("hyperdecode")]
    environment = os.environ | asked | {"_HYPERDECODE_COMPLETE": "complete_bash"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert offered in said.stdout.split()


def test_of_several_subjects_one_must_be_named():
    assert shared.one_subject(settings(), "") == shared.one_subject(settings(), "sub-01") == "01"
    with pytest.raises(UserError, match="Give --subject, one of 01, 02"):
        shared.one_subject(settings(subjects=["01", "02"]), "")


def test_what_is_no_number_is_null(capsys):
    @dataclass
    class Found:
        path: Path
        score: float

    answer.answer([Found(Path("a"), math.nan), {1: (np.float32(0.5), np.int64(2), np.bool_(True), math.inf)}])
    assert json.loads(capsys.readouterr().out) == [{"path": "a", "score": None}, {"1": [0.5, 2, True, None]}]
    assert answer.rows(pd.DataFrame({"x": [1], "y": ["b"]})) == [{"x": 1, "y": "b"}]


def test_run_and_report(ask, analysed):
    for verb in ("run", "report"):
        found, words = ask(verb, analysed)
        assert found["ran"] == [] and found["left_out"] == {} and found["verdict"]["decoded"] is True
        assert found["verdict"]["sentence"] in " ".join(words.split())
        assert Path(found["report"]).is_file() and found["study"] == str(analysed)
        scores = {one["metric"]: one for one in found["scores"]}
        assert 0 <= scores["identification"]["p_value"] <= 1 and scores["norm_ratio"]["p_value"] is None


def test_one_step_names_what_comes_next(called, analysed, tmp_path):
    study = Path(shutil.copytree(analysed, tmp_path / "study"))
    code, out, _ = called("run", study, "--step", "mask")
    assert code == 0 and f"Next: hyperdecode status {study}, or hyperdecode run {study}" in out


def test_a_dry_run(ask, analysed):
    found, words = ask("run", analysed, "--dry-run", "--force")
    assert [one["step"] for one in found["would_run"]][-1] == "report" and all(one["why"] for one in found["would_run"])
    assert "Nothing was done." in words


def test_decode(ask, called, analysed, tmp_path):
    study = Path(shutil.copytree(analysed, tmp_path / "study"))
    found, words = ask("decode", study, "--model", "ridge")
    assert found["model"] == "ridge" and {one["model"] for one in found["scores"]} == {"ridge"}
    assert Path(found["faces"]["01"]).is_dir()
    assert f'Next: beside = ["ridge"] in [decoding] of study.toml, then hyperdecode run {study}' in words
    code, out, _ = called("decode", study)
    assert code == 0 and "Next:" not in out, "the study's own decoder is in the report"


def test_findings_of_validate_keep_their_exit_code(ask, analysed, tmp_path):
    study = Path(shutil.copytree(analysed, tmp_path / "study"))
    (study / "stimuli" / "train-0001.png").unlink()
    found, words = ask("validate", study, code=1)
    assert found["errors"] == sum(one["severity"] == "error" for one in found["findings"]) > 0
    assert any("train-0001.png" in f"{one['where']} {one['text']}" for one in found["findings"])
    assert f"Next: mend the errors, then hyperdecode validate {study}" in words


def test_attributes_of_a_generator(ask):
    found, _ = ask("attributes", "list")
    assert found["generator"] == "mobilestylegan-ffhq" and "smile" in found["attributes"]["w"]

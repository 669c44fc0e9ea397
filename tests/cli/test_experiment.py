"""The way to the scanner as its user meets it: stimuli, schedule, simulate's options, validate."""

import json
import shutil
from functools import lru_cache

import nibabel as nib
import pandas as pd
import pytest
from PIL import Image

from hyperdecode.pipeline import simulate as simulating
from hyperdecode.pipeline import validate as validating
from hyperdecode.pipeline.schedule import make_schedule
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import contents, func, new_study, planted, settings

SETTINGS = settings(voxel_size=10.0)


@pytest.fixture
def program(called):
    """Call the program: (exit code, stdout, stderr)."""
    return called


@pytest.fixture(scope="module", autouse=True)
def _each_head_grown_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulating, "grow_head", lru_cache(simulating.grow_head))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    """Stimuli, nothing else."""
    return new_study(tmp_path_factory.mktemp("experiment") / "study", SETTINGS, tiny_generator)


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made, tmp_path / "study")


@pytest.fixture(scope="module")
def simulated(made, tmp_path_factory, tiny_generator):
    folder = shutil.copytree(made, tmp_path_factory.mktemp("simulated") / "study")
    simulating.simulate(folder, SETTINGS, read_stimuli(folder), tiny_generator)
    return folder


@pytest.fixture
def done(simulated, tmp_path):
    return shutil.copytree(simulated, tmp_path / "done")


def refused(said):
    code, _, err = said
    assert code == 2 and err.startswith("Error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_stimuli_with_target_sheet_and_near_duplicates(study, program):
    shutil.rmtree(study / "stimuli")
    code, out, err = program("stimuli", study, "--recheck", "24")
    assert code == 0 and err == "", err
    assert f"24 stimuli in {study / 'stimuli'}" in out and "largest difference 0 of 255" in out
    assert "Distance of each test face to the nearest training face" in out
    assert f"Next: hyperdecode schedule {study}" in out
    names = list(read_stimuli(study).manifest["stim_file"])
    assert sorted(path.name for path in (study / "stimuli" / "shown").iterdir()) == sorted(names)
    for name in names[:3]:
        clean, shown = (Image.open(study / "stimuli" / part / name) for part in ("", "shown"))
        assert clean.size == shown.size == (32, 32) and clean.tobytes() != shown.tobytes()
    with Image.open(study / "stimuli" / "contact-sheet.jpg") as sheet:
        assert min(sheet.size) > 100
    times = {path: path.stat().st_mtime_ns for path in (study / "stimuli").rglob("*")}
    code, again, _ = program("stimuli", study, "--recheck", "0", "--json")
    found = json.loads(again)
    assert code == 0 and found["largest_difference"] is None and found["train"] + found["test"] == 24
    assert set(found["near_duplicates"]) == {"latent space", "picture space"}
    assert {path: path.stat().st_mtime_ns for path in (study / "stimuli").rglob("*")} == times


@pytest.mark.parametrize("copied", [True, False])
def test_near_duplicates_are_a_warning(study, program, monkeypatch, tiny_generator, copied):
    """The test face's latent is a training face's: the generator repeats itself."""
    shutil.rmtree(study / "stimuli")
    sample = tiny_generator.sample

    def repeating(n, seed):
        z = sample(n, seed)
        if n >= 24:  # all faces of the study at once: make the first like the last
            z[0] = z[-1]
        return z

    if copied:
        monkeypatch.setattr(tiny_generator, "sample", repeating)
    _, out, _ = program("stimuli", study, "--recheck", "0")
    text = next(line for line in out.splitlines() if "Distance of each test face" in line)
    first = read_stimuli(study).names("test")[0]
    assert (f"{first} in latent space (0.00)" in text) == copied
    assert not copied or (text.startswith("Warning: ") and "replace them" in text)


def test_schedule(study, program):
    code, out, err = program("schedule", study)
    assert code == 0 and err == "", err
    plan = make_schedule(study, SETTINGS, read_stimuli(study), "01")
    row = next(line for line in out.splitlines() if line.startswith("sub-01 "))
    assert row.split()[1:5] == ["2", "15", "to", "16"]
    assert f"Design: {plan.efficiency.words}" in out
    assert f"sub-01: {plan.folder}, picture {plan.figure.name}" in out and plan.figure.exists()
    assert f"Next: hyperdecode present {study}, or hyperdecode simulate {study}" in out
    before = contents(study)
    assert program("schedule", study)[1] == out and contents(study) == before
    (found,) = json.loads(program("schedule", study, "--json")[1])
    assert [one["trials"] for one in found["runs"]] == [len(run) for run in plan.runs]
    assert found["seconds"] == plan.time.total and found["folder"] == str(plan.folder)
    path = study / "study.toml"
    path.write_text(path.read_text().replace("n_runs = 2", "n_runs = 3"))
    assert "holds a plan made with n_runs = 2, not 3" in refused(program("schedule", study))
    code, out, _ = program("schedule", study, "--force")
    assert code == 0 and len(list(plan.folder.glob("*_events.tsv"))) == 3


def test_a_schedule_needs_stimuli(study, program):
    shutil.rmtree(study / "stimuli")
    assert "hyperdecode stimuli" in refused(program("schedule", study))


def test_options_of_simulate_win_over_the_settings(study, simulated, program):
    toml = (study / "study.toml").read_bytes()
    code, out, err = program("simulate", study, "--coverage", "whole", "--voxel-size", "9", "--null")
    assert code == 0 and err == "" and "BOLD: simulated sub-01." in out, err
    image, default = (nib.load(func(folder, 1, "bold.nii.gz")) for folder in (study, simulated))
    assert image.header.get_zooms()[:3] == (9, 9, 9) and default.header.get_zooms()[:3] == (10, 10, 10)
    assert image.shape[2] * 9 > default.shape[2] * 10 + 40  # the whole head, not its lower part
    about = json.loads(planted(study, "desc-planted_simulation.json").read_text())["Settings"]
    assert (about["coverage"], about["voxel_size"], about["null"]) == ("whole", 9.0, True)
    trials = pd.read_csv(planted(study, "run-01_desc-planted_trials.tsv"), sep="\t")
    assert (trials["responses_of"] == trials["stim_file"]).mean() < 0.4
    assert (study / "study.toml").read_bytes() == toml


def test_a_null_subject_becomes_a_seeing_one_and_says_so(done, simulated, program):
    assert "simulated subjects are up to date" in program("simulate", done)[1]
    out = program("simulate", done, "--null")[1]
    assert "BOLD: simulated sub-01." in out and "These are null subjects" in out and "preprocess" not in out
    assert func(done, 1, "bold.nii.gz").read_bytes() != func(simulated, 1, "bold.nii.gz").read_bytes()
    assert "simulated subjects are up to date" in program("simulate", done, "--null")[1]
    out = program("simulate", done)[1]
    assert "BOLD: simulated sub-01." in out and "null subjects" not in out
    assert contents(done) == contents(simulated)
    written = func(done, 1, "bold.nii.gz").stat().st_mtime_ns
    assert "BOLD: simulated sub-01." in program("simulate", done, "--force")[1]
    assert contents(done) == contents(simulated) and func(done, 1, "bold.nii.gz").stat().st_mtime_ns > written


def test_heads_that_move_are_to_be_realigned(done, program):
    text = (done / "study.toml").read_text()
    (done / "study.toml").write_text(
        text.replace('head = "mni"', 'head = "own"').replace("motion = 0.0", "motion = 0.2")
    )
    out = program("simulate", done)[1]
    assert "`hyperdecode run` will realign and normalise them, since they move and their heads are not MNI's." in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--coverage", "half"], "simulation.coverage = 'half': expected one of ventral, whole; give another value"),
        (["--voxel-size", "20"], "simulation.voxel_size = 20.0: expected 1.5 to 10; give another value"),
    ],
)
def test_options_out_of_range(study, program, words, said):
    before = contents(study)
    assert said in refused(program("simulate", study, *words)) and contents(study) == before


def test_a_scanners_bold_is_not_written_over(done, program):
    sidecar = func(done, 1, "bold.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"Manufacturer": "Siemens"}))
    assert "holds BOLD that was not simulated here" in refused(program("simulate", done, "--force"))


def test_a_study_in_order_is_valid(done, program):
    pytest.importorskip(validating.MODULE, reason="the BIDS validator is not installed")
    code, out, err = program("validate", done)
    assert code == 0 and err == "" and f"{done}: 0 errors, " in out and "Error:" not in out
    assert f"Next: hyperdecode run {done}" in out
    hints = [line for line in out.splitlines() if line.startswith("Hint: ")]
    assert 1 < len(hints) < 8 and sum("recommended keys that are absent: " in line for line in hints) == 1
    assert "EchoTime, " in hints[-1] and "License, " in hints[-1] and len(set(hints)) == len(hints)


def test_mistakes_are_named_in_one_line_each_and_exit_with_1(done, program):
    pytest.importorskip(validating.MODULE, reason="the BIDS validator is not installed")
    path = func(done, 2, "events.tsv")
    path.write_text(path.read_text().replace("onset\t", "start\t", 1))
    sidecar = func(done, 1, "bold.json")
    sidecar.write_text(json.dumps({k: v for k, v in json.loads(sidecar.read_text()).items() if k != "TaskName"}))
    code, out, err = program("validate", done)
    lines = [line for line in out.splitlines() if line.startswith("Error: ")]
    assert code == 1 and err == ""
    where = "sub-01/func/sub-01_task-faces_run-02_events.tsv"
    assert any(line.startswith(f"Error: {where}: ") and "lacks the column 'onset'" in line for line in lines)
    assert any("run-01_bold" in line and "TaskName" in line for line in lines)
    assert out.splitlines()[-2].startswith(f"{done}: {len(lines)} errors, ")
    assert out.splitlines()[-1] == f"Next: mend the errors, then hyperdecode validate {done}"


def test_without_the_validator(done, program, monkeypatch):
    monkeypatch.setattr(validating, "find_spec", lambda _: None)
    assert 'pip install "hyperdecode[bids]"' in refused(program("validate", done))


def test_no_study(program, tmp_path):
    for command in ("stimuli", "schedule", "validate", "simulate"):
        assert "no study at" in refused(program(command, tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []

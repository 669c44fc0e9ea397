import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from hyperdecode.errors import UserError
from hyperdecode.presentation.record import COLUMNS
from hyperdecode.stimuli.schedule import schedule_runs
from hyperdecode.study import planned
from hyperdecode.study.bids import index_bids
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.planned import events_sidecar, plan_path, read_plan, write_plan
from hyperdecode.study.stimulus_set import StimulusSet

NAMES = [f"test-{i}.png" for i in range(3)] + [f"train-{i}.png" for i in range(20)]
STIMULI = StimulusSet(
    Path("stimuli"),
    pd.DataFrame({"stim_file": NAMES, "role": ["test"] * 3 + ["train"] * 20}),
    torch.zeros(23, 4),
    torch.zeros(23, 4),
    {},
)


def settings(n_runs=3, one_back=0.1, test_repeats=4, **timing):
    return StudyConfig.model_validate(
        {
            "stimuli": {"n_train": 20, "n_test": 3, "test_repeats": test_repeats},
            "schedule": {"n_runs": n_runs, "one_back": one_back},
            "timing": timing,
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    write_plan(folder, settings(), STIMULI, "01", 5)
    return folder


@pytest.fixture
def study(made, tmp_path):
    """Return a copy to harm."""
    return Path(shutil.copytree(made, tmp_path / "study"))


def contents(study):
    return {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}


def test_the_plan_is_the_schedule(study):
    config = settings()
    folder = study / "sourcedata" / "schedule"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        *(f"sub-01/sub-01_task-faces_run-0{run}_events.tsv" for run in (1, 2, 3)),
        "sub-01/sub-01_task-faces_schedule.json",
        "task-faces_events.json",
    ]
    expected = schedule_runs(
        NAMES[3:], NAMES[:3], 4, 3, on=1.5, off=3.0, lead_in=6.0, seed=5, one_back=0.1
    )  # fmt: skip
    for run, events in enumerate(expected, start=1):
        pd.testing.assert_frame_equal(read_plan(study, config, "01", run), events)
        assert plan_path(study, config, "01", run).read_text().startswith("onset\tduration\ttrial_type\tstim_file\n6.0")
    again = write_plan(study, config, STIMULI, "01", 5)
    assert all(a.equals(b) for a, b in zip(again, expected, strict=True))


def test_long_sessions_keep_their_microseconds(tmp_path):
    config = settings(n_runs=1, on=57.123456, off=28.000001)
    events = write_plan(tmp_path, config, STIMULI, "01", 0)[0]
    assert events["onset"].iloc[-1] > 2000
    expected = [6 + 85.123457 * k for k in range(len(events))]
    assert read_plan(tmp_path, config, "01", 1)["onset"].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_plan_is_no_data_of_the_study(study):
    """The reader of raw data does not take planned events for events."""
    with pytest.raises(UserError):
        index_bids(study)


def test_a_plan_of_the_same_settings_is_kept(study, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in contents(study)}
    monkeypatch.setattr(planned, "schedule_runs", lambda *_, **__: pytest.fail("planned again"))
    assert len(write_plan(study, settings(), STIMULI, "01", 5)) == 3
    assert {path: path.stat().st_mtime_ns for path in contents(study)} == before


@pytest.mark.parametrize(
    ("config", "seed", "words"),
    [
        (settings(), 6, "seed = 5, not 6"),
        (settings(n_runs=2), 5, "n_runs = 3, not 2"),
        (settings(one_back=0.2), 5, r"one_back = 0\.1, not 0\.2"),
        (settings(off=2.5), 5, r"off = 3\.0, not 2\.5"),
        (settings(test_repeats=5), 5, "test_repeats = 4, not 5"),
    ],
)
def test_a_plan_of_other_settings_is_refused_without_force(study, config, seed, words):
    before = contents(study)
    with pytest.raises(UserError, match=f"{words}.*--force") as error:
        write_plan(study, config, STIMULI, "01", seed)
    assert "\n" not in str(error.value) and contents(study) == before
    if seed == 5:
        with pytest.raises(UserError, match=words):
            read_plan(study, config, "01", 1)
    runs = write_plan(study, config, STIMULI, "01", seed, force=True)
    assert len(runs) == config.schedule.n_runs and contents(study) != before
    assert len(list(study.rglob("*_events.tsv"))) == len(runs)
    assert read_plan(study, config, "01", 1).equals(runs[0])


def test_other_faces_are_refused(study):
    manifest = STIMULI.manifest.replace("train-4.png", "train-99.png")
    other = StimulusSet(STIMULI.folder, manifest, STIMULI.z, STIMULI.w, {})
    with pytest.raises(UserError, match="names = "):
        write_plan(study, settings(), other, "01", 5)


def test_timing_that_the_order_does_not_depend_on(study):
    changed = settings(flash_hz=2.0, lead_out=20.0)
    assert read_plan(study, changed, "01", 2).equals(read_plan(study, settings(), "01", 2))


@pytest.mark.parametrize("run", [1, 2])
def test_a_killed_run_goes_on(study, tmp_path, monkeypatch, run):
    killed, real = tmp_path / "killed", planned.atomic_path

    def kill(path):
        if path.name.endswith(f"run-0{run}_events.tsv"):
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(planned, "atomic_path", kill)
        with pytest.raises(KeyboardInterrupt):
            write_plan(killed, settings(), STIMULI, "01", 5)
    with pytest.raises(UserError, match=r"no plan for run 1 .*hyperdecode schedule"):
        read_plan(killed, settings(), "01", 1)
    write_plan(killed, settings(), STIMULI, "01", 5)
    assert {p.relative_to(killed): c for p, c in contents(killed).items()} == {
        p.relative_to(study): c for p, c in contents(study).items()
    }


def test_a_forced_plan_that_was_killed_is_no_plan(study, monkeypatch):
    """Tables of two plans side by side must never pass for one."""
    real = planned.atomic_path

    def kill(path):
        if path.name.endswith("run-02_events.tsv"):
            raise KeyboardInterrupt
        return real(path)

    before = contents(study)
    with monkeypatch.context() as patch:
        patch.setattr(planned, "atomic_path", kill)
        with pytest.raises(KeyboardInterrupt):
            write_plan(study, settings(), STIMULI, "01", 6, force=True)
    with pytest.raises(UserError, match="no plan for run 2"):
        read_plan(study, settings(), "01", 2)
    write_plan(study, settings(), STIMULI, "01", 5)
    assert contents(study) == before


def test_a_lost_run_is_planned_again(study):
    before = contents(study)
    plan_path(study, settings(), "01", 2).unlink()
    write_plan(study, settings(), STIMULI, "01", 5)
    assert contents(study) == before


def test_subjects_do_not_touch_each_other(study):
    before = contents(study)
    write_plan(study, settings(), STIMULI, "02", 6)
    after = contents(study)
    assert {path: after[path] for path in before} == before and len(after) == len(before) + 4


@pytest.mark.parametrize(
    ("subject", "run", "words"),
    [("02", 1, "sub-02 has no plan for run 1"), ("01", 4, "schedule.n_runs = 3"), ("01", 0, "run 0 is not planned")],
)
def test_what_is_not_planned(study, subject, run, words):
    with pytest.raises(UserError, match=words):
        read_plan(study, settings(), subject, run)


def set_cell(row, column, value):
    def edit(events):
        events[column] = events[column].astype(object)
        events.loc[row, column] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda events: events.pop("stim_file"), "lacks the column 'stim_file'"),
        (None, "has no trials"),
        (set_cell(3, "onset", "n/a"), "no number of seconds"),
        (set_cell(3, "duration", -1), "no number of seconds"),
        (set_cell(3, "onset", 11.0), "begins before the one above it ends"),
        (set_cell(3, "trial_type", "cat"), "has the trial type 'cat'"),
        (set_cell(3, "stim_file", "../x.png"), r"no file of stimuli/"),
        (set_cell(3, "stim_file", ""), r"no file of stimuli/"),
    ],
)
def test_a_harmed_table(study, edit, words):
    path = plan_path(study, settings(), "01", 1)
    events = pd.read_csv(path, sep="\t")
    events = events.iloc[:0] if edit is None else events
    if edit:
        edit(events)
    events.to_csv(path, sep="\t", index=False)
    with pytest.raises(UserError, match=f"{words}.*hyperdecode schedule") as error:
        read_plan(study, settings(), "01", 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b'onset\t"dur'])
def test_a_table_that_is_none(study, data):
    plan_path(study, settings(), "01", 1).write_bytes(data)
    with pytest.raises(UserError, match=r"run-01_events\.tsv"):
        read_plan(study, settings(), "01", 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0}'])
def test_a_harmed_note(study, text):
    next(study.rglob("*_schedule.json")).write_text(text)
    with pytest.raises(UserError, match="holds a plan made with"):
        read_plan(study, settings(), "01", 1)
    with pytest.raises(UserError, match="holds a plan made with"):
        write_plan(study, settings(), STIMULI, "01", 5)


def test_the_sidecar_describes_every_column(study):
    sidecar = json.loads((study / "sourcedata" / "schedule" / "task-faces_events.json").read_text())
    assert sidecar == events_sidecar() and tuple(sidecar) == COLUMNS
    assert all({"LongName", "Description"} <= column.keys() for column in sidecar.values())
    seconds = [name for name, column in sidecar.items() if column.get("Units") == "s"]
    assert seconds == ["onset", "duration", "planned_onset", "response_time"]
    shown = {kind for run in (1, 2, 3) for kind in read_plan(study, settings(), "01", run)["trial_type"]}
    assert shown == set(sidecar["trial_type"]["Levels"])

"""Runs of a study on a display whose clock is the test's: files, resume, what is kept, what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from hyperdecode.errors import UserError
from hyperdecode.pipeline import present as module
from hyperdecode.pipeline.present import check_display, present
from hyperdecode.pipeline.presented import presented_files
from hyperdecode.study.bids import parse_entities
from hyperdecode.study.config import preset, read_config, write_config
from hyperdecode.study.planned import events_sidecar, read_plan, write_plan
from hyperdecode.study.stimulus_set import make_stimuli
from tests.presentation.fakes import FakeSdl

SETTINGS = {
    "stimuli": {"n_train": 20, "n_test": 4, "test_repeats": 1, "render": 64, "size": 32},
    "timing": {"on": 0.6, "off": 0.4, "lead_in": 0.5, "lead_out": 0.5, "t_r": 0.5},
    "schedule": {"n_runs": 3},
    "viewing": {"pixels_per_deg": 10.0},
}
END = 0.5 + 8 * 1.0 + 0.5
TRIGGERS = [("5", 2.0 + 0.5 * k) for k in range(19)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    study = tmp_path_factory.mktemp("present") / "study"
    config = preset("paper", **SETTINGS)
    write_config(study, config)
    stimuli = make_stimuli(study, config, tiny_generator)
    for seed, subject in enumerate(config.subjects):
        write_plan(study, config, stimuli, subject, seed)
    return study


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made, tmp_path / "study")


@pytest.fixture
def show(study, monkeypatch):
    """Show a run on a fake screen with the scanner's triggers and more keys."""

    def work(run=None, keys=(), script=None, screen=None, subject="01", config=None, **kwargs):
        simulated = kwargs.get("simulate_trigger", False)
        screen = screen or FakeSdl(script if script is not None else [*([] if simulated else TRIGGERS), *keys])
        monkeypatch.setattr(module, "open_screen", screen.open)
        session = present(study, config or read_config(study), subject, run, **kwargs)
        session_screen.append(screen)
        return session

    session_screen = work.screens = []
    return work


def events_of(study, run, subject="01"):
    path = study / f"sub-{subject}/func/sub-{subject}_task-faces_run-{run:02d}_events.tsv"
    return pd.read_csv(path, sep="\t", na_values="n/a") if path.exists() else None


def log_of(study, run, subject="01"):
    path = study / f"sourcedata/presentation/sub-{subject}/sub-{subject}_task-faces_run-{run:02d}_presentation.json"
    return json.loads(path.read_text())


def test_a_run_and_its_files(study, show):
    session = show(1, keys=[("1", 2.0 + 0.9), ("5", 2.0 + 99)])
    plan, events, log = read_plan(study, read_config(study), "01", 1), events_of(study, 1), log_of(study, 1)
    assert session.outcome == "complete" and session.next == 2 and session.kept is None
    assert list(events["stim_file"]) == list(plan["stim_file"])
    assert list(events["trial_type"]) == list(plan["trial_type"])
    np.testing.assert_allclose(events["planned_onset"], plan["onset"])
    # The display's own record: each stretch of a picture, or of its flashes, begins where the events say.
    (screen,) = show.screens
    trigger = screen.keys[0].time
    begins = [start - trigger for start, _, picture in screen.visible() if picture is not None]
    assert len(begins) == 8 * 2  # 3.33 Hz for 0.6 s: two flashes a trial
    np.testing.assert_allclose(events["onset"], begins[::2], atol=1e-6)
    assert np.abs(events["onset"] - plan["onset"]).max() <= 0.5 / 60 + 1e-6
    np.testing.assert_allclose(events["duration"], 0.6, atol=1e-5)
    assert events["response"].dropna().tolist() == [1] and events["response_time"].dropna().item() > 0.3
    assert (events["dropped_frames"] == 0).all()
    assert log["outcome"] == "complete" and log["trigger"] == "scanner" and log["real_data"] and log["shown"] == 8
    assert log["triggers"] == {"received": 18, "expected": 18, "gaps": 0, "last": pytest.approx(8.5)}
    assert log["refresh"]["rate_hz"] == pytest.approx(60) and log["ended"] == pytest.approx(END, abs=0.01)
    assert log["onset_error_ms"]["largest"] == pytest.approx(
        1000 * np.abs(events["onset"] - plan["onset"]).max(), abs=1e-2
    )


def test_the_folder_is_bids(study, show):
    show(1)
    assert json.loads((study / "task-faces_events.json").read_text()) == events_sidecar()
    assert events_sidecar().keys() == set(events_of(study, 1).columns)
    assert (study / "dataset_description.json").exists() and (study / "participants.tsv").exists()
    found = [path.name for path in (study / "sub-01").rglob("*") if path.is_file()]
    assert all(parse_entities(name)["suffix"] == "events" for name in found) and len(found) == 2
    about = json.loads((study / "sub-01/func/sub-01_task-faces_run-01_events.json").read_text())["StimulusPresentation"]
    assert about["ScreenRefreshRate"] == 60 and about["ScreenResolution"] == [800, 600]


def test_the_pictures_are_those_of_the_plan_and_the_screen_that_of_the_settings(study, show):
    session = show(2)
    (screen,) = show.screens
    assert screen.asked["keys"] == ("5", "1", "2", "3", "4") and screen.asked["fullscreen"] is True
    plan = read_plan(study, read_config(study), "01", 2)
    assert len(screen.prepared) == plan["stim_file"].nunique() and screen.prepared[0].shape == (32, 32, 3)
    numbers = [picture for _, _, picture in screen.visible() if picture is not None][::2]
    first = {name: k for k, name in enumerate(dict.fromkeys(plan["stim_file"]))}
    assert numbers == [first[name] for name in plan["stim_file"]]
    assert "Waiting for the scanner (key 5)" in screen.messages[-1] and session.run == 2


def test_without_a_number_the_next_run_is_shown(study, show):
    assert [show().run for _ in range(3)] == [1, 2, 3] and show(subject="02").run == 1
    with pytest.raises(UserError, match="all 3 runs of sub-01 have been shown"):
        show()
    with pytest.raises(UserError, match=r"run-01_events.tsv holds a run that was shown to its end: leave out --run"):
        show(1)
    before = events_of(study, 1)
    session = show(1, force=True, script=[("5", 2.003)])
    assert session.kept.name == "sub-01_task-faces_run-01_complete-scanner-1_events.tsv"
    assert session.kept.parent == study / "sourcedata/presentation/sub-01"
    pd.testing.assert_frame_equal(pd.read_csv(session.kept, sep="\t", na_values="n/a"), before)
    assert events_of(study, 1)["onset"][0] != before["onset"][0]


def test_an_aborted_run_is_saved_then_kept_aside_and_shown_again(study, show):
    session = show(keys=[("escape", 2.0 + 0.5 + 2.2)])
    assert session.outcome == "aborted" and session.next == 1 and len(events_of(study, 1)) == 3
    assert events_of(study, 1)["duration"].iloc[-1] == pytest.approx(0.2, abs=0.05)
    assert log_of(study, 1)["outcome"] == "aborted" and log_of(study, 1)["broken_off"] == "escape"
    again = show(keys=[("escape", 2.0 + 0.5 + 1.2)])
    third = show()
    assert [again.run, third.run] == [1, 1] and third.outcome == "complete" and len(events_of(study, 1)) == 8
    assert [s.kept.name.removeprefix("sub-01_task-faces_run-01_") for s in (again, third)] == [
        f"aborted-scanner-{k}_events.tsv" for k in (1, 2)
    ]
    assert [len(pd.read_csv(s.kept, sep="\t")) for s in (again, third)] == [3, 2]
    assert len(list(session.files.log.parent.glob("*_presentation.json"))) == 3
    assert len(list(session.files.log.parent.glob("*_events.json"))) == 2 and session.files.sidecar.exists()


@pytest.mark.parametrize("escape", [1.0, 2.2])
def test_nothing_is_written_before_the_first_picture(study, show, escape):
    show(keys=[("escape", 4.0)])
    before = events_of(study, 1)
    session = show(keys=[("escape", escape)])
    assert session.outcome == "nothing" and session.kept is None
    pd.testing.assert_frame_equal(events_of(study, 1), before)
    assert session.next == 1


def test_escape_in_the_last_rest_leaves_the_run_complete(study, show):
    session = show(keys=[("escape", 2.0 + 0.5 + 8.0 + 0.1)])
    assert session.outcome == "complete" and session.shown.broken_off == "escape" and session.next == 2
    assert session.end - session.shown.ended == pytest.approx(0.4, abs=0.05)


def test_a_crash_loses_at_most_a_trial(study, show):
    class Crashing(FakeSdl):
        def draw(self, picture):
            if len(self.seen) > 60 * 4:  # in trial 4
                raise RuntimeError("graphics card on fire")
            super().draw(picture)

    with pytest.raises(RuntimeError, match="on fire"):
        show(screen=Crashing(TRIGGERS))
    assert len(events_of(study, 1)) == 3 and (events_of(study, 1)["duration"] > 0.59).all()
    assert log_of(study, 1)["outcome"] == "running"
    session = show()
    assert session.run == 1 and session.kept.name.endswith("aborted-scanner-1_events.tsv")


def test_rehearsals_are_no_data(study, show):
    session = show(simulate_trigger=True)
    log = log_of(study, 1)
    assert session.outcome == "complete" and session.next == 2 and log["trigger"] == "simulated"
    assert log["real_data"] is False and log["triggers"]["received"] in (18, 19)
    assert show(simulate_trigger=True).run == 2
    with pytest.raises(UserError, match="holds a rehearsal that was shown to its end"):
        show(1, simulate_trigger=True)
    real = show(keys=[("escape", 4.0)])
    assert real.run == 1 and real.kept.name.endswith("complete-simulated-1_events.tsv")
    with pytest.raises(UserError, match="the scanner triggered, though it was broken off"):
        show(1, simulate_trigger=True)
    assert show().run == 1


def test_faster_rehearsals_lie_apart(study, show):
    session = show(simulate_trigger=True, speed=2.0)
    assert session.files.events.parent == study / "sourcedata/presentation/rehearsal/sub-01"
    assert events_of(study, 1) is None and session.next == 1 and not (study / "dataset_description.json").exists()
    log = json.loads(session.files.log.read_text())
    (screen,) = show.screens
    still = [end - start for start, end, picture in screen.visible() if picture is not None]
    np.testing.assert_allclose(still, [0.3] * 8, atol=1e-9)
    assert log["triggers"]["gaps"] == 0
    assert log["triggers"]["received"] == 18 and len(log["trigger_times"]) == 18
    assert log["speed"] == 2 and log["real_data"] is False and log["ended"] == pytest.approx(END / 2, abs=0.02)
    with pytest.raises(UserError, match="is for rehearsals: give --simulate-trigger too"):
        show(speed=2.0)
    for speed in (0.5, 1000.0, float("nan")):
        with pytest.raises(UserError, match="give a number from 1 to 100"):
            show(simulate_trigger=True, speed=speed)


def test_events_of_others_are_not_replaced(study, show):
    path = study / "sub-01/func/sub-01_task-faces_run-01_events.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("onset\tduration\n1\t2\n")
    assert show().run == 2
    with pytest.raises(UserError, match="exists and was not written by `hyperdecode present`"):
        show(1)
    session = show(1, force=True)
    assert session.kept.name.endswith("foreign-1_events.tsv") and session.kept.read_text() == "onset\tduration\n1\t2\n"


def test_a_full_disk_for_a_while_loses_nothing(study, show, monkeypatch):
    from hyperdecode.pipeline import presented

    show(keys=[("escape", 4.0)])
    inner, failed = presented.write_text, []

    def write(path, text):
        if len(failed) < 3:
            failed.append(path)
            raise OSError(28, "No space left on device")
        return inner(path, text)

    monkeypatch.setattr(presented, "write_text", write)
    session = show()
    assert len(failed) == 3 and len(events_of(study, 1)) == 8 and log_of(study, 1)["outcome"] == "complete"
    assert session.kept is not None and session.kept.exists()


def test_a_scanner_that_fell_silent_is_reported(study, show):
    session = show(1, script=TRIGGERS[:6])
    assert session.triggers.lost and session.triggers.received == 6 and session.outcome == "complete"


def test_an_unsteady_display_is_told(study, show):
    said = []
    screen = FakeSdl(TRIGGERS, late={k: 1 for k in range(0, 60, 5)}, period=1 / 50)
    show(1, screen=screen, say=said.append)
    assert any("unsteady" in line for line in said) and any("50.00 Hz, its driver says 60 Hz" in line for line in said)
    assert len(log_of(study, 1)["warnings"]) == 2
    assert any("8 trials, 0 min 09 s (18 volumes of 0.5 s)" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"subject": "07"}, "no subject '07' in study.toml, which names 01, 02"),
        ({"run": 4}, "--run 4: the study has runs 1 to 3"),
        ({"run": 0}, "--run 0: the study has runs 1 to 3"),
    ],
)
def test_refusals(show, arguments, words):
    with pytest.raises(UserError, match=words):
        show(**arguments)


def test_keys_must_differ(study, show):
    for keys in ({"trigger_key": "1"}, {"response_keys": ("escape",)}, {"response_keys": ("2", "2")}):
        config = preset("paper", **SETTINGS, presentation=keys)
        with pytest.raises(UserError, match=r"\[presentation\] uses the key .* twice"):
            show(1, config=config)


def test_no_stimuli_or_no_schedule(study, show):
    shutil.rmtree(study / "stimuli")
    with pytest.raises(UserError, match="hyperdecode stimuli"):
        show(1)
    shutil.rmtree(study / "sourcedata")
    with pytest.raises(UserError, match="hyperdecode schedule"):
        show(1)


def test_a_folder_that_cannot_be_written_stops_the_run_before_it_begins(study, show):
    (study / "sub-01").write_text("a file")
    with pytest.raises(OSError, match="sub-01"):
        show(1)
    assert not show.screens


def test_the_display_is_checked(study, monkeypatch):
    screen = FakeSdl()
    monkeypatch.setattr(module, "open_screen", screen.open)
    found = check_display(read_config(study), windowed=True)
    assert found.refresh.n == 299 and found.picture == 150 and not screen.asked["fullscreen"]
    assert not presented_files(study, read_config(study), "01", 1).log.exists()

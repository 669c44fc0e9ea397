"""`hyperdecode present` as its user meets it, on SDL's dummy display in real time: a run of six seconds."""

import json
import re
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from hyperdecode.cli import main
from hyperdecode.presentation.sdl import SdlScreen
from hyperdecode.study.config import preset, write_config
from hyperdecode.study.planned import write_plan
from hyperdecode.study.stimulus_set import make_stimuli

pygame = pytest.importorskip("pygame")

SETTINGS = {
    "stimuli": {"n_train": 20, "n_test": 4, "test_repeats": 1, "render": 64, "size": 32},
    "timing": {"on": 0.2, "off": 0.1, "flash_hz": 10.0, "lead_in": 0.1, "lead_out": 0.1, "t_r": 0.5},
    "schedule": {"n_runs": 6},
    "viewing": {"pixels_per_deg": 20.0},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_generator):
    folder = tmp_path_factory.mktemp("present") / "study"
    config = preset("paper", **SETTINGS)
    write_config(folder, config)
    write_plan(folder, config, make_stimuli(folder, config, tiny_generator), "01", 1)
    return folder


@pytest.fixture
def program(monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    measure, measured = SdlScreen.measure, []
    monkeypatch.setattr(SdlScreen, "measure", lambda screen, n=60: measured.append(n) or measure(screen, 20))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["hyperdecode", "--threads", "1", "present", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = capsys.readouterr()
        return leaving.value.code or 0, out, err

    call.measured = measured
    return call


def test_a_rehearsal_from_start_to_end(study, program):
    code, out, err = program(study, "--subject", "01", "--simulate-trigger")
    assert code == 0, err
    assert "sub-01, run 1: complete, 4 of 4 trials." in out and "Onsets: error mean" in out
    assert "frames are timed by the computer's clock" in out  # SDL's dummy display is none
    assert f"Next: run 2, hyperdecode present {study} --subject 01 --simulate-trigger" in out
    events = pd.read_csv(study / "sub-01/func/sub-01_task-faces_run-01_events.tsv", sep="\t")
    error = (events["onset"] - events["planned_onset"]).abs()
    assert len(events) == 4 and error.median() < 1 / 60 + 0.005
    log = json.loads((study / "sourcedata/presentation/sub-01/sub-01_task-faces_run-01_presentation.json").read_text())
    assert log["display"]["paced_by_program"] and log["display"]["driver"] == "dummy" and not log["real_data"]
    assert log["triggers"]["received"] == 3


def test_escape(study, program, monkeypatch):
    inner, flips = SdlScreen.flip, []

    def flip(screen):
        flips.append(screen)
        if hasattr(screen, "cleared") and len(flips) == 30:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_ESCAPE, scancode=0))
        return inner(screen)

    def clear(screen, inner=SdlScreen.clear):
        flips.clear()
        screen.cleared = True
        inner(screen)

    monkeypatch.setattr(SdlScreen, "flip", flip)
    monkeypatch.setattr(SdlScreen, "clear", clear)
    code, out, _ = program(study, "-s", "sub-01", "--run", "3", "--simulate-trigger", "--windowed")
    assert code == 3 and "sub-01, run 3: aborted, 2 of 4 trials, ended" in out and " s early." in out
    assert len(pd.read_csv(study / "sub-01/func/sub-01_task-faces_run-03_events.tsv", sep="\t")) == 2


def test_the_display_is_measured(study, program):
    code, out, _ = program(study, "--check")
    assert code == 0 and re.search(r"Refresh: (5\d|6\d)\.", out), "60 Hz by a clock that other programs disturb"
    assert program.measured == [300] and "picture 300 px" in out and "Flips do not wait for this display" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--subject", "07"], "no subject '07'"),
        (["--run", "9"], "--run 9: the study has runs 1 to 6"),
        (["--speed", "3"], "give --simulate-trigger too"),
    ],
)
def test_one_line_for_a_mistake(study, program, words, said):
    code, _, err = program(study, *words)
    assert code == 2 and err.startswith("Error: ") and said in err and err.count("\n") == 1


def test_help_names_every_flag():
    from hyperdecode.cli.main import app

    text = CliRunner().invoke(app, ["present", "--help"], env={"COLUMNS": "200"}).output
    assert all(
        flag in text for flag in ("--subject", "--run", "--simulate-trigger", "--windowed", "--check", "--force")
    )
    assert "[presentation]" in text and "[viewing]" in text and "exit code 3" in text

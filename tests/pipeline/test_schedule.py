"""The plan of a study: folder, figure, efficiency, and when it may be made anew."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hyperdecode.errors import UserError
from hyperdecode.fmri.efficiency import design_efficiency
from hyperdecode.pipeline.schedule import make_schedule
from hyperdecode.study.planned import read_plan
from hyperdecode.study.stimulus_set import read_stimuli
from tests.pipeline.studies import contents, new_study, rehearse, settings


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_generator):
    return new_study(tmp_path_factory.mktemp("schedule") / "study", settings(), tiny_generator)


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made, tmp_path / "study")


def plan(study, config=None, subject="01", **options):
    return make_schedule(study, config or settings(), read_stimuli(study), subject, **options)


def test_a_plan_and_its_files(study):
    found = plan(study)
    assert found.folder == study / "sourcedata" / "schedule" / "sub-01"
    assert found.figure == found.folder / "sub-01_task-faces_schedule.png"
    with Image.open(found.figure) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
        assert np.ptp(np.asarray(picture.convert("L"))) > 100
    for run in (1, 2):
        pd.testing.assert_frame_equal(found.runs[run - 1], read_plan(study, settings(), "01", run))
    faces = pd.concat(found.runs)
    counts = faces[faces["trial_type"] != "repeat"]["stim_file"].value_counts()
    assert all(counts[name] == (2 if name.startswith("test") else 1) for name in counts.index) and len(counts) == 24
    assert (faces["trial_type"] == "repeat").sum() == 3  # a tenth of 28
    # The last picture, its fixation, and what is scanned after it.
    for run, seconds, volumes in zip(found.runs, found.time.seconds, found.time.volumes, strict=True):
        end = run["onset"].iloc[-1] + run["duration"].iloc[-1] + 3.0 + 9.0
        assert volumes == np.ceil(end / 1.5) and seconds == pytest.approx(volumes * 1.5)


def test_efficiency_is_that_of_the_runs_by_themselves(study):
    found = plan(study)
    each = [
        design_efficiency(run["onset"], run["duration"], n, 1.5, high_pass=0.01, slice_time_ref=0.5)
        for run, n in zip(found.runs, found.time.volumes, strict=True)
    ]
    assert found.efficiency.lag1 == pytest.approx(np.mean([one.lag1 for one in each]))
    assert found.efficiency.lag2 == pytest.approx(np.mean([one.lag2 for one in each]))
    assert found.efficiency.inflation == pytest.approx(np.mean([np.median(one.inflation) for one in each]))
    apart = [np.median(one.separate_inflation) for one in each]
    assert found.efficiency.separate_inflation == pytest.approx(np.mean(apart))
    assert f"{found.efficiency.lag1:+.2f}" in found.efficiency.words
    slower = settings(timing={"off": 9.0})
    apart = new_study(study.parent / "slower", slower, None, study)
    assert plan(apart, slower).efficiency.lag1 < found.efficiency.lag1 - 0.2


def test_a_second_call_keeps_the_plan_and_subjects_have_their_own(study):
    first = plan(study)
    before = contents(study)
    again = plan(study)
    assert contents(study) == before
    pd.testing.assert_frame_equal(pd.concat(again.runs), pd.concat(first.runs))
    other = plan(study, subject="02")
    assert list(other.runs[0]["stim_file"]) != list(first.runs[0]["stim_file"])


def test_other_settings_are_refused_in_one_line_unless_forced(study):
    plan(study)
    before = contents(study)
    with pytest.raises(UserError, match=r"holds a plan made with n_runs = 2, not 3: put the setting back") as refused:
        plan(study, settings(n_runs=3))
    assert "\n" not in str(refused.value) and contents(study) == before
    assert len(plan(study, settings(n_runs=3), force=True).runs) == 3
    with pytest.raises(UserError, match="holds a plan made with n_runs = 3, not 2"):
        plan(study)
    plan(study, force=True)
    assert contents(study) == before, "a plan of the same settings is the same plan"


def test_a_plan_that_a_participant_has_seen_is_kept(study, monkeypatch):
    plan(study)
    triggers = [("5", 2.0 + 1.5 * k) for k in range(60)]
    session = rehearse(monkeypatch, study, settings(), 1, script=triggers, simulated=False)
    assert json.loads(session.files.log.read_text())["trigger"] == "scanner"
    before = contents(study)
    with pytest.raises(UserError, match=r"sub-01 has seen run 1 of the plan .*: keep the plan, or move that file away"):
        plan(study, settings(seed=2), force=True)
    assert contents(study) == before
    assert plan(study).runs  # reading it is free
    assert plan(study, subject="02", force=True).runs


def test_a_rehearsal_does_not_bind(study, monkeypatch):
    plan(study)
    rehearse(monkeypatch, study, settings(), 1)
    other = plan(study, settings(seed=2), force=True)
    assert list(other.runs[0]["stim_file"]) != list(plan(study, settings(seed=2)).runs[1]["stim_file"])

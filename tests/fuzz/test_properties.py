"""Properties that hold for whatever a file may hold, searched for counterexamples by hypothesis."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyperdecode.errors import UserError
from hyperdecode.study.bids_names import natural, parse_entities, read_json
from hyperdecode.study.config import StudyConfig, preset, read_config, write_config
from hyperdecode.study.estimate_tables import read_trials
from hyperdecode.study.events import read_events
from hyperdecode.study.planned import _problem
from hyperdecode.study.reading import is_plain_name, one_line, said
from hyperdecode.study.transforms import read_matrices, write_matrices
from hyperdecode.weights.limits import shown

FEW = settings(
    max_examples=60, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
"""Derandomized: the same examples on every machine, so a failure is repeated by running the test again."""
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
CELL = st.text(st.characters(codec="utf-8", exclude_characters='\t\r\n"'), min_size=1, max_size=30)
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
JSON = st.recursive(
    SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4))
)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def one_printable_line(message):
    assert message and message.isprintable() and len(message) < 1500


@FEW
@given(TEXT)
@example("..")
@example("a\0b")
@example("\u2028")
def test_a_plain_name_stays_in_its_folder(name):
    if is_plain_name(name):
        inside = (Path("/study/stimuli") / name).resolve()
        assert inside.parent == Path("/study/stimuli").resolve() and inside.name == name


@FEW
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20), min_size=2))
@example(["run-1²3", "run-\u0661", "run-12"])
def test_any_names_can_be_put_in_order(names):
    paths = sorted((Path("/a") / name for name in names), key=natural)
    assert len(paths) == len(names)
    for name in names:
        assert all(isinstance(value, str) for value in parse_entities(name).values())


@FEW
@given(TEXT, st.integers(1, 200))
def test_what_is_shown_of_a_file_is_one_line(text, length):
    assert one_line(ValueError(text), length).isprintable() and len(one_line(ValueError(text), length)) <= max(
        length, 10
    )
    assert shown(text).isprintable() and len(shown(text)) < 1000
    assert said(text, length).isprintable() and len(said(text, length)) <= length + 3


@FEW
@given(JSON)
def test_json_is_an_object_or_refused(folder, content):
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    try:
        found = read_json(path)
    except UserError as error:
        assert not isinstance(content, dict)
        one_printable_line(str(error))
    else:
        assert json.dumps(found) == json.dumps(content)


NUMBER = st.one_of(st.floats(), st.integers(-(10**30), 10**30), CELL, st.just("n/a"))


@FEW
@given(st.lists(st.tuples(NUMBER, NUMBER, CELL, CELL), min_size=1, max_size=6))
def test_events_are_seconds_or_refused(folder, rows):
    path = folder / "events.tsv"
    lines = ["onset\tduration\ttrial_type\tstim_file", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        table = read_events(path)
    except UserError as error:
        one_printable_line(str(error))
        return
    times = table[["onset", "duration"]].to_numpy(float)
    assert np.isfinite(times).all() and (times[:, 1] >= 0).all() and (np.diff(times[:, 0]) >= 0).all()
    assert len(table) == len(rows) and table["trial_type"].notna().all()


@FEW
@given(st.lists(CELL, min_size=1, max_size=6))
@example(["../../secret.png"])
@example(["/etc/passwd", ".."])
def test_pictures_of_estimates_are_names_without_folders(folder, names):
    path = folder / "trials.tsv"
    pd.DataFrame({"stim_file": names, "trial": range(len(names))}).to_csv(path, sep="\t", index=False)
    try:
        table = read_trials(path, "1", len(names), folder / "a.npy")
    except UserError as error:
        one_printable_line(str(error))
        return
    assert all("/" not in name for name in table.trials["stim_file"]) and table.kept.sum() == len(table.trials)


@FEW
@given(TEXT)
@example("../secret.png")
@example("..")
def test_a_plan_names_pictures_of_the_study(name):
    events = pd.DataFrame({"onset": [0.0], "duration": [1.0], "trial_type": ["train"], "stim_file": [name]})
    assert (_problem(events) is None) == is_plain_name(name)


@FEW
@given(st.sampled_from(["paper", "quick", "pggan"]), st.integers(0, 2**31 - 1), st.text("abcXYZ019", min_size=1), TEXT)
def test_a_study_is_read_as_it_was_written(folder, which, seed, task, name):
    try:
        config = StudyConfig.model_validate(preset(which, seed=seed, task=task).model_dump() | {"name": name})
    except ValueError:
        return
    write_config(folder, config)
    assert read_config(folder) == config


@FEW
@given(st.dictionaries(st.sampled_from([*StudyConfig.model_fields, "odd"]), JSON, min_size=1, max_size=3))
def test_settings_are_valid_or_refused(folder, content):
    import tomli_w

    try:
        text = tomli_w.dumps(content)
    except (TypeError, ValueError):
        return
    (folder / "study.toml").write_text(text, encoding="utf-8")
    try:
        assert isinstance(read_config(folder), StudyConfig)
    except UserError as error:
        one_printable_line(str(error))


@FEW
@given(st.lists(st.lists(st.floats(-100, 100), min_size=12, max_size=12), min_size=1, max_size=3))
def test_matrices_are_read_to_the_last_bit(folder, values):
    matrices = np.concatenate(
        [np.array(values).reshape(-1, 3, 4), np.tile([[[0.0, 0, 0, 1]]], (len(values), 1, 1))], axis=1
    )
    try:
        write_matrices(folder / "m.json", matrices)
    except UserError as error:
        one_printable_line(str(error))
        return
    np.testing.assert_array_equal(read_matrices(folder / "m.json"), matrices)

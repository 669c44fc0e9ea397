import os
import tomllib
from datetime import datetime

import pytest
import tomli_w

from hyperdecode.errors import UserError
from hyperdecode.pipeline.records import (
    Step,
    is_fresh,
    read_facts,
    read_record,
    refuse_other_settings,
    run_step,
    why_stale,
)
from hyperdecode.pipeline.seeds import derived_seed


@pytest.fixture
def make(tmp_path):
    """Builder of a step that copies in.txt to out.txt, with changes."""
    (tmp_path / "in.txt").write_text("one")

    def step(**changes):
        def work():
            made.write_text(source.read_text())
            return {"length": len(source.read_text()), "nothing": None}

        source, made = tmp_path / "in.txt", tmp_path / "sub" / "out.txt"
        made.parent.mkdir(exist_ok=True)
        parts = {"name": "copy", "version": 1, "settings": {"a": 1, "b": (1, 2), "c": None}}
        return Step(**parts | {"inputs": (source,), "outputs": (made,), "work": work} | changes)

    return step


@pytest.fixture
def run(tmp_path):
    return lambda step, **options: run_step(step, tmp_path, tmp_path / "records", **options)


def test_a_second_run_does_nothing(make, run, tmp_path):
    assert run(make()) and not run(make())
    assert run(make(), force=True) and not run(make())
    assert read_facts(tmp_path / "records", "copy") == {"length": 3}
    assert read_facts(tmp_path / "records", "never") == {}


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"settings": {"a": 2, "b": (1, 2)}}, {"settings": {"a": 1, "b": (1, 2), "c": 0}}]
)
def test_other_code_or_settings_run_again(make, run, change):
    run(make())
    assert run(make(**change)) and not run(make(**change)) and run(make())


def test_changed_inputs_and_outputs_run_again(make, run, tmp_path):
    run(make())
    (tmp_path / "in.txt").write_text("two")
    assert run(make()) and not run(make())
    out = tmp_path / "sub" / "out.txt"
    out.write_text("edited by hand")
    assert run(make()) and out.read_text() == "two"
    out.unlink()
    assert run(make()) and out.read_text() == "two"


def test_a_touched_file_of_the_same_content_is_not_changed(make, run, tmp_path):
    run(make())
    (tmp_path / "in.txt").write_text("one")
    assert not run(make())


def test_a_folder_that_moved_is_up_to_date(make, run, tmp_path):
    run(make())
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("in.txt", "sub", "records"):
        (tmp_path / name).rename(moved / name)
    here = Step(
        "copy", 1, {"a": 1, "b": (1, 2), "c": None}, (moved / "in.txt",), (moved / "sub" / "out.txt",), pytest.fail
    )
    assert not run_step(here, moved, moved / "records")


def test_work_that_fails_leaves_no_record(make, run):
    run(make())

    def fails():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run(make(work=fails), force=True)
    assert run(make())


def test_a_damaged_record_runs_again(make, run, tmp_path):
    run(make())
    record = tmp_path / "records" / "copy.toml"
    text = record.read_text()
    for harm in ("", "not toml [", text[: len(text) // 2]):
        record.write_text(harm)
        assert run(make())
    assert not run(make())


def test_the_record_says_what_was_done(make, run, tmp_path):
    run(make())
    record = tomllib.loads((tmp_path / "records" / "copy.toml").read_text())
    assert record["settings"] == {"a": 1, "b": [1, 2]}
    assert list(record["inputs"]) == ["in.txt"] and list(record["outputs"]) == ["sub/out.txt"]
    assert record["seconds"] >= 0 and record["peak_memory_mb"] > 10 and record["step"] == "copy"


def test_settings_may_hold_none_anywhere(make, run):
    """A BIDS sidecar may say null."""
    settings = {"bids": {"RepetitionTime": 1.5, "EchoTime": None, "SliceTiming": [0.0, None], "deep": [{"x": None}]}}
    assert run(make(settings=settings)) and not run(make(settings=settings))
    other = {"bids": settings["bids"] | {"EchoTime": 3}}
    assert run(make(settings=other))


def test_seeds_differ_by_their_use():
    uses = [(0,), (1,), (0, "noise"), (0, "noise", "01"), (0, "noise", "01", 1), (0, "noise", "01", 2), (0, "features")]
    uses += [(0, "noise", "02", 1), (0, "noise", "1", "01"), (1, "noise", "01", 1)]
    seeds = [derived_seed(*use) for use in uses]
    assert len(set(seeds)) == len(uses) and all(0 <= seed < 2**32 for seed in seeds)
    assert derived_seed(0, "noise", "01", 1) == seeds[4]


def test_outputs_of_other_settings_or_of_nobody_are_refused(make, run, tmp_path):
    records = tmp_path / "records"
    refuse_other_settings(make(), records)
    out = tmp_path / "sub" / "out.txt"
    out.parent.mkdir(exist_ok=True)
    out.write_text("someone else's")
    with pytest.raises(UserError, match="exists without a record of how it was made: use --force"):
        refuse_other_settings(make(), records)
    run(make())
    refuse_other_settings(make(), records)
    with pytest.raises(UserError, match="made with other a, d: use --force"):
        refuse_other_settings(make(settings={"a": 2, "b": (1, 2), "c": None, "d": 1}), records)


def test_a_step_that_was_killed_goes_on(make, run, tmp_path):
    def killed():
        (tmp_path / "sub" / "out.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make(work=killed))
    assert not is_fresh(make(), tmp_path, tmp_path / "records")
    refuse_other_settings(make(), tmp_path / "records")
    assert run(make()) and is_fresh(make(), tmp_path, tmp_path / "records")


def test_inputs_outside_the_study_are_watched_too(make, run, tmp_path):
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere.txt"
    elsewhere.write_text("1")
    assert run(make(inputs=(elsewhere,))) and not run(make(inputs=(elsewhere,)))
    elsewhere.write_text("2")
    assert run(make(inputs=(elsewhere,)))


@pytest.mark.parametrize(
    "changes, why",
    [
        ({}, []),
        ({"version": 3}, ["code version 1 -> 3"]),
        ({"settings": {"a": 2, "b": (1, 2), "c": None}}, ["setting a: 1 -> 2"]),
        ({"settings": {"a": 1, "b": (1, 2), "c": 5}}, ["setting c: unset -> 5"]),
        ({"settings": {"b": (1, 2, 3), "c": None}}, ["setting b: [1, 2] -> [1, 2, 3]", "setting a: 1 -> unset"]),
        ({"inputs": ()}, ["input in.txt is gone"]),
        ({"settings": {}}, ["setting a: 1 -> unset", "setting b: [1, 2] -> unset"]),
        ({"outputs": ()}, ["output sub/out.txt is not wanted any more"]),
    ],
)
def test_it_tells_why_a_step_would_run(make, run, tmp_path, changes, why):
    records = tmp_path / "records"
    assert why_stale(make(), tmp_path, records) == ["it has no readable record"]
    run(make())
    changed = make(**changes)
    assert why_stale(changed, tmp_path, records) == why
    assert bool(why) == (not is_fresh(changed, tmp_path, records))


def test_it_tells_which_file_changed(make, run, tmp_path):
    run(make())
    records, out = tmp_path / "records", tmp_path / "sub" / "out.txt"
    (tmp_path / "in.txt").write_text("two")
    out.write_text("edited")
    why = ["input in.txt has changed", "output sub/out.txt was altered"]
    assert why_stale(make(), tmp_path, records) == why
    out.unlink()
    assert why_stale(make(), tmp_path, records) == [why[0], "output sub/out.txt is missing"]
    many = tuple(tmp_path / f"new-{k}.txt" for k in range(5))
    for path in many:
        path.write_text("new")
    told = why_stale(make(inputs=(tmp_path / "in.txt", *many)), tmp_path, records)
    assert told[0] == "input new-0.txt is new (and 4 more)"


def test_records_of_older_versions_stay_good(make, run, tmp_path):
    """What older versions wrote has neither version, process nor end, and the same key."""
    run(make())
    path = tmp_path / "records" / "copy.toml"
    content = tomllib.loads(path.read_text())
    kept = ("step", "key", "hyperdecode", "python", "seconds", "settings", "facts", "inputs", "outputs")
    path.write_text(tomli_w.dumps({name: content[name] for name in kept}))
    assert is_fresh(make(), tmp_path, tmp_path / "records") and why_stale(make(), tmp_path, tmp_path / "records") == []
    assert why_stale(make(version=2), tmp_path, tmp_path / "records") == ["it was made by another version of the code"]


def test_the_record_of_a_step_at_work_and_of_one_that_failed(make, run, tmp_path):
    seen = {}

    def fails():
        seen.update(read_record(tmp_path / "records", "copy"))
        raise UserError("the disk\nis full")

    with pytest.raises(UserError):
        run(make(work=fails))
    assert seen["state"] == "running" and seen["process"]["pid"] == os.getpid() and "ended" not in seen
    failed = read_record(tmp_path / "records", "copy")
    assert failed["state"] == "failed" and failed["error"] == "the disk is full" and failed["ended"]
    run(make())
    done = read_record(tmp_path / "records", "copy")
    assert "state" not in done and done["version"] == 1 and done["packages"]["numpy"]
    assert datetime.fromisoformat(done["started"]) <= datetime.fromisoformat(done["ended"])


def test_what_a_killed_step_left_behind_goes_before_the_next_try(make, run, tmp_path):
    run(make())
    record, out = tmp_path / "records" / "copy.toml", tmp_path / "sub" / "out.txt"
    content = tomllib.loads(record.read_text())
    left = [out.with_name(".out.txt.abcd1234.txt"), record.with_name(".copy.toml.abcd1234.toml")]

    def killed(**process):
        for path in left:
            path.write_text("half")
        begun = {name: content[name] for name in ("step", "version", "settings")}
        record.write_text(tomli_w.dumps(begun | {"state": "running", "process": content["process"] | process}))

    killed(born="another boot")
    assert run(make()) and not any(path.exists() for path in left)
    for process in ({}, {"host": "another-node"}):
        killed(**process)
        assert run(make()) and all(path.exists() for path in left), "somebody may be writing them"
    killed(host="another-node")
    for path in left:
        os.utime(path, (0, 0))
    assert run(make()) and not any(path.exists() for path in left)


def test_a_kill_while_a_record_is_begun_leaves_nothing(make, run, tmp_path):
    left = tmp_path / "records" / ".copy.toml.abcd1234.toml"
    left.parent.mkdir()
    left.write_text("half")
    other = left.with_name(".other.toml.abcd1234.toml")
    other.write_text("half")
    assert run(make()) and not left.exists() and other.exists()
    left.write_text("half")
    assert run(make(version=2)) and not left.exists(), "its last record is of a step that ended"


def test_a_setting_of_a_harmed_record_is_told_in_a_short_line(make, run, tmp_path):
    run(make())
    record = tmp_path / "records" / "copy.toml"
    content = tomllib.loads(record.read_text())
    record.write_text(tomli_w.dumps(content | {"key": "other", "settings": {"c\x1b[2J" * 9000: 1}}))
    with pytest.raises(UserError) as refused:
        refuse_other_settings(make(), tmp_path / "records")
    for words in (str(refused.value), *why_stale(make(), tmp_path, tmp_path / "records")):
        assert len(words) < 400 and words.isprintable()

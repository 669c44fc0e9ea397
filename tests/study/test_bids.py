from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.study.bids import index_bids, load_run, parse_entities

REAL = Path(__file__).parents[2] / "../shared/data/studyforrest-localizer"
STEM = "sub-01_task-faces_run-1"


@pytest.fixture
def bids(tmp_path):
    root = tmp_path / "study"
    func, anat = root / "sub-01" / "func", root / "sub-01" / "anat"
    func.mkdir(parents=True)
    anat.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "tiny", "BIDSVersion": "1.9.0"}')
    (root / "task-faces_bold.json").write_text('{"RepetitionTime": 1.5, "TaskName": "faces", "EchoTime": 0.03}')
    (func / f"{STEM}_bold.json").write_text('{"EchoTime": 0.05}')
    write_bold(func / f"{STEM}_bold.nii.gz")
    write_events(func / f"{STEM}_events.tsv")
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4)), anat / "sub-01_T1w.nii.gz")
    return root


def write_bold(path, shape=(5, 4, 3, 20), t_r=1.5, value=None):
    data = np.random.default_rng(0).integers(1, 1000, shape).astype(np.int16)
    image = nib.Nifti1Image(data if value is None else np.full(shape, value, np.int16), np.eye(4))
    if len(shape) == 4:
        image.header.set_zooms((3, 3, 3, t_r))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def write_events(path, rows=((5.0, 1.0, "house"), (2.0, 1.0, "face")), header=("onset", "duration", "trial_type")):
    path.write_text("\n".join(["\t".join(header), *("\t".join(map(str, row)) for row in rows)]) + "\n")


def func(root, ending):
    return root / "sub-01" / "func" / f"{STEM}_{ending}"


def load(root):
    return load_run(index_bids(root).runs[0])


def test_a_run_with_its_files(bids):
    (run,) = index_bids(bids).runs
    assert (run.subject, run.session, run.task, run.run) == ("01", None, "faces", "1")
    assert run.t1w == bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    assert run.sidecar["EchoTime"] == 0.05 and run.sidecar["TaskName"] == "faces"
    assert index_bids(bids).name == "tiny" and index_bids(bids).subjects == ("01",)
    loaded = load_run(run)
    assert loaded.image.shape == (5, 4, 3, 20) and loaded.t_r == 1.5
    assert loaded.events["onset"].tolist() == [2.0, 5.0]
    assert loaded.events["trial_type"].tolist() == ["face", "house"]


def test_sessions_and_inherited_events(bids):
    for session in ("a", "b"):
        folder = bids / "sub-02" / f"ses-{session}" / "func"
        folder.mkdir(parents=True)
        write_bold(folder / f"sub-02_ses-{session}_task-faces_bold.nii.gz")
        (bids / "sub-02" / f"ses-{session}" / "anat").mkdir()
        nib.save(
            nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4)),
            bids / "sub-02" / f"ses-{session}" / "anat" / f"sub-02_ses-{session}_T1w.nii.gz",
        )
    write_events(bids / "task-faces_events.tsv")
    (bids / "sub-02" / "ses-b" / "sub-02_ses-b_bold.json").write_text('{"RepetitionTime": 1.25}')
    runs = {(r.subject, r.session): r for r in index_bids(bids).runs}
    assert set(runs) == {("01", None), ("02", "a"), ("02", "b")}
    assert runs["02", "a"].events == bids / "task-faces_events.tsv"
    assert runs["01", None].events.name == f"{STEM}_events.tsv"
    assert runs["02", "b"].t1w is not None and "ses-b" in runs["02", "b"].t1w.name
    assert runs["02", "a"].sidecar["RepetitionTime"] == 1.5
    assert runs["02", "b"].sidecar["RepetitionTime"] == 1.25


def test_derivatives_are_not_runs(bids):
    deep = bids / "derivatives" / "tool" / "sub-01" / "func"
    deep.mkdir(parents=True)
    write_bold(deep / f"{STEM}_bold.nii.gz")
    assert len(index_bids(bids).runs) == 1


def test_names():
    assert parse_entities("sub-02_ses-a_task-x_bold.nii.gz") == {
        "sub": "02", "ses": "a", "task": "x", "suffix": "bold", "extension": ".nii.gz"
    }  # fmt: skip
    assert parse_entities("notes.txt") == {}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_inside(path):
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) // 2]))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [truncate, truncate_inside, flip, lambda p: p.write_bytes(b"")])
def test_damaged_nifti(bids, harm):
    harm(func(bids, "bold.nii.gz"))
    with pytest.raises(UserError, match=f"{STEM}_bold.nii.gz is truncated or not a NIfTI") as error:
        load(bids)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "value", "words"), [((5, 4, 3), None, "4D"), ((5, 4, 3, 20), 0, "nothing but zeros")]
)
def test_unusable_nifti(bids, shape, value, words):
    write_bold(func(bids, "bold.nii.gz"), shape=shape, value=value)
    with pytest.raises(UserError, match=words):
        load(bids)


def test_repetition_times(bids):
    write_bold(func(bids, "bold.nii.gz"), t_r=1.79)
    with pytest.warns(DataWarning, match=r"header says TR 1\.79 s, the sidecar 1\.5 s"):
        assert load(bids).t_r == 1.5
    (bids / "task-faces_bold.json").unlink()
    assert load(bids).t_r == pytest.approx(1.79)
    write_bold(func(bids, "bold.nii.gz"), t_r=0)
    with pytest.raises(UserError, match="no repetition time"):
        load(bids)
    func(bids, "bold.json").write_text('{"RepetitionTime": "fast"}')
    with pytest.raises(UserError, match="'fast'"):
        load(bids)


def test_milliseconds_in_the_header(bids):
    (bids / "task-faces_bold.json").unlink()
    path = func(bids, "bold.nii.gz")
    image = nib.load(path)
    image.header.set_zooms((3, 3, 3, 1500))
    image.header.set_xyzt_units("mm", "msec")
    other = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    path.unlink()
    nib.save(other, path)
    assert load(bids).t_r == pytest.approx(1.5)


@pytest.mark.parametrize("column", ["onset", "duration", "trial_type"])
def test_events_without_a_column(bids, column):
    header = [c for c in ("onset", "duration", "trial_type") if c != column]
    write_events(func(bids, "events.tsv"), rows=[(1, 1)], header=header)
    with pytest.raises(UserError, match=rf"events.tsv lacks the column '{column}'"):
        load(bids)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(2, 1, "a"), (30.0, 1, "b")], "1 onsets lie past the run's end"),
        ([("n/a", 1, "a")], "row 1 has onset"),
        ([(1, "long", "a")], "row 1 has duration 'long'"),
        ([(1, -1, "a")], "negative"),
        ([(1, 1, "n/a")], "no trial_type"),
        ([], "no rows"),
    ],
)
def test_bad_events(bids, rows, words):
    write_events(func(bids, "events.tsv"), rows=rows)
    with pytest.raises(UserError, match=words) as error:
        load(bids)
    assert "events.tsv" in str(error.value) and "\n" not in str(error.value)


def test_missing_and_empty_events(bids):
    func(bids, "events.tsv").write_text("")
    with pytest.raises(UserError, match="not a tab-separated table"):
        load(bids)
    func(bids, "events.tsv").unlink()
    with pytest.raises(UserError, match=r"events\.tsv does not exist"):
        load(bids)


def test_folders_that_are_not_bids(bids, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        index_bids(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no dataset_description\.json"):
        index_bids(bids / "sub-01")
    func(bids, "bold.nii.gz").unlink()
    with pytest.raises(UserError, match="holds no BOLD run"):
        index_bids(bids)
    (bids / "dataset_description.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        index_bids(bids)


def add_run(bids, name, shape=(5, 4, 3, 20)):
    folder = bids / name.split("_")[0] / "func"
    folder.mkdir(parents=True, exist_ok=True)
    write_bold(folder / f"{name}_bold.nii.gz", shape)
    return folder


def refused(bids, words, *names):
    with pytest.raises(UserError, match=words) as error:
        index_bids(bids)
    assert "\n" not in str(error.value)
    for name in names:
        assert name in str(error.value)


def test_runs_in_natural_order(bids):
    for run in (10, 2):
        add_run(bids, f"sub-01_task-faces_run-{run}")
    assert [run.run for run in index_bids(bids).runs] == ["1", "2", "10"]


def test_two_files_of_one_folder_that_apply(bids):
    (bids / "task-faces_run-1_bold.json").write_text("{}")
    refused(bids, "both apply to", "task-faces_bold.json", "task-faces_run-1_bold.json", f"{STEM}_bold.nii.gz")
    (bids / "task-faces_run-1_bold.json").unlink()
    for name in ("task-faces_events.tsv", "task-faces_run-1_events.tsv"):
        write_events(bids / name)
    refused(bids, "both apply to", "task-faces_events.tsv", "task-faces_run-1_events.tsv")
    # One of another run, acquisition or task does not apply.
    (bids / "task-faces_run-1_events.tsv").rename(bids / "task-faces_run-2_events.tsv")
    (bids / "task-faces_acq-mb_bold.json").write_text('{"EchoTime": 9}')
    (bids / "task-objects_bold.json").write_text('{"EchoTime": 9}')
    (run,) = index_bids(bids).runs
    assert run.sidecar == {"RepetitionTime": 1.5, "TaskName": "faces", "EchoTime": 0.05}


def test_sidecars_of_every_level(bids):
    folder = bids / "sub-02" / "ses-a" / "func"
    folder.mkdir(parents=True)
    write_bold(folder / "sub-02_ses-a_task-faces_bold.nii.gz")
    for path, content in (
        (bids / "bold.json", {"a": 0, "b": 0, "c": 0, "d": 0}),
        (bids / "sub-02" / "sub-02_bold.json", {"b": 1, "c": 1, "d": 1}),
        (bids / "sub-02" / "ses-a" / "sub-02_ses-a_bold.json", {"c": 2, "d": 2}),
        (folder / "sub-02_ses-a_task-faces_bold.json", {"d": 3, "EchoTime": None}),
    ):
        path.write_text(json.dumps(content))
    (bids / "task-faces_bold.json").unlink()
    (run,) = (run for run in index_bids(bids).runs if run.subject == "02")
    assert run.sidecar == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_echoes_are_one_run_that_is_not_read(bids):
    for echo in (1, 2, 3):
        folder = add_run(bids, f"sub-02_task-faces_echo-{echo}")
    write_events(folder / "sub-02_task-faces_events.tsv")
    (_, run) = index_bids(bids).runs
    assert run.stem == "sub-02_task-faces" and len(run.echoes) == 3 and run.bold == run.echoes[0]
    assert run.events == folder / "sub-02_task-faces_events.tsv"
    with pytest.raises(UserError, match="is one of 3 echoes of sub-02_task-faces: combine them first") as error:
        load_run(run)
    assert "\n" not in str(error.value) and "sub-02_task-faces_echo-1_bold.nii.gz" in str(error.value)


def test_a_single_echo_is_an_ordinary_run(bids):
    folder = add_run(bids, "sub-02_task-faces_echo-1")
    write_events(folder / "sub-02_task-faces_events.tsv")
    (_, run) = index_bids(bids).runs
    assert not run.echoes and load_run(run).image.shape == (5, 4, 3, 20)


def test_phase_is_no_run(bids):
    for part in ("mag", "phase", "real", "imag"):
        add_run(bids, f"sub-02_task-faces_part-{part}")
    dataset = index_bids(bids)
    assert [run.stem for run in dataset.runs] == [STEM, "sub-02_task-faces_part-mag"]
    assert [path.name.split("_")[2] for path in dataset.skipped] == ["part-imag", "part-phase", "part-real"]
    for path in (func(bids, "bold.nii.gz"), dataset.runs[1].bold):
        path.unlink()
    refused(bids, "no magnitude", "sub-02_task-faces_part-imag_bold.nii.gz")


def test_names_that_mislead(bids):
    write_bold(func(bids, "bold.nii"))
    refused(bids, "are one run twice", f"{STEM}_bold.nii", f"{STEM}_bold.nii.gz")
    func(bids, "bold.nii").rename(bids / "sub-01" / "func" / "sub-02_task-faces_bold.nii")
    refused(bids, "is named sub-02 and lies in sub-01")
    (bids / "sub-01" / "func" / "sub-02_task-faces_bold.nii").rename(bids / "sub-01" / "func" / "sub-01_bold.nii")
    refused(bids, "is not named as BIDS asks", "sub-01_bold.nii")


def test_a_link_to_a_folder_above_is_not_followed_round_and_round(bids):
    (bids / "sub-01" / "again").symlink_to(bids / "sub-01", target_is_directory=True)
    assert len(index_bids(bids).runs) == 1


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
def test_data_left_on_the_disk(bids, extension):
    if extension == ".nii":
        func(bids, "bold.nii.gz").unlink()
        write_bold(func(bids, "bold.nii"))
    (run,) = index_bids(bids).runs
    kept, left = load_run(run), load_run(run, in_memory=False)
    assert nib.is_proxy(left.image.dataobj) and not nib.is_proxy(kept.image.dataobj)
    np.testing.assert_array_equal(np.asarray(left.image.dataobj), kept.image.dataobj)
    assert left.events.equals(kept.events) and left.t_r == kept.t_r
    truncate(run.bold)
    with pytest.raises(UserError, match="truncated"):
        load_run(run, in_memory=False)


@pytest.mark.skipif(not REAL.is_dir(), reason="the studyforrest localizer is not beside this repository")
def test_the_real_run():
    (run,) = index_bids(REAL).runs
    loaded = load_run(run)
    assert loaded.image.shape == (80, 80, 35, 156) and loaded.t_r == 2.0
    assert loaded.events["trial_type"].value_counts().to_dict() == dict.fromkeys(
        ("face", "body", "house", "scene", "object", "scramble"), 32
    )
    assert run.t1w is not None and run.stem == "sub-02_task-oneback_run-1"
    assert json.loads((REAL / "dataset_description.json").read_text())["Name"] == index_bids(REAL).name

"""What fuzzing found, one test a mend."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tracemalloc
import zlib
from dataclasses import fields
from functools import partial

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import sha256_bytes, write_text
from hyperdecode.generators.attribute_store import attribute_spaces, load_attributes
from hyperdecode.generators.registry import load_generator
from hyperdecode.pipeline import predict
from hyperdecode.pipeline.new_trials import NewTrials, _read_table
from hyperdecode.pipeline.presented import presented_files
from hyperdecode.study.bids import BoldRun, index_bids, resolve_repetition_time
from hyperdecode.study.bids_names import FileIndex, natural, read_json
from hyperdecode.study.config import read_config, write_config
from hyperdecode.study.derivatives import Derivatives
from hyperdecode.study.estimate_files import read_array
from hyperdecode.study.events import read_events
from hyperdecode.study.fmriprep import find_fmriprep_runs, load_fmriprep_confounds
from hyperdecode.study.images import open_image, read_image, repetition_time
from hyperdecode.study.layout import Layout
from hyperdecode.study.raw import write_dataset
from hyperdecode.study.reading import is_plain_name, one_line, read_regular
from hyperdecode.study.shown import _mark_of
from hyperdecode.study.stimulus_set import read_picture, read_stimuli
from hyperdecode.study.transforms import read_matrices, read_warp
from hyperdecode.weights.boundaries import attributes_path, read_attribute_tensors, read_boundary
from hyperdecode.weights.imported import load_imported
from hyperdecode.weights.limits import read_bytes
from tests.fuzz.targets import AFFINE, CONFIG, SHAPE, TARGETS


def refused(read, *args, words=""):
    with pytest.raises(UserError) as error:
        read(*args)
    message = str(error.value)
    assert message.isprintable() and len(message) < 1000 and words in message, message
    return message


@pytest.fixture
def made(tmp_path):
    """Return a function that writes the sound files of a reader."""

    def make(name):
        TARGETS[name].make(tmp_path)
        return tmp_path

    return make


# Files that are none


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_pipes_devices_and_folders_are_not_read(tmp_path, make):
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(ValueError, match="no regular file"):
        read_regular(path, 100)
    refused(read_json, path, words="no regular file")
    refused(read_picture, path, words="no regular file")
    refused(read_matrices, path)
    refused(open_image, path)
    assert _mark_of(path) is None


def test_a_bounded_read_makes_no_room_for_the_bound(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    tracemalloc.start()
    assert read_bytes(tmp_path / "a") == b"abc"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    with pytest.raises(ValueError, match="at most 2"):
        read_regular(tmp_path / "a", 2)


# Messages


def test_what_an_error_says_commands_no_terminal():
    assert one_line(ValueError("a\n\x1b[2J b\u2028c")) == "a \N{REPLACEMENT CHARACTER}[2J b c"
    assert one_line(KeyError()) == "KeyError" and len(one_line(ValueError("x" * 999))) == 120


def test_values_of_a_study_are_cut_in_messages(tmp_path):
    for line in (
        '"' + "k" * 5000 + '" = 1',
        'task = "' + "-" * 5000 + '"',
        f"seed = 0x{'f' * 5000}",
        'task = "\\u001b["',
    ):
        (tmp_path / "study.toml").write_text(f"{line}\n")
        refused(read_config, tmp_path)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "seed = " + "9" * 5000, "\udcff"])
def test_no_toml(tmp_path, text):
    (tmp_path / "study.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(read_config, tmp_path, words="not readable as TOML")


def test_cells_are_shown_in_one_line(made):
    folder = made("estimates: .npy")
    table = folder / "sub-01" / "sub-01_stat-beta_trials.tsv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([rows[0] + "\ttrial", *(f'{row}\t"a\nb"' for row in rows[1:])]) + "\n")
    refused(TARGETS["estimates: .npy"].read, folder, words="stands there twice")
    events = folder / "events.tsv"
    events.write_text('onset\tduration\ttrial_type\n"a\nb"\t1\tx\n')
    refused(read_events, events, words="expected seconds")
    events.write_text("\t".join(["onset"] + ["c" * 50] * 300) + "\n1\n")
    refused(read_events, events, words="lacks the column")


# Names


def test_digits_that_are_no_numbers(tmp_path):
    names = [tmp_path / "run-1²3", tmp_path / "run-٣", tmp_path / "run-2"]
    assert len(sorted(names, key=natural)) == 3


def test_names_that_cannot_be_printed(made):
    folder = made("bids")
    (folder / "sub-01" / "func" / "sub-01_task-\x1b[2J_bold.nii.gz").touch()
    refused(index_bids, folder, words="cannot be printed")


def test_more_files_than_a_data_set_has(made, monkeypatch):
    monkeypatch.setattr("hyperdecode.study.bids_names.MAX_FILES", 3)
    refused(FileIndex, made("bids"), words="more than 3 files")


@pytest.mark.parametrize("name", ["..", ".", "", "../a.png", "/a.png", "a/b.png", "a\0b", "b" * 256, "\x1b", 1.0, None])
def test_no_names_of_files(name):
    assert not is_plain_name(name)


# Sidecars, tables, descriptions


def test_a_repetition_time_beyond_all_numbers(tmp_path):
    for stated in (10**400, float("inf"), float("nan"), True):
        refused(resolve_repetition_time, tmp_path, _image(), {"RepetitionTime": stated}, words="RepetitionTime")


def test_unknown_units_of_time():
    image = _image()
    image.header["xyzt_units"] = 7
    assert repetition_time(image) == 1.5
    image.header["xyzt_units"] = 2 | 16
    assert repetition_time(image) == pytest.approx(0.0015)


def _image():
    image = nib.Nifti1Image(np.ones((*SHAPE, 3), np.float32), AFFINE)
    image.header.set_zooms((2, 2, 2, 1.5))
    return image


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'participant_id\n"open\n', b"a\tb\n1\t2\t3\n1\t2\t3\t4\n"])
def test_participants_that_are_no_table(made, content):
    folder = made("participants")
    (folder / "participants.tsv").write_bytes(content)
    refused(write_dataset, folder, CONFIG, "From here.")


@pytest.mark.parametrize("content", ['{"GeneratedBy": 3}', '{"GeneratedBy": ["a"]}', "[" * 5000, "[]", '{"Name": 3}'])
def test_descriptions_of_other_data(tmp_path, content):
    for folder in ("out", "raw"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "dataset_description.json").write_text(content)
    refused(Derivatives(tmp_path / "out", tmp_path).prepare, words="another data set")
    Derivatives(tmp_path / "new", tmp_path / "raw").prepare()
    assert json.loads((tmp_path / "new" / "dataset_description.json").read_text())["Name"] == "hyperdecode: raw"


def test_confounds_whose_sidecar_never_ends(made):
    folder = made("fmriprep")
    (run,) = find_fmriprep_runs(folder / "fmriprep", index_bids(folder / "raw").runs)
    sidecar = run.confounds.with_suffix(".json")
    sidecar.unlink()
    sidecar.symlink_to("/dev/zero")
    refused(load_fmriprep_confounds, run, ("motion",), words="no regular file")


def test_matrices_beyond_all_numbers(tmp_path):
    path = tmp_path / "a.json"
    for content in (f'{{"Matrices": [[{"9" * 400}]]}}', "[1]", "3", '{"Matrices": [[1], [1, 2]]}', "[" * 5000):
        path.write_text(content)
        refused(read_matrices, path, words="no readable file of matrices")


# Images


def test_images_that_unpack_to_much(tmp_path, capfd):
    path = tmp_path / "a.nii.gz"
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1024, 1024, 512))
    header["vox_offset"] = 352
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4, 1) + gzip.compress(b"\0" * 2**26) * 8)
    for read in (lambda: read_image(path, 3), lambda: open_image(path)):
        refused(read, words="truncated or not a NIfTI")
    header.set_data_shape((1024, 1024, 512, 3))
    header.set_data_dtype(np.float64)
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4, 1))
    refused(read_warp, path, words="displacement field")
    # A mask of as many voxels as any has is packed as much, and read.
    mask = np.zeros((256, 256, 200), np.uint8)
    mask[100, 100, 100] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), path)
    assert int(np.asarray(read_image(path, 3).dataobj).sum()) == 1
    assert capfd.readouterr() == ("", "")


def test_scaled_volumes_are_those_of_nibabel(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).integers(-99, 99, (*SHAPE, 3), dtype=np.int16), AFFINE)
    image.header.set_slope_inter(0.37, -4.1)
    nib.save(image, tmp_path / "a.nii.gz")
    expected = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj, np.float64).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.nii.gz", 4).dataobj), expected)


def test_headers_that_nibabel_mends_aloud(tmp_path, capfd):
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<h", data, 254, 99)
    (tmp_path / "a.nii").write_bytes(data)
    read_image(tmp_path / "a.nii", 3)
    assert capfd.readouterr().err == ""


# Pictures and stimuli


def _png(*chunks, width=8, height=8):
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = (b"IDAT", zlib.compress(b"\0" * (height * (3 * width + 1)) if width * height < 10**6 else b""))
    parts = [head, *chunks, body, (b"IEND", b"")]
    sums = (struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(sums)


def test_pictures_made_to_do_harm(tmp_path):
    path = tmp_path / "a.png"
    bomb = zlib.compress(b"\0" * 2**24, 9)
    for data in (
        _png(width=2**31 - 1, height=2),
        _png(width=65535, height=65535),
        _png((b"zTXt", b"hyperdecode\0\0" + bomb)),
        _png((b"cHRM", b"ab")),
        b"",
    ):
        path.write_bytes(data)
        refused(read_picture, path, words="readable PNG")
        assert _mark_of(path) is None
    path.write_bytes(_png())
    assert read_picture(path).shape == (8, 8, 3)


def _edit(folder, column, value, row=0):
    path = folder / "stimuli" / "manifest.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    rows[row + 1][rows[0].index(column)] = value
    path.write_text("\n".join("\t".join(line) for line in rows) + "\n")


@pytest.mark.parametrize(
    "name", ["..", "../secret.png", "/etc/passwd", "b" * 300 + ".png", "a\x1b[2Jb.png", "sub/a.png"]
)
def test_stimuli_lie_in_their_folder(made, name):
    folder = made("stimuli")
    _edit(folder, "stim_file", name)
    refused(read_stimuli, folder, words="outside its folder")


def test_a_stimulus_may_be_a_link_into_the_study_but_not_out_of_it(made, tmp_path_factory):
    """git-annex keeps pictures as links."""
    folder = made("stimuli")
    picture = folder / "stimuli" / "test-0001.png"
    (folder / ".git").mkdir()
    picture.rename(folder / ".git" / "object.png")
    picture.symlink_to("../.git/object.png")
    assert len(read_stimuli(folder).names("test")) > 0
    secret = tmp_path_factory.mktemp("outside") / "secret.png"
    (folder / ".git" / "object.png").rename(secret)
    picture.unlink()
    picture.symlink_to(secret)
    refused(read_stimuli, folder, words="absent or was changed")


def test_a_latent_beyond_the_last(made):
    folder = made("stimuli")
    for latent in ("5", "9223372036854775807", "18446744073709551615"):
        _edit(folder, "latent", latent)
        refused(read_stimuli, folder, words="do not belong together")


@pytest.mark.parametrize("change", [lambda z: z * np.nan, lambda z: z[:, 0], lambda z: z[:2], lambda z: z.astype(int)])
def test_latents_that_are_none(made, change):
    folder = made("stimuli")
    z = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    data = save({"z": z, "w": np.ascontiguousarray(change(z))})
    (folder / "stimuli" / "latents.safetensors").write_bytes(data)
    said = json.loads((folder / "stimuli" / "manifest.json").read_text()) | {"latents_sha256": sha256_bytes(data)}
    (folder / "stimuli" / "manifest.json").write_text(json.dumps(said))
    refused(read_stimuli, folder)


# Arrays


@pytest.mark.parametrize("head", ["(" * 3000, "[" * 200 + "]" * 200, "1" * 9000, "-" * 4000 + "1"])
def test_headers_of_arrays_nested_too_deeply(tmp_path, head):
    path = tmp_path / "sub-01_stat-z_trials.npy"
    path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head.encode())
    refused(read_boundary, path)
    refused(read_array, path)


def test_sides_of_an_array_that_are_no_numbers(tmp_path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 24), }\n"
    path = tmp_path / "sub-01_stat-z_trials.npy"
    path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + b"\0" * 96)
    refused(read_array, path)


def test_attributes_of_endless_names():
    one = np.ones(1, np.float32)
    for name in ("c" * 5000, f"z.{'c' * 5000}.normal", "a\nb"):
        with pytest.raises(WeightFileError) as error:
            read_attribute_tensors(save({name: one}), "a.safetensors")
        assert str(error.value).isprintable() and len(str(error.value)) < 300


# Logs, tables and names that have no bound


@pytest.fixture
def presented(tmp_path):
    """Files of a run that was presented."""
    files = presented_files(tmp_path, CONFIG, "01", 1)
    for path, text in ((files.events, "onset\n"), (files.log, '{"outcome": "complete", "trigger": "scanner"}')):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert files.state == "complete scanner"
    return files


@pytest.mark.parametrize(
    "log",
    ["[" * 100_000, "{}", "null", '{"outcome": "complete", "trigger": "../../x"}', '{"outcome": 1, "trigger": []}'],
)
def test_a_log_of_a_presentation_that_says_nothing(presented, log):
    presented.log.write_text(log)
    assert presented.state == "foreign"
    assert presented.set_aside().parent == presented.log.parent


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_log_of_a_presentation_that_is_no_file(presented, make):
    presented.log.unlink()
    make(presented.log)
    assert presented.state == "foreign"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_table_of_new_trials_that_is_no_file(tmp_path, make):
    make(tmp_path / "trials.tsv")
    refused(_read_table, tmp_path / "trials.tsv", words="is not readable as a table")


def test_attributes_larger_than_any(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    path = tmp_path / "attributes" / "mine.safetensors"
    path.parent.mkdir()
    path.touch()
    os.truncate(path, 2**40)
    refused(attribute_spaces, "mine", words="1099511627776 bytes")


@pytest.mark.parametrize("name", ["x" * 100_000, "../../mine", "/etc/passwd", "a\0b", "two\nlines", "\x1b[2J", ""])
def test_names_that_no_generator_has(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.safetensors").write_bytes(b"no attributes")
    assert attribute_spaces(name) == {}
    refused(load_attributes, name, "w", words="in no latent space")
    refused(attributes_path, name, words="cannot name a generator")
    refused(load_generator, name, words="no generator")
    refused(load_imported, name, words="cannot name a generator")


def test_labels_leave_names_short_enough(tmp_path):
    longest = "a" * 50
    config = CONFIG.model_validate(CONFIG.model_dump() | {"subjects": (longest,), "task": longest})
    stem = f"sub-{longest}_ses-{longest}_task-{longest}_run-01"
    run = BoldRun(longest, longest, longest, "01", tmp_path, tmp_path, {}, None, stem)
    layout = Layout(tmp_path)
    write_text(layout.zmap(run, "space-MNI152NLin2009cAsym_"), "x")
    write_text(presented_files(tmp_path, config, longest, 1).events, "x")
    write_config(tmp_path, CONFIG)
    path = tmp_path / "study.toml"
    path.write_text(path.read_text().replace('task = "faces"', f'task = "{longest}b"'))
    refused(read_config, tmp_path, words="at most 50")


def test_names_of_columns_and_trials_are_shown_on_one_short_line():
    table = pd.DataFrame({"two\nlines": ["x"], "\x1b[2J": ["y"], "c" * 10_000: ["z"]})
    refused(NewTrials(np.zeros((1, 2), np.float32), table).averaged, "run", words="has no column 'run': it has")
    odd = pd.DataFrame({"trial_type": ["two\nlines", "\x1b[2J", "c" * 10_000]})
    refused(NewTrials(np.zeros((3, 2), np.float32), odd).only, ["x"], words="no trial has the trial_type 'x'")


@pytest.mark.parametrize(
    "name", ["../../../outside.png", "/elsewhere/outside.png", "trial-0001.png/../../x.png", "nan", ""]
)
def test_predictions_name_no_picture_outside_their_folder(tmp_path, name):
    """The table and its record may have come from somebody else, with hashes that fit."""
    quiet = {"_run_step": lambda self, step, force: [], "_decode_step": lambda self: None}
    quiet["_draw_step"] = lambda self, table: pytest.fail("drawn")
    source = type("Source", (), {"prepare": lambda self: []})()
    parts = {field.name: None for field in fields(predict._Prediction)} | {"source": source, "folder": tmp_path}
    work = type("Quiet", (predict._Prediction,), quiet)(**parts)
    (tmp_path / "predictions.tsv").write_text(f"volume\tpicture\n0\ttrial-0001.png\n1\t{name}\n")
    refused(partial(work.run, pictures=True, force=False), words="names pictures that no prediction has")

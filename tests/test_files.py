"""Outputs are whole or not there: on a full disk, in a closed folder, after a kill."""

import errno
import os
import pickle
import subprocess
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from hyperdecode.errors import UserError
from hyperdecode.files import OutputError, atomic_path, remove_leftovers, write_text


def fill_table(path):
    pd.DataFrame({"x": np.random.default_rng(0).normal(size=50_000)}).to_csv(path, sep="\t")


def fill_image(path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(40, 40, 40)), np.eye(4)), path)


def fill_picture(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)).save(path, format="PNG")


def fill_arrays(path):
    save_file({"x": np.zeros(100_000)}, path)


def fill_torch(path):
    torch.save({"x": torch.zeros(100_000)}, path)


WRITERS = {
    "table.tsv": fill_table,
    "image.nii.gz": fill_image,
    "picture.png": fill_picture,
    "arrays.safetensors": fill_arrays,
    "state.pt": fill_torch,
    "words.txt": lambda path: path.write_text("x" * 1_000_000),
}


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "new" / "a.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.endswith(".nii.gz") and not path.exists()
        temporary.write_bytes(b"one")
    assert path.read_bytes() == b"one" and path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("killed")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one" and names(path.parent) == ["a.nii.gz"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_file_and_folder_are_flushed_in_that_order(tmp_path, monkeypatch):
    done, flush, rename = [], os.fsync, Path.replace

    def fsync(handle):
        done.append(Path(f"/proc/self/fd/{handle}").resolve())
        flush(handle)

    def replace(path, target):
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "a.txt", "x")
    assert done[1:] == ["rename", tmp_path.resolve()] and done[0].name.startswith(".a.txt.")


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_full_disk_is_one_line_and_harms_nothing(small_disk, name):
    path = small_disk / name
    path.write_bytes(b"before")
    with pytest.raises(UserError) as told, atomic_path(path) as temporary:
        WRITERS[name](temporary)
    said = str(told.value)
    assert said.startswith(f"cannot write {name}: No space left on device, in {small_disk} (0.")
    assert "MB free): make room there" in said and "\n" not in said
    assert path.read_bytes() == b"before" and names(small_disk) == [name]
    # Once there is room the same call succeeds.
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    with atomic_path(path) as temporary:
        WRITERS[name](temporary)
    assert path.stat().st_size > 1000


def test_a_disk_that_is_read_only(small_disk):
    write_text(small_disk / "a.txt", "before")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for path, folder in ((small_disk / "a.txt", small_disk), (small_disk / "new" / "b.txt", small_disk / "new")):
        with pytest.raises(UserError) as told:
            write_text(path, "after")
        assert str(told.value).startswith(f"cannot write {path.name}: {folder} is closed (Read-only file system)")
    assert (small_disk / "a.txt").read_text() == "before"


@pytest.mark.parametrize("number, said", [(errno.ENOSPC, "No space left"), (errno.EDQUOT, "No space left")])
def test_a_writer_that_is_told_of_a_full_disk(tmp_path, number, said):
    with pytest.raises(OutputError, match=rf"cannot write a\.txt: {said} .* MB free"), atomic_path(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_a_folder_that_is_closed(tmp_path, monkeypatch):
    def refuse(*_, dir, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(OutputError, match=rf"cannot write a\.txt: {tmp_path} is closed \(Permission denied\)"):
        write_text(tmp_path / "a.txt", "x")


def test_other_mistakes_inside_are_left_as_they_are(tmp_path):
    secret = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "input.txt"))
    for error in (secret, FileNotFoundError(2, "gone", "input.txt"), RuntimeError("x"), UserError("bad input")):
        with pytest.raises(type(error)) as raised, atomic_path(tmp_path / "a.txt"):
            raise error
        assert raised.value is error


def test_the_error_is_both_and_crosses_processes():
    """Also as Dask sends errors, once it is imported."""
    pytest.importorskip("tblib.pickling_support").install()
    error = pickle.loads(pickle.dumps(OutputError("no room in there")))
    assert isinstance(error, UserError) and isinstance(error, OSError) and str(error) == "no room in there"


def test_leftovers_of_the_killed_go_and_nothing_else(tmp_path):
    targets = [tmp_path / "a.nii.gz", tmp_path / "b.tsv"]
    for target in targets:
        target.write_text("whole")
    left = [tmp_path / ".a.nii.gz.abcd_123.nii.gz", tmp_path / ".b.tsv.zzzzzzzz.tsv"]
    kept = [tmp_path / ".c.tsv.zzzzzzzz.tsv", tmp_path / ".b.tsv", tmp_path / ".b.tsv.backup.tsv", tmp_path / ".hidden"]
    for path in (*left, *kept):
        path.write_text("half")
    assert remove_leftovers(targets, older_than=60) == []
    os.utime(left[0], (time.time() - 100,) * 2)
    assert remove_leftovers(targets, older_than=60) == [left[0]]
    assert remove_leftovers([*targets, tmp_path / "nowhere" / "d.txt"]) == [left[1]]
    assert names(tmp_path) == sorted(path.name for path in (*targets, *kept))


def test_what_mkstemp_makes_is_what_is_removed(tmp_path):
    for name in ("a.nii.gz", "sub-01_desc-x.safetensors", "report", "b.tsv"):
        with atomic_path(tmp_path / name) as temporary:
            assert remove_leftovers([tmp_path / name]) == [temporary]
            temporary.write_text("again")


# Names that may not be taken from another


def test_a_file_that_may_not_be_replaced(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path, replace=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), atomic_path(path, replace=False) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first" and names(tmp_path) == ["a.txt"]
    assert path.stat().st_nlink == 1 and path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))


@pytest.mark.parametrize("links", [True, False])
def test_one_that_came_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    path = tmp_path / "a.txt"
    with pytest.raises(FileExistsError), atomic_path(path, replace=False) as temporary:
        temporary.write_text("mine")
        path.write_text("theirs")
    assert path.read_text() == "theirs" and names(tmp_path) == ["a.txt"]
    with atomic_path(tmp_path / "b.txt", replace=False) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "b.txt").read_text() == "new" and names(tmp_path) == ["a.txt", "b.txt"]


def test_of_many_at_once_one_has_the_name(tmp_path):
    path, start, written = tmp_path / "a.txt", threading.Barrier(8), []

    def attempt(text):
        try:
            with atomic_path(path, replace=False) as temporary:
                temporary.write_text(text)
                start.wait()
        except FileExistsError:
            return
        written.append(text)

    threads = [threading.Thread(target=attempt, args=(str(k),)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == [path.read_text()] and names(tmp_path) == ["a.txt"]

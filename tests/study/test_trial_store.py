import hashlib
import json
import random
import struct
import warnings
import zipfile

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.study import trial_store
from hyperdecode.study.trial_store import open_store, write_store

N_MUTATIONS = 600


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).standard_normal((150, 5000)).astype(np.float32)


@pytest.fixture(scope="module")
def voxels():
    return np.sort(np.random.default_rng(1).choice(900_000, 5000, replace=False))


def written(path, values, voxels, at_once=37):
    with write_store(path, len(values), voxels) as writer:
        for start in range(0, len(values), at_once):
            writer.add(values[start : start + at_once])
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory, values, voxels):
    return written(tmp_path_factory.mktemp("store") / "z.zarr.zip", values, voxels)


def test_parts_are_those_of_the_array(path, values, voxels):
    store = open_store(path)
    assert store.shape == values.shape and store.dtype == np.float32 and len(store) == 150
    np.testing.assert_array_equal(store.voxels, voxels)
    rows = np.array([149, 3, 3, 64, 0])
    for key in (
        slice(None),
        slice(10, 90),
        rows,
        np.arange(150) % 3 == 0,
        (slice(None), slice(1000, 3500)),
        (rows, slice(2999, 3001)),
        (slice(0, 0), slice(5, 9)),
        (rows, slice(7, 7)),
        (slice(140, 2, -3), slice(-10, None)),
    ):
        np.testing.assert_array_equal(store[key], values[key])
        assert store[key].dtype == np.float32
    np.testing.assert_array_equal(np.asarray(store), values)
    with pytest.raises(IndexError):
        store[np.array([150])]


def test_zarr_reads_it_and_finds_the_same(path, values, voxels):
    zarr = pytest.importorskip("zarr")
    with zarr.storage.ZipStore(path, mode="r") as archive:
        group = zarr.open_group(archive, mode="r")
        np.testing.assert_array_equal(group["z"][:], values)
        np.testing.assert_array_equal(group["voxels"][:], voxels)
        assert group["z"].metadata.dimension_names == ("trial", "voxel")


@pytest.mark.parametrize("n_trials", [1, 63, 64, 65, 129])
@pytest.mark.parametrize("n_voxels", [1, 4096, 4097])
def test_sizes_at_the_edges_of_chunks(tmp_path, n_trials, n_voxels):
    z = np.random.default_rng(2).standard_normal((n_trials, n_voxels)).astype(np.float32)
    store = open_store(written(tmp_path / "z.zarr.zip", z, np.arange(n_voxels), at_once=50))
    np.testing.assert_array_equal(store[:], z)
    assert store.path.stat().st_size < 4 * (n_trials + 2) * (n_voxels + 1024) + 9 * n_voxels + 4000


def test_the_same_values_make_the_same_bytes_however_they_come(tmp_path, path, values, voxels, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    again = written(tmp_path / "z.zarr.zip", values, voxels, at_once=1)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_only_what_is_asked_for_is_read(path, values):
    store, n_read = open_store(path), []
    plain = store._places._file

    class Counted:
        def seek(self, offset):
            plain.seek(offset)

        def read(self, n):
            n_read.append(n)
            return plain.read(n)

    store._places._file = Counted()
    np.testing.assert_array_equal(store[np.array([77])], values[[77]])
    assert sum(n_read) < 30_000, "one trial, not the chunks that it is in"
    n_read.clear()
    np.testing.assert_array_equal(store[:, :3072], values[:, :3072])
    assert sum(n_read) < 1.1 * 4 * 150 * 3072
    assert max(n_read) <= 2**20


def test_what_is_too_large_for_memory_is_refused_in_one_piece_but_not_in_parts(path, values, monkeypatch):
    monkeypatch.setattr("hyperdecode.memory.working_memory", lambda: values.nbytes - 1)
    store = open_store(path)
    with pytest.raises(UserError, match="HYPERDECODE_MEMORY_GB") as caught:
        np.asarray(store)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(store[:, 5:9], values[:, 5:9])


def test_nothing_stands_there_until_all_trials_came(tmp_path, values, voxels):
    path = tmp_path / "z.zarr.zip"
    with pytest.raises(ValueError, match="100 trials were added"), write_store(path, 150, voxels) as writer:
        writer.add(values[:100])
    with pytest.raises(ValueError, match="do not fit"), write_store(path, 50, voxels) as writer:
        writer.add(values)
    with pytest.raises(ValueError, match="do not fit"), write_store(path, 150, voxels) as writer:
        writer.add(values[:, :-1])
    with pytest.raises(UserError, match="0 trials"), write_store(path, 0, voxels):
        pass
    assert list(tmp_path.iterdir()) == []


def entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path, content, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, data in content.items() if isinstance(content, dict) else content:
            archive.writestr(name, data)
    return path


def with_key(data, **changes):
    return json.dumps(json.loads(data) | changes).encode()


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("packed chunks", None),
        ("a chunk gone", lambda c: c.pop("z/c/0/0")),
        ("another entry", lambda c: c.update({"../../evil": b"x"})),
        ("a short chunk", lambda c: c.update({"z/c/0/0": c["z/c/0/0"][:-4]})),
        ("no description", lambda c: c.pop("zarr.json")),
        ("a codec", lambda c: c.update({"z/zarr.json": with_key(c["z/zarr.json"], codecs=[{"name": "blosc"}])})),
        ("other numbers", lambda c: c.update({"z/zarr.json": with_key(c["z/zarr.json"], data_type="object")})),
        ("a huge shape", lambda c: c.update({"z/zarr.json": with_key(c["z/zarr.json"], shape=[10**7, 5000])})),
        ("no shape", lambda c: c.update({"z/zarr.json": with_key(c["z/zarr.json"], shape=[10**30, 5000])})),
        ("deep nesting", lambda c: c.update({"z/zarr.json": b"[" * 60_000})),
        ("a list", lambda c: c.update({"z/zarr.json": b"[]"})),
        ("a long description", lambda c: c.update({"zarr.json": c["zarr.json"] + b" " * 2**16})),
        ("a voxel twice", lambda c: c.update({"voxels/c/0": c["voxels/c/0"][:8] * 5000})),
        ("a voxel below 0", lambda c: c.update({"voxels/c/0": b"\xff" * 8 + c["voxels/c/0"][8:]})),
    ],
)
def test_a_store_of_someone_else_is_refused(tmp_path, path, what, change):
    content = entries(path)
    if change is None:
        bad = rewritten(tmp_path / "z.zarr.zip", content, zipfile.ZIP_DEFLATED)
    else:
        change(content)
        bad = rewritten(tmp_path / "z.zarr.zip", content)
    with pytest.raises(UserError, match="run the step mask again") as caught:
        open_store(bad)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500, what


def test_chunks_too_small_to_count_are_refused_unread(tmp_path, path):
    """A description of 10^11 chunks must not be counted through."""
    content = entries(path)
    said = json.loads(content["z/zarr.json"]) | {"shape": [10**7, 5000]}
    said["chunk_grid"]["configuration"]["chunk_shape"] = [1, 1]
    content["z/zarr.json"] = json.dumps(said).encode()
    with pytest.raises(UserError):
        open_store(rewritten(tmp_path / "z.zarr.zip", content))


def test_an_entry_that_stands_twice_is_refused(tmp_path, path):
    content = list(entries(path).items())
    with pytest.raises(UserError, match="stands twice"):
        open_store(rewritten(tmp_path / "z.zarr.zip", [*content, content[4]]))


def test_a_directory_larger_than_any_is_refused_unread(tmp_path, path):
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<L", 2**31)
    (tmp_path / "z.zarr.zip").write_bytes(data)
    with pytest.raises(UserError, match="its zip directory has 2147483648 bytes"):
        open_store(tmp_path / "z.zarr.zip")


def test_a_changed_value_is_found_out_when_it_is_read(tmp_path, path, values):
    data = bytearray(path.read_bytes())
    place = data.index(values[100, 3072:3100].tobytes())
    data[place] ^= 1
    (tmp_path / "z.zarr.zip").write_bytes(data)
    store = open_store(tmp_path / "z.zarr.zip")
    np.testing.assert_array_equal(store[:, :3072], values[:, :3072])
    with pytest.raises(UserError, match="was changed after it was written"):
        store[:]


def test_missing_and_odd_files(tmp_path):
    for name, make in (("none", None), ("folder", lambda p: p.mkdir()), ("empty", lambda p: p.write_bytes(b""))):
        if make:
            make(tmp_path / name)
        with pytest.raises(UserError, match="run the step mask again"):
            open_store(tmp_path / name)


def mutated(data, rng):
    data = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return data + rng.randbytes(rng.randrange(1, 300))
    # The directory and descriptions are a small part of the file: most harm goes there.
    spots = [k for k in range(len(data) - 4) if data[k : k + 2] == b"PK"] + [len(data) - 22]
    for _ in range(rng.randrange(1, 5)):
        place = min(len(data) - 1, rng.choice(spots) + rng.randrange(60)) if kind < 5 else rng.randrange(len(data))
        if kind == 2:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 3:
            data[place : place + 4] = struct.pack("<L", rng.choice([0, 1, 2**31, 2**32 - 1, rng.randrange(2**32)]))
        elif kind == 4:
            del data[place : place + rng.randrange(1, 9)]
        else:
            data[place] = rng.randrange(256)
    return data


def test_harmed_files_are_read_right_or_refused_in_one_line(tmp_path):
    z = np.random.default_rng(3).standard_normal((10, 12)).astype(np.float32)
    good = written(tmp_path / "good.zarr.zip", z, np.arange(12)).read_bytes()
    rng, bad, n_refused = random.Random(0), tmp_path / "bad.zarr.zip", 0
    for _ in range(N_MUTATIONS):
        bad.write_bytes(mutated(good, rng))
        try:
            store = open_store(bad)
            assert store[:].shape == store.shape and store.shape[0] * store.shape[1] <= 1000
            store[np.array([0]), 0:1]
        except UserError as error:
            n_refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
    assert N_MUTATIONS // 2 < n_refused < N_MUTATIONS, n_refused


def test_chunks_are_of_bounded_size():
    for shape in ((1, 1), (30_000, 200_000), (64, 4097), (10**7, 2**24)):
        high, wide = trial_store._chunk_shape(shape)
        assert 4 * high * wide <= 2**20 and (wide % trial_store.STEP == 0 or wide == shape[1])

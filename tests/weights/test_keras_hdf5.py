import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.hdf5 import HDF5File
from hyperdecode.weights.keras_hdf5 import read_keras

RNG = np.random.default_rng(0)


def batch_normalisation(name, n=3):
    return {
        f"{name}/{part}:0": RNG.normal(size=n).astype("f4")
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    }


LAYERS = {
    "input_1": {},
    "conv1/7x7_s2": {"conv1/7x7_s2/kernel:0": RNG.normal(size=(7, 7, 3, 4)).astype("f4")},
    "conv1/7x7_s2/bn": batch_normalisation("conv1/7x7_s2/bn"),
    "activation_1": {},
    "conv2_1_1x1_reduce": {"conv2_1_1x1_reduce/kernel:0": RNG.normal(size=(1, 1, 4, 2)).astype("f4")},
    "conv2_1_1x1_reduce/bn": batch_normalisation("conv2_1_1x1_reduce/bn", 2),
}
TENSORS = {name: value for weights in LAYERS.values() for name, value in weights.items()}


READER, ODD_FILE = read_keras, "odd.h5"  # of the fixtures `read` and `refused`


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value.astype(np.float32))


@pytest.mark.parametrize("below", [None, "model_weights"])
@pytest.mark.parametrize("cut", [None, 2])
@pytest.mark.parametrize("variable", [False, True])
def test_as_keras_writes_it(files, read, below, cut, variable):
    contents = read(files.keras_file(LAYERS, below, cut, variable))
    assert contents.format == "keras-hdf5" and contents.source == "odd.h5"
    same(contents.tensors, TENSORS)


def test_groups_of_several_nodes(files, read):
    """More layers than one node of the group's tree holds, and more messages than one header block."""
    layers = {f"conv{k}": {f"conv{k}/kernel:0": RNG.normal(size=2).astype("f4")} for k in range(400)}
    same(
        read(files.keras_file(layers)).tensors,
        {f"conv{k}/kernel:0": layers[f"conv{k}"][f"conv{k}/kernel:0"] for k in range(400)},
    )


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", "u1", ">i8"])
def test_every_type(files, read, dtype):
    value = np.arange(6).reshape(2, 3).astype(dtype)
    same(read(files.keras_file({"a": {"a/x:0": value, "a/s:0": value[0, 0], "a/e:0": value[:0]}})).tensors, {
        "a/x:0": value, "a/s:0": value[0, 0], "a/e:0": value[:0],
    })  # fmt: skip


def test_more_attributes_than_the_header_has_room_for(read, files, tmp_path):
    path = tmp_path / "many.h5"
    path.write_bytes(files.keras_file({"a": {"a/x:0": np.ones(2, "f4")}}))
    with h5py.File(path, "r+") as file:
        for k in range(50):
            file["a"].attrs[f"note {k}"] = "text"
            file["a/a"].attrs[f"note {k}"] = k
    assert read(path.read_bytes()).tensors.keys() == {"a/x:0"}


def test_forms_of_hdf5_that_keras_does_not_write(files, refused):
    layers = {"a": {"a/x:0": np.ones((64, 64), "f4")}}
    refused(files.keras_file(layers, chunks=(8, 8)), "stored in chunks")
    refused(files.keras_file(layers, compression="gzip"), "stored in chunks")
    refused(files.keras_file(layers, libver="latest"), "HDF5 superblock 3")
    refused(files.keras_file({"a": {"a/x:0": np.array([1j])}}), "no plain type of numbers")
    refused(files.keras_file({"a": {"a/x:0": np.array([b"text"])}}), "no plain type of numbers")
    refused(files.keras_file({"a": {"a/x:0": h5py.Empty("f4")}}), "has no shape")


def test_files_of_another_kind(refused, tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)
    refused(path.read_bytes(), "no attribute layer_names")
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [1.5, 2.5]
    refused(path.read_bytes(), "no list of texts")
    refused(b"\x89HDF\r\n\x1a\n", "points to")
    refused(b"PK", "signature")


def test_what_is_listed_and_absent(files, refused, tmp_path):
    path = tmp_path / "other.h5"
    for name, words in (("a/a/x:0", "weight 'a/x:0' is listed and absent"), ("a", "layer 'a' is listed and absent")):
        path.write_bytes(files.keras_file({"a": {"a/x:0": np.ones(2, "f4")}}))
        with h5py.File(path, "a") as file:
            del file[name]
        refused(path.read_bytes(), words)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"a"])
        file["a"] = np.ones(3)
    refused(path.read_bytes(), "no attribute weight_names")


def test_a_layer_listed_twice(files, refused, tmp_path):
    path = tmp_path / "other.h5"
    path.write_bytes(files.keras_file({"a": {"a/x:0": np.ones(2, "f4")}}))
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.array([b"a", b"a"])
    refused(path.read_bytes(), "twice")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(files, refused, value):
    refused(files.keras_file({"a": {"a/x:0": np.array([0, value], "f4")}}), "tensor 'a/x:0' holds NaN or infinite")


def small(files):
    return files.keras_file({"a": {"a/x:0": np.array([1.5, 2.5], "f4")}, "b": {"b/x:0": np.ones(2, "f4")}})


def test_every_cut(files, refused):
    data = small(files)
    last = data.rfind(struct.pack("<2f", 1, 1)) + 8
    for end in range(1, last, 37):
        refused(data[:end], "")


def test_trees_in_a_circle(files, refused):
    data = bytearray(small(files))
    tree = data.find(b"TREE")
    data[tree + 32 : tree + 40] = struct.pack("<Q", tree)
    refused(bytes(data), "circles")


def test_groups_in_a_circle(files, read, refused, tmp_path):
    """A group that holds itself: a path through it is as long as its name, and no longer."""
    path = tmp_path / "circle.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["a"] = group
        file.attrs["layer_names"] = np.array([b"a/a/a/a/a"])
        group.attrs["weight_names"] = np.array([b"a/a/a/x"])
        group["x"] = np.ones(2, "f4")
    assert read(path.read_bytes()).tensors.keys() == {"a/a/a/x"}
    with h5py.File(path, "a") as file:
        file["a"].attrs["weight_names"] = np.array([b"a/a/a"])
    refused(path.read_bytes(), "no array")


def test_steps_are_counted(files, monkeypatch):
    monkeypatch.setattr("hyperdecode.weights.hdf5.MAX_STEPS", 50)
    file = HDF5File(small(files), "odd.h5")
    with pytest.raises(WeightFileError, match="circles"):
        for _ in range(50):
            file.texts(file.root, "no such attribute")


def test_texts_of_variable_length_that_point_elsewhere(files, read, refused):
    data = files.keras_file({"a": {"a/x:0": np.array([1.5, 2.5], "f4")}}, variable=True)
    read(data)
    heap = data.find(b"GCOL")
    reference = data.find(struct.pack("<IQ", 1, heap))  # of the text "a"
    assert data.count(struct.pack("<IQ", 1, heap)) == 1
    for length, address, number in ((1000, heap, 1), (1, heap + 8, 1), (1, 2**63, 1), (1, heap, 99), (1, 0, 1)):
        claim = struct.pack("<IQI", length, address, number)
        refused(data[:reference] + claim + data[reference + 16 :], "")
    for size in (2**62, len(data), 17):
        refused(data[: heap + 8] + struct.pack("<Q", size) + data[heap + 16 :], "")
    for size in (2**62, 2**64 - 1):
        refused(data[: heap + 24] + struct.pack("<Q", size) + data[heap + 32 :], "")


def test_texts_without_a_length(files, refused):
    """An attribute of 2^40 texts of no bytes each would be a list without end."""
    data = bytearray(small(files))
    name = data.find(b"layer_names\0")
    datatype = name + 16
    assert data[datatype] & 15 == 3
    data[datatype + 4 : datatype + 8] = struct.pack("<I", 0)
    dataspace = datatype + 8
    assert struct.unpack_from("<BB", data, dataspace) == (1, 1)
    data[dataspace + 8 : dataspace + 16] = struct.pack("<Q", 2**39)
    refused(bytes(data), "no list of texts")


def test_what_keras_itself_wrote():
    """The k-th weight of golden/make_keras.py holds 0, 1, 2, ... divided by 8, plus k."""
    found = read_keras(Path(__file__).with_name("golden") / "keras.h5").tensors
    shapes = {
        "conv1_3x3/kernel": (3, 3, 1, 2), "conv1_3x3_bn/gamma": (2,), "conv1_3x3_bn/beta": (2,),
        "conv1_3x3_bn/moving_mean": (2,), "conv1_3x3_bn/moving_variance": (2,), "dense/kernel": (2, 3),
        "dense/bias": (3,),
    }  # fmt: skip
    assert list(found) == list(shapes)
    for k, (name, shape) in enumerate(shapes.items()):
        np.testing.assert_array_equal(found[name], np.arange(np.prod(shape)).reshape(shape) / 8 + k)

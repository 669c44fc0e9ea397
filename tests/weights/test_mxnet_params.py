import struct
from pathlib import Path

import numpy as np
import pytest

from hyperdecode.weights.mxnet_params import read_mxnet

RNG = np.random.default_rng(0)
TENSORS = {
    "1.weight": RNG.normal(size=(32, 4)).astype(np.float32),
    "2.b": RNG.normal(size=2).astype(np.float32),
    "5.weight": RNG.normal(size=(2, 2, 3, 3)).astype(np.float32),
}


READER, ODD_FILE = read_mxnet, "odd.params"  # of the fixtures `read` and `refused`


@pytest.mark.parametrize("version", ["V0", "V1", "V2", "V3"])
@pytest.mark.parametrize("prefix", ["", "arg:", "aux:"])
def test_every_version(files, read, version, prefix):
    contents = read(files.mxnet_params(TENSORS, getattr(files, version), prefix))
    assert contents.format == "mxnet" and contents.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert contents.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(contents.tensors[name], value)


def test_the_bytes_of_a_file_by_the_definition(read):
    """A file spelt out by hand, field by field, as `NDArray::Save` writes it."""
    data = bytes.fromhex(
        "1201000000000000" "0000000000000000" "0100000000000000"  # magic number, reserved, one array
        "c9fa93f9" "00000000" "02000000" "0100000000000000" "0200000000000000"  # version 2, dense, shape (1, 2)
        "01000000" "00000000" "00000000" "0000c03f" "000020c0"  # on the CPU, number 0, float32, 1.5, -2.5
        "0100000000000000" "0600000000000000" "6172673a7778"  # one name of 6 bytes: arg:wx
    )  # fmt: skip
    np.testing.assert_array_equal(read(data).tensors["wx"], [[1.5, -2.5]])


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "|u1", "<i4", "|i1", "<i8", "|b1", "<i2"])
def test_every_type(files, read, dtype):
    value = np.array([[0, 1], [2, 3]]).astype(dtype)
    np.testing.assert_array_equal(read(files.mxnet_params({"x": value})).tensors["x"], value.astype(np.float32))


def test_arrays_from_a_gpu_scalars_and_arrays_without_a_shape(files, read):
    gpu = files.mxnet_array(TENSORS["2.b"], device=(2, 3))
    scalar = files.mxnet_array(np.array(2.5, "<f4"), files.V3)
    unknown = struct.pack("<Iii", files.V3, 0, -1)
    none = struct.pack("<Iii", files.V2, 0, 0)
    contents = read(files.mxnet_file([gpu, scalar, unknown, none], ["gpu", "scalar", "unknown", "none"]))
    assert contents.tensors.keys() == {"gpu", "scalar"}
    assert contents.tensors["scalar"].shape == () and contents.tensors["scalar"] == 2.5
    np.testing.assert_array_equal(contents.tensors["gpu"], TENSORS["2.b"])


def test_a_list_without_names(files, read):
    assert read(files.mxnet_file([files.mxnet_array(TENSORS["2.b"])])).tensors.keys() == {"0"}


def test_every_cut(files, refused):
    data = files.mxnet_params({"x": TENSORS["2.b"]}, files.V1)
    for end in range(1, len(data)):
        refused(data[:end], "")


@pytest.mark.parametrize("version", ["V0", "V1", "V2", "V3"])
def test_sizes_that_are_none(files, refused, version):
    array = files.mxnet_array(np.ones((2, 2), "<f4"), getattr(files, version))
    size = 4 if version == "V0" else 8
    at = 4 + (4 if version in ("V2", "V3") else 0) + (0 if version == "V0" else 4)
    for claim in (3, 2**31, 2**32 - 1, 2**39, 2**62, 2**63 + 1):
        if claim < 2 ** (8 * size):
            edited = array[:at] + claim.to_bytes(size, "little") + array[at + size :]
            refused(files.mxnet_file([edited], ["x"]), "")


def test_empty_arrays(files, read, refused):
    assert read(files.mxnet_params({"x": np.zeros((0, 3), "<f4")})).tensors["x"].shape == (0, 3)
    array = files.mxnet_array(np.zeros((0, 3, 3), "<f4"))
    huge = array.replace(struct.pack("<qqq", 0, 3, 3), struct.pack("<qqq", 0, 2**39, 2**39))
    refused(files.mxnet_file([huge], ["x"]), "no shape that an array can have")


def test_other_damages(files, refused):
    array = files.mxnet_array(TENSORS["2.b"])
    whole = files.mxnet_file([array], ["x"])
    refused(b"\x13" + whole[1:], "magic number")
    refused(whole[:8] + b"\x01" + whole[9:], "magic number")
    refused(whole[:16] + struct.pack("<Q", 2**60) + whole[24:], "claims")
    refused(whole + b"x", "1 bytes behind")
    refused(files.mxnet_file([array, array], ["x"]), "2 arrays and 1 names")
    refused(files.mxnet_file([array, array], ["x", "arg:x"]), "twice")
    refused(files.mxnet_file([array], [""]), "name")
    refused(files.mxnet_file([array], ["x" * 600]), "a name of 600 bytes")
    refused(whole[:-1] + b"\xff", "no name")
    refused(files.mxnet_file([files.mxnet_array(TENSORS["2.b"], storage=1)], ["x"]), "sparse")
    refused(files.mxnet_file([struct.pack("<I", 0xF993FACB)], ["x"]), "dimensions")
    refused(files.mxnet_file([struct.pack("<Ii", files.V1, -5)], ["x"]), "claims -5 dimensions")
    flag = array.replace(struct.pack("<iii", 1, 0, 0), struct.pack("<iii", 1, 0, 99))
    refused(files.mxnet_file([flag], ["x"]), "type number 99")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(files, refused, value):
    refused(files.mxnet_params({"9.weight": np.array([1, value], "<f4")}), "tensor '9.weight' holds NaN or infinite")


# Files that MXNet itself wrote (golden/make_mxnet.py)

GOLDEN = Path(__file__).with_name("golden")
SHAPES = ((4, 3), (2, 1, 3, 3), (2,))


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("gluon.params", ("0.weight", "1.0.weight", "1.0.bias")),
        ("gluon_older_names.params", ("generator0_dense0_weight", "block0_conv0_weight", "block0_conv0_bias")),
    ],
)
def test_what_mxnet_itself_wrote(file, names):
    found = read_mxnet(GOLDEN / file).tensors
    assert found.keys() == set(names)
    for k, (name, shape) in enumerate(zip(names, SHAPES, strict=True)):
        np.testing.assert_array_equal(found[name], np.arange(np.prod(shape)).reshape(shape) / 8 + k)


def test_what_mxnet_itself_wrote_under_numpy_semantics():
    found = read_mxnet(GOLDEN / "numpy_semantics.params").tensors
    assert found["scalar"].shape == () and found["scalar"] == 2.5
    np.testing.assert_array_equal(found["matrix"], np.ones((2, 3)))

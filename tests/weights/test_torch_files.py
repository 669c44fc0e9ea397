import io
import pickle
import struct
import zipfile
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.weights.torch_files import read_torch

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
TYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


def typed(tensor):
    return torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)


@pytest.fixture
def read(tmp_path):
    def work(data, name="odd.pth"):
        (tmp_path / name).write_bytes(data)
        return read_torch(tmp_path / name)

    return work


@pytest.fixture
def refused(read):
    def work(data, words):
        with pytest.raises(WeightFileError) as error:
            read(data)
        message = str(error.value)
        assert message.startswith("odd.pth: ") and "\n" not in message and len(message) < 300
        assert words in message, message

    return work


@FORMATS
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type(files, read, zipped, dtype):
    value = (torch.arange(24).reshape(2, 3, 4) - 5 * (dtype != torch.uint8)).to(dtype)
    contents = read(files.torch_file(OrderedDict(x=value, y=value.clone()), zipped))
    assert contents.format == "torch" and contents.source == "odd.pth"
    for name in ("x", "y"):
        found = contents.tensors[name]
        assert found.dtype == np.float32 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, value.float().numpy())


@FORMATS
def test_views_parameters_and_scalars(files, read, zipped):
    whole = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    state = {
        "whole": whole,
        "transposed": whole.t(),
        "row": whole[2],
        "column": whole[:, 3],
        "part": whole[1:4, 2:5],
        "every second": whole[::2],
        "scalar": whole[1, 1],
        "empty": torch.zeros(0, 3),
        "one": whole[:1, :1],
        "parameter": torch.nn.Parameter(whole.clone()),
    }
    contents = read(files.torch_file(state, zipped))
    assert contents.tensors.keys() == state.keys()
    for name, value in state.items():
        assert contents.tensors[name].shape == tuple(value.shape)
        np.testing.assert_array_equal(contents.tensors[name], value.detach().numpy(), err_msg=name)


@FORMATS
def test_nested_dictionaries_are_flattened(files, read, zipped):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    content = {
        "generator": model.state_dict(),
        "numpy": np.arange(3.0),
        "step": 7,
        "note": "text",
        "args": Namespace(batch=4, lists=[1]),
        "sizes": [torch.Size([2, 3])],
        0: {1: torch.tensor(2.0)},
    }
    contents = read(files.torch_file(content, zipped))
    expected = {f"generator.{name}": value.numpy() for name, value in model.state_dict().items()}
    expected |= {"numpy": np.arange(3.0), "0.1": np.array(2.0)}
    assert contents.tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(contents.tensors[name], value.astype(np.float32))
    assert contents.settings == {"step": 7, "note": "text"}


def test_an_archive_that_was_compressed(files, read):
    state = {"x": torch.randn(50, generator=torch.Generator().manual_seed(0))}
    data = files.repacked(files.torch_file(state), zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(read(data).tensors["x"], state["x"].numpy())


# The first tensors of PyTorch, before _rebuild_tensor_v2


@FORMATS
def test_tensors_of_the_first_versions(files, read, zipped):
    class Old:
        def __init__(self, tensor):
            self.tensor = tensor

        def __reduce__(self):
            storage = typed(self.tensor)
            return torch._utils._rebuild_tensor, (storage, 0, tuple(self.tensor.shape), self.tensor.stride())

    value = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(read(files.torch_file({"x": Old(value)}, zipped)).tensors["x"], value.numpy())


# Hostile


@FORMATS
def test_a_program_in_place_of_a_tensor(files, read, refused, tmp_path, nothing_runs, zipped):
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return eval, (f"open({str(canary)!r}, 'w')",)

    data = files.torch_file({"x": torch.ones(2), "y": Attack()}, zipped)
    read(files.torch_file({"x": torch.ones(2)}, zipped))
    with nothing_runs():
        refused(data, "builtin")
    assert not canary.exists()


def test_a_whole_model_is_refused_with_what_to_do(files, refused):
    for zipped in (True, False):
        refused(files.torch_file(torch.nn.Linear(2, 2), zipped), "'torch.nn.modules.linear.Linear'")
        refused(files.torch_file([torch.ones(2)], zipped), "save `model.state_dict()`")


class Tensor:
    """A tensor that claims what it likes of its storage."""

    def __init__(self, offset=0, size=(4,), stride=(1,), storage=None):
        self.args = (
            typed(torch.arange(4.0)) if storage is None else storage,
            offset,
            size,
            stride,
            False,
            OrderedDict(),
        )

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


@FORMATS
@pytest.mark.parametrize(
    "claims",
    [
        {"size": (5,)},
        {"offset": 1},
        {"offset": 5, "size": (0,)},
        {"size": (2, 2), "stride": (3, 1)},
        {"size": (2**20, 2**20), "stride": (0, 0)},
        {"size": (5,), "stride": (0,)},
        {"size": (1, 1, 1, 1, 8), "stride": (0,) * 5},
        {"size": (2,), "stride": (2**39,)},
        {"size": (2,), "stride": (2**63,)},
        {"size": (-1,)},
        {"size": (0, 2**39, 2**39), "stride": (1, 1, 1)},
        {"stride": (-1,)},
        {"offset": -1},
        {"offset": 2**62, "size": (1,)},
        {"size": (2, 2)},
        {"size": (1,) * 40, "stride": (1,) * 40},
        {"size": (2.0, 2.0), "stride": (2, 1)},
        {"size": (True, 2), "stride": (2, 1)},
        {"size": None},
        {"size": "ab", "stride": "ab"},
        {"offset": None},
        {"storage": "a text"},
        {"storage": (1, 2)},
    ],
    ids=str,
)
def test_claims_beyond_the_storage(files, refused, claims, zipped):
    refused(files.torch_file({"x": Tensor(**claims)}, zipped), "")


def test_strides_within_the_storage_are_fine(files, read):
    found = read(files.torch_file({"x": Tensor(1, (2, 1), (2, 2**39))})).tensors["x"]
    np.testing.assert_array_equal(found, [[1], [3]])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_that_are_no_numbers(files, refused, value, dtype):
    refused(
        files.torch_file({"layer.w": torch.tensor([0.0, value]).to(dtype)}), "tensor 'layer.w' holds NaN or infinite"
    )


def test_values_too_large_for_float32(files, refused):
    refused(files.torch_file({"w": torch.tensor([1e300], dtype=torch.float64)}), "holds NaN or infinite")


def test_complex_and_other_types(files, refused):
    refused(files.torch_file({"x": torch.tensor([1j])}), "ComplexFloatStorage")


def test_one_storage_under_many_names(files, refused):
    shared = torch.zeros(50_000, dtype=torch.bool)
    refused(files.torch_file({str(k): shared for k in range(400)}), "many times larger than the file")


def test_dictionaries_that_unfold_without_end(files, refused):
    value = {"x": 1}
    for _ in range(14):
        value = {str(k): value for k in range(3)}
    refused(files.torch_file(value, zipped=False), "without end")
    cycle = {}
    cycle["again"] = cycle
    refused(files.torch_file(cycle), "without end")


def test_a_name_twice(files, refused):
    refused(files.torch_file({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}), "twice")


# Archives


def archive(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as new:
        for name, content in members.items():
            new.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/passwd", "..\\evil", "\\evil", "C:/evil", "a/.."])
def test_members_that_point_out_of_the_archive(files, refused, tmp_path, name):
    stream = io.BytesIO(files.torch_file({"x": torch.ones(2)}))
    with zipfile.ZipFile(stream, "a") as old:
        old.writestr(name, b"evil")
    refused(stream.getvalue(), "points out of the archive")
    assert not list(tmp_path.parent.rglob("evil"))


def test_a_zip_bomb(files, refused):
    data = files.repacked(files.torch_file({"x": torch.ones(2)}), zipfile.ZIP_DEFLATED, data_pkl=b"\0" * 50_000_000)
    assert len(data) < 100_000
    refused(data, "refusing to inflate")


def test_a_bomb_that_hides_its_size(files, refused):
    """A member whose directory entry claims less than it inflates to."""
    data = files.repacked(files.torch_file({"x": torch.ones(2)}), zipfile.ZIP_DEFLATED, data_pkl=b"\0" * 50_000_000)
    data = data.replace(struct.pack("<I", 50_000_000), struct.pack("<I", 1000))
    refused(data, "data.pkl")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "no data.pkl"),
        ({"a__data.pkl": b"N.", "b__data.pkl": b"N."}, "no data.pkl"),
        ({"a__b__data.pkl": b"N."}, "no data.pkl"),
        ({"a__data.pkl": b"N.", "a__byteorder": b"big"}, "other byte order"),
        ({"a__data.pkl": b"}."}, None),
        ({"a__data.pkl": b"garbage"}, "not readable as a pickle"),
    ],
)
def test_odd_archives(read, refused, members, words):
    if words is None:
        assert read(archive(**members)).tensors == {}
    else:
        refused(archive(**members), words)


def test_two_members_of_one_name(refused):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as new, pytest.warns(UserWarning, match="Duplicate"):
        new.writestr("a/data.pkl", b"}.")
        new.writestr("a/data.pkl", b"N.")
    refused(stream.getvalue(), "two members of one name")


def test_other_compressions_and_encryption(files, refused):
    plain = files.torch_file({"x": torch.ones(2)})
    refused(files.repacked(plain, zipfile.ZIP_LZMA), "oddly compressed")
    data = bytearray(plain)
    entry = data.find(b"PK\x01\x02")
    data[entry + 8] |= 1
    refused(bytes(data), "encrypted")


def test_a_storage_that_is_absent_or_short(files, refused):
    whole = files.torch_file({"x": torch.ones(2)})
    short = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(short, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:-1] if "/data/" in name else old.read(name))
    refused(short.getvalue(), "claims 2 values of 4 bytes and has 7")
    absent = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(absent, "w") as new:
        for name in old.namelist():
            if "/data/" not in name:
                new.writestr(name, old.read(name))
    refused(absent.getvalue(), "no member")


def test_a_flipped_bit_in_a_storage(files, refused):
    data = bytearray(files.torch_file({"x": torch.tensor([1.5, 2.5])}))
    data[data.find(struct.pack("<2f", 1.5, 2.5))] ^= 1
    refused(bytes(data), "is damaged")


# The older formats


def legacy(content, **sys_info):
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}, **sys_info}
    parts = [0x1950A86A20F9469CFC6C, 1001, info, content, []]
    return b"".join(pickle.dumps(part, 2) for part in parts)


def test_headers_of_the_legacy_format(read, refused):
    assert read(legacy({})).tensors == {}
    refused(legacy({}, little_endian=False), "other byte order")
    refused(pickle.dumps(1, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2), "magic number")
    refused(pickle.dumps({"x": 1}, 2), "not readable as a pickle")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
def test_cut_off(files, refused, keep):
    for zipped in (True, False):
        data = files.torch_file({"x": torch.arange(100.0), "y": torch.ones(50)}, zipped)
        refused(data[: int(keep * len(data))], "")


def test_a_legacy_storage_that_claims_more(files, refused):
    data = files.torch_file({"x": torch.arange(4.0)}, zipped=False)
    assert data.count(struct.pack("<q", 4)) == 1
    for claim in (5, 3, -1, 2**62):
        refused(data.replace(struct.pack("<q", 4), struct.pack("<q", claim)), "")


def test_the_tar_format(refused):
    refused(b"\0" * 257 + b"ustar" + b"\0" * 250, "tar format")


def test_no_file(tmp_path, refused):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError, match=path.name):
            read_torch(path)
    refused(b"x" * 1000, "")
    empty = tmp_path / "empty.pth"
    empty.touch()
    with pytest.raises(WeightFileError, match="0 bytes"):
        read_torch(empty)

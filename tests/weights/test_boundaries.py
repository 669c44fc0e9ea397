"""InterFaceGAN's boundary files and our attribute files: read back, and refused when hostile or broken."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.boundaries import (
    boundary_name,
    read_attribute_tensors,
    read_boundary,
    write_attribute_tensors,
)


@pytest.mark.parametrize("shape", [(1, 8), (8,)])
def test_a_boundary_is_read_as_a_unit_vector(tmp_path, shape):
    vector = np.arange(1.0, 9.0)
    np.save(tmp_path / "b.npy", vector.reshape(shape))
    assert np.allclose(read_boundary(tmp_path / "b.npy"), vector / np.linalg.norm(vector))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("pggan_celebahq_age_boundary.npy", "age"),
        ("pggan_celebahq_age_c_gender_boundary.npy", "age_c_gender"),
        ("stylegan_ffhq_eyeglasses_w_boundary.npy", "eyeglasses"),
        ("beard.npy", "beard"),
    ],
)
def test_attributes_are_named_after_their_files(file, name):
    assert boundary_name(Path("somewhere") / file) == name


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def hostile(kind, folder):
    path, canary = folder / "b.npy", folder / "canary"
    good = np.arange(1.0, 9.0)
    if kind == "objects":
        np.save(path, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    elif kind == "matrix":
        np.save(path, np.ones((2, 8)))
    elif kind == "text":
        np.save(path, np.array(["age"]))
    elif kind == "nan":
        np.save(path, np.where(good == 3, np.nan, good))
    elif kind == "zero":
        np.save(path, np.zeros(8))
    elif kind == "truncated":
        np.save(path, good)
        path.write_bytes(path.read_bytes()[:-9])
    elif kind == "huge claim":
        np.save(path, good)
        path.write_bytes(path.read_bytes().replace(b"(8,), }", b"(9999999999999,), }", 1))
    elif kind == "empty":
        path.touch()
    return path, canary


KINDS = ["objects", "pickle", "matrix", "text", "nan", "zero", "truncated", "huge claim", "empty", "absent"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_refused_in_one_line_and_nothing_runs(tmp_path, kind):
    path, canary = hostile(kind, tmp_path)
    with pytest.raises(WeightFileError) as refused:
        read_boundary(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert not canary.exists()


def test_mutated_boundaries_are_read_or_refused(tmp_path):
    np.save(tmp_path / "good.npy", np.arange(1.0, 17.0))
    good, rng, path = (tmp_path / "good.npy").read_bytes(), np.random.default_rng(0), tmp_path / "b.npy"
    refused = 0
    for _ in range(1000):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(bytes(data[: rng.integers(1, len(data) + 1)]) if rng.random() < 0.3 else bytes(data))
        try:
            assert np.isclose(np.linalg.norm(read_boundary(path)), 1, atol=1e-4)
        except WeightFileError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def attributes(**changes):
    parts = {"normal": np.ones(3, np.float32), "bias": np.float32(0.5), "scale": np.float32(2.0)} | changes
    return {"w": {"age": {key: value for key, value in parts.items() if value is not None}}}


def test_attributes_come_back_as_written(tmp_path):
    write_attribute_tensors(tmp_path / "a.safetensors", attributes(), {"faces": "10"})
    found = read_attribute_tensors((tmp_path / "a.safetensors").read_bytes(), "a")
    assert list(found) == ["w"] and list(found["w"]) == ["age"]
    assert np.array_equal(found["w"]["age"]["normal"], np.ones(3)) and found["w"]["age"]["scale"] == 2


def test_damaged_attribute_files_are_refused(tmp_path):
    write_attribute_tensors(tmp_path / "a.safetensors", attributes(), {})
    with pytest.raises(WeightFileError, match="damaged"):
        read_attribute_tensors((tmp_path / "a.safetensors").read_bytes()[:-4], "a")
    write_attribute_tensors(tmp_path / "a.safetensors", attributes(bias=np.float32(np.nan)), {})
    with pytest.raises(WeightFileError, match="not finite"):
        read_attribute_tensors((tmp_path / "a.safetensors").read_bytes(), "a")
    write_attribute_tensors(tmp_path / "a.safetensors", attributes(normal=np.ones((2, 3), np.float32)), {})
    with pytest.raises(WeightFileError, match="lacks its normal"):
        read_attribute_tensors((tmp_path / "a.safetensors").read_bytes(), "a")

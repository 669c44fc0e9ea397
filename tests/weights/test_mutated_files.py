"""More than a thousand harmed files for every reader: each is read, or refused in one line, and nothing in it runs."""

import io
import os
import resource
import time
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.dnnlib import read_dnnlib
from hyperdecode.weights.hyper_data import read_hyper_data
from hyperdecode.weights.importing import convert
from hyperdecode.weights.keras_hdf5 import read_keras
from hyperdecode.weights.mxnet_params import read_mxnet
from hyperdecode.weights.nvidia import read_nvidia
from hyperdecode.weights.openvino_files import read_openvino
from hyperdecode.weights.safetensors_files import read_safetensors
from hyperdecode.weights.torch_files import read_torch

FILES = 1200
SECONDS_A_FILE = 2.0
MEGABYTES = 200
READERS = {
    "torch zip": read_torch,
    "torch legacy": read_torch,
    "nvidia": read_nvidia,
    "dnnlib": read_dnnlib,
    "mxnet": read_mxnet,
    "keras": read_keras,
    "hyper data": read_hyper_data,
    "safetensors": read_safetensors,
}


class Program:
    """What must never run, in a pickle."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


# Ways to harm a file


def cut(rng, data, _):
    return data[: rng.integers(len(data))]


def flip_bits(rng, data, _):
    data = bytearray(data)
    for at in rng.integers(len(data), size=rng.integers(1, 9)):
        data[at] ^= 1 << rng.integers(8)
    return bytes(data)


def zero(rng, data, _):
    start, size = rng.integers(len(data)), rng.integers(1, 33)
    return data[:start] + b"\0" * len(data[start : start + size]) + data[start + size :]


def repeat(rng, data, _):
    start, size = rng.integers(len(data)), rng.integers(1, 65)
    return data[:start] + data[start : start + size] * rng.integers(2, 5) + data[start + size :]


def remove(rng, data, _):
    start = rng.integers(len(data))
    return data[:start] + data[start + rng.integers(1, 33) :]


def splice(rng, data, other):
    start, there = rng.integers(len(data)), rng.integers(len(other))
    piece = other[there : there + rng.integers(1, 129)]
    return data[:start] + piece + data[start + (len(piece) if rng.integers(2) else 0) :]


def grow_a_length(rng, data, _):
    size = int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice([2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1, 255, 65535])) % 256**size
    start = rng.integers(len(data))
    return data[:start] + value.to_bytes(size, "little") + data[start + size :]


WAYS = [cut, flip_bits, flip_bits, zero, repeat, remove, splice, grow_a_length, grow_a_length]


def harmed(rng, bases):
    data = bases[rng.integers(len(bases))]
    for _ in range(rng.integers(1, 3)):
        if data:
            data = WAYS[rng.integers(len(WAYS))](rng, data, bases[rng.integers(len(bases))])
    return data


@pytest.fixture
def outcome(tmp_path, nothing_runs):
    """Return a function that reads a file and says whether it was refused, after checking everything else."""
    seen = {"worst": 0.0, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}

    def work(reader, path):
        start = time.perf_counter()
        try:
            with nothing_runs():
                found = reader(path)
        except UserError as error:
            message = str(error)
            assert path.stem in message and "\n" not in message and len(message) < 400, message
            return True
        finally:
            seen["worst"] = max(seen["worst"], time.perf_counter() - start)
        if isinstance(found, WeightContents):
            with suppress(UserError):
                convert(found)
        return False

    yield work
    assert seen["worst"] < SECONDS_A_FILE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - seen["memory"] < 1024 * MEGABYTES
    assert not (tmp_path / "canary").exists()


def bases_of(files, name, tmp_path):
    """The good file, four times as often as the one that, in pickles, would run a program."""
    filename, good = files.small_files()[name]
    if name == "keras":
        return [good, files.keras_file({"a/b": {"a/b/x:0": np.ones(3, "f4")}, "c": {}}, variable=True)], filename
    return [good] * 4 + [files.small_files(Program(tmp_path / "canary"))[name][1]], filename


@pytest.mark.parametrize("name", READERS)
def test_harmed_files(files, tmp_path, outcome, name):
    bases, filename = bases_of(files, name, tmp_path)
    path, rng = tmp_path / filename, np.random.default_rng(1)
    path.write_bytes(bases[0])
    READERS[name](path)
    refused = 0
    for _ in range(FILES):
        path.write_bytes(harmed(rng, bases))
        refused += outcome(READERS[name], path)
    print(f"\n{name}: {refused} of {FILES} harmed files refused")
    assert FILES / 3 < refused <= FILES


def test_archives_whose_pickle_is_harmed(files, tmp_path, outcome):
    """With sound checksums around it, so that the harm reaches the pickle."""
    bases, filename = bases_of(files, "torch zip", tmp_path)
    pickles = [zipfile.ZipFile(io.BytesIO(base)).read("archive/data.pkl") for base in bases]
    path, rng, refused = tmp_path / filename, np.random.default_rng(2), 0
    for _ in range(FILES):
        path.write_bytes(files.repacked(bases[0], data_pkl=harmed(rng, pickles)))
        refused += outcome(read_torch, path)
    print(f"\ntorch zip, pickle: {refused} of {FILES} harmed files refused")
    assert FILES / 3 < refused < FILES


def test_harmed_openvino_networks(mobilestylegan_ir, tmp_path, outcome):
    names = [f"{part}Network.{end}" for part in ("Mapping", "Synthesis") for end in ("xml", "bin")]
    whole = dict(zip(names, [part for ir in mobilestylegan_ir for part in (ir.xml, ir.bin)], strict=True))
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    assert read_openvino(tmp_path / names[0]).tensors
    rng, refused = np.random.default_rng(3), 0
    for _ in range(FILES):
        name = names[rng.choice(4, p=[0.3, 0.1, 0.5, 0.1])]
        (tmp_path / name).write_bytes(harmed(rng, [whole[name]]))
        refused += outcome(lambda _: read_openvino(tmp_path / names[0]), tmp_path / "Network")
        (tmp_path / name).write_bytes(whole[name])
    print(f"\nopenvino: {refused} of {FILES} harmed files refused")
    assert FILES / 3 < refused <= FILES

import numpy as np
import pytest

from hyperdecode.errors import WeightFileError
from hyperdecode.weights import dlib_faces
from hyperdecode.weights.dlib_faces import read_dlib_faces

STEM, BLOCKS, EMBEDDING = 4, ((4, False), (6, True), (5, False)), 8
FIRST = 4 * 3 * 49 + 4  # parameters of the first convolution


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """A narrow network: features/test_dlib_network.py reads the real one."""
    for name, value in (("STEM", STEM), ("BLOCKS", BLOCKS), ("EMBEDDING", EMBEDDING)):
        monkeypatch.setattr(dlib_faces, name, value)


def integer(value):
    """A whole number as dlib writes it."""
    magnitude = abs(value).to_bytes(8, "little").rstrip(b"\0") or b"\0"
    return bytes([len(magnitude) | (0x80 if value < 0 else 0)]) + magnitude


def text(word):
    return integer(len(word)) + word.encode()


def tensor(values, version=2):
    return b"".join(map(integer, (version, values.size, 1, 1, 1))) + values.astype("<f4").tobytes()


class File:
    """A random network: what it holds, and its layers as parts that a test may alter before they are joined."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.raw, self.parts = {}, [text("loss_metric_2") + integer(1) * 300]

        def convolution(name, outward, inward, side):
            filters = rng.normal(size=(outward, inward, side, side)).astype(np.float32)
            bias, scale, offset = rng.normal(size=(3, outward)).astype(np.float32)
            self.raw[name] = filters, bias, scale, offset
            self.parts.append(text("con_4") + tensor(np.concatenate([filters.ravel(), bias])) + integer(-7) * 20)
            self.parts.append(
                text("affine_") + tensor(np.concatenate([scale, offset])) + integer(0) * 5 + text("relu_11")
            )

        convolution("stem", STEM, 3, 7)
        inward = STEM
        for k, (outward, _) in enumerate(BLOCKS):
            convolution(f"blocks.{k}.first", outward, inward, 3)
            convolution(f"blocks.{k}.second", outward, outward, 3)
            inward = outward
        self.matrix = rng.normal(size=(inward, EMBEDDING)).astype(np.float32)
        self.parts.append(
            text("fc_2") + integer(EMBEDDING) + integer(inward) + tensor(self.matrix.ravel()) + integer(3)
        )

    def bytes(self):
        return b"".join(self.parts)


@pytest.fixture(scope="module")
def file():
    return File()


@pytest.fixture(scope="module")
def data(file):
    return file.bytes()


def test_every_layer_is_read_and_folded(file, data):
    tensors = read_dlib_faces(data)
    assert len(tensors) == 2 * (1 + 2 * len(BLOCKS)) + 1
    for name, (filters, bias, scale, offset) in file.raw.items():
        # The affine layer of the convolution of x: scale (filters * x + bias) + offset.
        np.testing.assert_allclose(tensors[f"{name}.weight"], np.einsum("oihw,o->oihw", filters, scale), rtol=1e-6)
        np.testing.assert_allclose(tensors[f"{name}.bias"], bias * scale + offset, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tensors["embedding.weight"], file.matrix.T)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 0.9, 0.999])
def test_a_cut_off_file_is_refused(data, fraction):
    with pytest.raises(WeightFileError, match=r"faces.dat: (cut off at byte|no layer)") as error:
        read_dlib_faces(data[: int(fraction * len(data))], "faces.dat")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "replacement", "words"),
    [
        (1, b"", "layer con_4 holds a tensor .* expected 592 values"),
        (2, b"", r"layer con_4 holds a tensor \[222, 1, 1, 1\] .*, expected 148 values"),
        (-1, b"", "no layer fc_2"),
        (1, text("con_4") + tensor(np.zeros(FIRST), version=1), r"version 1\), expected 592 values"),
        (1, text("con_4") + tensor(np.zeros(FIRST - 1)), r"tensor \[591, 1, 1, 1\]"),
        (1, text("con_4") + tensor(np.full(FIRST, np.nan)), "layer con_4 holds NaN"),
        (1, text("con_4") + integer(2) + b"\x0f" * 20, "no integer at byte"),
        (1, text("con_4") + integer(2) + b"\x13" * 20, "no integer at byte"),
        (1, text("con_4") + b"".join(map(integer, (2, -FIRST, -1, 1, 1))) + bytes(4 * FIRST), r"tensor \[-592, -1"),
        (-1, text("fc_2") + integer(5) + integer(8), r"settings \(5, 8\), expected \(8, 5\)"),
    ],
)
def test_what_is_not_that_network_is_refused(file, part, replacement, words):
    parts = list(file.parts)
    parts[part] = replacement
    with pytest.raises(WeightFileError, match=words) as error:
        read_dlib_faces(b"".join(parts))
    assert "\n" not in str(error.value)


def test_a_thousand_damaged_files_are_read_or_refused(data):
    """Bytes changed, cut out and doubled: never anything but tensors or a `WeightFileError`."""
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1000):
        at = int(rng.integers(0, len(data)))
        if rng.random() < 0.7:  # most of the file is numbers, so many changes are aimed at what stands before them
            at = data.rfind(bytes(rng.choice([b"con_4", b"affine_", b"fc_2"])), 0, at) + int(rng.integers(0, 25))
        change = bytes(rng.integers(0, 256, int(rng.integers(0, 4)), dtype=np.uint8))
        damaged = data[:at] + change + data[at + int(rng.integers(0, 4)) :]
        try:
            tensors = read_dlib_faces(damaged)
            assert all(np.isfinite(value).all() for value in tensors.values())
        except WeightFileError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 300 < refused < 1000

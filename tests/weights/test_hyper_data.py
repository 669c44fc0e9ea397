import os
import pickle

import numpy as np
import pytest

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.hyper_data import read_hyper_data

RNG = np.random.default_rng(0)
PARTS = [RNG.normal(size=(n, k)) for n, k in ((5, 7), (5, 4), (3, 7), (3, 4))]


@pytest.fixture
def read(tmp_path):
    def work(data):
        (tmp_path / "data_1.dat").write_bytes(data)
        return read_hyper_data(tmp_path / "data_1.dat")

    return work


@pytest.fixture
def refused(read):
    def work(content, words):
        with pytest.raises(WeightFileError) as error:
            read(content if isinstance(content, bytes) else pickle.dumps(content, 4))
        message = str(error.value)
        assert message.startswith("data_1.dat: ") and "\n" not in message and len(message) < 300
        assert words in message, message

    return work


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "form",
    [
        tuple,
        list,
        lambda parts: tuple(list(part) for part in parts),
        lambda parts: [[row.astype(np.float32)[None] for row in part] for part in parts],
        lambda parts: [part.astype("f2") for part in parts],
    ],
    ids=["arrays", "list", "lists of rows", "lists of one-row matrices", "half"],
)
def test_the_forms_it_may_have(read, nothing_runs, form, protocol):
    content = form(PARTS)
    data = pickle.dumps(content, protocol)
    read(data)
    with nothing_runs():
        found = read(data)
    expected = [np.stack([np.squeeze(row) for row in part]).astype(np.float32) for part in content]
    for name, value in zip(("x_train", "t_train", "x_test", "t_test"), expected, strict=True):
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(found, name), value)


def test_the_names_of_the_older_numpy(read):
    data = pickle.dumps(PARTS, 2).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(read(data).x_test, PARTS[2].astype(np.float32))


def test_programs(refused, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/canary",)

    refused([*PARTS[:3], Attack()], "system")
    refused([*PARTS[:3], [Attack()]], "system")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PARTS[:3], "no four parts"),
        ({"x": 1}, "no four parts"),
        ([*PARTS[:3], 3], "t_test is neither"),
        ([*PARTS[:3], []], "t_test is neither"),
        ([*PARTS[:3], [1.0, 2.0]], "a row of t_test is no NumPy array"),
        ([*PARTS[:3], [np.ones(4), np.ones(5), np.ones(4)]], "differ in their length"),
        ([*PARTS[:3], np.ones((2, 4))], "responses to 3 faces and latents of 2"),
        ([PARTS[0][:4], *PARTS[1:]], "responses to 4 faces and latents of 5"),
        ([*PARTS[:3], np.ones((3, 5))], "training and test rows differ"),
        ([*PARTS[:2], np.ones((3, 8)), PARTS[3]], "training and test rows differ"),
        ([*PARTS[:3], np.ones((3, 4, 1))], "t_test has shape (3, 4, 1)"),
        ([*PARTS[:3], np.ones((3, 0))], "t_test has shape (3, 0)"),
        ([*PARTS[:3], np.full((3, 4), np.nan)], "tensor 't_test' holds NaN"),
        ([*PARTS[:3], np.array([["a"] * 4] * 3)], "not of plain numbers"),
        (b"\x80\x04N", "not readable as a pickle"),
    ],
)
def test_other_contents(refused, content, words):
    refused(content, words)

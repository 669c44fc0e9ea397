import json
import struct
from pathlib import Path

import numpy as np
import pytest

from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.errors import UserError
from hyperdecode.pipeline.checkpoints import FileCheckpoint


@pytest.fixture
def checkpoint(tmp_path):
    return FileCheckpoint(tmp_path / "new" / "dense.safetensors", every=2)


def state():
    rng = np.random.default_rng(0)
    return {
        "weights": rng.standard_normal((7, 3)).astype(np.float32),
        "turned": rng.standard_normal((3, 7)).T,
        "fingerprint": np.arange(32, dtype=np.uint8),
        "empty": np.zeros((0, 0), dtype=np.float32),
        "losses": np.array([1.5, np.inf]),
        "steps": np.array(12),
    }


def test_what_is_saved_comes_back_bit_by_bit(checkpoint):
    assert checkpoint.load() is None
    checkpoint.save({"old": np.zeros(3)})
    checkpoint.save(state())
    found = checkpoint.load()
    assert found.keys() == state().keys()
    for name, value in state().items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[name], value)
        found[name][...] = 0
    assert [p.name for p in checkpoint.path.parent.iterdir()] == ["dense.safetensors"]
    checkpoint.clear()
    assert checkpoint.load() is None
    checkpoint.clear()


def test_a_killed_save_leaves_the_state_before(checkpoint, monkeypatch):
    checkpoint.save(state())

    def full(arrays, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyperdecode.pipeline.checkpoints.save_file", full)
    with pytest.raises(UserError, match=r"cannot write the checkpoint .* No space left"):
        checkpoint.save({"weights": np.ones(3)})
    np.testing.assert_array_equal(checkpoint.load()["weights"], state()["weights"])
    assert [p.name for p in checkpoint.path.parent.iterdir()] == ["dense.safetensors"]


def test_a_decoder_goes_on_from_the_file(checkpoint):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 9)), rng.standard_normal((40, 3))
    settings = {"n_epochs": 7, "learning_rate": 1e-2, "validation": 0.2}

    class KilledError(Exception):
        pass

    def kill(done, _):
        if done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        DenseDecoder(**settings, checkpoint=checkpoint, progress=kill).fit(x, y)
    told = []
    again = FileCheckpoint(checkpoint.path, every=3)
    decoder = DenseDecoder(**settings, checkpoint=again, progress=lambda done, _: told.append(done)).fit(x, y)
    assert told == [5, 6, 7]
    np.testing.assert_array_equal(decoder.coef_, DenseDecoder(**settings).fit(x, y).coef_)


def safetensors(header, body=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no checkpoint",
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        struct.pack("<Q", 2**62) + b"{}",
        safetensors([]),
        safetensors({"a": 3}),
        safetensors({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"1234"),
        safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"1234"),
        safetensors({"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        safetensors({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        safetensors({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(2000)}),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(checkpoint, content):
    checkpoint.path.parent.mkdir()
    checkpoint.path.write_bytes(content)
    with pytest.raises(UserError, match=r"is no readable checkpoint .*: remove it to train anew") as caught:
        checkpoint.load()
    assert "\n" not in str(caught.value)


def test_every_harm_to_a_real_file_is_told_or_loads(checkpoint):
    checkpoint.save(state())
    whole = checkpoint.path.read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(300):
        data = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
        for at in rng.integers(0, max(len(data), 1), 5):
            if data:
                data[at] = rng.integers(256)
        checkpoint.path.write_bytes(data)
        try:
            found = checkpoint.load()
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert sum(value.nbytes for value in found.values()) <= len(whole)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no regular file"):
        FileCheckpoint(tmp_path).load()
    with pytest.raises(UserError, match="cannot write"):
        FileCheckpoint(tmp_path).save({"a": np.ones(1)})
    if Path("/dev/zero").exists():
        with pytest.raises(UserError, match="no regular file"):
            FileCheckpoint("/dev/zero").load()


def test_what_a_killed_save_left_is_removed(checkpoint):
    checkpoint.save(state())
    left = checkpoint.path.with_name(".dense.safetensors.ab_cd012.safetensors")
    left.write_bytes(b"half")
    other = checkpoint.path.with_name(".another.safetensors.ab_cd012.safetensors")
    other.write_bytes(b"of somebody else")
    assert checkpoint.load() is not None
    assert not left.exists() and other.exists() and checkpoint.path.exists()

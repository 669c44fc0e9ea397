import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from hyperdecode.weights.nvidia import read_nvidia

RNG = np.random.default_rng(0)
TENSORS = {
    "mapping.w_avg": RNG.normal(size=4).astype(np.float32),
    "mapping.fc0.weight": RNG.normal(size=(4, 4)).astype(np.float32),
    "mapping.fc0.bias": RNG.normal(size=4).astype(np.float32),
    "synthesis.b4.const": RNG.normal(size=(3, 4, 4)).astype(np.float32),
    "synthesis.b4.conv1.noise_const": RNG.normal(size=(4, 4)).astype(np.float32),
    "synthesis.b4.conv1.noise_strength": np.float32(0.25),
    "synthesis.b4.conv1.affine.weight": RNG.normal(size=(3, 4)).astype(np.float32),
}


READER, ODD_FILE = read_nvidia, "odd.pkl"  # of the fixtures `read` and `refused`


@pytest.fixture
def network(files):
    with files.standing_in(dnnlib__util__EasyDict=files.EasyDict):
        kwargs = files.EasyDict(conv_clamp=256, resample_filter=[1, 3, 3, 1], num_fp16_res=np.int64(4))
    return files.persistent_tree(
        TENSORS, z_dim=4, img_resolution=np.int32(4), synthesis_kwargs=kwargs, activation="lrelu"
    )


@pytest.fixture
def pickled(files):
    def work(content, protocol=4):
        with files.standing_in(dnnlib__util__EasyDict=files.EasyDict):
            return files.nvidia_pickle(content, protocol)

    return work


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_averaged_generator(files, read, pickled, network, nothing_runs, protocol):
    other = files.persistent_tree({"x": np.ones(3, np.float32)})
    options = files.EasyDict(path="faces", use_labels=False)
    content = {"training_set_kwargs": options, "G": other, "D": other, "G_ema": network, "augment_pipe": other}
    data = pickled(content, protocol)
    assert b"the source was run" in data
    read(data)
    with nothing_runs():
        contents = read(data)
    assert contents.format == "nvidia-torch" and contents.source == "odd.pkl"
    assert contents.tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert contents.tensors[name].shape == value.shape
        np.testing.assert_array_equal(contents.tensors[name], value)
    assert contents.settings == {
        "z_dim": 4,
        "img_resolution": 4,
        "synthesis_kwargs": {"conv_clamp": 256, "resample_filter": [1, 3, 3, 1], "num_fp16_res": 4},
        "activation": "lrelu",
        "init_args": [],
        "class_name": "Generator",
        "network": "G_ema",
    }


def test_networks_in_half_precision_and_positional_arguments(read, pickled, network):
    network.half()
    network._init_args = (4, "x")
    contents = read(pickled({"G": network}))
    assert contents.settings["network"] == "G" and contents.settings["init_args"] == [4, "x"]
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(contents.tensors[name], value.astype(np.float16).astype(np.float32))


def test_the_containers_of_other_pytorch_versions(files, read, pickled):
    """Parameters lie in an OrderedDict until PyTorch 2.4 and in a dict since."""
    module = files.persistent_tree({"fc.weight": np.ones((2, 2), np.float32)})
    for kind in (OrderedDict, dict):
        for part in (module, module.fc):
            part.__dict__["_parameters"] = kind(part._parameters)
            part.__dict__["_buffers"] = kind(none=None)
            part.__dict__["_modules"] = kind(part._modules)
        assert read(pickled({"G_ema": module})).tensors.keys() == {"fc.weight"}


def test_a_program_anywhere(files, refused, pickled, network, tmp_path):
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return exec, (f"open({str(canary)!r}, 'w')",)

    refused(pickled({"G_ema": network, "D": Attack()}), "'builtins.exec'")
    network._init_kwargs["hidden"] = Attack()
    refused(pickled({"G_ema": network}), "'builtins.exec'")
    assert not canary.exists()


def with_storage(files, pickled, content):
    """Pickle a network whose tensor has a storage of one's own bytes."""

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (content,)

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, (2,), (1,), False, OrderedDict())

    module = files.persistent({})
    module.__dict__["_parameters"]["w"] = Tensor()
    return pickled({"G_ema": module})


def test_storages_within(files, read, refused, pickled, tmp_path):
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return eval, (f"open({str(canary)!r}, 'w')",)

    values = torch.tensor([1.5, 2.5])
    storage = torch.storage.TypedStorage(wrap_storage=values.untyped_storage(), dtype=torch.float32, _internal=True)
    good = files.torch_file(storage, zipped=False)
    found = read(with_storage(files, pickled, good))
    np.testing.assert_array_equal(found.tensors["w"], [1.5, 2.5])
    refused(with_storage(files, pickled, files.torch_file(Attack(), zipped=False)), "__builtin__.eval")
    refused(with_storage(files, pickled, files.torch_file(storage)), "")
    refused(with_storage(files, pickled, files.torch_file({"x": values}, zipped=False)), "names")
    refused(with_storage(files, pickled, good[:-1]), "cut off")
    refused(with_storage(files, pickled, b""), "")
    refused(with_storage(files, pickled, "text"), "")
    refused(with_storage(files, pickled, 3), "a storage has no bytes")
    nested = pickle.dumps(
        torch.storage.TypedStorage(wrap_storage=values.untyped_storage(), dtype=torch.float32, _internal=True)
    )
    refused(with_storage(files, pickled, nested), "")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "expected a network named G_ema or G"),
        ({"D": 1}, "holds \"['D']\", expected"),
        ([1], "its content is no dictionary"),
        ({"G_ema": None}, "'G_ema' is no network"),
        ({"G_ema": torch.ones(2)}, "'G_ema' is no network"),
    ],
)
def test_other_contents(refused, pickled, content, words):
    refused(pickled(content), words)


def test_states_that_are_none(files, refused, pickled, network):
    network.mapping.__dict__["_modules"] = [1]
    refused(pickled({"G_ema": network}), "_modules is no dictionary")
    network.mapping.__dict__["_modules"] = {"fc": 3}
    refused(pickled({"G_ema": network}), "'mapping.fc' is no network")
    network.__dict__["_parameters"] = {"x": 3}
    refused(pickled({"G_ema": network}), "tensor 'x' is not laid out")


def test_modules_in_a_circle(files, refused, pickled):
    meta = {"type": "class", "version": 6, "module_src": "", "class_name": "G"}
    state = {"_modules": {}}

    class Circle:
        def __reduce__(self):
            return files._reconstruct, ({**meta, "state": state},)

    state["_modules"]["again"] = Circle()
    state["_modules"]["more"] = state["_modules"]["again"]
    refused(pickled({"G_ema": Circle()}), "without end")


def test_settings_that_unfold_without_end(files, refused, pickled, network):
    value = [1]
    for _ in range(40):
        value = [value, value]
    network._init_kwargs["x"] = value
    refused(pickled({"G_ema": network}), "nested without end")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(files, refused, pickled, value):
    module = files.persistent_tree({"synthesis.b4.w": np.array([0, value], np.float32)})
    refused(pickled({"G_ema": module}), "tensor 'synthesis.b4.w' holds NaN or infinite")

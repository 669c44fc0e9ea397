import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.features import FeatureNetwork, feature_network_names, load_feature_network
from hyperdecode.features.resnet50 import MEANS_BGR, ResNet50
from hyperdecode.weights.contents import WeightContents, Weights
from hyperdecode.weights.imported import save_imported
from hyperdecode.weights.layouts.resnet50 import BLOCKS, from_keras

GOLDEN = Path(__file__).parent / "golden"
NAME = "resnet50-vggface2"


def _golden_maker():
    spec = importlib.util.spec_from_file_location("make_resnet50", GOLDEN / "make_resnet50.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_tensors(seed=0):
    """Random canonical tensors of a narrow network: 8 channels, then 16, 24, 32, 40."""
    source = torch.Generator().manual_seed(seed)
    tensors = {}

    def convolution(name, inward, outward, side):
        tensors[f"{name}.weight"] = torch.randn(outward, inward, side, side, generator=source) / (side * inward**0.5)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(outward, generator=source)

    convolution("stem", 3, 8, 7)
    inward = 8
    for s, blocks in enumerate(BLOCKS):
        narrow, wide = 4 + 2 * s, 16 + 8 * s
        for b in range(blocks):
            name = f"stages.{s}.{b}"
            convolution(f"{name}.reduce", inward, narrow, 1)
            convolution(f"{name}.middle", narrow, narrow, 3)
            convolution(f"{name}.increase", narrow, wide, 1)
            if b == 0:
                convolution(f"{name}.project", inward, wide, 1)
            inward = wide
    return tensors


@pytest.fixture(scope="module")
def tiny():
    return ResNet50(tiny_tensors())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))


def weights(seed=0):
    return Weights(NAME, "test", {key: value.numpy() for key, value in tiny_tensors(seed).items()})


def test_features_are_those_of_keras_vggface():
    """Its own code, run by Keras on the same random weights."""
    maker = _golden_maker()
    lines = (GOLDEN / "resnet50_weights.txt").read_text(encoding="utf-8").splitlines()
    shapes = {name: tuple(map(int, shape.split("x"))) for name, shape in map(str.split, lines)}
    tensors = {name: maker.value(name.removesuffix(":0"), shape) for name, shape in shapes.items()}
    loaded = from_keras(WeightContents("keras-hdf5", tensors, "random.h5"))
    network = load_feature_network(NAME, loaded)
    pictures = torch.from_numpy(maker.pictures()).permute(0, 3, 1, 2) / 127.5 - 1
    features = network.features(pictures).numpy()
    expected = np.load(GOLDEN / "resnet50_features.npy")
    assert features.shape == expected.shape == (2, 2048) and network.dim == 2048
    assert np.abs(features - expected).max() / np.abs(expected).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() / np.abs(expected).max() > 0.05


def test_colours_are_centred_on_the_mean_face(tiny):
    """At the mean colour of VGGFace2 the first convolution sees nothing, in blue, green, red order."""
    mean = torch.tensor(MEANS_BGR).flip(0).view(1, 3, 1, 1).expand(1, 3, 224, 224) / 127.5 - 1
    seen = []
    handle = tiny.stem.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tiny.features(mean)
    tiny.features(torch.cat([mean[:, :2], mean[:, 2:] + 2 / 127.5], 1))
    handle.remove()
    assert seen[0].abs().max() < 1e-4
    torch.testing.assert_close(seen[1][0, :, 5, 5], torch.tensor([2.0, 0.0, 0.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [64, 128, 256])
def test_other_sides_are_resampled(tiny, side):
    angles = torch.linspace(0, 3, 448)
    wave = (angles.sin()[:, None] * angles.cos()[None]).expand(1, 3, 448, 448)
    full = tiny.features(torch.nn.functional.interpolate(wave, (224, 224), mode="area"))
    other = tiny.features(torch.nn.functional.interpolate(wave, (side, side), mode="bilinear", antialias=True))
    assert (full - other).norm() / (full - tiny.features(-wave)).norm() < 0.05


def test_faces_do_not_depend_on_their_batch(tiny, monkeypatch):
    pictures = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    whole = tiny.features(pictures)
    monkeypatch.setattr("hyperdecode.features.resnet50.BATCH", 2)
    torch.testing.assert_close(tiny.features(pictures), whole)
    torch.testing.assert_close(tiny.features(pictures[1:2]), whole[1:2])
    assert tiny.features(pictures[:0]).shape == (0, 40)


def test_gradients_are_those_of_finite_differences():
    network = ResNet50(tiny_tensors()).double()
    pictures = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.2
    assert torch.autograd.gradcheck(network.features, pictures.requires_grad_(), fast_mode=True)


def test_it_is_a_feature_network(tiny):
    assert isinstance(tiny, FeatureNetwork) and tiny.dim == 40 and tiny.name == NAME
    assert feature_network_names() == ("dlib", NAME)


def test_imported_weights_are_found(cache, tiny):
    pictures = torch.zeros(1, 3, 224, 224)
    save_imported(weights(), "my-resnet", "my.h5", "0" * 64)
    torch.testing.assert_close(load_feature_network(NAME).features(pictures), tiny.features(pictures))
    save_imported(weights(1), "another", "another.h5", "0" * 64)
    with pytest.raises(UserError, match=r"2 imported files hold resnet50-vggface2 \(another, my-resnet\)"):
        load_feature_network(NAME)
    save_imported(weights(), NAME, "my.h5", "0" * 64)
    torch.testing.assert_close(load_feature_network(NAME).features(pictures), tiny.features(pictures))


def test_weights_that_are_not_there(cache):
    with pytest.raises(UserError, match="weights import FILE") as error:
        load_feature_network(NAME)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load_feature_network("vgg16"), "no feature network 'vgg16': choose among dlib, resnet50-vggface2"),
        (lambda: load_feature_network(NAME, Weights("pggan", "", {})), "weights of pggan, not of resnet50"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_pictures_of_another_shape_are_refused(tiny):
    with pytest.raises(UserError, match=r"64 px or more, got shape \(2, 3, 32, 32\)"):
        tiny.features(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["stem.bias", "stages.1.3.middle.weight", "stages.3.0.reduce.weight"])
def test_a_missing_tensor_is_named(name):
    tensors = tiny_tensors()
    del tensors[name]
    with pytest.raises(WeightFileError, match=f"lack the tensor '{name}'"):
        ResNet50(tensors)


@pytest.mark.parametrize(
    ("name", "cut", "words"),
    [
        ("stem.weight", np.s_[:, :2], r"stem.weight has shape \(8, 2, 7, 7\), expected \(8, 3, 7, 7\)"),
        ("stages.1.2.middle.weight", np.s_[..., :1], "stages.1.2.middle.weight has shape"),
        ("stages.2.0.project.bias", np.s_[:-1], "stages.2.0.project.weight has shape"),
        ("stages.0.1.increase.weight", np.s_[:-1], "stages.0.1.increase.weight has shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, cut, words):
    tensors = tiny_tensors()
    tensors[name] = tensors[name][cut]
    with pytest.raises(WeightFileError, match=words) as error:
        ResNet50(tensors)
    assert "\n" not in str(error.value)


def test_a_shortcut_of_another_width_is_refused():
    tensors = tiny_tensors()
    for part in ("weight", "bias"):
        tensors[f"stages.0.1.increase.{part}"] = tensors[f"stages.0.1.increase.{part}"][:-1]
    with pytest.raises(WeightFileError, match=r"stages.0.1 adds 16 to 15 channels"):
        ResNet50(tensors)

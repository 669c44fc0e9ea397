import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts.resnet50 import BLOCKS, EPSILON, from_keras, recognise

PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


def keras_tensors(seed=0):
    """Tensors of a narrow network by the names that Keras saves: 8 channels, then 16, 24, 32, 40."""
    rng, tensors = np.random.default_rng(seed), {}

    def convolution(layer, side, inward, outward):
        tensors[f"{layer}/kernel:0"] = rng.normal(size=(side, side, inward, outward)).astype(np.float32)
        for part in PARTS:
            value = rng.uniform(0.2, 1.5, outward) if part != "beta" else rng.normal(size=outward)
            tensors[f"{layer}/bn/{part}:0"] = value.astype(np.float32)

    convolution("conv1/7x7_s2", 7, 3, 8)
    inward = 8
    for s, blocks in enumerate(BLOCKS):
        narrow, wide = 4 + 2 * s, 16 + 8 * s
        for b in range(blocks):
            layer = f"conv{s + 2}_{b + 1}"
            convolution(f"{layer}_1x1_reduce", 1, inward, narrow)
            convolution(f"{layer}_3x3", 3, narrow, narrow)
            convolution(f"{layer}_1x1_increase", 1, narrow, wide)
            if b == 0:
                convolution(f"{layer}_1x1_proj", 1, inward, wide)
            inward = wide
    return tensors


def contents(tensors):
    return WeightContents("keras-hdf5", tensors, "some.h5")


@pytest.mark.parametrize(
    ("layer", "ours"),
    [
        ("conv1/7x7_s2", "stem"),
        ("conv2_1_1x1_proj", "stages.0.0.project"),
        ("conv3_4_3x3", "stages.1.3.middle"),
        ("conv4_6_1x1_reduce", "stages.2.5.reduce"),
        ("conv5_3_1x1_increase", "stages.3.2.increase"),
    ],
)
def test_a_folded_convolution_is_convolution_and_normalisation(layer, ours):
    tensors = keras_tensors()
    weights = from_keras(contents(tensors))
    kernel = torch.from_numpy(tensors[f"{layer}/kernel:0"]).permute(3, 2, 0, 1)
    gamma, beta, mean, variance = (torch.from_numpy(tensors[f"{layer}/bn/{part}:0"]) for part in PARTS)
    x = torch.randn(2, kernel.shape[1], 9, 9, generator=torch.Generator().manual_seed(1))
    expected = F.batch_norm(F.conv2d(x, kernel), mean, variance, gamma, beta, eps=EPSILON)
    found = F.conv2d(x, *(torch.from_numpy(weights.tensors[f"{ours}.{part}"]) for part in ("weight", "bias")))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert EPSILON == 1e-3


def test_every_tensor_is_read_and_named():
    weights = from_keras(contents(keras_tensors()))
    n_convolutions = 1 + 3 * sum(BLOCKS) + 4
    assert len(weights.tensors) == 2 * n_convolutions
    assert len({value.tobytes() for value in weights.tensors.values()}) == 2 * n_convolutions
    assert weights.family == "resnet50-vggface2" and "non-commercial" in weights.licence
    assert all(value.dtype == np.float32 for value in weights.tensors.values())


def test_recognise():
    tensors = keras_tensors()
    assert recognise(contents(tensors)) == "keras"
    plain = {name.removesuffix(":0"): value for name, value in tensors.items()}
    assert recognise(contents(plain)) == "keras"
    top = {"classifier/kernel:0": np.zeros((40, 5), np.float32), "classifier/bias:0": np.zeros(5, np.float32)}
    assert recognise(contents(tensors | top)) == "keras"
    for key, value in from_keras(contents(tensors)).tensors.items():
        np.testing.assert_array_equal(from_keras(contents(plain | top)).tensors[key], value)
    senet = tensors | {"conv2_1_1x1_down/kernel:0": np.zeros((1, 1, 16, 1), np.float32)}
    assert recognise(contents(senet)) is None
    assert recognise(contents({"conv1_1/kernel:0": np.zeros((3, 3, 3, 64), np.float32)})) is None
    assert recognise(contents({})) is None


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("conv1/7x7_s2/kernel:0", None, "no tensor 'conv1/7x7_s2/kernel'"),
        ("conv4_3_3x3/bn/moving_mean:0", None, "no tensor 'conv4_3_3x3/bn/moving_mean'"),
        ("conv1/7x7_s2/kernel:0", lambda v: v[:, :, :1], r"shape \(7, 7, 1, 8\), expected \(7, 7, 3, 8\)"),
        ("conv3_1_1x1_reduce/kernel:0", lambda v: v[..., :0], r"expected \(any, any, any, any\)"),
        ("conv3_1_1x1_proj/kernel:0", lambda v: v[..., 0], "conv3_1_1x1_proj/kernel has shape"),
        ("conv2_2_3x3/bn/gamma:0", lambda v: v[1:], r"conv2_2_3x3/bn/gamma has shape \(3,\), expected \(4\)"),
        ("conv2_2_3x3/bn/moving_variance:0", lambda v: -v, "moving_variance is negative"),
    ],
)
def test_what_does_not_fit_is_refused(name, change, words):
    tensors = keras_tensors()
    value = tensors.pop(name)
    if change:
        tensors[name] = change(value)
    with pytest.raises(WeightFileError, match=f"some.h5: .*{words}") as error:
        from_keras(contents(tensors))
    assert "\n" not in str(error.value)

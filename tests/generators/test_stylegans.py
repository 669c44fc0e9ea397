"""What StyleGAN2 and StyleGAN3 have in common, on the golden networks of `golden/README-stylegan.md`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators.base import Generator
from hyperdecode.generators.stylegan2 import StyleGAN2
from hyperdecode.generators.stylegan3 import StyleGAN3
from hyperdecode.generators.stylegan_layers import (
    as_picture,
    downsample,
    filter_taps,
    modulated_convolution,
    setting,
    upsample,
)
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts import stylegan2, stylegan3

GOLDEN = Path(__file__).parent / "golden"
FORMATS = {"ada": "nvidia-torch", "tensorflow": "dnnlib", "rosinality": "torch"}
NETWORKS = ("ada", "tensorflow", "rosinality", "3-t", "3-r")
ONE_OF_EACH = ("ada", "3-t", "3-r")


class Golden:
    """One golden file: the weights as they lie in a file of that layout, and what the original made of them."""

    def __init__(self, name):
        self.name = name
        with safe_open(GOLDEN / f"stylegan-{name}.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.settings = json.loads(file.metadata()["settings"])
        state = {k.removeprefix("weights."): v.numpy() for k, v in tensors.items() if k.startswith("weights.")}
        self.made = {key: value for key, value in tensors.items() if not key.startswith("weights.")}
        self.contents = WeightContents(FORMATS.get(name, "nvidia-torch"), state, f"{name}.pkl", self.settings)
        layouts = stylegan3 if name.startswith("3") else stylegan2
        self.weights = layouts.LAYOUTS[layouts.recognise(self.contents)](self.contents)

    def tensors(self):
        return {key: torch.from_numpy(value.copy()) for key, value in self.weights.tensors.items()}

    def build(self, tensors=None, **options):
        family = {"stylegan2": StyleGAN2, "stylegan3": StyleGAN3}[self.weights.family]
        return family(tensors or self.tensors(), self.weights.settings, **options)


@pytest.fixture(scope="module")
def golden():
    kept = {}
    return lambda name: kept.setdefault(name, Golden(name))


def relative(a, b):
    assert a.shape == b.shape
    return float((a - b).detach().abs().max() / b.detach().abs().max())


# Against the original programs


@pytest.mark.parametrize("name", NETWORKS)
def test_pictures_are_those_of_the_original_program(golden, name):
    made, generator = golden(name).made, golden(name).build()
    for truncation in (1, 0.7):
        expected = made[f"image.{truncation}"]
        w = generator.to_w(made["z"], truncation)
        if f"w.{truncation}" in made:
            assert relative(w, made[f"w.{truncation}"]) < 1e-5
        w = w[: len(expected)]
        assert relative(generator.images(w), expected) < 1e-5
        assert relative(generator.images(w.clone().requires_grad_()), expected) < 1e-5
    first, second = made["image.1"]
    assert (first - second).abs().max() > 0.05  # faces worth telling apart


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "rosinality"])
def test_w_plus_is_that_of_the_original_program(golden, name):
    made, generator = golden(name).made, golden(name).build()
    assert made["w+"].shape == (1, generator.num_ws, generator.latent_dim)
    assert relative(generator.images(made["w+"], space="w+"), made["image.w+"]) < 1e-5
    kept = {key.removeprefix("activation."): value for key, value in made.items() if key.startswith("activation.")}
    found = generator.activations(made["w+"], list(kept), space="w+")
    for layer, value in kept.items():
        assert relative(found[layer], value) < 1e-5


# What every generator does


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_a_generator(golden, name):
    generator = golden(name).build(name="mine")
    assert isinstance(generator, Generator) and generator.name == "mine"
    side = golden(name).made["image.1"].shape[-1]
    assert generator.resolution == side and generator.resolutions == (side,)
    assert generator.latent_dim == 12 and generator.spaces == ("z", "w", "w+") and generator.picture_space == "w"
    assert generator.layer_names[-1] == "image"
    assert generator.picture_fingerprint(side) == generator.fingerprint and len(generator.fingerprint) == 64
    assert not any(value.requires_grad for value in generator.state_dict(keep_vars=True).values())
    z = generator.sample(3, seed=1)
    assert torch.equal(generator.sample(5, seed=1)[:3], z) and not torch.equal(generator.sample(3, seed=2), z)


@pytest.mark.parametrize("name", NETWORKS)
def test_activations(golden, name):
    generator = golden(name).build()
    w = generator.to_w(generator.sample(3, 5))
    names = generator.layer_names
    found = generator.activations(w, names)
    with_gradients = generator.activations(w.clone().requires_grad_(), names)
    assert tuple(found) == names == tuple(with_gradients)
    assert torch.equal(found["image"], generator.images(w))
    for layer, value in found.items():
        assert value.ndim == 4 and len(value) == 3 and not value.is_inference() and not value.requires_grad
        assert with_gradients[layer].requires_grad and relative(value, with_gradients[layer]) < 1e-5
    alone = generator.activations(w, [names[2], names[0]])
    assert tuple(alone) == (names[2], names[0]) and torch.equal(alone[names[2]], found[names[2]])
    assert generator.activations(w, []) == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_depends_on_its_own_latent_alone(golden, name):
    generator = golden(name).build()
    w = generator.to_w(generator.sample(4, 5))
    torch.manual_seed(0)
    pictures = generator.images(w)
    torch.manual_seed(1)
    assert torch.equal(generator.images(w[[2, 0]]), pictures[[2, 0]])
    assert torch.equal(golden(name).build().images(w), pictures)
    batch = generator.images(w.clone().requires_grad_())
    assert relative(generator.images(w[2:3].clone().requires_grad_()), batch[2:3]) < 1e-5
    assert pictures.is_contiguous() and pictures.dtype == torch.float32
    assert generator.images(w[:0]).shape == (0, *pictures.shape[1:])


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_gradients_are_those_of_finite_differences(golden, name, space):
    generator = golden(name).build().double()
    latents = generator.sample(2 * generator.num_ws, 3).double()
    latents = latents.reshape(2, generator.num_ws, -1) if space == "w+" else latents[:2]
    shape = (2, 3, generator.resolution, generator.resolution)
    weighting = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: (weighting * generator.images(x, space=space)).sum(), latents.requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_gradients_reach_each_latent_alone(golden, name):
    generator = golden(name).build()
    latents = generator.to_w(generator.sample(3, 1)).requires_grad_()
    generator.images(latents)[1].square().sum().backward()
    assert (latents.grad[[0, 2]] == 0).all() and (latents.grad[1] != 0).all()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_pictures_made_without_gradients_serve_in_a_loss(golden, name):
    generator, scale = golden(name).build(), torch.ones((), requires_grad=True)
    for n in (1, 2):
        (generator.images(generator.sample(n, 0)) * scale).square().sum().backward()
    assert scale.grad > 0


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_z_goes_by_w_and_w_by_w_plus(golden, name):
    generator = golden(name).build()
    z = generator.sample(2, 4)
    w = generator.to_w(z)
    pictures = generator.images(w)
    assert torch.equal(generator.images(z, space="z"), pictures)
    ws = w[:, None].repeat(1, generator.num_ws, 1)
    assert torch.equal(generator.images(ws, space="w+"), pictures)
    # Another w in the last layer changes the picture and nothing before it.
    ws[:, -1] += 0.5
    names = generator.layer_names
    before, after = generator.activations(w, names), generator.activations(ws, names, space="w+")
    assert all(torch.equal(before[layer], after[layer]) for layer in names[:-1])
    assert relative(after["image"], before["image"]) > 1e-3
    # w depends on the direction of z alone.
    torch.testing.assert_close(generator.to_w(7 * z), w, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_truncation_pulls_to_the_mean_of_the_file(golden, name):
    generator = golden(name).build()
    z = generator.sample(4, 1)
    w, mean = generator.to_w(z), golden(name).tensors()["w_avg"]
    assert torch.equal(generator.w_statistics()[0], mean)
    torch.testing.assert_close(generator.to_w(z, 0.0), mean.expand(4, -1))
    torch.testing.assert_close(generator.to_w(z, 0.25), mean + 0.25 * (w - mean))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_without_a_mean_of_the_file_it_is_estimated(golden, name):
    tensors = golden(name).tensors()
    del tensors["w_avg"]
    generator = golden(name).build(tensors)
    with torch.inference_mode():
        generator.to_w(generator.sample(1, 0), truncation=0.5)  # asked for first without gradients
    mean, sd = generator.w_statistics()
    many = generator.to_w(generator.sample(20_000, 9))
    torch.testing.assert_close(many.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(many.std(0), sd, atol=0.03, rtol=0)
    w = generator.sample(2, 0).requires_grad_()
    ((w - mean) / sd).square().sum().backward()
    assert torch.isfinite(w.grad).all()
    assert generator.double().w_statistics()[0].dtype == torch.float64


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.images(torch.zeros(2, 11)), r"takes w of shape \(n, 12\), got \(2, 11\)"),
        (lambda g: g.images(torch.zeros(12)), r"got \(12,\)"),
        (lambda g: g.to_w(torch.zeros(2, 3, 12)), r"takes z of shape \(n, 12\), got \(2, 3, 12\)"),
        (lambda g: g.images(torch.zeros(2, 12), space="w+"), r"takes w\+ of shape \(n, \d+, 12\), got \(2, 12\)"),
        (lambda g: g.images(torch.zeros(2, 12), space="s"), "no latent space 's'"),
        (lambda g: g.images(torch.zeros(2, 12), resolution=16), "pictures of 32 px, not 16"),
        (lambda g: g.activations(torch.zeros(2, 12), ["b3"]), "no layer 'b3': choose among"),
    ],
)
def test_mistakes_are_named(golden, name, call, words):
    with pytest.raises(UserError, match=words) as error:
        call(golden(name).build())
    assert "\n" not in str(error.value)


# Files that do not fit


@pytest.mark.parametrize("name", ["tensorflow", "3-r"])
def test_every_tensor_counts(golden, name):
    """Each must be there (but for a few), in its shape; each is part of the fingerprint."""
    optional = ("w_avg", ".noise", ".noise_strength", "_filter", "input.transform")
    names, seen = list(golden(name).tensors()), {golden(name).build().fingerprint}
    for key in names:
        tensors = golden(name).tensors()
        tensors[key].view(-1)[-1] += 1e-3
        seen.add(golden(name).build(tensors).fingerprint)
        kept = tensors.pop(key)
        if not key.endswith(optional):
            with pytest.raises(WeightFileError) as error:
                golden(name).build(tensors)
            assert "\n" not in str(error.value)
        with pytest.raises(WeightFileError, match=r"has shape|kernels of|hold no|lack") as error:
            golden(name).build({**tensors, key: kept[..., :-1]})
        assert "\n" not in str(error.value)
        with pytest.raises(WeightFileError):
            golden(name).build({**tensors, key: kept[None]})
    assert len(seen) == 1 + len(names)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_tensor_without_a_place_is_refused(golden, name):
    with pytest.raises(WeightFileError, match=r"no place for: b8\.skip\.weight"):
        golden(name).build({**golden(name).tensors(), "b8.skip.weight": torch.zeros(3)})


@pytest.mark.parametrize("family", [StyleGAN2, StyleGAN3])
def test_no_network_at_all(family):
    with pytest.raises(WeightFileError, match="these tensors hold no StyleGAN"):
        family({"weight": torch.zeros(3)}, {})


@pytest.mark.parametrize("value", ["256", True, None, float("nan"), 0.5, 9, [3]])
def test_a_setting_out_of_range_is_refused(value):
    assert setting({"x": 3}, "x", 2, 1, 8) == 3 and setting({}, "x", 2, 1, 8) == 2
    with pytest.raises(WeightFileError, match="setting x is"):
        setting({"x": value}, "x", 2, 1, 8)


@pytest.mark.parametrize("taps", [None, [], "1331", [1, "3"], [1, -1], [float("inf"), 1], [1.0] * 65, 3])
def test_a_filter_that_is_none_is_refused(taps):
    torch.testing.assert_close(filter_taps([1, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1]) / 8)
    with pytest.raises(WeightFileError, match="setting resample_filter"):
        filter_taps(taps)


# Layers, against their definitions


@pytest.mark.parametrize("taps", [1, 4, 7, 12])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", [(2, 1, 2, 1), (0, 0, 3, 5), (-3, 2, 9, -4), (12, 12, -1, 0)])
def test_upsampling_equals_zeros_put_in_and_a_convolution(taps, factor, padding):
    source = np.random.RandomState(0)
    x, filter_ = source.standard_normal((2, 3, 14, 15)), source.standard_normal(taps)
    stuffed = np.zeros((2, 3, 14 * factor, 15 * factor))
    stuffed[..., ::factor, ::factor] = x
    left, right, top, bottom = padding
    padded = np.pad(stuffed, ((0, 0), (0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))))
    height, width = padded.shape[2:]
    padded = padded[..., max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    expected = padded
    for axis in (2, 3):
        expected = np.apply_along_axis(np.convolve, axis, expected, factor * filter_, "valid")
    made = upsample(torch.from_numpy(x), torch.from_numpy(filter_), factor, padding)
    torch.testing.assert_close(made, torch.from_numpy(expected))


@pytest.mark.parametrize("shape", [(4,), (7,), (12,), (5, 5)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_downsampling_equals_a_convolution_of_which_pixels_are_kept(shape, factor):
    source = np.random.RandomState(0)
    x, filter_ = source.standard_normal((2, 3, 21, 24)), source.standard_normal(shape)
    x *= np.pad(np.ones((17, 20)), 2)
    square = np.outer(filter_, filter_) if filter_.ndim == 1 else filter_
    windows = np.lib.stride_tricks.sliding_window_view(x, square.shape, (2, 3))
    expected = np.einsum("nchwij,ij->nchw", windows, square[::-1, ::-1])[..., ::factor, ::factor]
    bias = torch.arange(3.0, dtype=torch.float64)
    made = downsample(torch.from_numpy(x[:, :, 2:-2, 2:-2]), torch.from_numpy(filter_), factor, bias, padding=2)
    torch.testing.assert_close(made, torch.from_numpy(expected) + bias[:, None, None])


@pytest.mark.parametrize("side", [3, 20])  # fewer features than weights, and more
def test_modulated_convolution_equals_its_equation(side):
    generator = torch.Generator().manual_seed(0)
    x, weight, styles, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((1, 5, side, side), (7, 5, 3, 3), (1, 5), (7,))
    )

    def convolve(x, w, b):
        return F.conv2d(x, w, b, padding=1)

    scaled = weight * styles[0, None, :, None, None]
    scaled = 1.5 * scaled / (scaled.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    made = modulated_convolution(x, weight, styles, bias, convolve, 1.5)
    torch.testing.assert_close(made, F.conv2d(x, scaled, bias, padding=1))
    pair = modulated_convolution(x.repeat(2, 1, 1, 1), weight, styles.repeat(2, 1), bias, convolve, 1.5)
    torch.testing.assert_close(pair[1:], made)
    colours = as_picture(x, weight[:3, :, :1, :1], styles, weight[:3, 0, 0, 1])
    expected = torch.einsum("oi,nihw->nohw", weight[:3, :, 0, 0] * styles, x) + weight[:3, 0, 0, 1, None, None]
    torch.testing.assert_close(colours, expected)
    batch = as_picture(x.repeat(2, 1, 1, 1), weight[:3, :, :1, :1], styles.repeat(2, 1), weight[:3, 0, 0, 1])
    torch.testing.assert_close(batch[1:], expected)


@pytest.mark.parametrize("n", [1, 2])
def test_large_weights_and_styles_do_not_overflow_float16(n):
    generator = torch.Generator().manual_seed(0)
    x, weight, styles = (torch.randn(shape, generator=generator) for shape in ((n, 64, 12, 12), (8, 64, 3, 3), (n, 64)))
    x, weight, styles = 100 * x, 3000 * weight, 300 * styles

    def convolve(x, w, b):
        return F.conv2d(x.float(), w.float(), padding=1).to(x.dtype)

    bias = torch.zeros(8)
    expected = modulated_convolution(x, weight, styles, bias, convolve)
    made = modulated_convolution(x.half(), weight, styles, bias.half(), convolve)
    assert made.dtype == torch.float16 and torch.isfinite(made).all()
    assert relative(made.float(), expected) < 0.01


# Half precision

ERROR = {torch.float16: 0.004, torch.bfloat16: 0.03}
"""Largest root mean square error of a picture, in units of its own standard deviation over pixels."""


def half_precision_error(golden, name, dtype, device):
    generator = golden(name).build()
    w = generator.to_w(generator.sample(2, 3))
    expected = generator.images(w)
    half = golden(name).build().to(device, dtype)
    layer = half.layer_names[1]
    assert half.activations(w.to(device), [layer])[layer].dtype == dtype
    z = generator.sample(2, 3).to(device)
    assert half.to_w(z).dtype == torch.float32 and relative(half.to_w(z).cpu(), w) < 1e-4
    made = half.images(w.to(device, dtype))  # latents in half precision are taken too
    assert made.dtype == torch.float32 and made.device.type == device and torch.isfinite(made).all()
    made = half.images(w.to(device)).cpu()
    return float((made - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", ERROR)
def test_half_precision(golden, name, dtype):
    assert 0 < half_precision_error(golden, name, dtype, "cpu") < ERROR[dtype]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", ERROR)
def test_half_precision_on_a_gpu(golden, name, dtype):
    assert 0 < half_precision_error(golden, name, dtype, "cuda") < ERROR[dtype]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_makes_the_same_pictures(golden, name):
    made, generator = golden(name).made, golden(name).build().to("cuda")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert relative(generator.images(made["z"].cuda(), space="z").cpu(), made["image.1"]) < 1e-4


def test_settings_of_the_file_change_the_fingerprint(golden):
    for name, key, value in (("ada", "conv_clamp", 2.0), ("3-r", "conv_clamp", 2.0), ("3-r", "output_scale", 0.3)):
        other = Golden(name)
        other.weights = replace(other.weights, settings={**other.weights.settings, key: value})
        assert other.build().fingerprint != golden(name).build().fingerprint
        assert relative(other.build().images(other.made["z"]), golden(name).build().images(other.made["z"])) > 1e-3

"""What every generator does, whatever its family: one suite for all of them."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hyperdecode.errors import UserError
from hyperdecode.generators import PGGAN, Generator, StyleGAN2, StyleGAN3, picture_latents
from hyperdecode.generators.base import decoded_picture_latents
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts import stylegan2, stylegan3

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("mobilestylegan", "pggan", "stylegan2", "stylegan3-t", "stylegan3-r")


def golden_stylegan(file, family, layouts):
    with safe_open(GOLDEN / f"stylegan-{file}.safetensors", "np") as stored:
        names = [key for key in stored.keys() if key.startswith("weights.")]  # noqa: SIM118
        tensors = {key.removeprefix("weights."): stored.get_tensor(key) for key in names}
        contents = WeightContents("nvidia-torch", tensors, file, json.loads(stored.metadata()["settings"]))
    weights = layouts.LAYOUTS[layouts.recognise(contents)](contents)
    return family({key: torch.from_numpy(value.copy()) for key, value in weights.tensors.items()}, weights.settings)


@pytest.fixture(scope="module")
def generators(make_tiny, make_tiny_pggan_tensors):
    return {
        "mobilestylegan": make_tiny(),
        "pggan": PGGAN(make_tiny_pggan_tensors(), "tiny-pggan"),
        "stylegan2": golden_stylegan("ada", StyleGAN2, stylegan2),
        "stylegan3-t": golden_stylegan("3-t", StyleGAN3, stylegan3),
        "stylegan3-r": golden_stylegan("3-r", StyleGAN3, stylegan3),
    }


@pytest.fixture(params=FAMILIES)
def generator(generators, request):
    return generators[request.param]


def latents_of(generator, space, n=3):
    z = generator.sample(n, 7)
    if space == "z":
        return z
    w = generator.to_w(z, 0.8)
    return w if space == "w" else w[:, None].repeat(1, generator.num_ws, 1)


def close(a, b, allowed=1e-5):
    assert a.shape == b.shape
    return float((a - b).detach().abs().max()) <= allowed * float(b.detach().abs().max())


def test_it_says_what_it_is(generator):
    assert isinstance(generator, Generator)
    assert generator.picture_space in generator.spaces and generator.spaces[0] == "z"
    assert generator.resolution == max(generator.resolutions)
    assert len(set(generator.layer_names)) == len(generator.layer_names) > 3
    assert len(generator.fingerprint) == 64


def test_samples_are_seeded_and_begin_alike(generator):
    few, many = generator.sample(2, 3), generator.sample(5, 3)
    assert many.shape == (5, generator.latent_dim) and torch.equal(few, many[:2])
    assert not torch.equal(few, generator.sample(2, 4))


def test_every_space_and_side_gives_pictures(generator):
    for space in generator.spaces:
        for side in generator.resolutions:
            pictures = generator.images(latents_of(generator, space), space=space, resolution=side)
            assert pictures.shape == (3, 3, side, side) and pictures.dtype == torch.float32
            assert torch.isfinite(pictures).all() and pictures.std() > 1e-3


def test_the_default_space_and_side(generator):
    latents = latents_of(generator, generator.picture_space)
    told = generator.images(latents, space=generator.picture_space, resolution=generator.resolution)
    assert torch.equal(generator.images(latents), told)


def test_pictures_are_the_same_again(generator):
    latents = latents_of(generator, generator.picture_space)
    assert torch.equal(generator.images(latents), generator.images(latents))


def test_a_picture_does_not_depend_on_its_batch(generator):
    latents = latents_of(generator, generator.picture_space)
    for some in (latents, latents.clone().requires_grad_()):  # both passes
        together = generator.images(some)
        for k in range(3):
            assert close(generator.images(some[k : k + 1]), together[k : k + 1])
        assert close(generator.images(some.flip(0)).flip(0), together)


def test_different_latents_give_different_pictures(generator):
    pictures = generator.images(latents_of(generator, generator.picture_space))
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3


def test_gradients_follow_the_picture(generator):
    """A small step along the gradient changes the picture's sum by the step times the gradient's length."""
    for space in generator.spaces:
        latents = latents_of(generator, space, 1).requires_grad_()
        weight = torch.randn(3, generator.resolution, generator.resolution, generator=torch.Generator().manual_seed(0))
        value = (generator.images(latents, space=space) * weight).sum()
        (gradient,) = torch.autograd.grad(value, latents)
        length = gradient.norm()
        step = 1e-3 * latents.detach().norm() * gradient / length / latents.numel() ** 0.5
        ahead, behind = (generator.images(latents.detach() + sign * step, space=space) for sign in (1, -1))
        slope = ((ahead - behind) * weight).sum() / (2 * step.norm())
        assert length > 1e-3
        assert abs(float(slope / length) - 1) < 0.05, space


def test_the_last_activation_is_the_picture(generator):
    for space in generator.spaces:
        latents = latents_of(generator, space)
        last = generator.layer_names[-1]
        assert close(generator.activations(latents, [last], space=space)[last], generator.images(latents, space=space))


def test_activations_come_by_name_and_agree_between_calls(generator):
    latents = latents_of(generator, generator.picture_space)
    every = generator.activations(latents, generator.layer_names)
    assert list(every) == list(generator.layer_names)
    some = [generator.layer_names[-2], generator.layer_names[1]]
    found = generator.activations(latents, some)
    assert list(found) == some
    for name in some:
        assert found[name].ndim == 4 and len(found[name]) == 3 and close(found[name], every[name])
        assert close(generator.activations(latents[1:2], [name])[name], every[name][1:2])
    assert generator.activations(latents, []) == {}


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("crop", [1, 2, 5, 6, 8, 31, 10_000])
def test_a_crop_is_cut_from_the_middle_of_the_map(generator, crop, gradients):
    """Of each layer alone, which shows that it asks enough of those before it, and of all of them at once."""
    latents = latents_of(generator, generator.picture_space, 2)
    whole = generator.activations(latents, generator.layer_names)
    asked = latents.clone().requires_grad_(gradients)
    for names in (*((name,) for name in generator.layer_names), generator.layer_names[::-1]):
        found = generator.activations(asked, names, crop=crop)
        assert tuple(found) == names
        for name in names:
            size = min(crop, whole[name].shape[-1])
            start = (whole[name].shape[-1] - size) // 2
            middle = whole[name][..., start : start + size, start : start + size]
            assert found[name].shape == middle.shape
            assert (found[name] - middle).abs().max() <= 1e-5 * whole[name].abs().max(), name


def test_gradients_of_a_crop_are_those_of_the_whole_map(generator):
    latents = latents_of(generator, generator.picture_space, 2).requires_grad_()
    for name in generator.layer_names[1:]:
        whole = generator.activations(latents, [name])[name]
        start = (whole.shape[-1] - 3) // 2
        middle = whole[..., start : start + 3, start : start + 3]
        weight = torch.randn(middle.shape, generator=torch.Generator().manual_seed(0))
        (expected,) = torch.autograd.grad((weight * middle).sum(), latents)
        cropped = generator.activations(latents, [name], crop=3)[name]
        (found,) = torch.autograd.grad((weight * cropped).sum(), latents)
        assert expected.abs().max() > 0 and close(found, expected, 1e-4), name


def test_gradients_reach_the_latents_through_every_layer(generator):
    latents = latents_of(generator, generator.picture_space, 2).requires_grad_()
    for name, value in generator.activations(latents, generator.layer_names).items():
        (gradient,) = torch.autograd.grad(value[0].square().sum(), latents, retain_graph=True, allow_unused=True)
        if gradient is None or name == generator.layer_names[0]:
            continue  # the first layers of some families are constant but for the style of the next
        assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0, name


def test_no_latents_give_no_pictures(generator):
    empty = latents_of(generator, generator.picture_space)[:0]
    assert generator.images(empty).shape == (0, 3, generator.resolution, generator.resolution)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g, x: g.images(x, space="q"), "'q'"),
        (lambda g, x: g.images(x, resolution=7), "7"),
        (lambda g, x: g.activations(x, ["nowhere"]), "'nowhere'"),
        (lambda g, x: g.activations(x, [g.layer_names[0]], crop=0), "crop of 0 px"),
        (lambda g, x: g.images(x[:, :-1]), r"got \(3, "),
        (lambda g, x: g.images(x[0]), "got"),
        (lambda g, x: g.sample(-1, 0), "-1"),
    ],
)
def test_mistakes_are_one_line(generator, call, words):
    with pytest.raises(UserError, match=words) as mistake:
        call(generator, latents_of(generator, generator.picture_space))
    assert "\n" not in str(mistake.value)


def test_a_w_is_made_where_there_is_one_and_refused_elsewhere(generator):
    z = generator.sample(2, 0)
    if "w" in generator.spaces:
        assert close(generator.images(z, space="z"), generator.images(generator.to_w(z)))
        mean, sd = generator.w_statistics()
        assert mean.shape == sd.shape == (generator.latent_dim,) and (sd >= 0).all()
        assert close(generator.to_w(z, 0.0), mean.expand(2, -1), 0.05) or generator.to_w(z, 0.0).std(0).max() < 1e-5
        assert torch.equal(picture_latents(generator, z, 0.5), generator.to_w(z, 0.5))
    else:
        with pytest.raises(UserError, match="no w"):
            generator.to_w(z)
        assert picture_latents(generator, z, 0.5) is z


def error_in(generator, dtype, device):
    """Root mean squared difference of pictures from those in float32, over their standard deviation."""
    latents = latents_of(generator, generator.picture_space)
    expected = generator.images(latents)
    made = copy.deepcopy(generator).to(device, dtype).images(latents.to(device, dtype)).float().cpu()
    return float((made - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 0.02), (torch.bfloat16, 0.08)])
def test_narrow_types_make_about_the_same_pictures(generator, dtype, allowed):
    assert 0 < error_in(generator, dtype, "cpu") < allowed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-3), (torch.float16, 0.02), (torch.bfloat16, 0.08)])
def test_a_gpu_makes_the_same_pictures_in_every_precision(generator, dtype, allowed):
    assert error_in(generator, dtype, "cuda") < allowed


def test_decoded_latents_are_brought_back_among_faces(tiny_generator):
    """The direction from the mean stays, the length is at most that of the generator's own faces."""
    mean, sd = tiny_generator.w_statistics()
    z = tiny_generator.sample(40, 3)
    z[:20, 2:] = 0  # what responses tell of two dimensions alone
    for truncation in (1.0, 0.6):
        w = tiny_generator.to_w(z, truncation)
        found = decoded_picture_latents(tiny_generator, z, truncation)
        lengths, reach = ((found - mean) / sd).norm(dim=1), truncation * tiny_generator.latent_dim**0.5
        assert lengths.max() <= reach * (1 + 1e-5)
        torch.testing.assert_close(torch.cosine_similarity(found - mean, w - mean), torch.ones(40))
        near = ((w - mean) / sd).norm(dim=1) < reach
        assert near.any() and not near.all()
        torch.testing.assert_close(found[near], w[near])


def test_without_w_decoded_latents_stay_as_they_are(make_tiny_pggan_tensors):
    generator = PGGAN(make_tiny_pggan_tensors(), "tiny-pggan")
    z = generator.sample(3, 0)
    assert decoded_picture_latents(generator, z) is z

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators import Generator, pggan_cpu
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.weights.contents import WeightContents
from hyperdecode.weights.layouts import pggan as layouts

GOLDEN = Path(__file__).parent / "golden"
RECORDED = sorted(path.stem.removeprefix("pggan-") for path in GOLDEN.glob("pggan-*.npz"))
WIDTHS = (14, 14, 12, 10)
LATENT = 8


def tiny_tensors(widths=WIDTHS, latent=LATENT, seed=0, sides=None, lod=None):
    """Random weights by the names that PGGAN takes, of a size that keeps pictures in about -1..1."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape, scale):
        return scale * torch.randn(*shape, generator=source)

    tensors, inward, k = {}, latent, 1
    for level, width in enumerate(widths):
        for kernel in (4 if level == 0 else 3, 3):
            fan_in = inward if k == 1 else 9 * inward
            tensors[f"conv.{k}.weight"] = normal(width, inward, kernel, kernel, scale=(2 / fan_in) ** 0.5)
            tensors[f"conv.{k}.bias"] = normal(width, scale=0.3)
            inward, k = width, k + 1
        side = 4 << level
        if sides is None or side in sides:
            tensors[f"to_rgb.{side}.weight"] = normal(3, width, scale=0.5 / width**0.5)
            tensors[f"to_rgb.{side}.bias"] = normal(3, scale=0.1)
    return tensors if lod is None else tensors | {"lod": torch.tensor(float(lod))}


@pytest.fixture(scope="module")
def generator():
    return PGGAN(tiny_tensors())


@pytest.fixture(scope="module")
def z(generator):
    return generator.sample(3, seed=5)


@pytest.fixture(scope="module")
def exact():
    """The same network in float64, where the ways to a picture may differ by next to nothing."""
    return PGGAN(tiny_tensors()).double()


@pytest.fixture(scope="module")
def z64(z):
    return z.double()


def same(a, b, allowed=1e-11):
    torch.testing.assert_close(a, b, atol=allowed, rtol=0)


def relative_rms(a, b):
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


def batched(generator, z, **settings):
    """The plain forward pass: the way taken when gradients are asked for."""
    pictures = generator.images(z.clone().requires_grad_(), **settings)
    assert pictures.requires_grad
    return pictures.detach()


def centre(x, crop):
    side = x.shape[-1]
    crop = min(crop, side)
    start = (side - crop) // 2
    return x[..., start : start + crop, start : start + crop]


def recorded(name):
    with np.load(GOLDEN / f"pggan-{name}.npz") as arrays:
        found = {key: arrays[key] for key in arrays.files}
    state = {key.removeprefix("state/"): v.astype(np.float32) for key, v in found.items() if key.startswith("state/")}
    return found, WeightContents("torch", state, f"{name}.pth")


def test_it_is_a_generator(generator):
    assert isinstance(generator, Generator)
    assert (generator.resolution, generator.resolutions, generator.latent_dim) == (32, (4, 8, 16, 32), LATENT)
    assert generator.spaces == ("z",) and generator.picture_space == "z"
    assert generator.picture_fingerprint(8) == generator.fingerprint


def test_every_program_has_its_record():
    assert RECORDED == ["genforce", "genforce-fused", "genforce-growing", "hyper", "interfacegan", "ptrblck"]


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("gradients", [False, True])
def test_pictures_and_activations_are_those_of_other_programs(name, gradients):
    """Outputs of genforce, InterFaceGAN, ptrblck and the HYPER notebook; golden/README.md says how they were made."""
    found, contents = recorded(name)
    layout = layouts.recognise(contents)
    assert layout == {"hyper": "mxnet", "ptrblck": "ptrblck"}.get(name, "genforce")
    weights = layouts.LAYOUTS[layout](contents)
    generator = PGGAN({key: torch.from_numpy(value) for key, value in weights.tensors.items()})
    z = torch.from_numpy(found["z"]).requires_grad_(gradients)
    expected = torch.from_numpy(found["pictures"])
    pictures = generator.images(z)
    assert pictures.shape == expected.shape == (2, 3, 32, 32) and expected.std() > 0.3
    # float32 through all layers, on processors that add in another order than the one that recorded.
    assert (pictures - expected).abs().max() < 5e-5 * expected.abs().max()
    layers = [key.removeprefix("activation/") for key in found if key.startswith("activation/")]
    assert len(layers) == 3
    for layer, value in generator.activations(z[:1], layers).items():
        recorded_value = torch.from_numpy(found[f"activation/{layer}"])
        assert value[0].shape == recorded_value.shape and recorded_value.std() > 0.3
        assert (value[0] - recorded_value).abs().max() < 1e-4


def test_pictures_equal_the_equations_written_out(exact, z64):
    """The class docstring in numpy, one picture, one pixel's neighbours at a time."""
    t = {key: value.double().numpy() for key, value in tiny_tensors().items()}

    def norm(x):
        return x / np.sqrt((x**2).mean(0) + 1e-8)

    def leaky(x):
        return np.where(x > 0, x, 0.2 * x)

    x = norm(z64[1].numpy())
    x = norm(leaky(np.einsum("ocij,c->oij", t["conv.1.weight"], x) + t["conv.1.bias"][:, None, None]))
    for k in range(2, 9):
        x = x.repeat(2, 1).repeat(2, 2) if k % 2 else x
        side, padded = x.shape[1], np.pad(x, ((0, 0), (1, 1), (1, 1)))
        y = np.zeros((len(t[f"conv.{k}.bias"]), side, side)) + t[f"conv.{k}.bias"][:, None, None]
        for i in range(3):
            for j in range(3):
                weight = t[f"conv.{k}.weight"][:, :, i, j]
                y += np.einsum("oc,chw->ohw", weight, padded[:, i : i + side, j : j + side])
        x = norm(leaky(y))
    picture = np.einsum("oc,chw->ohw", t["to_rgb.32.weight"], x) + t["to_rgb.32.bias"][:, None, None]
    assert picture.std() > 0.2
    for made in (exact.images(z64[1:2]), batched(exact, z64)[1:2]):
        same(made[0], torch.from_numpy(picture))


def test_layers_of_a_1024_px_network_are_numbered_as_the_paper_does():
    widths = (4, 4, 4, 4, 4, 3, 3, 2, 2)
    generator = PGGAN(tiny_tensors(widths, sides=(1024,))).double()
    assert generator.layer_names == tuple(str(k) for k in range(1, 20))
    assert generator.resolutions == (1024,)
    z = generator.sample(1, 0).double()
    found = generator.activations(z, ["4", "9", "14", "19"])
    shapes = {name: tuple(value.shape[1:]) for name, value in found.items()}
    assert shapes == {"4": (4, 8, 8), "9": (4, 64, 64), "14": (3, 256, 256), "19": (3, 1024, 1024)}
    same(generator.images(z), found["19"], 1e-8)
    same(batched(generator, z), found["19"], 1e-8)
    for name, value in generator.activations(z, ["4", "9", "14", "19"], crop=20).items():
        same(value, centre(found[name], 20), 1e-8)


@pytest.mark.parametrize("widths", [(5,), (8, 3), WIDTHS])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_last_activation_makes_the_picture(widths, gradients):
    generator = PGGAN(tiny_tensors(widths)).double()
    z = generator.sample(2, 1).double().requires_grad_(gradients)
    found = generator.activations(z, generator.layer_names)
    assert tuple(found) == generator.layer_names == tuple(str(k) for k in range(1, 2 * len(widths) + 2))
    sides = [4 << level for level in range(len(widths))]
    assert [value.shape[-1] for value in found.values()] == [side for side in sides for _ in (0, 1)] + [sides[-1]]
    t = {key: value.double() for key, value in tiny_tensors(widths).items()}
    for side, layer in zip(sides, generator.layer_names[1::2], strict=True):
        picture = F.conv2d(found[layer], t[f"to_rgb.{side}.weight"][:, :, None, None], t[f"to_rgb.{side}.bias"])
        same(generator.images(z, resolution=side), picture)
    same(found[generator.layer_names[-1]], generator.images(z))
    for name in generator.layer_names[:-1]:  # each pixel's channels have a mean square of one
        mean_square = found[name].square().mean(1)
        torch.testing.assert_close(mean_square, torch.ones_like(mean_square), atol=1e-4, rtol=0)
    assert generator.activations(z, []) == {}


@pytest.mark.parametrize("strip_bytes", [1, 8 * 14 * 32 * 6, 8 * 14 * 32 * 10, 2**22])
@pytest.mark.parametrize(
    "names", [["1"], ["2"], ["3"], ["8", "2"], ["9", "5"], ["7", "9", "1"], [str(k) for k in range(1, 10)]]
)
@pytest.mark.parametrize("wide", [1, 12, 100])
def test_strips_equal_the_batch(exact, z64, monkeypatch, names, strip_bytes, wide):
    """One row of blocks, a strip that does not divide the side, one that does, and all in one."""
    monkeypatch.setattr(pggan_cpu, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(pggan_cpu, "WIDE", wide)
    exact._strips_of = None
    expected = exact.activations(z64.clone().requires_grad_(), names)
    found = exact.activations(z64, names)
    assert list(found) == list(expected) == names
    for name in names:
        assert expected[name].requires_grad and not found[name].is_inference()
        same(found[name], expected[name].detach())
    for side in exact.resolutions:
        same(exact.images(z64, resolution=side), batched(exact, z64, resolution=side))


def test_strips_equal_the_batch_in_float32(generator, z):
    assert relative_rms(generator.images(z), batched(generator, z)) < 1e-6


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("crop", [1, 2, 5, 8, 31, 32, 500])
@pytest.mark.parametrize(
    "names", [["1"], ["2"], ["5"], ["8", "3"], ["9"], ["1", "2", "3", "4", "5", "6", "7", "8", "9"]]
)
def test_a_crop_is_cut_from_the_middle_of_the_map(exact, z64, names, crop, gradients):
    whole = exact.activations(z64, names)
    found = exact.activations(z64.clone().requires_grad_(gradients), names, crop=crop)
    for name in names:
        same(found[name].detach(), centre(whole[name], crop))


def test_a_crop_costs_no_more_than_it_depends_on(generator, z, monkeypatch):
    inputs, convolve = [], F.conv2d
    monkeypatch.setattr(
        F, "conv2d", lambda x, *args, **kwargs: inputs.append(x.shape[-1]) or convolve(x, *args, **kwargs)
    )
    generator.activations(z.clone().requires_grad_(), ["8"], crop=2)
    # From layer 8 down: 2 px and one more on each side, 4; 6 doubled ones, so 4 or so below; at last all there is.
    assert inputs == [4, 8, 6, 8, 6, 6, 4]


def test_a_picture_depends_on_the_direction_of_z_alone(generator, z):
    assert relative_rms(generator.images(7 * z), generator.images(z)) < 1e-5
    assert relative_rms(generator.images(0.2 * z), generator.images(z)) < 1e-5
    assert relative_rms(generator.images(-z), generator.images(z)) > 0.3


@pytest.mark.parametrize("side", [4, 16, 32])
def test_pictures_are_the_same_again_and_alone(generator, exact, z, z64, side):
    pictures = generator.images(z, resolution=side)
    assert torch.equal(generator.images(z, resolution=side), pictures)
    same(exact.images(z64[2:], resolution=side)[0], exact.images(z64, resolution=side)[2])
    same(batched(exact, z64[2:], resolution=side)[0], batched(exact, z64, resolution=side)[2])
    assert generator.images(z[:0], resolution=side).shape == (0, 3, side, side)
    assert generator.activations(z[:0], ["3"])["3"].shape == (0, 14, 8, 8)


@pytest.mark.parametrize("lod", [0.0, 0.3, 1.0, 1.75, 2.0, 3.0])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_growing_network_blends_two_sides(lod, gradients):
    """``up^n(rgb_s + (up(rgb_{s/2}) - rgb_s) (lod - n))`` with ``s = side / 2^n``, as G_paper's `grow` does."""
    grown, growing = PGGAN(tiny_tensors()).double(), PGGAN(tiny_tensors(lod=lod)).double()
    z = grown.sample(2, 3).double()

    def up(x, times):
        return x.repeat_interleave(2**times, -1).repeat_interleave(2**times, -2)

    whole = int(lod)
    expected = up(grown.images(z, resolution=32 >> whole), whole)
    if lod > whole:
        lower = up(grown.images(z, resolution=16 >> whole), whole + 1)
        expected = expected + (lower - expected) * (lod - whole)
    made = growing.images(z.requires_grad_(gradients))
    torch.testing.assert_close(made.detach(), expected, atol=1e-7, rtol=0)  # lod is a float32
    for crop in (3, 6):
        found = growing.activations(z, ["9"], crop=crop)["9"]
        torch.testing.assert_close(found.detach(), centre(expected, crop), atol=1e-7, rtol=0)
    assert growing.resolutions == (*(side for side in (4, 8, 16) if side <= 32 >> whole), 32)


def test_only_the_sides_that_the_weights_hold_can_be_made():
    generator = PGGAN(tiny_tensors(sides=(8, 32)))
    assert generator.resolutions == (8, 32)
    with pytest.raises(UserError, match=r"makes pictures of \(8, 32\) px, not 16"):
        generator.images(generator.sample(1, 0), resolution=16)


@pytest.mark.parametrize("side", [4, 32])
def test_gradients_are_those_of_finite_differences(side):
    generator = PGGAN(tiny_tensors(lod=0.4)).double()
    z = generator.sample(2, 3).double().requires_grad_()
    weighting = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: (weighting * generator.images(x, resolution=side)).sum(), z, fast_mode=True
    )


def test_gradients_of_cropped_activations_are_those_of_finite_differences():
    generator = PGGAN(tiny_tensors()).double()
    z = generator.sample(2, 3).double().requires_grad_()

    def loss(x):
        found = generator.activations(x, ["2", "5", "8", "9"], crop=3)
        return sum((value * torch.linspace(-1, 1, 3, dtype=torch.float64)).square().sum() for value in found.values())

    assert torch.autograd.gradcheck(loss, z, fast_mode=True)


def test_gradients_reach_each_latent_alone(generator, z):
    latents = z.clone().requires_grad_()
    generator.images(latents)[1].square().sum().backward()
    assert (latents.grad[[0, 2]] == 0).all() and (latents.grad[1] != 0).all()
    # Only the direction counts, so the gradient has no part along z.
    along = F.cosine_similarity(latents.grad[1], z[1], dim=0)
    assert abs(along) < 1e-3
    assert all(not parameter.requires_grad for parameter in generator.parameters())


def test_weights_can_be_trained():
    generator = PGGAN(tiny_tensors()).requires_grad_(True)
    generator.images(generator.sample(2, 0)).square().sum().backward()
    used = {name for name, parameter in generator.named_parameters() if parameter.grad is not None}
    unused = {f"to_rgb_{kind}.{side}" for kind in ("weights", "biases") for side in (4, 8, 16)}
    assert {name for name, _ in generator.named_parameters()} - used == unused


def test_pictures_made_without_gradients_serve_in_a_loss(generator, z):
    scale = torch.ones((), requires_grad=True)
    (generator.images(z) * scale).square().sum().backward()
    (generator.activations(z, ["4"])["4"] * scale).square().sum().backward()
    assert scale.grad > 0


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 0.005), (torch.bfloat16, 0.04)])
def test_narrow_types_make_about_the_same_picture(generator, z, dtype, allowed):
    narrow = PGGAN(tiny_tensors()).to(dtype)
    made, expected = narrow.images(z), generator.images(z)
    assert made.dtype == dtype
    assert 0 < relative_rms(made.float(), expected) < allowed
    # A long z, which float16 cannot hold, is normalised before it is cast.
    assert relative_rms(narrow.images(1e6 * z).float(), expected) < allowed


def test_pixel_normalisation_does_not_overflow_in_float16():
    tensors = tiny_tensors((8, 8))
    tensors["conv.2.bias"] = tensors["conv.2.bias"] + 3000.0  # its square is beyond float16
    narrow, wide = PGGAN(tensors).half(), PGGAN(tensors)
    z = wide.sample(2, 0)
    made = narrow.images(z)
    assert torch.isfinite(made).all()
    torch.testing.assert_close(made.float(), wide.images(z), atol=0.02, rtol=0)


def test_a_cast_changes_the_fast_pass_too(z):
    generator = PGGAN(tiny_tensors())
    before = generator.images(z)
    generator.bfloat16().float()  # the weights have lost digits
    assert 1e-4 < relative_rms(generator.images(z), before) < 0.02
    torch.testing.assert_close(generator.images(z), batched(generator, z), atol=1e-5, rtol=0)


def test_a_generator_built_in_inference_mode_works_in_it_and_outside(generator, z):
    with torch.inference_mode():
        built = PGGAN(tiny_tensors())
        inside = built.images(z)
    assert torch.equal(inside, generator.images(z)) and torch.equal(built.images(z), inside)


def test_weights_changed_in_place_change_the_fast_pass_too(z64):
    generator = PGGAN(tiny_tensors()).double()
    before = generator.images(z64)
    for change in (
        lambda: generator.biases[4].add_(1),
        lambda: generator.load_state_dict(PGGAN(tiny_tensors(seed=1)).state_dict()),
        lambda: torch.optim.Adam(trained(generator.requires_grad_(True), z64), lr=0.1).step(),
    ):
        change()
        with torch.no_grad():
            after = generator.images(z64)
        same(after, batched(generator, z64))
        assert relative_rms(after, before) > 1e-3
        before = after


def trained(generator, z):
    """Parameters with the gradients of some loss."""
    generator.images(z).square().mean().backward()
    return generator.parameters()


def test_samples_are_seeded(generator):
    many = generator.sample(50, 7)
    assert many.shape == (50, LATENT) and torch.equal(generator.sample(3, 7), many[:3])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.images(torch.zeros(2, LATENT - 1)), r"shape \(n, 8\), got \(2, 7\)"),
        (lambda g: g.images(torch.zeros(LATENT)), r"shape \(n, 8\), got \(8,\)"),
        (lambda g: g.images(torch.zeros(2, LATENT), space="w"), "no latent space 'w': a PGGAN has 'z' alone"),
        (lambda g: g.images(torch.zeros(2, LATENT), resolution=64), r"\(4, 8, 16, 32\) px, not 64"),
        (lambda g: g.activations(torch.zeros(2, LATENT), ["10"]), "no layer '10': choose among 1, 2,"),
        (lambda g: g.activations(torch.zeros(2, LATENT), ["0"]), "no layer '0'"),
        (lambda g: g.activations(torch.zeros(2, LATENT), ["1"], crop=0), "crop of 0 px"),
        (lambda g: g.activations(torch.zeros(2, LATENT), ["1"], space="w"), "no latent space 'w'"),
        (lambda g: g.to_w(torch.zeros(2, LATENT)), "PGGAN, which has no w: use latents of space 'z'"),
        (lambda g: g.w_statistics(), "PGGAN, which has no w: use latents of space 'z'"),
    ],
)
def test_mistakes_are_named(generator, call, words):
    with pytest.raises(UserError, match=words) as error:
        call(generator)
    assert "\n" not in str(error.value)


def test_fingerprint_is_of_every_weight():
    tensors = tiny_tensors(lod=0.0)
    seen = {PGGAN(tensors).fingerprint}
    assert PGGAN(tiny_tensors(lod=0.0)).fingerprint in seen
    for name in tensors:
        changed = {key: value.clone() for key, value in tensors.items()}
        changed[name].view(-1)[-1] += 1e-3
        seen.add(PGGAN(changed).fingerprint)
    assert len(seen) == 1 + len(tensors)


@pytest.mark.parametrize("name", ["conv.1.bias", "conv.5.bias", "to_rgb.32.weight", "to_rgb.8.bias"])
def test_a_missing_tensor_is_named(name):
    tensors = tiny_tensors()
    del tensors[name]
    with pytest.raises(WeightFileError, match=f"lack the tensor {name}") as error:
        PGGAN(tensors)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", list(tiny_tensors(lod=0)))
def test_tensors_that_do_not_fit_are_refused(name):
    tensors = tiny_tensors(lod=0)
    tensors[name] = tensors[name][..., :-1] if tensors[name].ndim else torch.zeros(1)
    with pytest.raises(WeightFileError, match=f"{name} has shape .*, expected ") as error:
        PGGAN(tensors)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"weight": torch.zeros(3)}, "no PGGAN"),
        ({}, "no PGGAN"),
        (tiny_tensors() | {"conv.9.weight": torch.zeros(10, 10, 3, 3)}, "9 convolutions, expected two a side"),
        (tiny_tensors((2,) * 10), "20 convolutions, expected two a side from 4 to at most 1024 px"),
        (tiny_tensors() | {"noise": torch.zeros(3)}, "unknown tensor noise"),
        (tiny_tensors() | {"to_rgb.64.weight": torch.zeros(3, 4)}, "unknown tensor to_rgb.64.weight"),
        (tiny_tensors() | {"to_rgb.5.weight": torch.zeros(3, 4)}, "unknown tensor to_rgb.5.weight"),
        (tiny_tensors(lod=3.5), "lod 3.5, expected 0 to 3 at 32 px"),
        (tiny_tensors(lod=-1), "lod -1, expected 0 to 3"),
        (tiny_tensors(lod=float("nan")), "lod nan, expected 0 to 3"),
        (tiny_tensors(sides=(32,), lod=0.5), "lack the tensor to_rgb.16.weight, which lod 0.5 at 32 px reads"),
        (tiny_tensors(sides=(4, 32), lod=1), "lack the tensor to_rgb.16.weight, which lod 1 at 32 px reads"),
    ],
)
def test_other_networks_are_refused(tensors, words):
    with pytest.raises(WeightFileError, match=words) as error:
        PGGAN(tensors)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pictures_on_a_gpu(generator, z, dtype):
    there = PGGAN(tiny_tensors()).to("cuda", dtype)
    expected = generator.images(z)
    allowed = {torch.float32: 1e-4, torch.float16: 0.005, torch.bfloat16: 0.04}[dtype]
    assert relative_rms(there.images(z.cuda()).float().cpu(), expected) < allowed
    crops = there.activations(z.cuda(), ["5", "9"], crop=5)
    assert relative_rms(crops["9"].float().cpu(), centre(expected, 5)) < 2 * allowed
    latents = z.cuda().requires_grad_()
    there.images(latents).float().square().sum().backward()
    assert torch.isfinite(latents.grad).all() and (latents.grad != 0).any()

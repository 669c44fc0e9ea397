import hashlib

import numpy as np
import pytest
import torch

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators import Generator, MobileStyleGAN, generator_names, load_generator, sample_z, tiled
from hyperdecode.generators.layers import haar_upsample


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module")
def w(tiny_generator):
    return tiny_generator.to_w(tiny_generator.sample(3, seed=5))


def batched(generator, w, resolution=None):
    """The plain forward pass: the way taken when gradients are asked for."""
    pictures = generator.images(w.clone().requires_grad_(), resolution=resolution)
    assert pictures.requires_grad
    return pictures.detach()


def test_it_is_a_generator(tiny_generator):
    assert isinstance(tiny_generator, Generator)
    assert tiny_generator.resolutions == (8, 16, 64) and tiny_generator.resolution == 64
    assert tiny_generator.latent_dim == 16


@pytest.mark.parametrize("strip_bytes", [1, 900, 4 * 8 * 32 * 5, 4 * 8 * 32 * 7, 2**22])
@pytest.mark.parametrize("side", [8, 16, 64])
def test_strips_equal_the_batch(make_tiny, w, monkeypatch, strip_bytes, side):
    monkeypatch.setattr(tiled, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(tiled, "WHOLE_BYTES", 0)
    generator = make_tiny()
    expected = batched(generator, w, side)
    made = generator.images(w, resolution=side)
    assert made.shape == (3, 3, side, side) and not made.requires_grad
    assert relative(made, expected) < 1e-5
    assert expected.std() > 0.1 and relative(expected[:1], expected[1:2]) > 0.1  # pictures worth comparing


@pytest.mark.parametrize("strip_bytes", [1, 4 * 16 * 16 * 3, 2**22])
@pytest.mark.parametrize(
    "layers",
    [
        ["b4.conv"],
        ["b16.conv2", "b8.conv2"],
        ["b32.conv2"],
        ["b8.conv1", "b16.conv1"],
        ["b32.conv1", "b16.conv2", "b16.conv1"],
        ["image", "b4.conv", "b8.conv2", "b16.conv1", "b16.conv2", "b32.conv1", "b32.conv2"],
    ],
)
def test_strips_give_the_activations_of_the_batch(make_tiny, w, monkeypatch, strip_bytes, layers):
    monkeypatch.setattr(tiled, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(tiled, "WHOLE_BYTES", 0)
    generator = make_tiny()
    found = generator.activations(w, layers)
    expected = generator.activations(w.clone().requires_grad_(), layers)
    assert list(found) == list(expected) == layers
    for name, value in expected.items():
        assert value.requires_grad and not found[name].is_inference()
        assert found[name].shape == value.shape and relative(found[name], value.detach()) < 1e-5


def test_haar_equals_its_formula():
    x = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = haar_upsample(x)
    assert y.shape == (2, 3, 6, 10)
    for c in range(3):
        low, (lh, hl, hh) = x[:, c], (x[:, 3 + 3 * c + k] for k in range(3))
        for a in (0, 1):
            for b in (0, 1):
                expected = (low + (-1) ** a * lh + (-1) ** b * hl + (-1) ** (a + b) * hh) / 2
                torch.testing.assert_close(y[:, c, a::2, b::2], expected)
    # Analysis by averages and differences of the 2 x 2 blocks gives the bands back.
    blocks = y.reshape(2, 3, 3, 2, 5, 2)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(blocks.sum((3, 5)) / 2, x[:, :3])
    torch.testing.assert_close((blocks * signs[:, None, None]).sum((3, 5)) / 2, x[:, 3::3])
    torch.testing.assert_close((blocks * signs).sum((3, 5)) / 2, x[:, 4::3])
    torch.testing.assert_close((blocks * signs[:, None, None] * signs).sum((3, 5)) / 2, x[:, 5::3])


@pytest.mark.parametrize("space", ["w", "z"])
@pytest.mark.parametrize("side", [8, 16, 64])
def test_gradients_are_those_of_finite_differences(make_tiny, space, side):
    generator = make_tiny().double()
    latents = generator.sample(2, 3).double().requires_grad_()
    weighting = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: (weighting * generator.images(x, space=space, resolution=side)).sum(), latents, fast_mode=True
    )


def test_gradients_reach_each_latent_alone(tiny_generator, w):
    latents = w.clone().requires_grad_()
    tiny_generator.images(latents)[1].square().sum().backward()
    assert (latents.grad[[0, 2]] == 0).all() and (latents.grad[1] != 0).all()
    assert all(not parameter.requires_grad for parameter in tiny_generator.state_dict(keep_vars=True).values())


def test_pictures_made_without_gradients_serve_in_a_loss(tiny_generator, w):
    scale = torch.ones((), requires_grad=True)
    (tiny_generator.images(w) * scale).square().sum().backward()
    assert scale.grad > 0


def test_activations(tiny_generator, w):
    names = tiny_generator.layer_names
    assert names == (
        "b4.conv", "b8.conv1", "b8.conv2", "b16.conv1", "b16.conv2", "b32.conv1", "b32.conv2", "image"
    )  # fmt: skip
    found = tiny_generator.activations(w, names)
    assert tuple(found) == names
    sides = [4, 8, 8, 16, 16, 32, 32, 64]
    channels = [16, 16, 16, 16, 16, 8, 8, 3]
    assert [tuple(v.shape) for v in found.values()] == [(3, c, s, s) for c, s in zip(channels, sides, strict=True)]
    torch.testing.assert_close(found["image"], batched(tiny_generator, w))
    alone = tiny_generator.activations(w, ["b16.conv1", "b4.conv"])
    assert tuple(alone) == ("b16.conv1", "b4.conv")
    torch.testing.assert_close(alone["b16.conv1"], found["b16.conv1"])
    assert tiny_generator.activations(w, []) == {}


def test_layers_equal_a_forward_pass_written_out(tiny_generator, make_tiny_tensors, w):
    """The equations of the module's docstrings, in numpy and one picture at a time."""
    t = {key: value.double().numpy() for key, value in make_tiny_tensors().items()}
    v = w[1].double().numpy()

    def styled(name):
        return (t[f"{name}.style.weight"] @ v + t[f"{name}.style.bias"])[:, None, None]

    def leaky(x):
        return np.where(x > 0, x, 0.2 * x)

    def around(x):
        """Nine shifts of x, zero outside: (channels, 9, h, w) in the order of a 3 x 3 kernel."""
        p = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        h, w_ = x.shape[1:]
        return np.stack([p[:, i : i + h, j : j + w_] for i in range(3) for j in range(3)], 1)

    def convolved(name, x):
        x = x * styled(name)
        if f"{name}.depthwise" in t:
            x = np.einsum("ckhw,ck->chw", around(x), t[f"{name}.depthwise"].reshape(len(x), 9))
            x = np.einsum("chw,oc->ohw", x, t[f"{name}.weight"][:, :, 0, 0])
        else:
            x = np.einsum("ckhw,ock->ohw", around(x), t[f"{name}.weight"].reshape(-1, len(x), 9))
        return leaky(x + t[f"{name}.noise"] + t[f"{name}.bias"][:, None, None])

    x = convolved("synthesis.conv0", t["synthesis.input"])
    for i in range(3):
        block = f"synthesis.blocks.{i}"
        x = haar_upsample(torch.from_numpy((x * styled(f"{block}.up"))[None]))[0].numpy()
        x = convolved(f"{block}.conv2", convolved(f"{block}.conv1", x))
    x = np.einsum("chw,oc->ohw", x * styled("synthesis.to_rgb"), t["synthesis.to_rgb.weight"][:, :, 0, 0])
    image = haar_upsample(torch.from_numpy((x + t["synthesis.to_rgb.bias"][:, None, None])[None]))[0]
    assert relative(tiny_generator.images(w[1:2])[0].double(), image) < 1e-5


def test_early_exit_equals_its_formula(tiny_generator, w):
    head = tiny_generator.heads["16"].double()
    x = tiny_generator.activations(w, ["b16.conv2"])["b16.conv2"].double()
    s, v = (x - head.x_mean[:, None, None]) / head.x_scale[:, None, None], (w.double() - head.w_mean) / head.w_scale

    def mixed(kernel, features):
        return torch.einsum("oc,nchw->nohw", kernel, features)

    def of_w(layer):
        return layer(v)[:, :, None, None]

    y = mixed(head.linear, s * (1 + of_w(head.linear_style))) + of_w(head.colour)
    hidden = mixed(head.inward, s * (1 + of_w(head.inward_style))) + of_w(head.inward_bias)
    hidden = torch.nn.functional.leaky_relu(hidden, 0.2)
    hidden = torch.nn.functional.pad(hidden, (1, 1, 1, 1), mode="replicate")
    hidden = torch.nn.functional.leaky_relu(head.depthwise(hidden), 0.2)
    y = y + mixed(head.outward, hidden * (1 + of_w(head.outward_style)))
    head.float()
    assert relative(tiny_generator.images(w, resolution=16).double(), y) < 1e-5


def test_truncation_pulls_to_the_mean(tiny_generator):
    z = tiny_generator.sample(4, 1)
    w = tiny_generator.to_w(z)
    mean, sd = tiny_generator.w_statistics()
    torch.testing.assert_close(tiny_generator.to_w(z, truncation=0.0), mean.expand(4, -1))
    torch.testing.assert_close(tiny_generator.to_w(z, 0.25), mean + 0.25 * (w - mean))
    many = tiny_generator.to_w(tiny_generator.sample(20_000, 9))
    torch.testing.assert_close(many.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(many.std(0), sd, atol=0.03, rtol=0)


def test_w_depends_on_the_direction_of_z_alone(tiny_generator):
    z = tiny_generator.sample(4, 1)
    torch.testing.assert_close(tiny_generator.to_w(7 * z), tiny_generator.to_w(z), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(tiny_generator.to_w(-z), tiny_generator.to_w(z), atol=0.1)


def test_z_goes_by_w(tiny_generator):
    z = tiny_generator.sample(2, 4)
    torch.testing.assert_close(tiny_generator.images(z, space="z"), tiny_generator.images(tiny_generator.to_w(z)))
    by_z = tiny_generator.activations(z, ["b8.conv2"], space="z")["b8.conv2"]
    torch.testing.assert_close(by_z, tiny_generator.activations(tiny_generator.to_w(z), ["b8.conv2"])["b8.conv2"])


def test_samples_are_seeded_and_begin_alike(tiny_generator):
    many = tiny_generator.sample(50, 7)
    assert many.shape == (50, 16) and many.dtype == torch.float32
    assert torch.equal(tiny_generator.sample(50, 7), many)
    assert torch.equal(tiny_generator.sample(3, 7), many[:3])
    assert not torch.equal(tiny_generator.sample(3, 8), many[:3])
    torch.manual_seed(0)
    assert torch.equal(tiny_generator.sample(3, 7), many[:3])
    large = sample_z(4000, 16, 0)
    assert abs(large.mean()) < 0.02 and abs(large.std() - 1) < 0.02
    assert sample_z(0, 16, 0).shape == (0, 16)
    with pytest.raises(UserError, match="cannot draw -1"):
        sample_z(-1, 16, 0)


def test_no_latents_give_no_pictures(tiny_generator):
    assert tiny_generator.images(torch.empty(0, 16), resolution=16).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.images(torch.zeros(2, 15)), r"shape \(n, 16\), got \(2, 15\)"),
        (lambda g: g.images(torch.zeros(16)), r"shape \(n, 16\), got \(16,\)"),
        (lambda g: g.to_w(torch.zeros(2, 3, 16)), r"got \(2, 3, 16\)"),
        (lambda g: g.images(torch.zeros(2, 16), space="x"), "no latent space 'x'"),
        (lambda g: g.images(torch.zeros(2, 16), resolution=32), r"\(8, 16, 64\) px, not 32"),
        (lambda g: g.images(torch.zeros(2, 16), precision="int8"), "computes in float32 or bfloat16, not 'int8'"),
        (lambda g: g.activations(torch.zeros(2, 16), ["b8.conv3"]), "no layer 'b8.conv3': choose among b4.conv"),
        (lambda g: g.activations(torch.zeros(2, 16), ["b8.conv1"], space="y"), "no latent space 'y'"),
        (lambda g: load_generator("biggan"), "no generator 'biggan': choose among mobilestylegan-ffhq"),
    ],
)
def test_mistakes_are_named(tiny_generator, call, words):
    with pytest.raises(UserError, match=words) as error:
        call(tiny_generator)
    assert "\n" not in str(error.value)


def test_fingerprint_is_of_every_weight(make_tiny, make_tiny_tensors, make_tiny_head):
    generator = make_tiny()
    assert generator.fingerprint == make_tiny().fingerprint
    assert len(bytes.fromhex(generator.fingerprint)) == hashlib.sha256().digest_size
    heads = {8: make_tiny_head("b8.conv1", 16, 1), 16: make_tiny_head("b16.conv2", 16, 2)}
    seen = {generator.fingerprint}
    for name in make_tiny_tensors():
        tensors = make_tiny_tensors()
        tensors[name].view(-1)[-1] += 1e-3
        seen.add(MobileStyleGAN(tensors, heads).fingerprint)
    assert len(seen) == 1 + len(make_tiny_tensors())
    # The early exits approximate the same faces: training them longer makes no other generator.
    heads[16] = make_tiny_head("b16.conv2", 16, 3)
    assert MobileStyleGAN(make_tiny_tensors(), heads).fingerprint == generator.fingerprint


@pytest.mark.parametrize("name", ["mapping.1.bias", "synthesis.input", "synthesis.blocks.1.conv2.noise"])
def test_a_missing_tensor_is_named(make_tiny_tensors, name):
    tensors = make_tiny_tensors()
    del tensors[name]
    with pytest.raises(WeightFileError, match="lack the tensor"):
        MobileStyleGAN(tensors)


def test_no_network_at_all():
    with pytest.raises(WeightFileError, match="no MobileStyleGAN"):
        MobileStyleGAN({"weight": torch.zeros(3)})


@pytest.mark.parametrize(
    "name", ["mapping.1.weight", "synthesis.blocks.1.conv2.noise", "synthesis.blocks.2.conv1.weight",
             "synthesis.to_rgb.bias", "synthesis.blocks.0.up.style.bias"]
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(make_tiny_tensors, name):
    tensors = make_tiny_tensors()
    tensors[name] = tensors[name][..., :-1]
    with pytest.raises(WeightFileError, match=f"{name} has shape") as error:
        MobileStyleGAN(tensors)
    assert "\n" not in str(error.value)


def test_an_exit_at_a_layer_that_strips_never_pass_is_refused(make_tiny_tensors, make_tiny_head):
    for layer, channels, side in (("b32.conv2", 8, 32), ("b4.conv", 16, 4), ("image", 3, 64), ("b16.conv2", 16, 8)):
        with pytest.raises(WeightFileError, match=f"exit of {side} px cannot read layer {layer}"):
            MobileStyleGAN(make_tiny_tensors(), {side: make_tiny_head(layer, channels, 0)})


def test_statistics_asked_for_first_without_gradients_serve_them_later(make_tiny):
    generator = make_tiny()
    with torch.inference_mode():
        generator.to_w(generator.sample(1, 0), truncation=0.5)
    mean, sd = generator.w_statistics()
    w = generator.sample(2, 0).requires_grad_()
    ((w - mean) / sd).square().sum().backward()
    assert torch.isfinite(w.grad).all()


def test_registered_names():
    assert "mobilestylegan-ffhq" in generator_names()


def test_the_real_layout(face_generator):
    assert face_generator.resolutions == (64, 128, 256, 1024) and face_generator.latent_dim == 512
    assert len(face_generator.layer_names) == 1 + 2 * 7 + 1
    w = face_generator.to_w(face_generator.sample(1, 0), truncation=0.7)
    for side in (64, 128, 256):
        made = face_generator.images(w, resolution=side)
        torch.testing.assert_close(made, batched(face_generator, w, side), atol=1e-4, rtol=0)


def test_a_crop_costs_no_more_than_it_depends_on(tiny_generator, w):
    """One pixel of the last convolution needs 3, then 5 pixels of the convolutions before it, then half of these."""
    widths = []
    modules = [tiny_generator.conv0, *(c for block in tiny_generator.blocks for c in (block.conv1, block.conv2))]
    handles = [m.register_forward_hook(lambda _, __, made: widths.append(made.shape[-1])) for m in modules]
    tiny_generator.activations(w.clone().requires_grad_(), ["b32.conv2"], crop=1)
    for handle in handles:
        handle.remove()
    assert widths == [4, 6, 4, 5, 3, 3, 1]

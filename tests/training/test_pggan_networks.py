"""The pieces of PGGAN training, and networks that grow."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperdecode.errors import UserError
from tests.training.helpers import TINY, WIDTHS, noise, steps, tiny_trainer, with_biases
from training.pggan.data import faded
from training.pggan.loss import critic_loss, gradient_penalty
from training.pggan.networks import Discriminator, EqualisedConvolution, Generator, minibatch_deviation, upsample
from training.pggan.settings import Settings

# The pieces


@pytest.mark.parametrize(("n", "group"), [(8, 4), (4, 4), (3, 3), (2, 2)])
def test_minibatch_deviation_by_hand(n, group):
    x = noise(n, 5, 3, 3)
    made = minibatch_deviation(x).double().numpy()
    values = x.double().numpy()
    assert made.shape == (n, 6, 3, 3)
    np.testing.assert_array_equal(made[:, :5], values)
    apart = n // group
    for k in range(n):
        members = [values[j] for j in range(k % apart, n, apart)]
        assert len(members) == group
        expected = np.sqrt(np.var(members, axis=0) + 1e-8).mean()
        np.testing.assert_allclose(made[k, 5], expected, rtol=1e-5)


def test_minibatch_deviation_of_equal_pictures_is_nothing():
    assert minibatch_deviation(noise(1, 5, 4, 4).expand(4, -1, -1, -1))[:, 5].max() < 1.1e-4


@pytest.mark.parametrize(("inward", "kernel", "gain"), [(7, 3, 2**0.5), (5, 1, 1.0)])
def test_equalised_weights_are_normal_and_scaled_at_run_time(inward, kernel, gain):
    torch.manual_seed(0)
    layer = with_biases(EqualisedConvolution(inward, 400, kernel, gain=gain))
    assert abs(layer.weight.std() - 1) < 0.05 and abs(layer.weight.mean()) < 0.05
    x = noise(2, inward, 6, 6)
    scale = gain / math.sqrt(inward * kernel * kernel)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight * scale, layer.bias, padding=kernel // 2))
    # Twice the weight is twice the weight applied: Adam's step is relative to 1 in every layer.
    layer(x).sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_a_new_network_keeps_the_scale_of_its_input():
    """What the scale is for: He's constant keeps the mean square behind a (nearly) rectified layer."""
    torch.manual_seed(0)
    layer = EqualisedConvolution(64, 256, 3, padding=0)
    y = layer(noise(4, 64, 12, 12))
    assert abs(y.square().mean() / 2 - 1) < 0.1
    generator = Generator(64, {4: 64})
    first = generator.conv["1"](noise(64, 64))
    assert abs(first.square().mean() * 16 / 2 - 1) < 0.2


def test_gradient_penalty_of_critics_whose_slope_is_known():
    real, fake, mix = noise(5, 3, 4, 4, seed=1), noise(5, 3, 4, 4, seed=2), torch.rand(5, 1, 1, 1)
    direction = noise(3, 4, 4, seed=4)
    found = gradient_penalty(lambda x: (x * direction).sum((1, 2, 3)), real, fake, mix)
    torch.testing.assert_close(found, (direction.norm() - 1).square())
    between = real + mix * (fake - real)
    slopes = (2 * between).flatten(1).norm(dim=1)
    found = gradient_penalty(lambda x: x.square().sum((1, 2, 3)), real, fake, mix)
    torch.testing.assert_close(found, (slopes - 1).square().mean())


def test_gradient_penalty_teaches_the_critic():
    """d/da (|a b| - 1)^2 = 2 (|a b| - 1) |b| for D(x) = a b . x and a > 0."""
    direction, a = noise(3, 4, 4, seed=4), torch.tensor(0.7, requires_grad=True)
    real, fake = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    gradient_penalty(lambda x: (a * x * direction).sum((1, 2, 3)), real, fake, torch.rand(2, 1, 1, 1)).backward()
    norm = direction.norm()
    torch.testing.assert_close(a.grad, 2 * (0.7 * norm - 1) * norm)


def test_critic_loss_is_its_formula():
    real, fake, mix = noise(4, 3, 4, 4), noise(4, 3, 4, 4, seed=1), torch.rand(4, 1, 1, 1)
    direction = noise(3, 4, 4, seed=2)

    def critic(x):
        return (x * direction).sum((1, 2, 3)) + 2.0

    loss = critic_loss(critic, real, fake, mix, weight=10.0, drift=0.001)
    d_real, d_fake = critic(real), critic(fake)
    expected = d_fake.mean() - d_real.mean() + 10 * (direction.norm() - 1) ** 2 + 0.001 * d_real.square().mean()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.wasserstein, d_real.mean() - d_fake.mean())


# Growing


@pytest.mark.parametrize("side", [8, 16])
def test_generator_fades_from_the_lower_side_to_the_higher(side):
    torch.manual_seed(0)
    generator = with_biases(Generator(6, WIDTHS))
    z = noise(3, 6)
    lower, higher = upsample(generator(z, side // 2)), generator(z, side, 1.0)
    assert higher.shape == (3, 3, side, side) and not torch.allclose(lower, higher, atol=0.1)
    torch.testing.assert_close(generator(z, side, 0.0), lower)
    torch.testing.assert_close(generator(z, side, 0.3), 0.7 * lower + 0.3 * higher)


@pytest.mark.parametrize("side", [8, 16])
def test_discriminator_fades_from_the_lower_side_to_the_higher(side):
    torch.manual_seed(0)
    discriminator = with_biases(Discriminator(WIDTHS, last=8))
    pictures = noise(4, 3, side, side)
    lower, higher = discriminator(F.avg_pool2d(pictures, 2), side // 2), discriminator(pictures, side, 1.0)
    assert higher.shape == (4,) and not torch.allclose(lower, higher, atol=1e-3)
    torch.testing.assert_close(discriminator(pictures, side, 0.0), lower)
    torch.testing.assert_close(discriminator(pictures, side, 1 - 1e-7), higher)
    half = discriminator(pictures, side, 0.5)
    assert not torch.allclose(half, lower, atol=1e-4) and not torch.allclose(half, higher, atol=1e-4)


def test_discriminator_written_out():
    """Layer by layer at 8 px, from the state dict alone."""
    torch.manual_seed(0)
    discriminator = with_biases(Discriminator({4: 8, 8: 6}, last=5))
    t = discriminator.state_dict()
    pictures = noise(4, 3, 8, 8)

    def layer(name, x, gain=2**0.5, padding=0):
        weight = t[f"{name}.weight"]
        return F.conv2d(x, weight * gain / weight[0].numel() ** 0.5, t[f"{name}.bias"], padding=padding)

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    x = leaky(layer("from_rgb.8", pictures))
    x = leaky(layer("second.8", leaky(layer("first.8", x, padding=1)), padding=1))
    x = minibatch_deviation(x.reshape(4, 8, 4, 2, 4, 2).mean((3, 5)))
    x = layer("score", leaky(layer("second.4", leaky(layer("first.4", x, padding=1)))), gain=1.0)
    torch.testing.assert_close(discriminator(pictures, 8), x.flatten())
    assert t["first.4.weight"].shape == (8, 9, 3, 3) and t["second.8.weight"].shape == (8, 6, 3, 3)


def test_real_pictures_fade_alike():
    x = noise(2, 3, 8, 8)
    coarse = x.reshape(2, 3, 4, 2, 4, 2).mean((3, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(faded(x, 0.0), coarse)
    torch.testing.assert_close(faded(x, 0.25), 0.25 * x + 0.75 * coarse)
    assert faded(x, 1.0) is x
    trainer = tiny_trainer()
    steps(trainer, 2)
    phase = trainer._enter_phase()
    assert (phase.side, phase.alpha) == (8, 0.0)
    shown = trainer._real(4, phase)
    assert torch.equal(shown, upsample(shown[:, :, ::2, ::2])) and shown.std() > 0.1


def test_schedule():
    settings = Settings(side=16, stabilise_images=100, fade_images=50, batches={4: 8, 16: 4}, rates={16: 0.5})
    expected = {0: (0, 4, 1), 99: (0, 4, 1), 100: (1, 8, 0), 125: (1, 8, 0.5), 150: (2, 8, 1), 250: (3, 16, 0)}
    expected |= {299: (3, 16, 0.98), 300: (4, 16, 1), 10**9: (4, 16, 1)}
    for shown, (index, side, alpha) in expected.items():
        phase = settings.phase(shown)
        assert (phase.index, phase.side) == (index, side) and phase.alpha == pytest.approx(alpha)
    assert settings.total_images == 400
    assert [settings.batch(side) for side in (4, 8, 16)] == [8, 8, 4]
    assert [settings.learning_rate(side) for side in (4, 16)] == [1e-3, 0.5]
    assert Settings(side=16, first_side=16).phase(0).side == 16


def test_settings_come_back_from_json():
    settings = Settings(side=32, batches={4: 16, 32: 8}, rates={32: 2e-3}, flip=True)
    again = Settings.from_json(json.loads(json.dumps(settings.to_json())))
    assert again == settings and again.digest == settings.digest
    assert Settings(side=32, batches={4: 16, 32: 8}, rates={32: 2e-3}).digest != settings.digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"side": 48}, "side 48 is not a power of 2"),
        ({"side": 8, "first_side": 16}, "first_side 16 exceeds side 8"),
        ({"batches": {4: 10}}, "a batch of 10 images at 4 px is not a multiple of 4"),
        ({"batches": {}}, "batches is empty"),
        ({"width_base": 4}, "no channels are left at 16 px"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"decay": 1.0}, "decay 1.0"),
        ({"stabilise_images": 0, "fade_images": 0}, "both 0"),
    ],
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(UserError, match=words) as error:
        Settings(**(TINY | changes))
    assert "\n" not in str(error.value)

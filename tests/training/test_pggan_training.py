"""PGGAN training: steps, and proof that it learns."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hyperdecode.errors import UserError
from tests.training.helpers import (
    TINY,
    assert_same,
    noise,
    parameters,
    random_pictures,
    steps,
    tiny_trainer,
)
from training.pggan.data import Pictures
from training.pggan.loop import Machine, Trainer
from training.pggan.settings import Settings

# Training


def test_average_is_exponential():
    trainer = tiny_trainer(decay=0.9)
    expected = copy.deepcopy(trainer.average.state_dict())
    for _ in range(5):
        trainer.step()
        for key, value in trainer.generator.state_dict().items():
            expected[key] = 0.9 * expected[key] + 0.1 * value
    for key, value in trainer.average.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    moved = (trainer.average.conv["1"].weight - trainer.generator.conv["1"].weight).abs().max()
    assert moved > 1e-4


def test_the_first_step_of_adam_is_the_rate_everywhere_that_is_grown():
    trainer = tiny_trainer(rates={4: 0.02})
    before = {key: value.clone() for key, value in parameters(trainer).items()}
    trainer.step()
    after = parameters(trainer)
    for key in ("0.conv.1.weight", "0.conv.2.weight", "2.first.4.weight", "2.from_rgb.4.weight"):
        change = (after[key] - before[key]).abs()
        assert float(change.max()) == pytest.approx(0.02, rel=1e-2) and float(change.median()) > 0.01
    for key in ("0.conv.3.weight", "0.to_rgb.8.weight", "1.conv.4.weight", "2.first.8.weight", "2.from_rgb.16.bias"):
        assert torch.equal(after[key], before[key]), key


def test_each_network_is_taught_by_its_own_loss(monkeypatch):
    trainer = tiny_trainer()
    generator, discriminator = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    phase = trainer.settings.phase(0)
    trainer._teach_discriminator(torch.rand(8, 3, 4, 4), phase)
    assert_same(trainer.generator.state_dict(), generator.state_dict())
    assert not torch.equal(trainer.discriminator.score.weight, discriminator.score.weight)
    discriminator = copy.deepcopy(trainer.discriminator)
    # The generator's step must raise the scores of what it makes from the same latents.
    trainer.generator_optimizer.param_groups[0]["lr"] = 1e-3
    z = noise(8, 6)
    monkeypatch.setattr(trainer, "latents", lambda n: z)
    before = trainer.discriminator(trainer.generator(z, 4), 4).mean()
    trainer._teach_generator(8, phase)
    assert_same(trainer.discriminator.state_dict(), discriminator.state_dict())
    assert trainer.discriminator(trainer.generator(z, 4), 4).mean() > before
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


def test_discriminator_alone_finds_the_distance_between_pictures():
    """At distance d of what a still generator makes, a slope s earns ``s d - 10 (s - 1)^2``: most at ``1 + d / 20``."""
    trainer = tiny_trainer()
    phase, white = trainer.settings.phase(0), torch.ones(8, 3, 4, 4)
    trainer.discriminator_optimizer.param_groups[0]["lr"] = 0.01
    found = [float(trainer._teach_discriminator(white, phase)[1]) for _ in range(120)]
    made = trainer.generator(noise(200, 6), 4).detach()
    distance = float((white[0] - made).flatten(1).norm(dim=1).mean())
    best = distance * (1 + distance / 20)
    assert found[0] < 0.1 * best and 0.7 * best < np.mean(found[-10:]) < best


@pytest.mark.parametrize("reset", [True, False])
def test_moments_are_forgotten_at_each_change_of_phase(reset):
    trainer = tiny_trainer(reset_moments=reset)
    weight = trainer.generator.conv["1"].weight
    seen = []
    while trainer.shown < 24:
        trainer.step()
        seen.append((trainer.trained.index, int(trainer.generator_optimizer.state[weight]["step"])))
    expected = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)] if reset else [(k // 2, k + 1) for k in range(6)]
    assert seen == expected


def test_flips_are_drawn_when_asked_for():
    ramp = torch.arange(16, dtype=torch.uint8).repeat(1, 3, 16, 1)
    phase = Settings(**TINY).phase(10**6)
    for flip in (False, True):
        trainer = tiny_trainer(Pictures(ramp, "ramp"), flip=flip, batches={4: 40})
        trainer._reals = ramp
        rows = trainer._real(40, phase)[:, 0, 0]
        mirrored = int((rows[:, 0] > rows[:, -1]).sum())
        assert 8 <= mirrored <= 32 if flip else mirrored == 0
        torch.testing.assert_close(rows[rows[:, 0] < rows[:, -1]][0], torch.arange(16) / 127.5 - 1)


def test_bfloat16_on_the_cpu_is_near_float32():
    settings = {"batches": {4: 8}, "stabilise_images": 8, "fade_images": 8}
    exact, rough = (
        tiny_trainer(machine=Machine(precision=p, channels_last=c), **settings)
        for p, c in (("float32", False), ("bfloat16", True))
    )
    for a, b in zip(steps(exact, 5), steps(rough, 5), strict=True):
        for name in vars(a):
            one, two = float(getattr(a, name)), float(getattr(b, name))
            assert math.isfinite(two) and two == pytest.approx(one, rel=0.1, abs=0.1)
    assert all(p.dtype == torch.float32 for p in rough.generator.parameters())
    assert rough.generator.conv["2"].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "float8"}, "precision 'float8' is none of"),
        ({"precision": "tf32"}, "tf32 is for GPUs"),
        ({"device": "cuda"}, "sees no GPU"),
    ],
)
def test_machines_that_cannot_be(options, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=words):
        Machine(**options)


def test_pictures_of_another_side_are_refused():
    with pytest.raises(UserError, match="pictures of 8 px for a network of 16 px"):
        tiny_trainer(random_pictures(side=8))


# Learning


#
# 750 steps of 8 images, 4 -> 8 -> 16 px, on discs: red with the centre on the left or blue with the centre on the
# right, of varying place and size. Measured against 1000 discs that were never shown:
#
#                                        sliced Wasserstein    Frechet, 8 components    one colour a picture
#     trained, seeds 0..5                   0.030-0.060             0.78-2.28           0.69-0.77 (seeds 0..2)
#     the same networks, untrained          0.29-0.98               8.7-383             0.11-0.97
#     trained on plain grey pictures        0.156                   27.1                0.46
#     trained on uniform noise              0.329                   18.5                0.08
#     the mean disc picture, always         0.135                   19.6                0.06
#     other real discs                      0.010                   0.12                1.00
#
# So 0.09, 4.9 and 0.55 stand between what is trained on discs and all else, with a margin to each.


def discs(n, seed, side=16):
    """Pictures of one disc each, antialiased: red with its centre on the left, or blue with its centre on the right."""
    u = torch.rand(n, 4, generator=torch.Generator().manual_seed(seed))
    left = u[:, :1] < 0.5
    x, y = torch.where(left, 0.2, 0.65) + 0.15 * u[:, 1:2], 0.3 + 0.4 * u[:, 2:3]
    radius, grid = 0.14 + 0.1 * u[:, 3:], (torch.arange(4 * side) + 0.5) / (4 * side)
    inside = ((grid - x)[:, None, :].square() + (grid - y)[:, :, None].square() < radius[:, :, None].square()).float()
    colour = torch.where(left, torch.tensor([230.0, 60, 60]), torch.tensor([60.0, 60, 230]))
    return F.avg_pool2d(128 + inside[:, None] * (colour[:, :, None, None] - 128), 4).round().to(torch.uint8)


def sliced_wasserstein(a, b, directions=256):
    """Mean over random directions of the mean distance between the sorted projections of all pixels."""
    axes = noise(a[0].numel(), directions)
    p, q = ((x.flatten(1) @ (axes / axes.norm(dim=0))).sort(0).values for x in (a, b))
    return float((p - q).abs().mean())


def frechet(a, b, components=8):
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 sqrt(C_a C_b))`` in the first principal components of b."""
    axes = torch.linalg.svd((b - b.mean(0)).flatten(1).double(), full_matrices=False)[2][:components].T
    p, q = a.flatten(1).double() @ axes, b.flatten(1).double() @ axes
    root = torch.linalg.eigvals(p.T.cov() @ q.T.cov()).real.clamp(min=0).sqrt().sum()
    return float((p.mean(0) - q.mean(0)).square().sum() + p.T.cov().trace() + q.T.cov().trace() - 2 * root)


def one_colour(pictures):
    """``|red - blue| / (red + blue)`` of each picture's sums: 1 where it holds discs of one class alone."""
    excess = pictures[:, 0] - pictures[:, 2]
    red, blue = excess.clamp(min=0).sum((1, 2)), (-excess).clamp(min=0).sum((1, 2))
    return float(((red - blue).abs() / (red + blue + 1e-6)).mean())


def test_distances_know_equal_and_different_sets():
    real, other = (discs(1000, seed).float() / 127.5 - 1 for seed in (2, 3))
    mean = real.mean(0, keepdim=True).expand_as(real)
    assert sliced_wasserstein(other, real) < 0.02 and frechet(other, real) < 0.3 and one_colour(other) > 0.99
    assert sliced_wasserstein(mean, real) > 0.12 and frechet(mean, real) > 15 and one_colour(mean) < 0.2
    shift = torch.full((3, 16, 16), 0.1)
    assert frechet(real + shift, real) <= float(shift.square().sum()) + 1e-6


@pytest.mark.slow
def test_it_learns_discs_at_16_px():
    settings = Settings(
        side=16, latent_dim=8, width_base=48, width_max=12, batches={4: 8}, stabilise_images=400, fade_images=400,
        rate=0.004, decay=0.98,
    )  # fmt: skip
    trainer = Trainer(settings, Pictures(discs(2000, 1), "discs"))
    real = discs(1000, 2).float() / 127.5 - 1
    z = noise(1000, 8, seed=9)
    start = trainer.average(z, 16)
    constant = real.mean(0, keepdim=True).expand_as(real)
    while trainer.shown < 6000:
        trainer.step()
    made = trainer.samples(z)
    assert sliced_wasserstein(made, real) < 2 / 3 * min(sliced_wasserstein(x, real) for x in (start, constant))
    assert frechet(made, real) < 1 / 4 * frechet(constant, real)
    assert frechet(made, real) < 2 / 3 * frechet(start, real)
    assert one_colour(made) > 0.55

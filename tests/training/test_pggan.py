import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hyperdecode.errors import UserError
from hyperdecode.generators.pggan import PGGAN
from hyperdecode.pipeline.face_pool import chunk_path
from training.pggan import checkpoint, data
from training.pggan.__main__ import main
from training.pggan.data import POOL, Pictures, area_average, faded, from_folder, from_pool
from training.pggan.export import canonical_tensors, export
from training.pggan.loop import Machine, Trainer
from training.pggan.loss import critic_loss, gradient_penalty
from training.pggan.networks import Discriminator, EqualisedConvolution, Generator, minibatch_deviation, upsample
from training.pggan.run import LOG, Pace, sheet, train
from training.pggan.settings import Settings

WIDTHS = {4: 8, 8: 8, 16: 4}
TINY = {
    "side": 16,
    "latent_dim": 6,
    "width_base": 32,
    "width_max": 8,
    "batches": {4: 4},
    "stabilise_images": 8,
    "fade_images": 8,
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_pictures(n=12, side=16, seed=0):
    values = torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Pictures(values, "noise")


def tiny_trainer(pictures=None, machine=None, **changes):
    return Trainer(Settings(**(TINY | changes)), pictures or random_pictures(), machine)


def with_biases(network, seed=3):
    """Give every bias a value, so that none can be left out unseen."""
    with torch.no_grad():
        for k, (name, value) in enumerate(network.named_parameters()):
            if name.endswith("bias"):
                value.copy_(0.3 * noise(*value.shape, seed=seed + k))
    return network


def steps(trainer, n):
    return [trainer.step() for _ in range(n)]


def parameters(trainer):
    networks = (trainer.generator, trainer.average, trainer.discriminator)
    return {f"{i}.{key}": value for i, n in enumerate(networks) for key, value in n.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


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


# Runs in a folder


@pytest.mark.parametrize(
    ("n", "channels_last"), [(1, False), (3, False), (7, False), (7, True)]
)  # stopped while stabilising, in the middle of a fade-in, and of the last one
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, n, channels_last):
    machine = Machine(channels_last=channels_last)
    once = tiny_trainer(machine=machine, flip=True)
    steps(once, 2 * n)
    first = tiny_trainer(machine=machine, flip=True)
    steps(first, n)
    checkpoint.save(first, tmp_path)
    second = tiny_trainer(machine=machine, flip=True)
    checkpoint.resume(second, tmp_path)
    assert (second.shown, second.steps, second.trained) == (first.shown, n, first.trained)
    torch.manual_seed(99)  # the process's own stream plays no part
    figures = steps(second, n)
    assert_same(parameters(second), parameters(once))
    assert torch.equal(second.random.get_state(), once.random.get_state())
    for weight, moments in second.generator_optimizer.state.items():
        assert moments["exp_avg_sq"].stride() == weight.stride()
    assert math.isfinite(float(figures[-1].critic)) and second.shown == once.shown


def test_seeds_and_pictures_matter():
    runs = [tiny_trainer(), tiny_trainer(), tiny_trainer(seed=1), tiny_trainer(random_pictures(seed=1))]
    for run in runs:
        steps(run, 2)
    weights = [run.average.conv["1"].weight for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])


def test_training_in_a_folder(tmp_path):
    settings, pictures = Settings(**TINY), random_pictures()
    whole = train(tmp_path / "a", settings, pictures, Pace(images=40, log_every=8, save_every=16))
    part = train(tmp_path / "b", settings, pictures, Pace(images=20, log_every=8, save_every=10**6))
    assert part.shown == 20
    with (tmp_path / "b" / LOG).open("a") as stream:  # what a killed run leaves behind its last state
        stream.write('{"images": 32, "seconds": 1.0}\n{"images": 7')
    rest = train(tmp_path / "b", settings, pictures, Pace(log_every=8, save_every=16))
    assert rest.shown == settings.total_images == whole.shown == 40
    assert_same(parameters(rest), parameters(whole))
    for run, images in (("a", [8, 16, 24, 32, 40]), ("b", [8, 16, 20, 28, 36, 40])):
        rows = [json.loads(line) for line in (tmp_path / run / LOG).read_text().splitlines()]
        assert [row["images"] for row in rows] == images
        names = ["images", "steps", "side", "alpha", "critic", "generator", "wasserstein", "penalty", "seconds"]
        assert all(list(row) == names for row in rows)
        assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(rows))
        assert (rows[0]["side"], rows[-1]["side"]) == (4, 16)
    assert len(list((tmp_path / "a").glob("tensors-*"))) == 1
    assert [Image.open(p).size for p in sorted((tmp_path / "a").glob("*.png"))] == [(512, 128)] + [(512, 512)] * 3
    assert not list(tmp_path.rglob(".*"))


def test_minutes_end_a_run_which_then_goes_on(tmp_path):
    settings, pictures = Settings(**TINY), random_pictures()
    assert train(tmp_path, settings, pictures, Pace(minutes=0.0)).shown == 0
    assert checkpoint.exists(tmp_path)
    assert train(tmp_path, settings, pictures, Pace(images=8)).shown == 8


def test_figures_that_are_not_finite_stop_a_run_before_they_are_saved(tmp_path):
    with pytest.raises(UserError, match="no longer finite at 40 images"):
        train(tmp_path, Settings(**(TINY | {"rate": 1e30})), random_pictures(), Pace(log_every=1000))
    assert not checkpoint.exists(tmp_path)


@pytest.fixture
def saved(tmp_path):
    trainer = tiny_trainer()
    steps(trainer, 5)
    checkpoint.save(trainer, tmp_path)
    return tmp_path


def refusal(run, trainer):
    before = parameters(trainer)
    with pytest.raises(UserError) as error:
        checkpoint.resume(trainer, run)
    assert "\n" not in str(error.value)
    assert_same(parameters(trainer), before)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rate": 2e-3}, "rate 0.001 (now 0.002)"), ({"width_max": 4}, "width_max 8 (now 4)"), ({"seed": 1}, "seed 0")],
)
def test_a_run_of_other_settings_is_refused(saved, changes, words):
    assert f"other settings, {words}" in refusal(saved, tiny_trainer(**changes))


def test_a_run_on_other_pictures_is_refused(saved):
    assert "on 12 other pictures (13 now)" in refusal(saved, tiny_trainer(random_pictures(13)))
    changed = random_pictures()
    changed.values[3, 1, 2, 5] ^= 1
    assert "other pictures" in refusal(saved, tiny_trainer(changed))


def edited(run, **changes):
    path = run / checkpoint.STATE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_byte(run):
    path = next(run.glob("tensors-*"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


def other_tensors(run):
    path = next(run.glob("tensors-*"))
    tensors = load_file(path)
    tensors["generator.conv.1.weight"] = tensors["generator.conv.1.weight"][:1].clone()
    save_file(tensors, path)
    edited(run, tensors_sha256=checkpoint.sha256_file(path))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / checkpoint.STATE).unlink(), "holds no run"),
        (lambda run: (run / checkpoint.STATE).write_text("{"), "is damaged"),
        (lambda run: (run / checkpoint.STATE).write_text("[]"), "no JSON object"),
        (lambda run: (run / checkpoint.STATE).write_bytes(bytes(2**20 + 1)), "of a usual size"),
        (lambda run: edited(run, settings_sha256="0"), "other settings, another SHA-256"),
        (lambda run: edited(run, settings=None), "other settings"),
        (lambda run: edited(run, tensors="../../etc/passwd"), "lacks passwd"),
        (lambda run: next(run.glob("tensors-*")).unlink(), "lacks tensors-0000000020.safetensors"),
        (flip_a_byte, "is not the file that state.json names"),
        (other_tensors, "do not fit"),
    ],
)
def test_damaged_runs_are_refused(saved, damage, words):
    damage(saved)
    assert words in refusal(saved, tiny_trainer())


def test_a_state_without_its_stream_is_refused(saved):
    edited(saved, random="AAAA")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.resume(tiny_trainer(), saved)


# Export


@pytest.mark.parametrize("n", [1, 3, 4, 6, 8, 12])  # 4 px; 8 px at alpha 0 and 0.5; 8 px; 16 px at alpha 0.5; 16 px
def test_exported_pictures_are_those_of_the_averaged_generator(tmp_path, n):
    trainer = tiny_trainer(rate=0.02, decay=0.5)
    with_biases(trainer.average)
    steps(trainer, n)
    checkpoint.save(trainer, tmp_path)
    phase = trainer.trained
    target = export(tmp_path, tmp_path / "out" / "w.safetensors", half=False)
    tensors = load_file(target)
    assert ("lod" in tensors) == (phase.alpha < 1)
    generator = PGGAN(tensors, "mine")
    assert (generator.resolution, generator.latent_dim) == (phase.side, 6)
    z = noise(5, 6, seed=8)
    expected = trainer.samples(z)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(generator.images(z), expected, atol=1e-5, rtol=1e-5)
    # The plain pass of the class, taken with gradients, and a length of z that must not matter.
    torch.testing.assert_close(
        generator.images((7 * z).requires_grad_()).detach(),
        expected,
        atol=1e-5 * float(expected.abs().max()),
        rtol=1e-4,
    )


def test_the_fade_in_was_among_the_exports_tested():
    settings = Settings(**TINY)
    alphas = [settings.phase(shown).alpha for shown in (0, 8, 12, 20, 28, 44)]
    assert alphas == [1, 0, 0.5, 1, 0.5, 1]


def test_weight_file_says_what_it_is(tmp_path):
    trainer = tiny_trainer(Pictures(random_pictures().values, "12 pictures of noise", "CC0"))
    steps(trainer, 2)
    checkpoint.save(trainer, tmp_path)
    target = export(tmp_path, tmp_path / "w.safetensors")
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert metadata["family"] == "pggan" and metadata["licence"] == "CC0"
    told = json.loads(metadata["settings"])
    assert told["pictures"] == "12 pictures of noise" and told["images_shown"] == 8
    assert Settings.from_json(told["training"]) == trainer.settings
    exact = PGGAN(canonical_tensors(trainer.average, 4))
    z = noise(3, 6)
    half = PGGAN({name: value.float() for name, value in load_file(target).items()})
    torch.testing.assert_close(half.images(z), exact.images(z), atol=5e-3, rtol=0)


def test_the_usual_network_of_128_px_is_small_enough_to_ship(tmp_path):
    settings = Settings()
    tensors = canonical_tensors(Generator(settings.latent_dim, settings.widths), 128)
    assert settings.widths == {4: 224, 8: 224, 16: 224, 32: 224, 64: 128, 128: 64}
    assert tensors["conv.1.weight"].shape == (224, 512, 4, 4) and tensors["to_rgb.128.weight"].shape == (3, 64)
    save_file({name: value.half() for name, value in tensors.items()}, tmp_path / "w.safetensors")
    assert 10.9e6 < (tmp_path / "w.safetensors").stat().st_size < 11.1e6


def test_no_run_to_export(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        export(tmp_path, tmp_path / "w.safetensors")


# Data


def test_area_average():
    values = random_pictures(3).values
    expected = values.double().numpy().reshape(3, 3, 4, 4, 4, 4).mean((3, 5))
    np.testing.assert_array_equal(area_average(values, 4).numpy(), np.rint(expected))
    assert area_average(values, 16) is values
    for side in (5, 32):
        with pytest.raises(UserError, match="choose a divisor"):
            area_average(values, side)


def test_folder_of_pictures(tmp_path):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (32, 48, 3), np.uint8)
    (tmp_path / "more").mkdir()
    Image.fromarray(wide).save(tmp_path / "more" / "b.png")
    Image.fromarray(wide[:, :32, 0]).save(tmp_path / "c.PNG")
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    found = from_folder(tmp_path, 16)
    assert found.values.shape == (3, 3, 16, 16) and found.values.dtype == torch.uint8
    assert (found.values[0].float() - 200).abs().max() <= 2
    grey, middle = found.values[1], wide[:, 8:40].astype(float).reshape(16, 2, 16, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert torch.equal(grey[0], grey[2])
    assert np.abs(found.values[2].numpy() - middle).max() <= 1
    assert len(from_folder(tmp_path, 16, limit=2)) == 2
    assert from_folder(tmp_path, 16).digest == found.digest != from_folder(tmp_path, 16, limit=2).digest


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="holds 0 files"):
        from_folder(tmp_path, 16)
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((12, 30, 3), np.uint8)).save(path)
    with pytest.raises(UserError, match="30 x 12 px, too small for 16"):
        from_folder(tmp_path, 16)
    with pytest.raises(UserError, match="holds 1 files"):
        from_folder(tmp_path, 4, limit=2)
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(UserError, match=r"a\.png cannot be read") as error:
        from_folder(tmp_path, 4)
    assert "\n" not in str(error.value)


def test_pool_of_faces(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERDECODE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"holds 0 faces.*face_pool"):
        from_pool(16)
    pictures = [random_pictures(5, 128, seed).values for seed in (0, 1)]
    for k, values in enumerate(pictures):
        chunk_path(POOL, k).parent.mkdir(parents=True, exist_ok=True)
        save_file({"pictures": values.permute(0, 2, 3, 1).contiguous()}, chunk_path(POOL, k))
    found = from_pool(16)
    assert torch.equal(found.values, area_average(torch.cat(pictures), 16))
    assert "MobileStyleGAN".lower() in found.source and "Apache-2.0" in found.licence
    assert torch.equal(from_pool(32, limit=7).values, area_average(torch.cat(pictures), 32)[:7])
    with pytest.raises(UserError, match="holds 10 faces, not the first 11"):
        from_pool(16, limit=11)
    chunk_path(POOL, 1).write_bytes(b"\x08" + bytes(20))
    with pytest.raises(UserError, match="is damaged"):
        from_pool(16)


def test_sheet_lays_pictures_out_row_by_row():
    levels = torch.linspace(-1, 1, 10)[:, None, None, None].expand(10, 3, 4, 4)
    made = sheet(levels)
    assert made.shape == (128, 512, 3)
    for k in range(10):
        tile = made[64 * (k // 8) : 64 * (k // 8 + 1), 64 * (k % 8) : 64 * (k % 8 + 1)]
        assert (tile == np.rint((float(levels[k, 0, 0, 0]) + 1) * 127.5)).all()
    assert (made[64:, 128:] == 0).all()


# The command line


def test_commands(tmp_path, capsys):
    folder, run, target = tmp_path / "pictures", tmp_path / "run", tmp_path / "w.safetensors"
    folder.mkdir()
    for k, picture in enumerate(random_pictures(6, 8).values):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
    command = [
        "train",
        "--data",
        str(folder),
        "--out",
        str(run),
        "--side",
        "8",
        "--latent-dim",
        "6",
        "--width-max",
        "4",
    ]
    command += [
        "--batches",
        "4:8,8:4",
        "--rates",
        "8:0.002",
        "--stabilise-images",
        "16",
        "--fade-images",
        "8",
        "--flip",
    ]
    command += ["--threads", "1", "--log-every", "16"]
    assert main([*command, "--images", "20"]) == 0
    assert main(command) == 0
    state = json.loads((run / checkpoint.STATE).read_text())
    assert state["shown"] == 40 and state["settings"]["rates"] == {"8": 0.002} and state["settings"]["flip"]
    assert main(["export", "--run", str(run), "--to", str(target), "--licence", "CC BY 4.0"]) == 0
    assert "MB" in capsys.readouterr().out
    assert PGGAN(load_file(target)).resolution == 8
    assert main([*command, "--rate", "0.5"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "rate 0.001 (now 0.5)" in told and told.count("\n") == 1
    assert data.from_folder(folder, 8).digest == state["pictures_sha256"]


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

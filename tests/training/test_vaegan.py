"""Training of the VAE-GAN, at tiny sizes: what it learns, what a resumed run does, what it exports."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_tensors_file

from hyperdecode.baselines.networks import VaeGanSize
from hyperdecode.baselines.vaegan import VaeGan, read_vaegan
from training import vaegan
from training.vaegan import Trainer, averaged, batch, pyramid_loss, reconstruct

SIZE = VaeGanSize(latent_dim=5, side=16, widths=(6, 8), critic=(4, 5))


def faces(n=24, seed=0):
    """Pictures that differ in a light from the left, the colour and the size of a disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    light, colour, size = rng.uniform(0, 1, (3, n))
    disc = (np.hypot(x, y) < (0.3 + 0.5 * size)[:, None, None])[..., None]
    ground = (0.5 + 0.4 * (light[:, None, None] - 0.5) * x)[..., None] * np.ones(3)
    inside = np.stack([colour, 1 - colour, np.full(n, 0.5)], 1)[:, None, None]
    return (255 * np.where(disc, inside, ground)).round().astype(np.uint8)


def as_batch(pictures):
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


@pytest.fixture
def pictures():
    return as_batch(faces())


def learnt(trainer, pictures, steps, gan_from, of=60):
    """Take steps as `train` does: randomness of a step comes from its number."""
    figures = []
    for _ in range(steps):
        torch.manual_seed(trainer.step)
        figures.append(trainer.learn(pictures, of, gan_from))
    return figures


def test_it_learns_to_give_pictures_back(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(vaegan, "RATE", 0.03)  # so few weights can be hurried
    trainer = Trainer(tmp_path, SIZE)
    figures = learnt(trainer, pictures, 200, 1000, of=200)
    mean = float(pyramid_loss(pictures.mean(0, keepdim=True) - pictures))
    assert figures[-1]["pyramid"] < 0.5 * mean, "no better than the mean picture for all"
    assert set(figures[-1]) == {"pyramid", "divergence"}, "the discriminator has a word before its time"
    model = averaged(trainer)
    made = model.images(model.encode(faces()))
    errors = (made[:, None] - pictures).square().mean((2, 3, 4))
    own = errors.diagonal()
    assert (own[:, None] < errors).float().sum(1).mean() > 0.8 * (len(own) - 1), "pictures are no nearer to their own"


def test_the_discriminator_joins_and_learns(tmp_path, pictures):
    trainer = Trainer(tmp_path, SIZE)
    critic = {k: v.clone() for k, v in trainer.networks.critic.state_dict().items()}
    before = learnt(trainer, pictures, 3, 3)
    assert "critic" not in before[-1]
    assert all(torch.equal(critic[k], v) for k, v in trainer.networks.critic.state_dict().items())
    after = learnt(trainer, pictures, 40, 3)
    assert {"critic", "features"} <= set(after[0]) and after[-1]["critic"] < after[0]["critic"]
    assert all(p.requires_grad for p in trainer.networks.critic.parameters())
    assert all(np.isfinite(value) for figures in after for value in figures.values())


def test_a_resumed_run_takes_the_same_steps(tmp_path, pictures):
    whole = Trainer(tmp_path / "whole", SIZE)
    learnt(whole, pictures, 8, 4)
    (tmp_path / "part").mkdir()
    part = Trainer(tmp_path / "part", SIZE)
    learnt(part, pictures, 6, 4)
    part.seconds = 12.5
    part.save()
    again = Trainer(tmp_path / "part", SIZE)
    assert (again.step, again.seconds) == (6, 12.5)
    learnt(again, pictures, 2, 4)
    ours, theirs = whole.networks.state_dict(), again.networks.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_the_average_follows_the_networks(tmp_path, pictures):
    trainer = Trainer(tmp_path, SIZE)
    start = trainer.networks.average["encoder"].mean.weight.clone()
    learnt(trainer, pictures, 5, 100)
    average, now = trainer.networks.average["encoder"].mean.weight, trainer.networks.encoder.mean.weight
    assert not torch.equal(average, start) and not torch.equal(average, now)
    assert (average - now).abs().mean() < (start - now).abs().mean()
    assert not any(p.requires_grad for p in trainer.networks.average.parameters())


def test_divergence_is_that_of_two_gaussians(tmp_path, pictures):
    networks = Trainer(tmp_path, SIZE).networks
    with torch.no_grad():
        networks.encoder.mean.weight.zero_()
        networks.encoder.mean.bias.fill_(0.7)
        networks.log_variance.weight.zero_()
        networks.log_variance.bias.fill_(-1.3)
        found = reconstruct(networks, pictures)[1]
    q = torch.distributions.Normal(torch.tensor(0.7), torch.tensor(-1.3).exp().sqrt())
    wanted = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(found, SIZE.latent_dim * wanted)


def test_pyramid_loss_counts_every_scale():
    flat, fine = torch.full((1, 1, 16, 16), 0.25), torch.zeros(1, 1, 16, 16)
    fine[..., ::2, ::2] = fine[..., 1::2, 1::2] = 0.25
    fine[..., ::2, 1::2] = fine[..., 1::2, ::2] = -0.25
    assert float(pyramid_loss(flat)) == pytest.approx(0.25), "a shift of colour lies in the coarsest level alone"
    assert float(pyramid_loss(fine)) == pytest.approx(0.25), "a checkerboard lies in the finest level alone"
    assert float(pyramid_loss(flat + fine)) == pytest.approx(0.5)


def test_batches_take_half_of_each_kind_and_mirror(monkeypatch):
    monkeypatch.setattr(vaegan, "BATCH", 8)
    kinds = [np.full((10, 4, 4, 3), 0, np.uint8), np.full((10, 4, 4, 3), 255, np.uint8)]
    kinds[1][:, :, 0] = 51
    made = batch(kinds, np.random.default_rng(0))
    assert made.shape == (8, 3, 4, 4) and (made[:4] == -1).all()
    left, right = made[4:, 0, 0, 0], made[4:, 0, 0, -1]
    torch.testing.assert_close(left + right, torch.full((4,), 1 + 51 / 127.5 - 1))
    assert (left < right).any() and (left > right).any(), "none or all were mirrored"
    torch.testing.assert_close(batch(kinds, np.random.default_rng(0)), made)


def test_train_stops_saves_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vaegan, "BATCH", 8)
    monkeypatch.setattr(vaegan, "VaeGanSize", lambda: SIZE)
    monkeypatch.setattr(vaegan, "training_pictures", lambda _: [faces(), faces(seed=1)])
    monkeypatch.setattr(vaegan, "held_out_figures", lambda model: {"r2": float(model.latent_dim)})
    vaegan.train(tmp_path, 3, 2, hours=0)
    assert Trainer(tmp_path).step == 0, "no time, no step"
    vaegan.train(tmp_path, 3, 2, hours=1)
    assert '{"r2": 5.0, "step": 3}' in capsys.readouterr().out
    before = read_state(tmp_path)
    vaegan.train(tmp_path, 3, 2, hours=1)
    after = read_state(tmp_path)
    assert all(torch.equal(before[key], value) for key, value in after.items() if key != "clock"), "a step too many"
    assert before["clock"][0] == after["clock"][0] == 3 and after["clock"][1] >= before["clock"][1]


def test_export_is_what_the_package_reads(tmp_path, monkeypatch, pictures):
    trainer = Trainer(tmp_path, SIZE)
    learnt(trainer, pictures, 4, 2)
    trainer.save()
    target = tmp_path / "data" / "vaegan.safetensors"
    monkeypatch.setattr(vaegan, "TARGET", target)
    monkeypatch.setattr(vaegan, "VaeGanSize", lambda: SIZE)
    monkeypatch.setattr("sys.argv", ["vaegan.py", "export", "--work", str(tmp_path)])
    vaegan.main()
    shipped = read_vaegan(target.read_bytes(), "file")
    assert shipped.fingerprint == averaged(trainer).fingerprint
    np.testing.assert_allclose(shipped.encode(faces()), averaged(trainer).encode(faces()), atol=1e-6)
    assert set(load_tensors_file(target)) == set(VaeGan(SIZE).tensors())


def test_held_out_figures_are_those_of_the_pictures(tmp_path, monkeypatch, pictures):
    trainer = Trainer(tmp_path, SIZE)
    learnt(trainer, pictures, 30, 1000)
    save_file({"pictures": faces(seed=9)}, tmp_path / "held-out.safetensors")
    monkeypatch.setattr(vaegan, "truncated_path", lambda kind, chunk: tmp_path / f"{kind}.safetensors")
    model = averaged(trainer)
    figures = vaegan.held_out_figures(model, 10)
    true = faces(seed=9)[:10]
    made = ((model.images(model.encode(true)) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    x, y = true.reshape(10, -1).astype(float), made.reshape(10, -1)
    assert figures["r2"] == pytest.approx((1 - ((y - x) ** 2).mean(1) / x.var(1)).mean(), abs=2e-3)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    assert figures["pixcorr"] == pytest.approx(np.mean(correlations), abs=2e-3)
    assert 0 < figures["ssim"] < 1 and figures["r2_min"] < figures["r2"]


def read_state(folder):
    return load_tensors_file(folder / "checkpoint.safetensors")

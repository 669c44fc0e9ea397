"""Tiny networks, pictures and comparisons for the tests of PGGAN training."""

import torch

from training.pggan.data import Pictures
from training.pggan.loop import Trainer
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

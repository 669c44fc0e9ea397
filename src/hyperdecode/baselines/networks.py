"""The three networks of the VAE-GAN: encoder, decoder and discriminator, of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import UserError

__all__ = ["Decoder", "Discriminator", "Encoder", "VaeGanSize"]

SLOPE = 0.2


@dataclass(frozen=True)
class VaeGanSize:
    """Widths of a VAE-GAN.

    Attributes
    ----------
    latent_dim : int
        Latents of a face.
    side : int
        Side of the pictures in pixels: 4 times 2 to the number of widths.
    widths : tuple of int
        Channels at half, a quarter, ... of the side, down to 4 px; the decoder has them in reverse.
    critic : tuple of int
        Channels of the discriminator, likewise, as many as it has strides.

    Raises
    ------
    UserError
        When a size is not positive, or side and number of widths do not fit.
    """

    latent_dim: int = 1024
    side: int = 128
    widths: tuple[int, ...] = (24, 48, 96, 192, 128)
    critic: tuple[int, ...] = (16, 32, 64, 128)

    def __post_init__(self) -> None:
        if min(self.latent_dim, *self.widths, *self.critic) < 1:
            raise UserError(f"sizes of a VAE-GAN are positive numbers, got {self}: give at least 1 each")
        if not self.widths or self.side != 4 * 2 ** len(self.widths):
            raise UserError(
                f"{len(self.widths)} widths make pictures of {4 * 2 ** len(self.widths)} px, got side {self.side}: "
                "give one width a halving of the side, down to 4 px"
            )
        if not 1 <= len(self.critic) <= len(self.widths):
            raise UserError(f"the discriminator halves the side 1 to {len(self.widths)} times, got {len(self.critic)}")


class Encoder(nn.Module):
    """Pictures (n, 3, side, side) to the mean (n, latent_dim) of the latents' distribution.

    Convolutions of 4 x 4 and stride 2, each with batch normalisation and leaky ReLU, then one dense layer. The
    logarithm of the variance is a second dense layer, which only training uses: `forward` gives the mean.
    """

    def __init__(self, size: VaeGanSize) -> None:
        super().__init__()
        blocks = [_down(i, o) for i, o in _pairs((3, *size.widths))]
        self.blocks = nn.Sequential(*blocks)
        self.mean = nn.Linear(16 * size.widths[-1], size.latent_dim)

    def hidden(self, pictures: Tensor) -> Tensor:
        """Return what the dense layers read, (n, 16 * widths[-1])."""
        return torch.flatten(self.blocks(pictures), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Mean (n, latent_dim) of the latents of each picture."""
        mean: Tensor = self.mean(self.hidden(pictures))
        return mean


class Decoder(nn.Module):
    """Latents (n, latent_dim) to pictures (n, 3, side, side) in -1..1: the encoder in reverse."""

    def __init__(self, size: VaeGanSize) -> None:
        super().__init__()
        first, *others = size.widths[::-1]
        self.first = first
        self.dense = nn.Linear(size.latent_dim, 16 * first, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.blocks = nn.Sequential(*(_up(i, o) for i, o in _pairs((first, *others))))
        self.colours = nn.ConvTranspose2d(size.widths[0], 3, 4, stride=2, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Picture of each row of latents."""
        x = self.dense(latents).unflatten(1, (self.first, 4, 4))
        return torch.tanh(self.colours(self.blocks(F.leaky_relu(self.norm(x), SLOPE))))


class Discriminator(nn.Module):
    """Whether a picture is real, and the features by which reconstructions are compared (Larsen et al. 2016)."""

    def __init__(self, size: VaeGanSize) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_convolution(i, o) for i, o in _pairs((3, *size.critic)))
        self.verdict = nn.Linear(size.critic[-1], 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logit (n,) of "real", mean over places, and the features of every layer."""
        features = []
        x = pictures
        for block in self.blocks:
            x = F.leaky_relu(block(x), SLOPE)
            features.append(x)
        # Each place judges the patch that it sees: a discriminator of textures, which pixel losses miss.
        logits: Tensor = self.verdict(x.movedim(1, -1)).mean((1, 2, 3))
        return logits, features


def _pairs(widths: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(widths))


def _convolution(inward: int, outward: int) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 4, stride=2, padding=1)


def _down(inward: int, outward: int) -> nn.Sequential:
    layers = (nn.Conv2d(inward, outward, 4, 2, 1, bias=False), nn.BatchNorm2d(outward), nn.LeakyReLU(SLOPE, True))
    return nn.Sequential(*layers)


def _up(inward: int, outward: int) -> nn.Sequential:
    layers = (
        nn.ConvTranspose2d(inward, outward, 4, 2, 1, bias=False),
        nn.BatchNorm2d(outward),
        nn.LeakyReLU(SLOPE, True),
    )
    return nn.Sequential(*layers)

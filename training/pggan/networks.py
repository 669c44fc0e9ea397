"""The two networks that grow: generator and discriminator, with equalised learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.generators.pggan_parts import pixel_norm

__all__ = ["Discriminator", "EqualisedConvolution", "Generator", "minibatch_deviation"]

SLOPE = 0.2
GAIN = 2**0.5


class EqualisedConvolution(nn.Module):
    """Convolution whose weights are drawn from N(0, 1) and scaled at run time.

    ``y = x * (scale weight) + bias,  scale = gain / sqrt(inward kernel^2)``

    Adam moves every weight by about the learning rate, whatever its size; with the scale outside the weight that
    is the same *relative* step in every layer (Karras et al. 2018, section 4.1).

    Parameters
    ----------
    inward, outward : int
        Channels.
    kernel : int
        Side of the kernel.
    padding : int, optional
        Zeros around the input. Default: as many as keep the side.
    gain : float
        sqrt(2) before a leaky ReLU, 1 where nothing follows.
    """

    def __init__(
        self, inward: int, outward: int, kernel: int, *, padding: int | None = None, gain: float = GAIN
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outward, inward, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outward))
        self.padding = kernel // 2 if padding is None else padding
        self.scale = gain / (inward * kernel**2) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (n, inward, h, w)."""
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class EqualisedDense(nn.Module):
    """The first layer, from a latent to maps of 4 x 4: ``y[o, i, j] = sum_c scale weight[o, c, i, j] z[c] + bias[o]``.

    The scale is sqrt(2 / latent_dim) / 4, a quarter of what the fan-in asks for, as published.
    """

    def __init__(self, latent_dim: int, outward: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outward, latent_dim, 4, 4))
        self.bias = nn.Parameter(torch.zeros(outward))
        self.scale = GAIN / 4 / latent_dim**0.5

    def forward(self, z: Tensor) -> Tensor:
        """Make maps (n, outward, 4, 4) of latents z (n, latent_dim)."""
        return torch.einsum("nc,ocij->noij", z, self.weight * self.scale) + self.bias[:, None, None]


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append one map that tells how much the pictures of a group differ.

    ``s = mean_chw sqrt(var_group(x) + 1e-8)``, the same number on every pixel and every picture of the group. The
    variance is over `group` pictures (all, when there are fewer) that stand n / group apart in the batch.

    Parameters
    ----------
    x : Tensor, (n, channels, h, w)
        n divisible by the group.
    group : int
        Pictures compared with each other.

    Returns
    -------
    Tensor, (n, channels + 1, h, w)
    """
    n, channels, h, w = x.shape
    group = min(group, n)
    members = x.float().reshape(group, n // group, channels, h, w)
    variance = (members - members.mean(0)).square().mean(0)
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))
    extra = deviation.repeat(group).to(x.dtype)[:, None, None, None].expand(n, 1, h, w)
    return torch.cat([x, extra], dim=1)


class Generator(nn.Module):
    """Latents to pictures of any side that has been grown; its parameters bear the names of the canonical layout.

    z / rms(z), then at 4 px a dense layer and a 3 x 3 convolution, at each further side nearest upsampling and two
    3 x 3 convolutions; bias, leaky ReLU 0.2 and pixel norm after each. toRGB is linear.

    Parameters
    ----------
    latent_dim : int
    widths : mapping of int to int
        Side -> channels, for 4, 8, ... up to the full side.
    """

    def __init__(self, latent_dim: int, widths: Mapping[int, int]) -> None:
        super().__init__()
        self.sides = tuple(widths)
        convolutions: dict[str, nn.Module] = {"1": EqualisedDense(latent_dim, widths[4])}
        inward = widths[4]
        for i, width in enumerate(widths.values()):
            if i:
                convolutions[str(2 * i + 1)] = EqualisedConvolution(inward, width, 3)
            convolutions[str(2 * i + 2)] = EqualisedConvolution(width, width, 3)
            inward = width
        self.conv = nn.ModuleDict(convolutions)
        self.to_rgb = nn.ModuleDict({str(s): EqualisedConvolution(c, 3, 1, gain=1.0) for s, c in widths.items()})

    def forward(self, z: Tensor, side: int, alpha: float = 1.0) -> Tensor:
        """Make pictures.

        ``alpha toRGB_side(x) + (1 - alpha) up(toRGB_side/2(x_before))``

        Parameters
        ----------
        z : Tensor, (n, latent_dim)
        side : int
            Side of the pictures.
        alpha : float
            How far the layers of this side are faded in, 0..1.

        Returns
        -------
        Tensor, (n, 3, side, side)
            Nominally in -1..1.
        """
        x, before = pixel_norm(z), z
        for i in range(self.sides.index(side) + 1):
            before = x
            x = upsample(x) if i else x
            for k in (2 * i + 1, 2 * i + 2):
                x = pixel_norm(F.leaky_relu(self.conv[str(k)](x), SLOPE))
        picture: Tensor = self.to_rgb[str(side)](x)
        if alpha < 1.0:
            picture = torch.lerp(upsample(self.to_rgb[str(side // 2)](before)), picture, alpha)
        return picture


class Discriminator(nn.Module):
    """Pictures of any side that has been grown to one score each; the generator's mirror image.

    fromRGB, then from the current side down two 3 x 3 convolutions and the mean of 2 x 2; at 4 px the minibatch
    deviation, a 3 x 3 convolution, a dense layer and a linear score. Leaky ReLU 0.2 after each but the last.

    Parameters
    ----------
    widths : mapping of int to int
        As of the generator.
    last : int
        Units of the dense layer before the score.
    """

    def __init__(self, widths: Mapping[int, int], last: int) -> None:
        super().__init__()
        self.sides = tuple(widths)
        self.from_rgb = nn.ModuleDict({str(s): EqualisedConvolution(3, c, 1) for s, c in widths.items()})
        self.first = nn.ModuleDict({str(s): EqualisedConvolution(c + (s == 4), c, 3) for s, c in widths.items()})
        self.second = nn.ModuleDict(
            {str(s): EqualisedConvolution(c, widths[s // 2], 3) for s, c in widths.items() if s > 4}
            | {"4": EqualisedConvolution(widths[4], last, 4, padding=0)}
        )
        self.score = EqualisedConvolution(last, 1, 1, gain=1.0)

    def forward(self, pictures: Tensor, side: int, alpha: float = 1.0) -> Tensor:
        """Scores (n,), float32, of pictures (n, 3, side, side); `alpha` as of the generator."""
        x = self._from_rgb(pictures, side)
        while side > 4:
            x = F.avg_pool2d(self._layers(x, side), 2)
            side //= 2
            if alpha < 1.0:
                x = torch.lerp(self._from_rgb(F.avg_pool2d(pictures, 2), side).to(x.dtype), x, alpha)
                alpha = 1.0
        return cast(Tensor, self.score(self._layers(minibatch_deviation(x), 4))).float().flatten()

    def _from_rgb(self, pictures: Tensor, side: int) -> Tensor:
        return F.leaky_relu(self.from_rgb[str(side)](pictures), SLOPE)

    def _layers(self, x: Tensor, side: int) -> Tensor:
        x = F.leaky_relu(self.first[str(side)](x), SLOPE)
        return F.leaky_relu(self.second[str(side)](x), SLOPE)


def upsample(x: Tensor) -> Tensor:
    """Double the side; each pixel becomes 2 x 2 equal ones."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")

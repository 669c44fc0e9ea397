"""Building blocks of MobileStyleGAN: styles, styled convolutions, the wavelet upsampling."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.generators.windows import Window

__all__ = ["SLOPE", "Block", "Style", "StyledConvolution", "below", "frozen", "haar_upsample"]

SLOPE = 0.2


def haar_upsample(x: Tensor) -> Tensor:
    """Double the resolution by the inverse Haar wavelet transform.

    ``y[2i + a, 2j + b] = (low + (-1)^a lh + (-1)^b hl + (-1)^(a + b) hh) / 2``

    Parameters
    ----------
    x : Tensor, (n, 4 c, h, w)
        `c` low-pass maps, then the three bands of each of the `c` channels in turn.

    Returns
    -------
    Tensor, (n, c, 2 h, 2 w)
    """
    n, channels, h, w = x.shape
    low = x[:, : channels // 4]
    lh, hl, hh = x[:, channels // 4 :].reshape(n, channels // 4, 3, h, w).unbind(2)
    top_sum, top_difference = low + lh, low - lh
    side_sum, side_difference = hl + hh, hl - hh
    rows = [
        torch.stack([top_sum + side_sum, top_sum - side_sum], dim=-1),
        torch.stack([top_difference + side_difference, top_difference - side_difference], dim=-1),
    ]
    return torch.stack(rows, dim=3).reshape(n, channels // 4, 2 * h, 2 * w) * 0.5


class Style(nn.Module):
    """Affine map from w to the scale of each channel."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weight = frozen(tensors["style.weight"])
        self.bias = frozen(tensors["style.bias"])

    def forward(self, w: Tensor) -> Tensor:
        """Scale (n, channels, 1, 1) of each channel."""
        return F.linear(w, self.weight, self.bias)[:, :, None, None]


class StyledConvolution(nn.Module):
    """Style, (depthwise 3 x 3 then pointwise | full 3 x 3), constant noise, bias, leaky ReLU."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.style = Style(tensors)
        self.depthwise: Tensor | None = frozen(tensors["depthwise"]) if "depthwise" in tensors else None
        self.weight = frozen(tensors["weight"])
        self.noise = frozen(tensors["noise"])
        self.bias = frozen(tensors["bias"])

    def forward(self, x: Tensor, w: Tensor, held: Window | None = None, wanted: Window | None = None) -> Tensor:
        """Convolve features in the style of w.

        Parameters
        ----------
        x : Tensor, (n, channels, h, w)
            The map on the window `held` (default: the whole map).
        w : Tensor, (n, latent_dim)
        held, wanted : Window, optional
            What x is, and what is asked for.

        Returns
        -------
        Tensor, (n, channels, h, w)
            The result on the window `wanted` (default: the whole map).
        """
        side = int(self.noise.shape[-1])
        whole = Window(0, side)
        held, wanted = held or whole, wanted or whole
        x, padding = held.around(x, wanted, side)
        x = x * self.style(w)
        if self.depthwise is not None:
            x = F.conv2d(x, self.depthwise, padding=padding, groups=x.shape[1])
            x = F.conv2d(x, self.weight, self.bias)
        else:
            x = F.conv2d(x, self.weight, self.bias, padding=padding)
        return F.leaky_relu(x + self.noise[slice(*wanted), slice(*wanted)], SLOPE)


class Block(nn.Module):
    """Wavelet upsampling and two styled convolutions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.up = Style(below(tensors, "up"))
        self.conv1 = StyledConvolution(below(tensors, "conv1"))
        self.conv2 = StyledConvolution(below(tensors, "conv2"))


def frozen(tensor: Tensor) -> nn.Parameter:
    """Copy a tensor into a parameter that is not trained."""
    return nn.Parameter(tensor.clone(), requires_grad=False)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with ``prefix.``, by the rest of their names."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(prefix + ".")}

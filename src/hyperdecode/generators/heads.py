"""Early exits: a small picture from the features of a generator's middle, at a fraction of the full cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import WeightFileError

__all__ = ["EarlyExitHead"]

SLOPE = 0.2


class EarlyExitHead(nn.Module):
    r"""Colours from standardised features x by a linear and a small nonlinear path, both steered by w.

    .. math::
        y = V ((1 + s(w)) \odot x) + c(w) + O ((1 + r(w)) \odot \sigma(D * \sigma(A ((1 + m(w)) \odot x) + b(w))))

    `s, m, r, b, c` are affine in the standardised w, `V, A, O` are 1 x 1 convolutions, `D` a depthwise 3 x 3
    convolution, :math:`\sigma` the leaky ReLU. Features and w are standardised by constants of the training
    pictures. Fitted by least squares to the area-averaged full picture (``training/early_exits.py``).

    Parameters
    ----------
    layer : str
        The generator's layer that is read; its side is that of the picture.
    channels, hidden, latent_dim : int
        Channels of the layer, of the nonlinear path, and dimensions of w.
    """

    def __init__(self, layer: str, channels: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.layer = layer
        self.x_mean: Tensor
        self.x_scale: Tensor
        self.w_mean: Tensor
        self.w_scale: Tensor
        self.register_buffer("x_mean", torch.zeros(channels))
        self.register_buffer("x_scale", torch.ones(channels))
        self.register_buffer("w_mean", torch.zeros(latent_dim))
        self.register_buffer("w_scale", torch.ones(latent_dim))
        self.linear = nn.Parameter(torch.zeros(3, channels))
        self.linear_style = _zero_affine(latent_dim, channels)
        self.colour = _zero_affine(latent_dim, 3)
        self.inward = nn.Parameter(torch.randn(hidden, channels) / channels**0.5)
        self.inward_style = _zero_affine(latent_dim, channels)
        self.inward_bias = _zero_affine(latent_dim, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, groups=hidden)
        self.outward = nn.Parameter(torch.zeros(3, hidden))
        self.outward_style = _zero_affine(latent_dim, hidden)

    @classmethod
    def from_tensors(cls, layer: str, tensors: Mapping[str, Tensor]) -> EarlyExitHead:
        """Build a head from its saved tensors (any float type).

        Raises
        ------
        WeightFileError
            When tensors are absent or do not fit together.
        """
        try:
            hidden, channels = tensors["inward"].shape
            head = cls(layer, channels, hidden, len(tensors["w_mean"]))
            head.load_state_dict({key: value.float() for key, value in tensors.items()})
        except (KeyError, RuntimeError, ValueError) as error:
            raise WeightFileError(f"early exit {layer}: tensors do not fit together ({error})") from None
        return head.train(False)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Make the small picture.

        Parameters
        ----------
        x : Tensor, (n, channels, side, side)
            Activations of `layer`.
        w : Tensor, (n, latent_dim)

        Returns
        -------
        Tensor, (n, 3, side, side)
            Nominally in -1..1.
        """
        v = self._standardised(w)
        # The hidden maps depend on one pixel each, so padding them is padding x, at an eighth of the cost.
        hidden = F.pad(self._hidden(x, v), (1, 1, 1, 1), mode="replicate")
        return self._linear(x, v) + self._nonlinear(hidden, v)

    def interior(self, x: Tensor, w: Tensor) -> Tensor:
        """Colours of all but the outermost pixels of `x`, which only serve their neighbours."""
        v = self._standardised(w)
        return self._linear(x[:, :, 1:-1, 1:-1], v) + self._nonlinear(self._hidden(x, v), v)

    def _standardised(self, w: Tensor) -> Tensor:
        return (w.to(self.w_mean.dtype) - self.w_mean) / self.w_scale

    def _linear(self, x: Tensor, v: Tensor) -> Tensor:
        # Standardising x is a scale and a shift of the kernel: no pass over the features.
        kernel = self.linear * (1 + self.linear_style(v))[:, None] / self.x_scale
        return _mix(x, kernel, self.colour(v) - kernel @ self.x_mean)

    def _hidden(self, x: Tensor, v: Tensor) -> Tensor:
        kernel = self.inward * (1 + self.inward_style(v))[:, None] / self.x_scale
        return F.leaky_relu(_mix(x, kernel, self.inward_bias(v) - kernel @ self.x_mean), SLOPE)

    def _nonlinear(self, hidden: Tensor, v: Tensor) -> Tensor:
        weight, bias = self.depthwise.weight.to(hidden.dtype), self.depthwise.bias
        assert bias is not None
        hidden = F.leaky_relu(F.conv2d(hidden, weight, bias.to(hidden.dtype), groups=len(weight)), SLOPE)
        kernel = self.outward * (1 + self.outward_style(v))[:, None]
        return _mix(hidden, kernel, kernel.new_zeros(kernel.shape[:2]))


def _zero_affine(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _mix(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """1 x 1 convolution with a kernel (n, out, in) and bias (n, out) of its own for each of the n items."""
    kernel, bias = kernel.to(x.dtype), bias.to(x.dtype)
    if len(x) == 1:
        return F.conv2d(x, kernel[0][:, :, None, None], bias[0])
    return torch.einsum("noc,nchw->nohw", kernel, x) + bias[:, :, None, None]

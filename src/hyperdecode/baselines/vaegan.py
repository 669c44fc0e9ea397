"""The VAE-GAN as a baseline: encoder and decoder, read from a safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from hyperdecode.baselines.base import Pictures, as_latents, to_tensor
from hyperdecode.baselines.networks import Decoder, Encoder, VaeGanSize
from hyperdecode.errors import UserError, WeightFileError

__all__ = ["VaeGan", "load_vaegan"]

BATCH = 32
MAX_BYTES = 64 * 2**20
COUNTER = "num_batches_tracked"
"""An integer that batch normalisation keeps for training; no file holds it."""


class VaeGan(nn.Module):
    r"""Variational autoencoder with a discriminator (Larsen et al. 2016), used by VanRullen & Reddy (2019).

    .. math::
        z = \mu(x), \qquad \hat x = D(z)

    The encoder gives the mean of the latents' distribution; the discriminator and the variances serve training only.

    Parameters
    ----------
    size : VaeGanSize

    References
    ----------
    VanRullen & Reddy 2019, Communications Biology 2:193. Larsen et al. 2016, ICML.
    """

    name = "vae-gan"

    def __init__(self, size: VaeGanSize) -> None:
        super().__init__()
        self.latent_dim, self.side, self.size = size.latent_dim, size.side, size
        self.encoder, self.decoder = Encoder(size), Decoder(size)
        self.to(memory_format=torch.channels_last).train(False)  # type: ignore[call-overload]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], source: str = "VAE-GAN") -> VaeGan:
        """Build the model that tensors are of; its widths follow from their shapes.

        Raises
        ------
        WeightFileError
            When tensors are absent, superfluous or not finite, or do not fit together.
        """
        try:
            model = cls(_size(tensors))
            if not all(value.is_floating_point() and torch.isfinite(value).all() for value in tensors.values()):
                raise ValueError("values that are no finite numbers")
            missing, unexpected = model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
            absent = [key for key in missing if not key.endswith(COUNTER)]
            if absent or unexpected:
                raise ValueError(f"{len(absent)} tensors absent, {len(unexpected)} unknown")
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise WeightFileError(f"{source}: these are no weights of a VAE-GAN ({reason}), fetch them anew") from None
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Weights by name in float16, as `from_tensors` takes them."""
        state = self.state_dict().items()
        return {key: value.half().contiguous() for key, value in state if not key.endswith(COUNTER)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and values of the weights in float16."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors().items()):
            digest.update(f"{name} {tuple(value.shape)};".encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def latent_units(self) -> NDArray[np.float64]:
        """Ones: the network was trained for latents of N(0, I), and its pictures move with each as they were taught."""
        return np.ones(self.latent_dim)

    def encode(self, pictures: Pictures) -> NDArray[np.float32]:
        """Latents of pictures.

        Parameters
        ----------
        pictures : uint8 array of shape (n, height, height, 3)
            Any size; brought to `side`.

        Returns
        -------
        array of float32, (n, latent_dim)

        Raises
        ------
        UserError
            When `pictures` are no such array.
        """
        values = to_tensor(pictures, self.side)
        return self._batched(self.encoder, values, (self.latent_dim,)).numpy()

    def images(self, latents: NDArray[np.floating] | Tensor) -> Tensor:
        """Pictures of latents.

        Parameters
        ----------
        latents : array or Tensor, (n, latent_dim)

        Returns
        -------
        Tensor, (n, 3, side, side)
            float32 in -1..1 on the CPU.

        Raises
        ------
        UserError
            When latents have another shape or are not finite.
        """
        values = as_latents(latents, self.latent_dim, "the VAE-GAN")
        return self._batched(self.decoder, values, (3, self.side, self.side))

    def _batched(self, network: nn.Module, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        device = next(network.parameters()).device
        with torch.inference_mode():
            parts = [network(part.to(device)).cpu() for part in torch.split(values, BATCH) if len(part)]
        return torch.cat(parts).contiguous() if parts else torch.empty(0, *shape)


def load_vaegan() -> VaeGan:
    """Return the VAE-GAN that ships: 1024 latents, 128 px, trained on generated faces (``training/vaegan.py``).

    Raises
    ------
    UserError
        When this installation has no weights of it.
    WeightFileError
        When they are damaged.
    """
    resource = resources.files("hyperdecode.baselines") / "data" / "vaegan.safetensors"
    if not resource.is_file():
        raise UserError("this installation has no VAE-GAN weights: make them with `python training/vaegan.py`")
    return read_vaegan(resource.read_bytes(), "the shipped VAE-GAN")


def read_vaegan(data: bytes, source: str) -> VaeGan:
    """Read a VAE-GAN from the bytes of a safetensors file.

    Raises
    ------
    WeightFileError
        When they are too many, damaged, or of something else.
    """
    if len(data) > MAX_BYTES:
        raise WeightFileError(f"{source}: {len(data)} bytes, weights of a VAE-GAN have at most {MAX_BYTES}")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightFileError(f"{source}: not readable as safetensors ({str(error)[:80]!r}), fetch it anew") from None
    return VaeGan.from_tensors(tensors, source)


def _size(tensors: Mapping[str, Tensor]) -> VaeGanSize:
    depth = len([key for key in tensors if key.startswith("encoder.blocks.") and key.endswith(".0.weight")])
    widths = tuple(len(tensors[f"encoder.blocks.{k}.0.weight"]) for k in range(depth))
    wanted = [tuple(tensors[f"encoder.blocks.{k}.0.weight"].shape) for k in range(depth)]
    if wanted != [(o, i, 4, 4) for i, o in pairwise((3, *widths))]:
        raise ValueError(f"convolutions of shapes {wanted}")
    # Shapes are compared before anything is built: a header may claim any width, but the bytes must be there.
    size = VaeGanSize(len(tensors["encoder.mean.bias"]), 4 * 2**depth, widths, critic=(1,))
    if tuple(tensors["encoder.mean.weight"].shape) != (size.latent_dim, 16 * widths[-1]):
        raise ValueError("a dense layer that does not fit its convolutions")
    return size

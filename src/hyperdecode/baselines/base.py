"""What every baseline can do: pictures to latents that a decoder learns, and latents to pictures."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.errors import UserError

__all__ = ["Baseline", "Pictures", "as_latents", "best_possible", "to_pictures", "to_tensor"]

Pictures = NDArray[np.uint8]


@runtime_checkable
class Baseline(Protocol):
    """A way to make pictures from latents that is no GAN of faces, and latents from pictures.

    A study decodes it as it decodes its generator: `encode` gives the latents of the training stimuli, a decoder is
    fitted from voxels to them, and `images` turns decoded latents into pictures.

    Attributes
    ----------
    name : str
    latent_dim : int
    side : int
        Side of its pictures in pixels.
    """

    name: str
    latent_dim: int
    side: int

    @property
    def latent_units(self) -> NDArray[np.float64]:
        """How far a latent of 1 moves a picture in each dimension, up to one factor, (latent_dim,).

        Distances between latents times these are what resembles distances between pictures: decoded latents are
        stretched to the length of training latents on this scale before they are drawn.
        """
        ...

    def encode(self, pictures: Pictures) -> NDArray[np.float32]:
        """Latents (n, latent_dim) of pictures (n, height, width, 3)."""
        ...

    def images(self, latents: NDArray[np.floating] | Tensor) -> Tensor:
        """Pictures (n, 3, side, side) in -1..1 of latents (n, latent_dim)."""
        ...


def best_possible(model: Baseline, pictures: Pictures) -> Pictures:
    """Pictures as a baseline would give them back if its latents were decoded without error: no brain is asked.

    Parameters
    ----------
    model : Baseline
    pictures : uint8 array of shape (n, height, width, 3)
        Stimuli.

    Returns
    -------
    uint8 array of shape (n, model.side, model.side, 3)

    Raises
    ------
    UserError
        When `pictures` are no such array.
    """
    return to_pictures(model.images(model.encode(pictures)))


def to_tensor(pictures: Pictures, side: int) -> Tensor:
    """Bring pictures to `side` px: means over whole pixels where they divide, else bilinear with antialiasing.

    Parameters
    ----------
    pictures : uint8 array of shape (n, height, width, 3)
        Square.
    side : int

    Returns
    -------
    Tensor, (n, 3, side, side)
        float32 in -1..1.

    Raises
    ------
    UserError
        When `pictures` are no such array.
    """
    array = np.asarray(pictures)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.shape[1] != array.shape[2]:
        raise UserError(
            f"a baseline reads square pictures as uint8 of shape (n, side, side, 3), got {array.dtype} of shape "
            f"{array.shape}: convert them"
        )
    if min(array.shape[1:]) < 1:
        raise UserError(f"pictures of shape {array.shape} hold no pixels: give pictures of at least 1 px")
    parts = [_resized(array[k : k + 32], side) for k in range(0, len(array), 32)]  # 1024 px as float are 12 MB each
    return torch.cat(parts) if parts else torch.empty(0, 3, side, side)


def _resized(pictures: Pictures, side: int) -> Tensor:
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if values.shape[-1] == side:
        return values
    if values.shape[-1] % side == 0:
        return F.avg_pool2d(values, values.shape[-1] // side)
    return F.interpolate(values, (side, side), mode="bilinear", align_corners=False, antialias=True)


def to_pictures(images: Tensor) -> Pictures:
    """Images (n, 3, side, side) in -1..1 as uint8 (n, side, side, 3); what lies outside is clipped."""
    values = ((images.detach() + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    return values.permute(0, 2, 3, 1).contiguous().numpy()


def as_latents(latents: NDArray[np.floating] | Tensor, latent_dim: int, what: str) -> Tensor:
    """Return latents as a float32 tensor on the CPU.

    Raises
    ------
    UserError
        When they are not (n, latent_dim) finite numbers.
    """
    values = torch.as_tensor(np.asarray(latents.cpu() if isinstance(latents, Tensor) else latents, np.float32))
    if values.ndim != 2 or values.shape[1] != latent_dim:
        raise UserError(f"{what} takes latents (n, {latent_dim}), got shape {tuple(values.shape)}: decode its own")
    if not torch.isfinite(values).all():
        raise UserError(f"latents for {what} hold NaN or infinite values: look at the decoder that they came from")
    return values

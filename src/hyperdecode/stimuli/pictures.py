"""Pictures as they are shown: from the generator's -1..1 to 8-bit RGB of the stimulus size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.threads import default_threads, side_by_side

__all__ = ["crop_centre", "drawn", "resize", "stimulus_pictures", "to_uint8"]


def to_uint8(pictures: Tensor) -> NDArray[np.uint8]:
    """Map -1..1 to 0..255 and put the channels last.

    Parameters
    ----------
    pictures : Tensor, (n, 3, h, w)
        Values beyond -1..1 are clipped.

    Returns
    -------
    ndarray of uint8, (n, h, w, 3)
    """
    levels = (pictures.clamp(-1, 1) + 1) * 127.5
    result: NDArray[np.uint8] = levels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return result


def resize(pictures: Tensor, size: int) -> Tensor:
    """Resize square pictures: the mean over each target pixel's area downwards, antialiased bilinear upwards.

    Parameters
    ----------
    pictures : Tensor, (n, channels, side, side)
    size : int
        Side of the result.

    Returns
    -------
    Tensor, (n, channels, size, size)
    """
    side = pictures.shape[-1]
    if side == size:
        return pictures
    if side > size and side % size == 0:
        return F.avg_pool2d(pictures, side // size)
    return F.interpolate(pictures, (size, size), mode="bilinear", align_corners=False, antialias=True)


def crop_centre(pictures: Tensor, share: float) -> Tensor:
    """Keep the middle of square pictures: the smallest centred square whose side is at least `share` of theirs.

    As many pixels go on the left as on the right, ``floor(side (1 - share) / 2)``, so the middle stays the middle.

    Parameters
    ----------
    pictures : Tensor, (n, channels, side, side)
    share : float
        Share of the side that is kept, above 0 and at most 1.

    Returns
    -------
    Tensor, (n, channels, kept, kept)
        A view.

    Raises
    ------
    UserError
        When `share` is out of range.
    """
    side = pictures.shape[-1]
    margin = (side - _kept(side, share)) // 2
    return pictures[..., margin : side - margin, margin : side - margin]


def _kept(side: int, share: float) -> int:
    """Side that a centred crop leaves of a picture's side."""
    if not 0 < share <= 1:
        raise UserError(f"the share of a picture that a crop keeps lies above 0 and at most at 1, got {share}")
    return max(side - 2 * math.floor(side * (1 - share) / 2 + 1e-9), 1)


def drawn(generator: Generator, latents: Tensor, *, resolution: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Make the picture of each latent by itself, as many side by side as there are threads.

    Parameters
    ----------
    generator : Generator
    latents : Tensor, (n, latent_dim)
        In the generator's ``picture_space``.
    resolution : int, optional
        Default: the full side.

    Returns
    -------
    iterator of ndarray of uint8, (side, side, 3)
    """

    def one(row: Tensor) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = to_uint8(generator.images(row[None], resolution=resolution))[0]
        return picture

    step = default_threads()
    for start in range(0, len(latents), step):
        yield from side_by_side(one, list(latents[start : start + step]))


def stimulus_pictures(
    generator: Generator, w: Tensor, *, render: int, size: int, crop: float = 1.0, batch: int = 8
) -> Iterator[NDArray[np.uint8]]:
    """Make the stimuli of latents w one after the other.

    Parameters
    ----------
    generator : Generator
    w : Tensor, (n, latent_dim)
    render : int
        Side at which the generator makes the picture.
    size : int
        Side of the stimulus; not larger than what the crop keeps of `render`.
    crop : float
        Share of the picture's side that is kept, from its centre, before it is resized.
    batch : int
        Pictures made at a time.

    Returns
    -------
    iterator of ndarray of uint8, (size, size, 3)

    Raises
    ------
    UserError
        When the generator does not make pictures of `render` px, or `size` exceeds what the crop keeps of them.
    """
    if render not in generator.resolutions:
        raise UserError(
            f"stimuli.render = {render}, but {generator.name} makes pictures of {generator.resolutions} px: "
            "choose one of these"
        )
    kept = _kept(render, crop)
    if size > kept:
        left = f" of which a crop of {crop:g} keeps {kept}" if kept < render else ""
        raise UserError(f"stimuli of {size} px cannot come from pictures of {render} px{left}: raise stimuli.render")
    return _stimulus_pictures(generator, w, render, size, crop, batch)


def _stimulus_pictures(
    generator: Generator, w: Tensor, render: int, size: int, crop: float, batch: int
) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(w), batch):
        made = generator.images(w[start : start + batch], resolution=render)
        yield from to_uint8(resize(crop_centre(made, crop), size))

"""What a simulated visual system sees: generator activations and the picture itself, coarsely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator
from hyperdecode.threads import one_torch_thread

__all__ = ["FeatureBank", "feature_layers", "picture_features"]

N_CHANNELS = 48
GRID = 8
PICTURE = "picture"


@dataclass(frozen=True)
class FeatureBank:
    """Features of each stimulus, from the generator's first layer to the picture.

    Attributes
    ----------
    layers : tuple of str
        Generator layers in the order of the forward pass, then ``"picture"``.
    values : tuple of ndarray, each (n_stimuli, n_channels, grid, grid)
        Standardised over stimuli: each channel has mean 0 at each place and a mean variance of 1.
    """

    layers: tuple[str, ...]
    values: tuple[NDArray[np.float32], ...]


def feature_layers(generator: Generator, deepest: int = 64) -> tuple[str, ...]:
    """Last layer at each resolution up to `deepest` px: the activations that simulated voxels read."""
    with torch.inference_mode():
        maps = generator.activations(generator.sample(1, 0), generator.layer_names[:-1], space="z")
    last = {value.shape[-1]: name for name, value in maps.items() if value.shape[-1] <= deepest}
    return tuple(last.values())


def picture_features(
    generator: Generator,
    w: torch.Tensor,
    pictures: NDArray[np.uint8],
    *,
    seed: int,
    layers: Sequence[str] | None = None,
    batch: int = 16,
) -> FeatureBank:
    """Pool the activations behind each stimulus, and the stimulus itself, on a coarse grid.

    Channels of an activation are mixed by a fixed random projection to `N_CHANNELS`, then averaged over the cells of
    a grid of at most 8 x 8. The picture gives its three colours and its local contrast.

    Parameters
    ----------
    generator : Generator
    w : Tensor, (n, latent_dim)
        Latents of the stimuli; used for the forward pass alone, no feature is a latent.
    pictures : ndarray of uint8, (n, h, w, 3)
        The stimuli as they were shown.
    seed : int
        Seed of the projections.
    layers : sequence of str, optional
        Default: `feature_layers`.
    batch : int
        Stimuli in one forward pass.

    Returns
    -------
    FeatureBank

    Raises
    ------
    UserError
        When there are not as many pictures as latents.
    """
    if len(w) != len(pictures):
        raise UserError(f"{len(w)} latents came with {len(pictures)} pictures, give one picture a latent")
    names = tuple(layers or feature_layers(generator))
    source = torch.Generator().manual_seed(seed)
    projections: dict[str, torch.Tensor] = {}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in (*names, PICTURE)}
    with torch.inference_mode():
        for start in range(0, len(w), batch):
            for name, value in generator.activations(w[start : start + batch], names).items():
                channels = value.shape[1]
                if name not in projections:
                    projections[name] = torch.randn(N_CHANNELS, channels, 1, 1, generator=source) / channels**0.5
                with one_torch_thread():
                    found[name].append(F.conv2d(_pooled(value), projections[name]))
            found[PICTURE].append(_seen(pictures[start : start + batch]))
    return FeatureBank((*names, PICTURE), tuple(_standardised(torch.cat(values)) for values in found.values()))


def _pooled(value: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool2d(value, min(GRID, value.shape[-1]))


def _seen(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """Colours (3 channels) and local contrast (1) of pictures, (n, 4, grid, grid)."""
    colours = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    grey = colours.mean(1, keepdim=True)
    edges = (grey - F.avg_pool2d(grey, 5, 1, 2)).abs()
    return torch.cat([_pooled(colours), _pooled(edges)], dim=1)


def _standardised(values: torch.Tensor) -> NDArray[np.float32]:
    centred = values - values.mean(0)
    scale = centred.square().mean(dim=(0, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    return np.asarray((centred / scale).numpy(), np.float32)

"""Decoded latents to activations of several layers of a generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hyperdecode.decoding.activation_targets import LayerCrop
from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator

__all__ = ["LayerCrops", "activation_variances"]

Array = NDArray[np.float64]


class LayerCrops(LayerCrop):
    """Decoded latents to the centre crops of several layers, from one pass that is as deep as the deepest.

    Parameters
    ----------
    generator : Generator
        Its weights are read and never changed.
    layers : sequence of str
        Each once; `layer` is the deepest.
    crop, space, scale, truncation, precision, batch
        As in `hyperdecode.decoding.activation_targets.LayerCrop`.

    Raises
    ------
    UserError
        When there is no layer, one comes twice, or a layer, space, crop, scale or precision does not fit the generator.
    """

    def __init__(
        self,
        generator: Generator,
        layers: Sequence[str],
        crop: int | None,
        space: str | None = None,
        scale: tuple[ArrayLike, ArrayLike] | None = None,
        truncation: float = 1.0,
        precision: str = "float32",
        batch: int = 30,
    ) -> None:
        if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
            raise UserError(f"layers to compare are a sequence of different names, at least one, got {layers!r}")
        for layer in layers:
            super().__init__(generator, layer, crop, space, scale, truncation, precision, batch)
        self.layers = tuple(layers)
        self.layer = max(layers, key=generator.layer_names.index)

    def picture_latents(self, latents: Tensor) -> Tensor:
        """Latents that pictures are made from, on the generator's device, of decoded ones; (n, latent_dim) both."""
        made = latents.to(self.device, self.dtype)
        if self.scale is not None:
            made = made * self.scale[1] + self.scale[0]
        if self.space == "z" and "w" in self.generator.spaces:
            with self._precision():
                made = self.generator.to_w(made, self.truncation)
        return made

    def maps(self, made: Tensor) -> dict[str, Tensor]:
        """Activations (n, n_features) of each layer, with gradients, of what `picture_latents` gives."""
        with self._precision():
            found = self.generator.activations(made, self.layers, space=self.generator.picture_space, crop=self.crop)
        return {layer: found[layer].flatten(1).to(self.dtype) for layer in self.layers}

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def maps_of(self, latents: Array) -> dict[str, Tensor]:
        """Return `maps` of one batch of decoded latents without gradients, in parts where the GPU's memory is small."""
        rows = torch.from_numpy(latents)
        with torch.no_grad():
            parts = self.in_parts(lambda part: self.maps(self.picture_latents(rows[part])), len(rows))
        return (
            parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in self.layers}
        )


def activation_variances(crops: LayerCrops, training_latents: ArrayLike) -> dict[str, float]:
    """Return the variance of each layer's activation over the training trials, mean over features.

    Parameters
    ----------
    crops : LayerCrops
    training_latents : array of shape (n_trials, latent_dim)
        True latents of the training trials, as the decoder was trained on them.

    Returns
    -------
    dict of str to float
        For `occlusion_problem`.

    Raises
    ------
    UserError
        When latents are of another generator, or a layer is the same for all of them.
    """
    faces, counts = np.unique(np.asarray(training_latents, np.float64), axis=0, return_counts=True)
    crops.require_latents(torch.from_numpy(faces))
    # About the first face, so that a mean far from zero costs no digits.
    first = {name: made.double() for name, made in crops.maps_of(faces[:1]).items()}
    sums = {name: torch.zeros_like(value[0]) for name, value in first.items()}
    squares = {name: 0.0 for name in first}
    for at in range(0, len(faces), crops.batch):
        rows = slice(at, at + crops.batch)
        weights = torch.from_numpy(counts[rows]).to(crops.device, torch.float64)
        for name, made in crops.maps_of(faces[rows]).items():
            away = made.double() - first[name]
            sums[name] += weights @ away
            squares[name] += float(weights @ away.square().mean(1))
    n = int(counts.sum())
    variances = {name: squares[name] / n - float((sums[name] / n).square().mean()) for name in first}
    for name, variance in variances.items():
        if not variance > 1e-12 * float(first[name].square().mean()):
            raise UserError(
                f"layer {name} of {crops.generator.name} does not differ between the training faces: take a deeper one"
            )
    return variances

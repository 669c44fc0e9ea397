"""One layer of a frozen generator, seen through its centre crop, and what it shows of the training faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hyperdecode.decoding.training import with_halved_batches
from hyperdecode.errors import UserError
from hyperdecode.generators.base import Generator

__all__ = ["PRECISIONS", "LayerCrop", "TargetActivations"]

T = TypeVar("T")

PRECISIONS = ("float32", "bfloat16")
TARGET_BYTES = 2**30
"""Activations of the training faces that take no more are kept as they are; up to twice as much in float16."""


class LayerCrop:
    """Decoded latents to the centre crop of one layer's activation.

    Parameters
    ----------
    generator : Generator
        Its weights are read and never changed.
    layer : str
    crop : int or None
        Side in pixels; None for whole maps.
    space : str or None
        Space of the latents: ``"z"`` or ``"w"``. Default: the space that pictures are made from.
    scale : tuple of arrays, each (latent_dim,), or None
        Mean and standard deviation by which the latents were standardised.
    truncation : float
        Of the faces, where z are decoded and pictures are made from w; w are taken as they are.
    precision : {"float32", "bfloat16"}
        bfloat16: mixed precision inside the generator.

    Attributes
    ----------
    batch : int
        Trials that go through the generator at once; halved where the GPU's memory is too small.

    Raises
    ------
    UserError
        For a layer, space, crop, scale or precision that does not fit the generator.
    """

    def __init__(
        self,
        generator: Generator,
        layer: str,
        crop: int | None,
        space: str | None = None,
        scale: tuple[ArrayLike, ArrayLike] | None = None,
        truncation: float = 1.0,
        precision: str = "float32",
        batch: int = 30,
    ) -> None:
        self.generator, self.layer, self.crop, self.batch = generator, layer, crop, batch
        self.space = space or generator.picture_space
        self.truncation, self.precision = truncation, precision
        if self.space not in ("z", "w") or self.space not in generator.spaces:
            raise UserError(f"{generator.name}: cannot compare activations of latents {space!r}, decode 'z' or 'w'")
        if layer not in generator.layer_names:
            raise UserError(f"{generator.name} has no layer {layer!r}: choose among {', '.join(generator.layer_names)}")
        if precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        weight = next(generator.parameters(), None) if isinstance(generator, nn.Module) else None
        self.device = torch.device("cpu") if weight is None else weight.device
        self.dtype = torch.float32 if weight is None else weight.dtype
        self.scale = None if scale is None else self._checked_scale(scale)

    def _checked_scale(self, scale: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        mean, sd = (torch.as_tensor(part).to(self.device, self.dtype) for part in scale)
        expected = (self.generator.latent_dim,)
        if tuple(mean.shape) != expected or tuple(sd.shape) != expected:
            raise UserError(
                f"scale must be mean and standard deviation of {expected[0]} latents, got shapes {tuple(mean.shape)} "
                f"and {tuple(sd.shape)}"
            )
        return mean, sd

    def to(self, device: torch.device) -> None:
        """Move the generator, and what goes with it, to a device."""
        if isinstance(self.generator, nn.Module):
            self.generator.to(device)
            self.device = device
        if self.scale is not None:
            self.scale = (self.scale[0].to(device), self.scale[1].to(device))

    def require_latents(self, latents: Tensor) -> None:
        """Refuse latents of another generator."""
        if latents.shape[1] != self.generator.latent_dim:
            raise UserError(
                f"latents of another generator: got {latents.shape[1]} dimensions, {self.generator.name} has "
                f"{self.generator.latent_dim}"
            )

    def __call__(self, latents: Tensor) -> Tensor:
        """Activations (n, n_features), on the generator's device, of latents (n, latent_dim), with gradients."""
        made = latents.to(self.device, self.dtype)
        if self.scale is not None:
            made = made * self.scale[1] + self.scale[0]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if self.space == "z" and "w" in self.generator.spaces:
                made = self.generator.to_w(made, self.truncation)
            space = self.generator.picture_space
            maps = self.generator.activations(made, (self.layer,), space=space, crop=self.crop)[self.layer]
        return maps.flatten(1).to(self.dtype)

    def in_parts(self, run: Callable[[slice], T], n_trials: int) -> list[T]:
        """Run work on `batch` trials after the other, on fewer when the GPU's memory is too small."""

        def parts(size: int) -> list[T]:
            self.batch = size
            return [run(slice(at, at + size)) for at in range(0, n_trials, size)]

        return with_halved_batches(parts, self.batch)


class TargetActivations:
    """Activations of the training faces, computed once where they fit into the memory.

    Parameters
    ----------
    crop : LayerCrop
    latents : Tensor, (n_trials, latent_dim)
        True latents of the training trials; a face that is shown more than once is computed once.

    Attributes
    ----------
    variance : float
        Mean squared distance of an activation from its mean over the training trials.

    Raises
    ------
    UserError
        When the activation is the same for all faces.
    """

    def __init__(self, crop: LayerCrop, latents: Tensor) -> None:
        self._crop = crop
        self._faces, which = torch.unique(latents, dim=0, return_inverse=True)
        self._face_of = which.to(crop.device)
        count = torch.bincount(self._face_of, minlength=len(self._faces)).to(torch.float64)
        self._kept: Tensor | None = None
        total = squares = torch.zeros((), dtype=torch.float64, device=crop.device)
        reference: Tensor | None = None
        for at, made in self._batches():
            if reference is None:
                reference = made[0].double()
                self._kept = self._room_for(made)
            if self._kept is not None:
                self._kept[at] = made
                if self._kept.dtype == torch.float16 and not bool(torch.isfinite(self._kept[at]).all()):
                    self._kept = None  # beyond the range of float16
            # About one of the faces, so that a mean far from zero costs no digits.
            away, weights = made.double() - reference, count[at, None]
            total = total + (weights * away).sum(0)
            squares = squares + (weights * away.square()).sum(0)
        assert reference is not None
        mean = total / len(latents)
        self.variance = float((squares / len(latents) - mean.square()).mean())
        if not self.variance > 1e-12 * float((mean + reference).square().mean()):
            raise UserError(
                f"layer {crop.layer} of {crop.generator.name} does not differ between the training faces: take a "
                "deeper one"
            )

    def _batches(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of the faces with their activations."""
        at = 0
        while at < len(self._faces):
            made = self._made(self._faces[at : at + self._crop.batch])
            yield slice(at, at + len(made)), made
            at += len(made)

    def _made(self, faces: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(self._crop.in_parts(lambda part: self._crop(faces[part]), len(faces)))

    def _room_for(self, made: Tensor) -> Tensor | None:
        size = len(self._faces) * made[0].numel() * made.element_size()
        if size > 2 * TARGET_BYTES:
            return None
        dtype = made.dtype if size <= TARGET_BYTES else torch.float16
        return torch.empty(len(self._faces), made[0].numel(), dtype=dtype, device=made.device)

    def of(self, trials: Tensor) -> Tensor:
        """Activations (n, n_features) of training trials by their numbers."""
        faces = self._face_of[trials.to(self._face_of.device)]
        if self._kept is not None:
            return self._kept[faces].to(self._crop.dtype)
        with torch.no_grad():
            return self._crop(self._faces[faces.to(self._faces.device)])

"""What the explorer can show: faces, the directions that they move along, the picture of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.explorer.asked import REACH, Asked
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.generators.base import Generator
from hyperdecode.stimuli.pictures import to_uint8

__all__ = ["DecodedFaces", "Scene", "principal_directions"]

SAMPLED, SEED = 2048, 0
"""Faces that principal directions are found from."""

LEAST = 64
"""Side of a picture that a face is known on; smaller ones are shown where a generator makes no others."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class DecodedFaces:
    """Test faces of one subject.

    Attributes
    ----------
    names : tuple of str
    decoded, true : Tensor, (n_faces, latent_dim)
        Latents as they are drawn, and those of the stimuli.
    look : callable
        ``look(face, "shown" or "decoded")`` gives the picture that the study has on disk, uint8 (side, side, 3).
    """

    names: tuple[str, ...]
    decoded: Tensor
    true: Tensor
    look: Callable[[int, str], Picture]


@dataclass(frozen=True, eq=False)
class Scene:
    """A generator, and what may be asked of it.

    Attributes
    ----------
    title : str
    generator : Generator
    space : {"w", "z"}
        Space that latents lie in and are moved in.
    normals : AttributeNormals, optional
        Attributes in that space.
    subjects : mapping of str to DecodedFaces
        None for a generator without a study.
    drawable : callable
        Latents of `space` as those that pictures are made from.
    """

    title: str
    generator: Generator
    space: str
    normals: AttributeNormals | None = None
    subjects: Mapping[str, DecodedFaces] = field(default_factory=dict)
    drawable: Callable[[Tensor], Tensor] = lambda latents: latents

    @property
    def truncates(self) -> bool:
        """Whether a truncation changes anything: there is a w."""
        return "w" in self.generator.spaces

    @cached_property
    def _w(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of w; those of z where there is none."""
        n = self.generator.latent_dim
        return self.generator.w_statistics() if self.truncates else (torch.zeros(n), torch.ones(n))

    @cached_property
    def _directions(self) -> Tensor:
        # Every direction of z is like every other.
        return principal_directions(self.generator) if self.space == "w" else torch.zeros(0, self.generator.latent_dim)

    def description(self) -> dict[str, Any]:
        """Return what the page needs to know to draw its controls; plain values."""
        generator = self.generator
        small = [side for side in generator.resolutions if side < generator.resolution]
        return {
            "title": self.title,
            "generator": generator.name,
            "space": self.space,
            "resolution": generator.resolution,
            "previews": [side for side in small if side >= LEAST] or small,
            "dimensions": generator.latent_dim,
            "attributes": list(self.normals.names) if self.normals is not None else [],
            "directions": len(self._directions),
            "reach": REACH,
            "truncates": self.truncates,
            "subjects": {label: list(faces.names) for label, faces in self.subjects.items()},
        }

    def check(self, asked: Asked) -> None:
        """Refuse what there is not.

        Raises
        ------
        UserError
            For an unknown subject, face, attribute, direction, dimension or side.
        """
        if asked.side not in self.generator.resolutions:
            raise UserError(f"no picture of {asked.side} px: {', '.join(map(str, self.generator.resolutions))}")
        if asked.subject:
            self.face(asked.subject, asked.face)
        known = self.normals.names if self.normals is not None else ()
        unknown = [name for name in asked.attributes if name not in known]
        if unknown:
            raise UserError(f"no attribute {unknown[0]!r}: choose among {', '.join(known) or 'none'}")
        if len(asked.directions) > len(self._directions):
            raise UserError(f"{len(asked.directions)} directions were moved along, there are {len(self._directions)}")
        if any(place >= self.generator.latent_dim for place, _ in asked.dimensions):
            raise UserError(f"latents have dimensions 0 to {self.generator.latent_dim - 1}")

    def face(self, subject: str, face: int) -> DecodedFaces:
        """Return the faces of a subject that has one at that place.

        Raises
        ------
        UserError
        """
        faces = self.subjects.get(subject)
        if faces is None or not 0 <= face < len(faces.names):
            raise UserError(f"no test face {face} of {subject!r}")
        return faces

    def latent(self, asked: Asked) -> Tensor:
        r"""Return the latent that was asked for, (1, latent_dim), in `space`.

        .. math::
            x = m + \psi (b - m) + \sum_a s_a \sigma_a n_a + \sum_k d_k u_k + \sum_j e_j \sigma_j 1_j

        with the face's own latent b (decoded, true or between them, or drawn), the mean m and truncation
        :math:`\psi`, and amounts along attributes, principal directions and single dimensions. In z nothing is
        truncated here.
        """
        found = self._own(asked)
        if self.space == "w":
            found = self._truncated(found, asked.truncation)
        for name, amount in asked.attributes.items():
            if amount and self.normals is not None:
                others = [other for other in self.normals.names if other != name] if asked.keep else ()
                found = self.normals.move(found, name, amount, others)
        for amount, direction in zip(asked.directions, self._directions, strict=False):
            found = found + amount * direction
        for place, amount in asked.dimensions:
            found[0, place] += amount * (self._w[1][place] if self.space == "w" else 1)
        return found

    def scores(self, latent: Tensor) -> dict[str, float]:
        """Return attribute scores of a latent of `space`, in standard deviations from the mean face."""
        if self.normals is None:
            return {}
        centre = self._w[0].to(latent) if self.space == "w" else torch.zeros_like(latent)
        away = self.normals.scores(latent - centre)[0] / self.normals.scales
        return dict(zip(self.normals.names, map(float, away), strict=True))

    @torch.inference_mode()
    def picture(self, asked: Asked) -> tuple[Picture, dict[str, float]]:
        """Make the picture that was asked for, uint8 (side, side, 3), and score its attributes.

        Raises
        ------
        UserError
            See `check`.
        """
        self.check(asked)
        latent = self.latent(asked)
        drawn = self.drawable(latent)
        if self.space == "z" and self.truncates:
            drawn = self._truncated(drawn, asked.truncation)
        made = self.generator.images(drawn, resolution=asked.side)
        picture: Picture = to_uint8(made)[0]
        return picture, self.scores(latent)

    def _own(self, asked: Asked) -> Tensor:
        if asked.subject:
            faces = self.face(asked.subject, asked.face)
            decoded, true = faces.decoded[asked.face], faces.true[asked.face]
            return ((1 - asked.share) * decoded + asked.share * true)[None]
        z = self.generator.sample(1, asked.seed)
        return self.generator.to_w(z).clone() if self.space == "w" else z

    def _truncated(self, w: Tensor, truncation: float) -> Tensor:
        mean = self._w[0].to(w)
        return w if truncation == 1 else mean + truncation * (w - mean)


@torch.inference_mode()
def principal_directions(generator: Generator, n: int = 5) -> Tensor:
    """Find the directions along which w varies most over sampled faces (GANSpace, Harkonen et al. 2020).

    Parameters
    ----------
    generator : Generator
        With a w.
    n : int

    Returns
    -------
    Tensor, (n, latent_dim)
        Principal components, each as long as the standard deviation along it; signs so that the largest entry is
        positive.
    """
    w = generator.to_w(generator.sample(SAMPLED, SEED)).double()
    _, spread, rows = torch.linalg.svd(w - w.mean(dim=0), full_matrices=False)
    rows, spread = rows[:n], spread[:n] / (SAMPLED - 1) ** 0.5
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    found: Tensor = (rows * largest.sign() * spread[:, None]).float()
    return found

"""Latents of a study on the generator's own scale: what they were drawn from, and back to pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.generators.attribute_store import attribute_spaces
from hyperdecode.generators.attributes import AttributeNormals
from hyperdecode.generators.base import Generator, decoded_picture_latents
from hyperdecode.stimuli.pictures import drawn, to_uint8
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["LatentSpace", "refuse_other_generator"]

Array = NDArray[np.float64]


class LatentSpace:
    """The space that a study decodes.

    Everything here comes from the generator and the truncation, nothing from trials.

    Parameters
    ----------
    generator : Generator
    space : {"w", "z"}
    truncation : float
        Of the stimuli.
    """

    def __init__(self, generator: Generator, space: str, truncation: float) -> None:
        self.generator, self.space, self.truncation = generator, space, truncation

    @property
    def scale(self) -> tuple[Array, Array]:
        """Mean and standard deviation of each latent dimension, (latent_dim,) each."""
        if self.space == "z":
            return np.zeros(self.generator.latent_dim), np.ones(self.generator.latent_dim)
        mean, sd = (value.double().numpy() for value in self.generator.w_statistics())
        return mean, sd * self.truncation

    @property
    def attributes(self) -> AttributeNormals | None:
        """Attribute normals of this space; None where there are none of this generator."""
        found = attribute_spaces(self.generator.name).get(self.space)
        # A generator may bear the name of another one: those of another width are not its own.
        return found if found is not None and found.normals.shape[1] == self.generator.latent_dim else None

    def drawable(self, latents: NDArray[np.floating]) -> torch.Tensor:
        """Return decoded latents of this space as those that pictures are made from."""
        tensor = torch.from_numpy(np.ascontiguousarray(latents, np.float32))
        return decoded_picture_latents(self.generator, tensor, self.truncation) if self.space == "z" else tensor

    @property
    def drawn_by(self) -> dict[str, Any]:
        """Settings of steps that draw decoded latents, beside the generator: how they come to pictures."""
        return {"brought_back": True} if self.space == "z" and "w" in self.generator.spaces else {}

    def average_face(self) -> NDArray[np.uint8]:
        """Make the picture that predicting zero stands for, (1, side, side, 3): the mean w's, where there is a w.

        No face lies at z = 0: a mapping network makes a flat picture of it.
        """
        if "w" not in self.generator.spaces:
            return self.pictures(np.zeros((1, self.generator.latent_dim)))
        return to_uint8(self.generator.images(self.generator.w_statistics()[0][None]))

    def pictures(self, latents: NDArray[np.floating], resolution: int | None = None) -> NDArray[np.uint8]:
        """Make the picture of each latent by itself, (n, side, side, 3)."""
        return np.stack(list(drawn(self.generator, self.drawable(latents), resolution=resolution)))


def refuse_other_generator(config: StudyConfig, stimuli: StimulusSet, generator: Generator) -> None:
    """Refuse a generator that did not make the stimuli, or has no latents of the space that is decoded.

    Raises
    ------
    UserError
    """
    if generator.fingerprint != stimuli.settings["fingerprint"]:
        raise UserError(
            f"the stimuli were made by {stimuli.settings['generator']} "
            f"{str(stimuli.settings['fingerprint'])[:12]}, this is "
            f"{generator.name} {generator.fingerprint[:12]}: its latents mean other faces; use that version"
        )
    if config.decoding.space not in generator.spaces:
        raise UserError(
            f"decoding.space = {config.decoding.space!r}, but {generator.name} has only the latent space "
            f"{' and '.join(generator.spaces)}: change that line in study.toml"
        )

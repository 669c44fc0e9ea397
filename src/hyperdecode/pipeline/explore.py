"""What the explorer shows of a study, or of a generator alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperdecode.errors import UserError
from hyperdecode.explorer.scene import DecodedFaces, Scene
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.faces import decoded_faces
from hyperdecode.pipeline.latents import LatentSpace, refuse_other_generator
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_picture, read_stimuli

__all__ = ["generator_scene", "study_scene"]


def generator_scene(generator: Generator) -> Scene:
    """Return the scene of a generator without a study: faces by seed, in w where there is one."""
    space = LatentSpace(generator, generator.picture_space, 1.0)
    return Scene(generator.name, generator, space.space, space.attributes)


def study_scene(study: Path, config: StudyConfig, generator: Generator, subjects: Sequence[str] = ()) -> Scene:
    """Return the scene of a study: the test faces of its subjects, decoded and true, and faces by seed.

    Parameters
    ----------
    study : pathlib.Path
    config : StudyConfig
    generator : Generator
        The one that made the stimuli.
    subjects : sequence of str
        Labels; none for all that were decoded.

    Raises
    ------
    UserError
        When the generator did not make the stimuli, a subject is unknown or was not decoded, or none was.
    """
    refuse_other_generator(config, read_stimuli(study), generator)
    unknown = [label for label in subjects if label not in config.subjects]
    if unknown:
        raise UserError(f"no subject {unknown[0]!r} in study.toml: choose among {', '.join(config.subjects)}")
    latents = partial(Layout(study).decoded, model=config.decoding.model, name="latents.safetensors")
    # One that was asked for is named when it is not there.
    there = [label for label in subjects or config.subjects if subjects or latents(label).is_file()]
    if not there:
        raise UserError(f"nothing was decoded in {study} yet: run `hyperdecode run {study}` first")
    space = LatentSpace(generator, config.decoding.space, config.stimuli.truncation)

    def drawable(latents: Tensor) -> Tensor:
        return space.drawable(latents.numpy())

    return Scene(
        config.name,
        generator,
        config.decoding.space,
        space.attributes,
        {f"sub-{label}": _faces(study, config, label) for label in there},
        drawable,
    )


def _faces(study: Path, config: StudyConfig, subject: str) -> DecodedFaces:
    decoded, true = decoded_faces(study, subject)
    layout, names = Layout(study), read_stimuli(study).names("test")

    def look(face: int, what: str) -> NDArray[np.uint8]:
        name = names[face]
        shown = layout.full_stimulus(name)
        return read_picture(shown if what == "shown" else layout.reconstruction(subject, config.decoding.model, name))

    return DecodedFaces(decoded.names, decoded.latents.to(torch.float32), true.latents.to(torch.float32), look)

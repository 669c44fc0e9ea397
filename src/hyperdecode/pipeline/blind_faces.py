"""Faces of predictors that never saw the brain, made once a study: random ones, a typical one, the average picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hyperdecode.evaluation.blind import typical_face
from hyperdecode.evaluation.pictures import resized
from hyperdecode.generators.base import Generator, picture_latents
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.stimuli.pictures import drawn
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_picture, write_picture

__all__ = ["BlindFaces"]

Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]

N_RANDOM = 1000
"""Random latents; pictures are made of as many as there are test faces."""


@dataclass(frozen=True)
class BlindFaces:
    """Blind predictors that are the same for all subjects and decoders of a study.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
    stimuli : StimulusSet
    generator : Generator
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator

    @property
    def settings(self) -> dict[str, object]:
        """What the pictures depend on, beside the latents of the stimuli."""
        return {
            "space": self.config.decoding.space,
            "truncation": self.config.stimuli.truncation,
            "crop": self.config.stimuli.crop,
            "seed": self._seed,
        }

    @property
    def files(self) -> dict[str, tuple[Path, ...]]:
        """Pictures by blind predictor. There is no average where stimuli are cropped: it would be a part of a face."""
        folder = self.layout.derivatives / "blind"
        n = len(self.stimuli.names("test"))
        found = {
            "random": tuple(folder / f"random-{k:03d}.png" for k in range(n)),
            "nearest": (folder / "nearest.png",),
        }
        return found if self.config.stimuli.crop < 1 else found | {"average": (folder / "average.png",)}

    @property
    def paths(self) -> tuple[Path, ...]:
        """All pictures."""
        return tuple(path for paths in self.files.values() for path in paths)

    @property
    def latents(self) -> dict[str, Array]:
        """Latents by blind predictor, in the space that is decoded: random (n, d), nearest (1, d)."""
        z = self._random
        random = z if self.config.decoding.space == "z" else self.generator.to_w(z, self.config.stimuli.truncation)
        name = self._typical
        nearest = self.stimuli.latents([name], self.config.decoding.space)
        return {"random": random.double().numpy(force=True), "nearest": nearest.double().numpy(force=True)}

    def write(self) -> None:
        """Make the pictures, one after the other."""
        files = self.files
        drawable = picture_latents(self.generator, self._random[: len(files["random"])], self.config.stimuli.truncation)
        self._draw(files["random"], drawable)
        self._draw(files["nearest"], self.stimuli.latents([self._typical], "w"))
        if "average" in files:
            mean = resized(self._mean_picture()[None], self.generator.resolution)[0]
            write_picture(files["average"][0], mean)

    def read(self) -> dict[str, Pictures]:
        """Return the pictures by blind predictor, (n, side, side, 3) each."""
        return {name: np.stack([read_picture(path) for path in paths]) for name, paths in self.files.items()}

    @property
    def _seed(self) -> int:
        return derived_seed(self.config.seed, "random faces")

    @cached_property
    def _random(self) -> torch.Tensor:
        return self.generator.sample(N_RANDOM, self._seed)

    @cached_property
    def _typical(self) -> str:
        names = self.stimuli.names("train")
        return names[typical_face(self.stimuli.latents(names, self.config.decoding.space).numpy(force=True))]

    def _mean_picture(self) -> Pictures:
        """Average of the training pictures, read one by one."""
        names = self.stimuli.names("train")
        total = np.zeros(read_picture(self.stimuli.folder / names[0]).shape)
        for name in names:
            total += read_picture(self.stimuli.folder / name)
        return np.rint(total / len(names)).astype(np.uint8)

    def _draw(self, paths: Sequence[Path], w: torch.Tensor) -> None:
        for path, picture in zip(paths, drawn(self.generator, w), strict=True):
            write_picture(path, picture)

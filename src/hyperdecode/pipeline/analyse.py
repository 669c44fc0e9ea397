"""The steps of a study from decoded latents to faces and scores, each a function of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.numpy import load_file

from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.blind_faces import BlindFaces
from hyperdecode.pipeline.decode import Decoding
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.scoring import Scoring
from hyperdecode.pipeline.uncertainty import Uncertainty
from hyperdecode.stimuli.pictures import drawn
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, write_picture

__all__ = ["Analysis"]

Kinds = list[tuple[str, Step]]


@dataclass(frozen=True)
class Analysis:
    """Steps of one study; each method returns steps that have not run yet.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
    stimuli : StimulusSet
    generator : Generator
    progress : callable, optional
        Called with (epochs done, epochs in all) by decoders that train for long.
    map_progress : callable, optional
        The same for brain maps: stimuli or centres.
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator
    progress: Callable[[int, int], None] | None = None
    map_progress: Callable[[int, int], None] | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Decoders of the study, the one that its verdict rests on first."""
        return (self.config.decoding.model, *self.config.decoding.beside)

    @property
    def space(self) -> LatentSpace:
        """The latent space that is decoded."""
        return LatentSpace(self.generator, self.config.decoding.space, self.config.stimuli.truncation)

    def decode(self, subject: str, model: str) -> Step:
        """Fit a decoder on training trials and decode the latents of the test stimuli."""
        return Decoding(self.layout, self.config, self.stimuli, self.generator, self.progress).step(subject, model)

    def posterior(self, subject: str) -> Step:
        """Tell how sure the decoded latents are, and draw faces that the responses allow."""
        return Uncertainty(self.layout, self.config, self.stimuli, self.generator).step(subject)

    def faces_and_scores(self, subject: str, model: str) -> Kinds:
        """Return the steps of one decoder that has decoded."""
        return [("reconstruct", self.reconstruct(subject, model)), ("evaluate", self.evaluate(subject, model))]

    def full_stimuli(self) -> Step:
        """Pictures to set reconstructions beside: test stimuli at full resolution, faces of blind predictors."""
        names = self.stimuli.names("test")
        stimuli = tuple(self.layout.full_stimulus(name) for name in names)
        blind = BlindFaces(self.layout, self.config, self.stimuli, self.generator)
        settings = {"generator": self.generator.fingerprint, **blind.settings}
        # The manifest holds the hash of every training picture.
        inputs = tuple(self.stimuli.folder / name for name in ("latents.safetensors", "manifest.tsv"))

        def work() -> None:
            self._write_pictures(list(stimuli), self.stimuli.latents(names, "w"))
            blind.write()

        return Step("full_stimuli", 2, settings, inputs, (*stimuli, *blind.paths), work)

    def reconstruct(self, subject: str, model: str) -> Step:
        """Pictures of the decoded latents at full resolution."""
        names = self.stimuli.names("test")
        outputs = tuple(self.layout.reconstruction(subject, model, name) for name in names)
        settings = {"generator": self.generator.fingerprint, "space": self.config.decoding.space} | self.space.drawn_by
        decoded = self.layout.decoded(subject, model, "latents.safetensors")

        def work() -> None:
            self._write_pictures(list(outputs), self.space.drawable(load_file(decoded)["drawn"]))

        return Step(f"reconstruct_sub-{subject}_{model}", 1, settings, (decoded,), outputs, work)

    def evaluate(self, subject: str, model: str) -> Step:
        """Scores beside blind predictors, with permutation tests of the pairing."""
        return Scoring(self.layout, self.config, self.stimuli, self.generator).step(subject, model)

    def _write_pictures(self, paths: list[Path], w: torch.Tensor) -> None:
        for path, picture in zip(paths, drawn(self.generator, w), strict=True):
            write_picture(path, picture)

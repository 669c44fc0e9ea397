"""The steps of a study from decoded latents to faces and scores, each a function of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from hyperdecode.evaluation.blind import matched_noise
from hyperdecode.evaluation.summary import Evaluation, evaluate_latents, evaluate_pictures
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.decode import Decoding
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.uncertainty import Uncertainty
from hyperdecode.stimuli.pictures import to_uint8
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_picture, write_picture

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
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator
    progress: Callable[[int, int], None] | None = None

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
        """Test stimuli at full resolution, to set reconstructions beside."""
        names = self.stimuli.names("test")
        outputs = tuple(self.layout.full_stimulus(name) for name in names)
        settings = {"generator": self.generator.fingerprint}
        latents = self.stimuli.folder / "latents.safetensors"

        def work() -> None:
            self._write_pictures(list(outputs), self.stimuli.latents(names, "w"))

        return Step("full_stimuli", 1, settings, (latents,), outputs, work)

    def reconstruct(self, subject: str, model: str) -> Step:
        """Pictures of the decoded latents at full resolution."""
        names = self.stimuli.names("test")
        outputs = tuple(self.layout.reconstruction(subject, model, name) for name in names)
        settings = {"generator": self.generator.fingerprint, "space": self.config.decoding.space}
        decoded = self.layout.decoded(subject, model, "latents.safetensors")

        def work() -> None:
            self._write_pictures(list(outputs), self.space.drawable(load_file(decoded)["drawn"]))

        return Step(f"reconstruct_sub-{subject}_{model}", 1, settings, (decoded,), outputs, work)

    def evaluate(self, subject: str, model: str) -> Step:
        """Scores beside blind predictors, with permutation tests of the pairing."""
        names = self.stimuli.names("test")
        decoded = self.layout.decoded(subject, model, "latents.safetensors")
        pictures = [self.layout.reconstruction(subject, model, name) for name in names]
        pictures += [self.layout.full_stimulus(name) for name in names]
        outputs = tuple(self.layout.decoded(subject, model, name) for name in ("scores.tsv", "faces.tsv"))
        settings = {
            **self.config.evaluation.model_dump(exclude={"baselines"}),
            "seed": derived_seed(self.config.seed, "permutation", subject),
        }
        work = partial(self._evaluate, subject, model, settings["seed"])
        return Step(f"evaluate_sub-{subject}_{model}", 1, settings, (decoded, *pictures), outputs, work)

    def _evaluate(self, subject: str, model: str, seed: int) -> dict[str, Any]:
        latents = load_file(self.layout.decoded(subject, model, "latents.safetensors"))
        n_permutations = self.config.evaluation.n_permutations
        mean, sd = self.space.scale
        judged = evaluate_latents(
            latents["predicted"],
            latents["true"],
            latents["training_mean"],
            mean=mean,
            sd=sd,
            n_permutations=n_permutations,
            seed=seed,
        )
        names = self.stimuli.names("test")
        made = np.stack([read_picture(self.layout.reconstruction(subject, model, name)) for name in names])
        shown = np.stack([read_picture(self.layout.full_stimulus(name)) for name in names])
        blind = {
            "mean": self.space.pictures(latents["training_mean"][None]),
            "zero": self.space.pictures(mean[None]),
            "noise": self.space.pictures(matched_noise(latents["drawn"], 1, seed)[0]),
        }
        judged = judged.joined(evaluate_pictures(made, shown, blind, n_permutations=n_permutations, seed=seed))
        self._write_scores(subject, model, judged, names)
        return {}

    def _write_scores(self, subject: str, model: str, judged: Evaluation, names: list[str]) -> None:
        table = judged.table.copy()
        table.insert(0, "subject", f"sub-{subject}")
        table.insert(1, "model", model)
        write_table(self.layout.decoded(subject, model, "scores.tsv"), table)
        faces = judged.per_face.copy()
        faces.insert(0, "stim_file", names)
        write_table(self.layout.decoded(subject, model, "faces.tsv"), faces)

    def _write_pictures(self, paths: list[Path], w: torch.Tensor) -> None:
        for path, row in zip(paths, w, strict=True):
            write_picture(path, to_uint8(self.generator.images(row[None]))[0])

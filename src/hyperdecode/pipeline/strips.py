"""Pages of faces on the way from decoded to true latents, made once and read by the report (the paper's Figure 6)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hyperdecode.decoding.posterior import latent_prior
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import Step
from hyperdecode.report.figures import Figure
from hyperdecode.report.interpolation import interpolated, interpolation_pages
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_json
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["SIDE", "STEPS", "Strips", "attribute_scores"]

STEPS, SIDE, A_PAGE = 5, 128, 12
"""Faces from decoded to true; pixels of each; test faces a page."""
BYTES_A_FACE = 45_000
"""Of all pages together, for each test face."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Strips:
    """The step that draws the strips of one subject.

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

    def step(self, subject: str, model: str) -> Step:
        """Return the step: JPEG pages and, in a JSON, their words."""
        decoding = self.config.decoding
        settings = {
            "generator": self.generator.fingerprint,
            "space": decoding.space,
            "truncation": self.config.stimuli.truncation,
            "steps": STEPS,
            "side": SIDE,
        }
        outputs = (*self._pages(subject, model), self._words(subject, model))
        inputs = (self.layout.decoded(subject, model, "latents.safetensors"),)
        return Step(f"strips_sub-{subject}_{model}", 1, settings, inputs, outputs, partial(self._work, subject, model))

    def read(self, subject: str, model: str) -> list[Figure]:
        """Return the pages of a step that has run."""
        words = json.loads(self._words(subject, model).read_text(encoding="utf-8"))
        return [
            Figure(png=path.read_bytes(), **said)
            for path, said in zip(self._pages(subject, model), words["pages"], strict=True)
        ]

    def _pages(self, subject: str, model: str) -> list[Path]:
        folder = self.layout.derivatives / f"sub-{subject}" / "strips" / model
        n_pages = -(-len(self.stimuli.names("test")) // A_PAGE)
        return [folder / f"page-{page + 1:02d}.jpg" for page in range(n_pages)]

    def _words(self, subject: str, model: str) -> Path:
        return self.layout.decoded(subject, model, "strips.json")

    def _work(self, subject: str, model: str) -> None:
        space = LatentSpace(self.generator, self.config.decoding.space, self.config.stimuli.truncation)
        found = load_file(self.layout.decoded(subject, model, "latents.safetensors"))
        # From the latents that the report's reconstructions are drawn from.
        lines = interpolated(found["drawn"], found["true"], STEPS)
        side = max((s for s in self.generator.resolutions if s <= SIDE), default=self.generator.resolution)
        pictures = np.stack([space.pictures(line, side) for line in lines])
        names, scores = attribute_scores(space, lines)
        faces = self.stimuli.names("test")
        figures = interpolation_pages(
            pictures,
            scores,
            names,
            faces,
            label=f"sub-{subject}",
            size=min(side, SIDE),
            faces_a_page=A_PAGE,
            max_bytes=BYTES_A_FACE * len(faces),
        )
        for path, figure in zip(self._pages(subject, model), figures, strict=True):
            with atomic_path(path) as temporary:
                temporary.write_bytes(figure.png)
        said: list[dict[str, Any]] = [{"title": f.title, "caption": f.caption, "alt": f.alt} for f in figures]
        write_json(self._words(subject, model), {"pages": said})


def attribute_scores(space: LatentSpace, latents: Array) -> tuple[tuple[str, ...], Array]:
    """Score latents on the attributes of their generator.

    Parameters
    ----------
    space : LatentSpace
    latents : ndarray, (..., latent_dim)

    Returns
    -------
    names : tuple of str
        Empty where the generator has no attributes in this space.
    scores : ndarray, (..., n_attributes)
        From the generator's mean face, in standard deviations over its faces.
    """
    normals = space.attributes
    if normals is None:
        return (), np.zeros((*latents.shape[:-1], 0))
    directions = normals.normals.double().numpy()
    mean, covariance = latent_prior(space.generator, space.space, space.truncation)
    spread = np.sqrt(np.einsum("kd,de,ke->k", directions, covariance, directions))
    scores: Array = (latents @ directions.T - directions @ mean) / spread
    return normals.names, scores

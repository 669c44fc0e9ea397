"""Pages of faces on the way from decoded to true latents (the paper's Figure 6), and scores on attributes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.decoding.posterior import latent_prior
from hyperdecode.files import atomic_path
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.report.figures import Figure
from hyperdecode.report.interpolation import interpolation_pages
from hyperdecode.study.derivatives import write_json
from hyperdecode.study.layout import Layout

__all__ = ["SIDE", "STEPS", "AttributeAxes", "Strips", "attribute_axes", "attribute_scores"]

STEPS, SIDE, A_PAGE = 5, 128, 12
"""Faces from decoded to true; pixels of each; test faces a page."""
BYTES_A_FACE = 45_000
"""Of all pages together, for each test face."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Strips:
    """The strips of a study: where they lie, how they are written and read.

    Attributes
    ----------
    layout : Layout
    faces : tuple of str
        Test stimuli.
    """

    layout: Layout
    faces: tuple[str, ...]

    def outputs(self, subject: str, model: str) -> tuple[Path, ...]:
        """Return the files of a subject: JPEG pages and, in a JSON, their words."""
        return (*self._pages(subject, model), self._words(subject, model))

    def read(self, subject: str, model: str) -> list[Figure]:
        """Return the pages that `write` wrote."""
        words = json.loads(self._words(subject, model).read_text(encoding="utf-8"))
        return [
            Figure(png=path.read_bytes(), **said)
            for path, said in zip(self._pages(subject, model), words["pages"], strict=True)
        ]

    def write(
        self, subject: str, model: str, pictures: NDArray[np.uint8], attributes: Sequence[str], scores: Array
    ) -> None:
        """Lay pictures out on pages.

        Parameters
        ----------
        subject, model : str
        pictures : uint8 array of shape (n_faces, STEPS, side, side, 3)
            From decoded to true.
        attributes : sequence of str
        scores : ndarray of shape (n_faces, STEPS, n_attributes)
        """
        figures = interpolation_pages(
            pictures,
            scores,
            attributes,
            self.faces,
            label=f"sub-{subject}",
            size=min(pictures.shape[2], SIDE),
            faces_a_page=A_PAGE,
            max_bytes=BYTES_A_FACE * len(self.faces),
        )
        for path, figure in zip(self._pages(subject, model), figures, strict=True):
            with atomic_path(path) as temporary:
                temporary.write_bytes(figure.png)
        said: list[dict[str, Any]] = [{"title": f.title, "caption": f.caption, "alt": f.alt} for f in figures]
        write_json(self._words(subject, model), {"pages": said})

    def _pages(self, subject: str, model: str) -> list[Path]:
        folder = self.layout.derivatives / f"sub-{subject}" / "strips" / model
        return [folder / f"page-{page + 1:02d}.jpg" for page in range(-(-len(self.faces) // A_PAGE))]

    def _words(self, subject: str, model: str) -> Path:
        return self.layout.decoded(subject, model, "strips.json")


@dataclass(frozen=True)
class AttributeAxes:
    """Attributes of a study's faces as axes whose unit is a standard deviation over these faces.

    Attributes
    ----------
    names : tuple of str
        Empty where the generator has no attributes in the space that is decoded.
    directions : ndarray, (n_attributes, latent_dim)
        Unit normals.
    mean : ndarray, (latent_dim,)
        The generator's mean face, where all scores are 0.
    spread : ndarray, (n_attributes,)
        Standard deviation of ``latent . normal`` over faces as the study draws them.
    """

    names: tuple[str, ...]
    directions: Array
    mean: Array
    spread: Array

    @property
    def steps(self) -> Array:
        """What to add to a latent so that a score rises by 1, (n_attributes, latent_dim)."""
        return self.directions * self.spread[:, None]

    def scores(self, latents: NDArray[np.floating]) -> Array:
        """Return the scores (..., n_attributes) of latents (..., latent_dim)."""
        found: Array = (latents @ self.directions.T - self.directions @ self.mean) / self.spread
        return found


def attribute_axes(space: LatentSpace) -> AttributeAxes:
    """Return the attributes of the space that a study decodes."""
    normals, dim = space.attributes, space.generator.latent_dim
    if normals is None:
        return AttributeAxes((), np.zeros((0, dim)), np.zeros(dim), np.zeros(0))
    directions = normals.normals.double().numpy()
    mean, covariance = latent_prior(space.generator, space.space, space.truncation)
    spread = np.sqrt(np.einsum("kd,de,ke->k", directions, covariance, directions))
    return AttributeAxes(normals.names, directions, mean, spread)


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
    axes = attribute_axes(space)
    return axes.names, axes.scores(latents)

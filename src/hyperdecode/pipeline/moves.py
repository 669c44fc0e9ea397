"""The step that draws what the report's sliders show: each test face on its way from the decoded face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from hyperdecode.files import atomic_path, sha256_bytes
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.strips import STEPS, Strips, attribute_axes
from hyperdecode.report.interpolation import interpolated
from hyperdecode.report.moves import FaceMoves, move_sheet, moved
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_json
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["Moves"]


@dataclass(frozen=True)
class Moves:
    """The step of one subject: pictures from decoded to true, and of moves along each attribute.

    Each picture is drawn once; the report's sheets (`hyperdecode.report.moves`) and its strips
    (`hyperdecode.pipeline.strips`) are laid out from them.

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

    def step(self, subject: str) -> Step:
        """Return the step: a WebP a face, pages of strips, and their words and numbers in a JSON each."""
        normals = self._space.attributes
        names = () if normals is None else normals.names
        settings = {
            "generator": self.generator.picture_fingerprint(self._drawn_side),
            "space": self.config.decoding.space,
            "truncation": self.config.stimuli.truncation,
            "attributes": list(names),
            "normals": "" if normals is None else sha256_bytes(normals.normals.float().numpy().tobytes()),
            "amounts": self._amounts(names),
            "steps": STEPS,
            "side": self._side,
        } | self._space.drawn_by
        outputs = (*self._sheets(subject), self._words(subject), *self._strips.outputs(subject, self._model))
        inputs = (self.layout.decoded(subject, self._model, "latents.safetensors"),)
        return Step(f"moves_sub-{subject}", 1, settings, inputs, outputs, partial(self._work, subject))

    def read(self, subject: str) -> FaceMoves:
        """Return what the step of a subject made."""
        words = json.loads(self._words(subject).read_text(encoding="utf-8"))
        shape = (len(self.stimuli.names("test")), len(words["attributes"]))
        return FaceMoves(
            label=f"sub-{subject}",
            decoded=np.array(words.pop("decoded"), np.float64).reshape(shape),
            true=np.array(words.pop("true"), np.float64).reshape(shape),
            sheets=[path.read_bytes() for path in self._sheets(subject)],
            **words,
        )

    def _work(self, subject: str) -> dict[str, Any]:
        axes, names = attribute_axes(self._space), self.stimuli.names("test")
        found = load_file(self.layout.decoded(subject, self._model, "latents.safetensors"))
        # From the latents that the report's reconstructions are drawn from.
        lines = interpolated(found["drawn"], found["true"], STEPS)
        amounts, along = self._amounts(axes.names), []
        for line, path in zip(lines, self._sheets(subject), strict=True):
            pictures = self._pictures(moved(line, axes.steps, amounts))
            along.append(pictures[:STEPS])
            with atomic_path(path) as temporary:
                temporary.write_bytes(move_sheet(pictures))
        scores = axes.scores(lines)
        self._strips.write(subject, self._model, np.stack(along), axes.names, scores)
        words = {
            "side": self._side,
            "between": np.linspace(0, 1, STEPS).tolist(),
            "attributes": list(axes.names),
            "amounts": amounts,
            "decoded": scores[:, 0].tolist(),
            "true": scores[:, -1].tolist(),
        }
        write_json(self._words(subject), words)
        return {"n_pictures": len(names) * (STEPS + len(axes.names) * len(amounts)), "drawn_px": self._drawn_side}

    def _pictures(self, latents: NDArray[np.float64]) -> NDArray[np.uint8]:
        pictures = self._space.pictures(latents, self._drawn_side)
        if self._drawn_side == self._side:
            return pictures
        size = (self._side, self._side)
        return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in pictures])

    def _amounts(self, attributes: Sequence[str]) -> list[float]:
        """Return moves to either side, ascending; none where there is nothing to move along."""
        wanted = self.config.report.moves if attributes else ()
        return [-amount for amount in reversed(wanted)] + list(wanted)

    @property
    def _drawn_side(self) -> int:
        """Side at which the generator draws: the largest that is not too large, else its full one."""
        wanted = self.config.report.moves_px
        return max((s for s in self.generator.resolutions if s <= wanted), default=self.generator.resolution)

    @property
    def _side(self) -> int:
        return min(self._drawn_side, self.config.report.moves_px)

    @property
    def _model(self) -> str:
        return self.config.decoding.model

    @property
    def _space(self) -> LatentSpace:
        return LatentSpace(self.generator, self.config.decoding.space, self.config.stimuli.truncation)

    @property
    def _strips(self) -> Strips:
        return Strips(self.layout, tuple(self.stimuli.names("test")))

    def _sheets(self, subject: str) -> list[Path]:
        folder = self.layout.derivatives / f"sub-{subject}" / "moves" / self._model
        return [folder / f"{Path(name).stem}.webp" for name in self.stimuli.names("test")]

    def _words(self, subject: str) -> Path:
        return self.layout.decoded(subject, self._model, "moves.json")

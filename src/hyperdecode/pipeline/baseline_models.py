"""The baselines of a study as models: fitted or read, latents of its stimuli, pictures of latents, blind predictors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hyperdecode.baselines.base import Baseline, Pictures
from hyperdecode.baselines.eigenfaces import N_COMPONENTS, SIDE, fit_eigenfaces, read_eigenfaces
from hyperdecode.baselines.vaegan import VaeGan, load_vaegan
from hyperdecode.evaluation.blind import typical_face
from hyperdecode.evaluation.pictures import resized
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.stimuli.pictures import crop_centre, resize, to_uint8
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_picture
from hyperdecode.threads import one_torch_thread, side_by_side

__all__ = ["BaselineModels"]

Array = NDArray[np.float64]

MAX_FACES = 4096
"""Training faces that eigenfaces are fitted to, spread evenly over the manifest where there are more."""
N_RANDOM = 1000
"""Latents of the predictor that draws them at random; pictures are made of as many as there are test faces."""
BATCH, LARGE_BATCH = 64, 8


@dataclass(frozen=True)
class BaselineModels:
    """Models and stimuli of one study.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
    stimuli : StimulusSet
    generator : Generator
        Of the study; a baseline takes nothing from it but the size of its pictures.
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator

    def files(self, name: str) -> tuple[Path, ...]:
        """Files that `prepare` writes: latents of the stimuli, and what was fitted to the training faces."""
        latents = self.layout.baseline(name, "latents.safetensors")
        fitted = self.layout.baseline(name, "components.safetensors")
        return (latents, fitted) if name == "eigenfaces" else (latents,)

    def identity(self, name: str) -> dict[str, Any]:
        """Say in the settings of a step which network it is; eigenfaces are a file, and so an input."""
        return {"weights": self._vaegan.fingerprint} if name == "vaegan" else {}

    def settings(self, name: str) -> dict[str, Any]:
        """Return the settings of `prepare`."""
        fitted = {"components": N_COMPONENTS, "side": SIDE, "most_faces": MAX_FACES}
        return self.identity(name) | (fitted if name == "eigenfaces" else {})

    def prepare(self, name: str) -> dict[str, Any]:
        """Fit eigenfaces to the training faces, encode every stimulus, write both; return facts for the record."""
        facts = self._fit_eigenfaces() if name == "eigenfaces" else {}
        model = self.model(name)
        with one_torch_thread():
            encoded = [model.encode(pictures) for pictures in self._batches(list(self.stimuli.manifest["stim_file"]))]
        with atomic_path(self.files(name)[0]) as temporary:
            save_file({"latents": np.concatenate(encoded)}, temporary)
        return facts | {"latents": model.latent_dim, "side": model.side}

    def model(self, name: str) -> Baseline:
        """Return a baseline that was prepared.

        Raises
        ------
        UserError
            When its weights are not there or damaged.
        """
        if name == "vaegan":
            return self._vaegan
        path = self.files(name)[1]
        return read_eigenfaces(path.read_bytes(), str(path))

    def latents(self, name: str, files: list[str]) -> Array:
        """Latents of stimuli by their names, (len(files), latent_dim)."""
        rows = {file: row for row, file in enumerate(self.stimuli.manifest["stim_file"])}
        encoded = load_file(self.files(name)[0])["latents"]
        return np.asarray(encoded[[rows[file] for file in files]], np.float64)

    @property
    def side(self) -> int:
        """Side of what `shown` gives."""
        side = self.generator.resolution
        return int(crop_centre(torch.empty(side, side), self.config.stimuli.crop).shape[0])

    @property
    def shown_paths(self) -> tuple[Path, ...]:
        """Full-size test stimuli."""
        return tuple(self.layout.full_stimulus(name) for name in self.stimuli.names("test"))

    def shown(self) -> Pictures:
        """Full-size test stimuli, of which as much is kept as was shown: a baseline knows no more of a face."""
        whole = torch.from_numpy(np.stack([read_picture(path) for path in self.shown_paths])).permute(0, 3, 1, 2)
        shown = crop_centre(whole, self.config.stimuli.crop).permute(0, 2, 3, 1)
        return np.ascontiguousarray(shown.numpy())

    def pictures(self, model: Baseline, latents: NDArray[np.floating]) -> Pictures:
        """Pictures of latents, (n, side, side, 3): as large as the stimuli that they are compared with."""
        parts = [latents[k : k + LARGE_BATCH] for k in range(0, len(latents), LARGE_BATCH)]
        return np.concatenate(side_by_side(lambda part: to_uint8(resize(model.images(part), self.side)), parts))

    def blind(self, name: str) -> tuple[dict[str, Array], dict[str, Pictures]]:
        """Predictors that never saw the brain and need nothing of the decoder.

        Random latents are drawn from N(0, I): what the VAE-GAN was trained for, and the mean and variance of
        eigenfaces' latents.

        Returns
        -------
        dict
            Latents of ``"random"`` (n, latent_dim) and ``"nearest"`` (1, latent_dim).
        dict
            Pictures of these, of ``"zero"``, and of ``"average"``, which is that of the training pictures.
        """
        model, train = self.model(name), self.latents(name, self.stimuli.names("train"))
        seed = derived_seed(self.config.seed, "random faces")
        random = np.random.default_rng(seed).standard_normal((N_RANDOM, model.latent_dim))
        latents = {"random": random, "nearest": train[typical_face(train)][None]}
        drawn = {
            "zero": np.zeros((1, model.latent_dim)),
            "random": random[: len(self.stimuli.names("test"))],
            "nearest": latents["nearest"],
        }
        pictures = {key: self.pictures(model, values) for key, values in drawn.items()}
        return latents, pictures | {"average": resized(self._average(), self.side)}

    def _average(self) -> Pictures:
        names = self.stimuli.names("train")
        total = np.sum([pictures.sum(0, dtype=np.float64) for pictures in self._batches(names)], axis=0)
        average: Pictures = np.rint(total / len(names)).astype(np.uint8)[None]
        return average

    def _fit_eigenfaces(self) -> dict[str, Any]:
        names = self.stimuli.names("train")
        chosen = [names[k] for k in np.linspace(0, len(names) - 1, min(len(names), MAX_FACES)).round().astype(int)]
        model = fit_eigenfaces(self._batches(chosen), self.stimuli.roles(chosen))
        with atomic_path(self.files("eigenfaces")[1]) as temporary:
            save_file(model.arrays(), temporary)
        facts: dict[str, Any] = {"training_faces": len(chosen), "components": model.latent_dim}
        if model.latent_dim < N_COMPONENTS:
            said = f"{len(chosen)} training faces have {model.latent_dim} components, fewer than {N_COMPONENTS}"
            facts["warnings"] = [said]
        return facts

    def _batches(self, names: list[str]) -> Iterator[Pictures]:
        """Pictures of stimuli as they were shown, a few at a time."""
        return (self.stimuli.pictures(names[k : k + BATCH]) for k in range(0, len(names), BATCH))

    @cached_property
    def _vaegan(self) -> VaeGan:
        return load_vaegan()

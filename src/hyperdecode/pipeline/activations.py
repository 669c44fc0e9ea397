"""The step that looks through the generator once for all: inner products of the stimuli's activations, by layer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from hyperdecode.decoding.layers import layer_at_depth
from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, sha256_bytes
from hyperdecode.generators.base import Generator
from hyperdecode.mapping.embedding import embedded
from hyperdecode.pipeline.records import Step
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["Activations"]

Array = NDArray[np.float64]
PART, BATCH = 32, 8
"""Stimuli whose activations are kept in one file while they are made, and that pass the generator together."""


@dataclass(frozen=True)
class Activations:
    """Activations of one study's stimuli.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
        Of ``mapping`` the layers, the view and its side.
    stimuli : StimulusSet
    generator : Generator
    progress : callable, optional
        Called with (stimuli done, stimuli in all).
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator
    progress: Callable[[int, int], None] | None = None

    @property
    def layers(self) -> dict[int, str]:
        """Depth -> name of the generator's layer, the one next to the latent first.

        Raises
        ------
        UserError
            When the generator has no such layer, or the same one for two depths.
        """
        found = {depth: layer_at_depth(self.generator, depth) for depth in self.config.mapping.layers}
        for depth, name in found.items():
            twin = next((other for other in found if other < depth and found[other] == name), None)
            if twin is not None:
                raise UserError(
                    f"mapping.layers {twin} and {depth} are both {name} in {self.generator.name}: name one of them"
                )
        return found

    @property
    def names(self) -> list[str]:
        """Stimuli in the order of the rows: training faces, then test faces."""
        return [*self.stimuli.names("train"), *self.stimuli.names("test")]

    def step(self) -> Step:
        """Return the step; its output holds an (n_stimuli, n_stimuli) matrix a layer."""
        wanted = self.config.mapping
        settings = {
            "generator": self.generator.fingerprint,
            "layers": list(self.layers.values()),
            "view": wanted.view,
            "side": wanted.side,
        }
        # The manifest holds the hash of every picture, and reading the stimuli has compared them.
        inputs = tuple(self.stimuli.folder / name for name in ("latents.safetensors", "manifest.tsv"))
        return Step("activations", 1, settings, inputs, (self.layout.activations,), lambda: self._work(settings))

    def coordinates(self) -> dict[int, tuple[Array, Array]]:
        """Read the step's output: depth -> coordinates of training faces and of test faces, (n, rank) each.

        Distances between them are those of the activations (`hyperdecode.mapping.embedding.embedded`).
        """
        products = load_file(self.layout.activations)
        n = len(self.stimuli.names("train"))
        found = {depth: embedded(products[name]) for depth, name in self.layers.items()}
        return {depth: (rows[:n], rows[n:]) for depth, rows in found.items()}

    def _work(self, settings: dict[str, Any]) -> dict[str, Any]:
        key = sha256_bytes(repr((sorted(settings.items()), self.names, self.stimuli.settings)).encode())
        folder = self.layout.activations.with_name(f"activations-{key[:12]}")
        folder.mkdir(parents=True, exist_ok=True)
        names = self.names
        starts = range(0, len(names), PART)
        for start in starts:
            self._make_part(folder / f"{start:06d}.safetensors", names[start : start + PART])
            if self.progress:
                self.progress(min(start + PART, len(names)), len(names))
        paths = [folder / f"{start:06d}.safetensors" for start in starts]
        n_training = len(self.stimuli.names("train"))
        made = {name: _products(paths, name, n_training) for name in self.layers.values()}
        with atomic_path(self.layout.activations) as temporary:
            save_file(made, temporary)
        shutil.rmtree(folder)
        return {"layers": {str(depth): name for depth, name in self.layers.items()}, "n_stimuli": len(names)}

    def _make_part(self, path: Path, names: list[str]) -> None:
        """Make the activations of some stimuli, unless a run that was killed left them whole."""
        if path.is_file():
            try:
                with safe_open(path, "np") as file:
                    list(file.keys())
                return
            except SafetensorError:
                path.unlink()
        found: dict[str, list[Tensor]] = {name: [] for name in self.layers.values()}
        for start in range(0, len(names), BATCH):
            for name, rows in self._features(names[start : start + BATCH]).items():
                found[name].append(rows)
        with atomic_path(path) as temporary:
            save_file({name: torch.cat(rows).numpy() for name, rows in found.items()}, temporary)

    @torch.inference_mode()
    def _features(self, names: list[str]) -> dict[str, Tensor]:
        wanted, layers = self.config.mapping, list(self.layers.values())
        latents = self.stimuli.latents(names, "w")
        found: dict[str, Tensor] = {}
        if wanted.view == "whole" and layers[-1] == self.generator.layer_names[-1]:
            # The picture is there already, as it was shown.
            found[layers.pop()] = _seen(self.stimuli.pictures(names), wanted.side)
        crop = wanted.side if wanted.view == "crop" else None
        for name, maps in (self.generator.activations(latents, layers, crop=crop) if layers else {}).items():
            cells = min(wanted.side, maps.shape[-1])
            found[name] = (maps if crop else F.adaptive_avg_pool2d(maps, cells)).flatten(1).float().cpu()
        return found


def _seen(pictures: NDArray[np.uint8], side: int) -> Tensor:
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.adaptive_avg_pool2d(values, min(side, values.shape[-1])).flatten(1)


def _rows(path: Path, layer: str) -> Array:
    with safe_open(path, "np") as file:
        return np.asarray(file.get_tensor(layer), np.float64)


def _products(paths: list[Path], layer: str, n_training: int) -> Array:
    """Inner products of all rows less the mean training row, from files of which two are in memory at a time."""
    sums: Array | None = None
    sizes: list[int] = []
    for path in paths:
        rows = _rows(path, layer)
        part = rows[: max(0, n_training - sum(sizes))]
        sums = part.sum(0) if sums is None else sums + part.sum(0)
        sizes.append(len(rows))
    assert sums is not None
    mean, edges = sums / n_training, np.cumsum([0, *sizes])
    products = np.empty((edges[-1], edges[-1]))
    for i, first in enumerate(paths):
        a = _rows(first, layer) - mean
        for j, second in enumerate(paths[: i + 1]):
            block = a @ (a if i == j else _rows(second, layer) - mean).T
            here, there = (slice(edges[k], edges[k + 1]) for k in (i, j))
            products[here, there], products[there, here] = block, block.T
    return products

"""Losses of a searchlight through the generator, for one subject's decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.generators.base import Generator
from hyperdecode.mapping.generator_occlusion import (
    GeneratorOcclusion,
    LayerCrops,
    activation_variances,
    latent_shifts,
    occlude_through_generator,
    occlusion_problem,
)
from hyperdecode.mapping.linear_occlusion import similarity
from hyperdecode.mapping.neighbourhoods import Neighbourhoods
from hyperdecode.mapping.second_order import occlude_to_second_order
from hyperdecode.pipeline.flights import SideBySide
from hyperdecode.pipeline.map_files import LayerFacts
from hyperdecode.pipeline.map_units import FileResults, on_their_gpus
from hyperdecode.pipeline.trials import DecodingTrials
from hyperdecode.study.fitted_decoder import FittedDecoder

__all__ = ["GeneratorReadout"]

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GeneratorReadout:
    """Decoders of latents, seen through the generator.

    Attributes
    ----------
    generator : Generator
    layers : dict of int to str
        Depth -> layer.
    side : int
        Of the centre crops, px.
    truncation : float
        Of the stimuli.
    decoders : dict of int to FittedDecoder
        Depth -> the decoder whose latents go through the generator; layers of the same one share a pass.
    folder : pathlib.Path
        Where finished units are kept until all are.
    side_by_side : callable, optional
        Runs units (`hyperdecode.pipeline.flights.Cluster.each`).
    progress : callable, optional
        Called with units done and all units.
    """

    generator: Generator
    layers: dict[int, str]
    side: int
    truncation: float
    decoders: dict[int, FittedDecoder]
    folder: Path
    side_by_side: SideBySide[Any, Any] | None = None
    progress: Progress | None = None

    def losses(
        self, trials: DecodingTrials, around: Neighbourhoods, *, second_order: bool, seed: int
    ) -> tuple[list[Any], list[LayerFacts], dict[str, Any]]:
        """Return losses (n_centres, n_faces, n_faces) a layer, facts of each layer, and facts for the record.

        Raises
        ------
        UserError
            When a decoder, the generator and voxels do not fit together.
        """
        problems = self._problems(trials, around)
        facts: dict[str, Any] = {}
        if second_order:
            found, agreement = occlude_to_second_order(problems, seed=seed, exact=self._exact)
            facts = {
                "second_order_same_layer": round(agreement.same_layer, 4),
                "second_order_checked": agreement.n_centres,
                "second_order_holds": agreement.holds,
            }
        if not second_order or not facts["second_order_holds"]:
            found = {}
            for problem in problems:
                found |= self._occluded(problem, "all")
        of_layer = {name: problem for problem in problems for name in problem.crops.layers}
        blind: dict[str, Array] = {}
        for problem in problems:
            blind |= self._blind(problem, trials)
        layers = [self._facts(of_layer[name], depth, name, blind[name]) for depth, name in self.layers.items()]
        return [found[name] for name in self.layers.values()], layers, facts

    def _problems(self, trials: DecodingTrials, around: Neighbourhoods) -> list[GeneratorOcclusion]:
        """Return a problem for each decoder, with the layers that are its."""
        groups: dict[int, list[int]] = {}
        for depth in self.layers:
            groups.setdefault(id(self.decoders[depth]), []).append(depth)
        return [self._problem(trials, around, depths) for depths in groups.values()]

    def _problem(self, trials: DecodingTrials, around: Neighbourhoods, depths: Sequence[int]) -> GeneratorOcclusion:
        decoder = self.decoders[depths[0]]
        decoder.require_generator(self.generator)
        decoder.require_voxels(trials.voxels, decoder.shape, decoder.affine)
        names = [self.layers[depth] for depth in depths]
        space = decoder.latent_space
        crops = LayerCrops(self.generator, names, self.side, space=space, truncation=self.truncation)
        x = trials.test_z
        away = x - trials.training_z.mean(0, dtype=np.float64)
        variances = activation_variances(crops, trials.training_latents)
        latents = np.asarray(decoder.predict(x), np.float64)
        shifts = latent_shifts(decoder.coef, away, around)
        return occlusion_problem(crops, latents, trials.test_latents, shifts, variances)

    def _exact(self, problem: GeneratorOcclusion, centres: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """Do a sample exactly; samples grow, so each has a folder by its size and first centre."""
        return self._occluded(problem.only(centres), f"sample-{len(centres)}-{int(centres[0])}")

    def _occluded(self, problem: GeneratorOcclusion, name: str) -> dict[str, NDArray[Any]]:
        layers = problem.crops.layers
        results = FileResults(self.folder / f"{'+'.join(layers)}-{name}")
        spread = None if self.side_by_side is None else on_their_gpus(self.side_by_side)
        found = occlude_through_generator(problem, results=results, progress=self.progress, side_by_side=spread)
        # Files give arrays back in the order of their names.
        return {layer: found[layer] for layer in layers}

    def _blind(self, problem: GeneratorOcclusion, trials: DecodingTrials) -> dict[str, Array]:
        """Similarity of each true activation with that of the mean training latent."""
        mean = trials.training_latents.mean(0)[None]
        made = {
            name: value.numpy(force=True)[0] - problem.means[name]
            for name, value in problem.crops.maps_of(mean).items()
        }
        return {
            name: similarity(
                np.square(problem.true[name] - row, dtype=np.float64).sum(1), len(row), problem.variances[name]
            )
            for name, row in made.items()
        }

    @staticmethod
    def _facts(problem: GeneratorOcclusion, depth: int, name: str, blind: Array) -> LayerFacts:
        own = similarity(np.diagonal(problem.distances[name]), len(problem.means[name]), problem.variances[name])
        return LayerFacts(depth, name, own, blind, float("nan"))

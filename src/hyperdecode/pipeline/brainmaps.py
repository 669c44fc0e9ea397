"""The step that maps generator layers on the brain: searchlight-occlusion, its inference, regions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperdecode.decoding.activation_ridge import ActivationRidge
from hyperdecode.decoding.layers import PAPER_LAYERS
from hyperdecode.decoding.models import MODELS
from hyperdecode.errors import UserError
from hyperdecode.files import sha256_bytes, sha256_file
from hyperdecode.fmri.quality import noise_ceiling_of_test_repeats
from hyperdecode.generators.base import Generator
from hyperdecode.mapping.linear_occlusion import occlude_linear, similarity
from hyperdecode.mapping.map_inference import MapInference, max_statistic, permuted_layers
from hyperdecode.mapping.neighbourhoods import Neighbourhoods, ball_neighbourhoods, cube_neighbourhoods
from hyperdecode.mapping.readout import LinearReadout, readout_of_activations
from hyperdecode.mapping.regions import Partition, RegionSet
from hyperdecode.pipeline.activations import Activations
from hyperdecode.pipeline.decode import Decoding
from hyperdecode.pipeline.fitted_on import FITTED_ON, fitted_on
from hyperdecode.pipeline.flights import SideBySide
from hyperdecode.pipeline.map_files import LayerFacts, MapFiles, SubjectMaps
from hyperdecode.pipeline.map_generator import GeneratorReadout
from hyperdecode.pipeline.map_regions import map_regions, region_tables
from hyperdecode.pipeline.masking import MASK_NAMES
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.images import read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import read_decoder
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = ["KIND", "BrainMaps", "neighbourhoods_of"]

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
KIND = "map"


@dataclass(frozen=True)
class BrainMaps:
    """Map steps of one study; each method returns steps that have not run yet.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
        ``mapping`` says how.
    stimuli : StimulusSet
    generator : Generator
    progress : callable, optional
        Called with (done, in all) of stimuli or centres.
    side_by_side : callable, optional
        Runs units of work on a cluster (`hyperdecode.pipeline.flights.Cluster.each`).
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator
    progress: Progress | None = None
    side_by_side: SideBySide[Any, Any] | None = None

    @property
    def activations(self) -> Activations:
        """Activations of the stimuli."""
        return Activations(self.layout, self.config, self.stimuli, self.generator, self.progress)

    @property
    def through_generator(self) -> bool:
        """Whether decoded latents go through the generator."""
        return self.config.mapping.readout in ("generator", "second-order")

    def shared(self) -> list[tuple[str, Step]]:
        """Return the step that no brain goes into; none where nothing needs it."""
        return [(KIND, self.activations.step())] if self.config.mapping.readout == "linear" else []

    def steps(self, subject: str) -> list[tuple[str, Step]]:
        """Return the steps of a subject: fits of activation models where these are asked for, the maps."""
        if self.config.mapping.readout == "none":
            return []
        own = {self.config.decoding.model, *self.config.decoding.beside}
        decoding = Decoding(self.layout, self.config, self.stimuli, self.generator, self.progress)
        fits = [decoding.step(subject, name) for name in sorted(set(self.models.values()) - own)]
        return [(KIND, step) for step in (*fits, self.step(subject))]

    @property
    def models(self) -> dict[int, str]:
        """Depth -> the decoder whose latents pass the generator; none for a linear readout."""
        wanted = self.config.mapping
        if not self.through_generator:
            return {}
        if wanted.decoder == "study":
            return dict.fromkeys(wanted.layers, self.config.decoding.model)
        odd = [depth for depth in wanted.layers if f"activation-{depth}" not in MODELS]
        if odd:
            raise UserError(
                f"there is no activation model of layer {odd[0]}: take mapping.layers among "
                f"{', '.join(map(str, PAPER_LAYERS))}, or mapping.decoder = 'study'"
            )
        return {depth: f"activation-{depth}" for depth in wanted.layers}

    def step(self, subject: str) -> Step:
        """Occlude, infer, give each voxel its layer, and count layers by region.

        It writes the files of `hyperdecode.pipeline.map_files.MapFiles`.
        """
        wanted, seed = self.config.mapping, derived_seed(self.config.seed, "map", subject)
        mask = self.layout.subject(subject, f"desc-{MASK_NAMES[self.config.bold.voxels]}_mask.nii.gz")
        settings = {
            **wanted.model_dump(mode="json", exclude={"regions"}),
            "names": list(self.activations.layers.values()),
            "cv": self.config.decoding.cv,
            "seed": seed,
        }
        if self.through_generator:
            settings |= {"models": list(self.models.values()), "truncation": self.config.stimuli.truncation}
        inputs = (
            self.layout.masked(subject),
            self.layout.subject(subject, "trials.tsv"),
            mask,
            *(self._decoder_files(subject) if self.through_generator else (self.layout.activations,)),
            *self._atlas_file(),
        )
        files = MapFiles(self.layout, subject)
        return Step(f"map_sub-{subject}", 1, settings, inputs, files.paths, partial(self._work, subject, mask, seed))

    def _decoder_files(self, subject: str) -> tuple[Path, ...]:
        files = ("decoder.safetensors", "decoder.json")
        return tuple(
            self.layout.decoded(subject, name, file) for name in sorted(set(self.models.values())) for file in files
        )

    def _atlas_file(self) -> tuple[Path, ...]:
        own = self.config.mapping.region_image
        return (self.layout.study / own,) if own else ()

    def _work(self, subject: str, mask_path: Path, seed: int) -> dict[str, Any]:
        wanted = self.config.mapping
        trials = read_trials(self.layout, self.stimuli, subject, self.config.decoding.space)
        mask = read_image(mask_path, n_dimensions=3)
        where = np.stack(np.unravel_index(trials.voxels, mask.shape), axis=1)
        with noting_warnings() as noted:
            around = neighbourhoods_of(where, np.asarray(mask.affine), wanted)
            # An atlas that does not fit is refused before the work, not after it.
            regions = self._regions(mask, where[around.centres])
            losses, layers, facts = self._losses(subject, trials, around, seed)
            inference = max_statistic(
                losses, wanted.n_permutations, wanted.alpha, seed, progress=self._told(3, 4, len(around))
            )
            raw, held = (inference.layer_map(wanted.standardise, thresholded=flag) for flag in (False, True))
            permuted = permuted_layers(losses, wanted.n_permutations, seed, wanted.standardise)
            tables, region_facts = region_tables(regions, raw.layers, permuted, [one.title for one in layers])
        maps = SubjectMaps(
            mask,
            trials.voxels[around.centres],
            trials.test_names,
            layers,
            inference,
            raw,
            held,
            tables,
            self._ceiling(trials),
            trials.voxels,
        )
        MapFiles(self.layout, subject).write(maps)
        for folder in self.layout.derivatives.glob(f"work/map_sub-{subject}_*"):
            shutil.rmtree(folder)
        return facts | region_facts | self._facts(trials, around, inference) | {"warnings": noted}

    def _regions(self, mask: Any, where: NDArray[np.integer[Any]]) -> tuple[RegionSet, RegionSet] | None:
        """Return groups and single areas of the centres; None where the mask has no place in an atlas."""
        kinds: tuple[Partition, ...] = ("groups", "areas")
        groups, areas = (map_regions(self.layout.study, self.config.mapping, mask, where, by) for by in kinds)
        return None if groups is None or areas is None else (groups, areas)

    def _losses(
        self, subject: str, trials: DecodingTrials, around: Neighbourhoods, seed: int
    ) -> tuple[list[Any], list[LayerFacts], dict[str, Any]]:
        """Occlude with the readout that is asked for: losses and facts of each layer, facts for the record."""
        if not self.through_generator:
            return (*self._linear(trials, around, seed), {})
        step = self.step(subject)
        files = [sha256_file(path) for path in step.inputs]
        key = sha256_bytes(repr((sorted(step.settings.items()), files)).encode())[:12]
        folder = self.layout.derivatives / "work" / f"map_sub-{subject}_{key}"
        for old in self.layout.derivatives.glob(f"work/map_sub-{subject}_*"):
            if old != folder:
                shutil.rmtree(old)
        read = {name: read_decoder(self.layout.decoded(subject, name, "decoder")) for name in set(self.models.values())}
        readout = GeneratorReadout(
            self.generator,
            self.activations.layers,
            self.config.mapping.side,
            self.config.stimuli.truncation,
            {depth: read[name] for depth, name in self.models.items()},
            folder,
            self.side_by_side,
            self.progress,
        )
        return readout.losses(trials, around, second_order=self.config.mapping.readout == "second-order", seed=seed)

    def _linear(self, trials: DecodingTrials, around: Neighbourhoods, seed: int) -> tuple[list[Any], list[LayerFacts]]:
        """Ridge straight to each layer's activations; the loss of every pair of prediction and face."""
        rows = {name: row for row, name in enumerate(self.activations.names)}
        shown = [rows[name] for name in trials.training_stimuli]
        order = {name: k for k, name in enumerate(self.stimuli.names("test"))}
        tested = [order[name] for name in trials.test_names]
        z, x = trials.training_z, trials.test_z
        away = x - z.mean(0, dtype=np.float64)
        losses, layers = [], []
        found = self.activations.coordinates()
        for place, (depth, (training, test)) in enumerate(found.items()):
            seen = training[shown]
            ridge = ActivationRidge(cv=self.config.decoding.cv, seed=seed)
            ridge.fit(z, seen, roles=trials.training_roles, groups=trials.training_stimuli)
            readout = readout_of_activations(ridge, x, ridge.compress(test[tested], seen))
            losses.append(occlude_linear(readout, away, around, progress=self._told(place, len(found), len(around))))
            layers.append(_layer_facts(depth, self.activations.layers[depth], readout, float(ridge.alpha_)))
        return losses, layers

    def _told(self, place: int, n: int, each: int) -> Progress | None:
        """Tell of one of `n` parts as a piece of the whole."""
        progress = self.progress
        return None if progress is None else lambda done, total: progress(place * each + done, n * each)

    def _ceiling(self, trials: DecodingTrials) -> Array | None:
        """Noise ceiling of each voxel for averages, from the repeats of test faces; None where none were repeated."""
        rows = trials.test_rows
        faces = [trials.split.stimuli[row] for row in rows]
        if len(set(faces)) == len(faces):
            return None
        return np.asarray(noise_ceiling_of_test_repeats(trials.z[rows], faces), np.float64)

    def _facts(self, trials: DecodingTrials, around: Neighbourhoods, inference: MapInference) -> dict[str, Any]:
        return {
            "n_centres": len(around),
            "n_voxels_a_neighbourhood": round(float(around.sizes.mean()), 1),
            "n_beyond_chance": int(inference.significant.any(axis=0).sum()),
            FITTED_ON: [
                fitted_on(f"activations at depth {depth}", trials.split.training_rows, trials.split.stimuli)
                for depth in self.config.mapping.layers
            ],
        }


def neighbourhoods_of(where: NDArray[np.integer[Any]], affine: Array, wanted: Any) -> Neighbourhoods:
    """Return the voxels that are occluded together, as ``mapping`` of study.toml says."""
    if wanted.shape == "cube":
        return cube_neighbourhoods(where, affine, wanted.size_mm, wanted.stride)
    return ball_neighbourhoods(where, affine, wanted.size_mm / 2, wanted.stride)


def _layer_facts(depth: int, name: str, readout: LinearReadout, alpha: float) -> LayerFacts:
    """Similarity of each test face's predicted and true activation, beside that of the mean training activation."""
    own = similarity(np.diagonal(readout.squared_distances), readout.n_features, readout.variance)
    # Coordinates are deviations from the mean training activation.
    blind = similarity(np.square(readout.true).sum(1) + readout.residuals**2, readout.n_features, readout.variance)
    return LayerFacts(depth, name, own, blind, alpha)

"""The step that judges a decoder of a study: latents, features and pictures beside blind predictors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hyperdecode.decoding.posterior import latent_prior
from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.evaluation.attribute_scores import ATTRIBUTE_COLUMNS, attribute_table
from hyperdecode.evaluation.blind import matched_noise
from hyperdecode.evaluation.dimensions import DIMENSION_COLUMNS, dimension_table
from hyperdecode.evaluation.presets import preset_named
from hyperdecode.evaluation.summary import Evaluation, evaluate_features, evaluate_latents, evaluate_pictures
from hyperdecode.evaluation.whitening import Whitening
from hyperdecode.features.base import FeatureNetwork
from hyperdecode.features.registry import load_feature_network
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.blind_faces import BlindFaces
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_picture
from hyperdecode.threads import side_by_side
from hyperdecode.weights.imported import imported_family, imported_names

__all__ = ["SCORE_FILES", "Scoring"]

Latents = NDArray[Any]
Pictures = NDArray[np.uint8]

SCORE_FILES = ("scores.tsv", "faces.tsv", "dimensions.tsv", "attributescores.tsv")
PAPER_NETWORK = "resnet50-vggface2"
SMALLEST_FACE = 64
"""Side in pixels below which no face network has features."""
FEWEST_FACES = 4
"""For correlations over faces."""
BATCH = 8


@dataclass(frozen=True)
class Scoring:
    """Evaluation of one study; `step` returns a step that has not run yet.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
        ``evaluation.preset`` says which metrics, tested against what.
    stimuli : StimulusSet
    generator : Generator
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator

    def step(self, subject: str, model: str) -> Step:
        """Scores beside blind predictors, dimensions and attributes of a decoder of a subject."""
        names = self.stimuli.names("test")
        decoded = self.layout.decoded(subject, model, "latents.safetensors")
        pictures = [self.layout.reconstruction(subject, model, name) for name in names]
        pictures += [self.layout.full_stimulus(name) for name in names]
        outputs = tuple(self.layout.decoded(subject, model, name) for name in SCORE_FILES)
        seed = derived_seed(self.config.seed, "permutation", subject)
        settings = {
            **self.config.evaluation.model_dump(exclude={"baselines"}),
            **self._blind.settings,
            "networks": self.networks,
            "permutation_seed": seed,
        }
        inputs = (decoded, *pictures, *self._blind.paths)
        work = partial(self._evaluate, subject, model, seed)
        return Step(f"evaluate_sub-{subject}_{model}", 3, settings, inputs, outputs, work)

    def _evaluate(self, subject: str, model: str, seed: int) -> dict[str, Any]:
        found = load_file(self.layout.decoded(subject, model, "latents.safetensors"))
        shared = self.inference(seed)
        judged = self._judged_latents(found, shared)
        made, shown = (
            np.stack([read_picture(path(name)) for name in self.stimuli.names("test")])
            for path in (partial(self.layout.reconstruction, subject, model), self.layout.full_stimulus)
        )
        pictures, facts = self.judged_pictures(made, shown, self._blind_pictures(found, seed), shared)
        self._write(subject, model, judged.joined(pictures), found, seed)
        return facts

    def inference(self, seed: int) -> dict[str, Any]:
        """Return what every evaluation of the study takes: preset, number of permutations and `seed`."""
        return {
            "preset": preset_named(self.config.evaluation.preset),
            "n_permutations": self.config.evaluation.n_permutations,
            "seed": seed,
        }

    def judged_pictures(
        self, made: Pictures, shown: Pictures, blind: dict[str, Pictures], shared: dict[str, Any]
    ) -> tuple[Evaluation, dict[str, Any]]:
        """Judge pictures by features and pixels.

        Parameters
        ----------
        made, shown : uint8 array of shape (n_faces, side, side, 3)
        blind : dict of str to uint8 array of shape (n, side, side, 3)
            Pictures of blind predictors.
        shared : dict
            Of `inference`.

        Returns
        -------
        Evaluation
        dict
            ``warnings`` for the record, where there is no feature similarity.
        """
        found: list[Evaluation] = []
        facts: dict[str, Any] = {}
        if made.shape[1] < SMALLEST_FACE:
            facts["warnings"] = [f"no feature similarity: the pictures have fewer than {SMALLEST_FACE} pixels"]
        else:
            for name, network, failed in self._loaded():
                if network is None:
                    facts["warnings"] = [f"no feature similarity ({name}): {failed}"]
                else:
                    found.append(_judged_features(name, network, made, shown, blind, shared))
        found.append(evaluate_pictures(made, shown, blind, **shared))
        return reduce(Evaluation.joined, found), facts

    def _judged_latents(self, found: dict[str, Latents], shared: dict[str, Any]) -> Evaluation:
        space = self._space
        mean, sd = space.scale
        # In z the scale is white already.
        white = None
        if space.space != "z":
            white = Whitening.of(*latent_prior(self.generator, space.space, space.truncation))
        return evaluate_latents(
            found["predicted"],
            found["true"],
            found["training_mean"],
            mean=mean,
            sd=sd,
            whitening=white,
            blind=self._blind.latents,
            attributes=self._attributes(found["true"]),
            **shared,
        )

    def _blind_pictures(self, found: dict[str, Latents], seed: int) -> dict[str, Pictures]:
        return {
            "mean": self._space.pictures(found["training_mean"][None]),
            "zero": self._space.average_face(),
            "noise": self._space.pictures(matched_noise(found["drawn"], 1, seed)[0]),
            **self._blind.read(),
        }

    def _write(self, subject: str, model: str, judged: Evaluation, found: dict[str, Latents], seed: int) -> None:
        faces = judged.per_face.copy()
        faces.insert(0, "stim_file", self.stimuli.names("test"))
        tables = {
            "scores.tsv": _of(subject, model, judged.table),
            "faces.tsv": faces,
            "dimensions.tsv": _dimensions(found),
            "attributescores.tsv": _of(subject, model, self._attribute_table(found, seed)),
        }
        for name in SCORE_FILES:
            write_table(self.layout.decoded(subject, model, name), tables[name])

    def _attribute_table(self, found: dict[str, Latents], seed: int) -> pd.DataFrame:
        decoded, true = self._attributes(found["predicted"]), self._attributes(found["true"])
        normals = self._space.attributes
        if decoded is None or true is None or normals is None or len(true) < FEWEST_FACES:
            return pd.DataFrame(columns=list(ATTRIBUTE_COLUMNS))
        n_permutations = self.config.evaluation.n_permutations
        return attribute_table(decoded, true, normals.names, n_permutations=n_permutations, seed=seed)

    def _attributes(self, latents: Latents) -> NDArray[np.float64] | None:
        """Scores (n, k) of latents along the attribute normals; None where the generator has none."""
        normals = self._space.attributes
        if normals is None:
            return None
        return normals.scores(torch.from_numpy(np.asarray(latents, np.float64))).numpy()

    @cached_property
    def _space(self) -> LatentSpace:
        return LatentSpace(self.generator, self.config.decoding.space, self.config.stimuli.truncation)

    @cached_property
    def _blind(self) -> BlindFaces:
        return BlindFaces(self.layout, self.config, self.stimuli, self.generator)

    @property
    def networks(self) -> dict[str, str]:
        """Feature networks by the name of their similarity: dlib's, and the paper's where it was imported."""
        known = {"fsim_dlib": "dlib"}
        if any(imported_family(name) == PAPER_NETWORK for name in imported_names()):
            known = {"fsim": PAPER_NETWORK} | known
        wanted = preset_named(self.config.evaluation.preset).feature_metrics
        return {metric: network for metric, network in known.items() if metric in wanted}

    def _loaded(self) -> list[tuple[str, FeatureNetwork | None, str]]:
        """Return each network, or why it cannot be had; one that is damaged is an error."""
        loaded: list[tuple[str, FeatureNetwork | None, str]] = []
        for metric, name in self.networks.items():
            try:
                loaded.append((metric, load_feature_network(name), ""))
            except WeightFileError:
                raise
            except UserError as error:
                loaded.append((metric, None, str(error)))
        return loaded


def _judged_features(
    name: str,
    network: FeatureNetwork,
    made: Pictures,
    shown: Pictures,
    blind: dict[str, Pictures],
    shared: dict[str, Any],
) -> Evaluation:
    return evaluate_features(
        _features(network, made),
        _features(network, shown),
        {key: _features(network, pictures) for key, pictures in blind.items()},
        name=name,
        identification=network.name == "dlib",
        **shared,
    )


def _features(network: FeatureNetwork, pictures: Pictures) -> NDArray[np.float64]:
    """Features (n, dim), the same bits by however many threads."""

    def of_batch(start: int) -> NDArray[np.float64]:
        # A thread of its own knows nothing of the caller's mode.
        with torch.inference_mode():
            some = torch.from_numpy(pictures[start : start + BATCH]).permute(0, 3, 1, 2).float() / 127.5 - 1
            return network.features(some).double().numpy(force=True)

    return np.concatenate(side_by_side(of_batch, range(0, len(pictures), BATCH)))


def _dimensions(found: dict[str, Latents]) -> pd.DataFrame:
    if len(found["true"]) < FEWEST_FACES:
        return pd.DataFrame(columns=list(DIMENSION_COLUMNS))
    return dimension_table(found["predicted"], found["true"])


def _of(subject: str, model: str, table: pd.DataFrame) -> pd.DataFrame:
    named = table.copy()
    named.insert(0, "subject", f"sub-{subject}")
    named.insert(1, "model", model)
    return named

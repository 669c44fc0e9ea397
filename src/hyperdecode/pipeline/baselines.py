"""The steps of a study's baselines: their latents decoded from the same voxels, pictures, scores, the best possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hyperdecode.decoding.models import MODELS, Context
from hyperdecode.decoding.rescale import match_norm
from hyperdecode.evaluation.blind import matched_noise
from hyperdecode.evaluation.summary import Evaluation, evaluate_latents
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.bands import bands_of
from hyperdecode.pipeline.baseline_models import BaselineModels
from hyperdecode.pipeline.checkpoints import FileCheckpoint
from hyperdecode.pipeline.decode import decoded_averages, fit_decoder, fit_facts, n_averaged, write_latents
from hyperdecode.pipeline.fitted_on import FITTED_ON, fitted_on
from hyperdecode.pipeline.masking import MASK_NAMES
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.scoring import Scoring
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_picture, write_picture

__all__ = ["NEED_GENERATOR", "SUBSTITUTE", "Baselines", "TrainingScale", "decoder_of_baselines"]

Kinds = list[tuple[str, Step]]
Array = NDArray[np.float64]

KIND = "baselines"
SUBSTITUTE = "weighted-ridge"
NEED_GENERATOR = frozenset(
    name for name in MODELS if name.startswith(("hyper-", "activation-")) or name in ("ridge-per-component", "inverted")
)
"""Decoders whose loss or prior is the generator's; a baseline's latents are not the generator's."""


def decoder_of_baselines(model: str) -> str:
    """Return the decoder that baselines get in a study whose main decoder is `model`: that one, where it can be."""
    return SUBSTITUTE if model in NEED_GENERATOR else model


@dataclass(frozen=True)
class TrainingScale:
    r"""The scale on which a decoder is fitted to a baseline's latents, from training trials alone.

    .. math::
        \mu_k = \bar z_k, \qquad \sigma_k = \frac{1}{u_k} \sqrt{\frac{1}{d} \sum_j u_j^2 \operatorname{var}(z_j)},

    with u the baseline's `latent_units`: standardised latents (z - mean) / sd have variance 1 on average over the d
    dimensions, and a dimension counts in shared penalties and losses as much as pictures differ along it. Each
    dimension at variance 1 would let hundreds of components that hardly show choose the penalty.

    Attributes
    ----------
    mean, sd : ndarray, (latent_dim,)
    """

    mean: Array
    sd: Array

    @classmethod
    def of(cls, trials: DecodingTrials, units: Array) -> TrainingScale:
        """Take the scale from training trials; `units` are the baseline's."""
        latents = trials.training_latents
        common = float(np.sqrt(np.mean(latents.var(0) * np.square(units))))
        return cls(latents.mean(0), (common or 1.0) / units)

    @property
    def scale(self) -> tuple[Array, Array]:
        """Mean and standard deviation, as `hyperdecode.pipeline.decode` asks for them."""
        return self.mean, self.sd


@dataclass(frozen=True)
class Baselines:
    """Baseline steps of one study; each method returns steps that have not run yet.

    The steps of `shared` come once a study, after the full-size test stimuli
    (`hyperdecode.pipeline.analyse.Analysis.full_stimuli`); those of `steps` after a subject's mask.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
        ``evaluation.baselines`` names the baselines.
    stimuli : StimulusSet
    generator : Generator
        Of the study; a baseline takes nothing from it but the size of its pictures.
    progress : callable, optional
        Called with (epochs done, epochs in all) by decoders that train for long.
    """

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator
    progress: Callable[[int, int], None] | None = None

    @cached_property
    def models(self) -> BaselineModels:
        """The baselines as models."""
        return BaselineModels(self.layout, self.config, self.stimuli, self.generator)

    @property
    def decoder(self) -> str:
        """Name of the decoder of every baseline."""
        return decoder_of_baselines(self.config.decoding.model)

    def shared(self) -> Kinds:
        """Return the steps that no brain goes into: latents of all stimuli, and the best possible pictures."""
        names = self.config.evaluation.baselines
        return [(KIND, step) for name in names for step in (self.latents(name), self.best_possible(name))]

    def steps(self, subject: str) -> Kinds:
        """Return the steps of a subject: decode, reconstruct and evaluate each baseline."""
        names = self.config.evaluation.baselines
        makers = (self.decode, self.reconstruct, self.evaluate)
        return [(KIND, make(subject, name)) for name in names for make in makers]

    def latents(self, name: str) -> Step:
        """Latents of every stimulus in the order of the manifest; eigenfaces are fitted to the training faces first."""
        # The manifest holds the hash of every picture, and reading the stimuli has compared them.
        inputs = (self.stimuli.folder / "manifest.tsv",)
        work = partial(self.models.prepare, name)
        return Step(f"baseline_{name}", 1, self.models.settings(name), inputs, self.models.files(name), work)

    def best_possible(self, name: str) -> Step:
        """Pictures that a baseline makes of the test stimuli themselves, with their scores."""
        names = self.stimuli.names("test")
        inputs = (*self.models.files(name), *self.models.shown_paths)
        outputs = (
            *(self.layout.best_possible(name, file) for file in names),
            *(self.layout.baseline(name, file) for file in ("scores.tsv", "faces.tsv")),
        )
        settings = {**self._judging(KIND), **self.models.identity(name)}
        return Step(f"bestpossible_{name}", 1, settings, inputs, outputs, partial(self._judge_best, name))

    def decode(self, subject: str, name: str) -> Step:
        """Fit the study's decoder to the latents of the training faces, and decode those of the test faces."""
        left_out = {"model", "beside", "posterior", "space", *(() if MODELS[self.decoder].shrinks else ("unshrink",))}
        settings = {
            **self.config.decoding.model_dump(exclude=left_out),
            "model": self.decoder,
            "seed": derived_seed(self.config.seed, "folds", subject),
            **self.models.identity(name),
        }
        mask = f"desc-{MASK_NAMES[self.config.bold.voxels]}_mask.nii.gz"
        inputs = (
            self.layout.masked(subject),
            *(self.layout.subject(subject, file) for file in ("trials.tsv", mask)),
            *self.models.files(name),
        )
        outputs = (self.layout.decoded(subject, name, "latents.safetensors"),)
        return Step(f"decode_sub-{subject}_{name}", 3, settings, inputs, outputs, partial(self._decode, subject, name))

    def reconstruct(self, subject: str, name: str) -> Step:
        """Pictures of the decoded latents, as large as the stimuli that they are compared with."""
        decoded = self.layout.decoded(subject, name, "latents.safetensors")
        outputs = tuple(self.layout.reconstruction(subject, name, file) for file in self.stimuli.names("test"))
        settings = {**self.models.identity(name), "side": self.models.side}
        inputs = (decoded, *self.models.files(name)[1:])

        def work() -> None:
            made = self.models.pictures(self.models.model(name), load_file(decoded)["drawn"])
            _write_pictures(outputs, made)

        return Step(f"reconstruct_sub-{subject}_{name}", 1, settings, inputs, outputs, work)

    def evaluate(self, subject: str, name: str) -> Step:
        """Scores beside blind predictors, with permutation tests of the pairing, as for the study's decoders."""
        decoded = self.layout.decoded(subject, name, "latents.safetensors")
        made = tuple(self.layout.reconstruction(subject, name, file) for file in self.stimuli.names("test"))
        outputs = tuple(self.layout.decoded(subject, name, file) for file in ("scores.tsv", "faces.tsv"))
        settings = {**self._judging(subject), **self.models.identity(name)}
        inputs = (decoded, *made, *self.models.shown_paths, *self.models.files(name))
        work = partial(self._evaluate, subject, name)
        return Step(f"evaluate_sub-{subject}_{name}", 1, settings, inputs, outputs, work)

    def _judge_best(self, name: str) -> dict[str, Any]:
        model, names = self.models.model(name), self.stimuli.names("test")
        made = self.models.pictures(model, self.models.latents(name, names))
        _write_pictures([self.layout.best_possible(name, file) for file in names], made)
        _, blind = self.models.blind(name)
        centre = self.models.latents(name, self.stimuli.names("train")).mean(0)
        blind["mean"] = self.models.pictures(model, centre[None])
        judged, facts = self._scoring.judged_pictures(made, self.models.shown(), blind, self._inference(KIND))
        files = (self.layout.baseline(name, "scores.tsv"), self.layout.baseline(name, "faces.tsv"))
        _write_scores(files, judged, names, {"model": name})
        return facts

    def _decode(self, subject: str, name: str) -> dict[str, Any]:
        config, model = self.config, self.models.model(name)
        trials = self._trials(subject, name)
        scale = TrainingScale.of(trials, model.latent_units)
        kept = self.layout.decoded(subject, name, "checkpoint.safetensors")
        checkpoint = FileCheckpoint(kept, MODELS[self.decoder].epochs_a_save)
        context = self._context(subject, trials, scale, checkpoint)
        with noting_warnings() as noted:
            fit = fit_decoder(trials, config, scale, self.decoder, context)
        predict = partial(_predict, fit.coef, fit.intercept)
        predicted, stretch = decoded_averages(trials, config, scale, self.decoder, predict)
        drawn = predicted
        if config.decoding.match_norm:
            drawn = _stretched(predicted, trials.training_latents, model.latent_units)
        result = {
            "predicted": predicted,
            "drawn": drawn,
            "true": trials.test_latents,
            "training_mean": scale.mean,
            "scale": scale.sd,
        }
        write_latents(self.layout.decoded(subject, name, "latents.safetensors"), result)
        checkpoint.clear()
        return fit_facts(fit, trials, stretch) | self._said(noted) | {FITTED_ON: self._fitted_on(trials, name)}

    def _fitted_on(self, trials: DecodingTrials, name: str) -> list[dict[str, Any]]:
        """Say for the record on which trials the decoder was fitted, and which told how far repeats scatter."""
        shown = trials.split.stimuli
        facts = [fitted_on(f"decoder of {name}", trials.split.training_rows, shown)]
        if self.config.decoding.unshrink and MODELS[self.decoder].shrinks:
            facts.append(fitted_on(f"stretch of {name}", trials.test_rows, shown, uses="scatter"))
        return facts

    def _context(
        self, subject: str, trials: DecodingTrials, scale: TrainingScale, checkpoint: FileCheckpoint
    ) -> Context:
        """Return what the study's main decoder gets, less the generator."""
        banded = self.decoder == "banded-ridge"
        return Context(
            seed=derived_seed(self.config.seed, "folds", subject),
            cv=self.config.decoding.cv,
            n_averaged=n_averaged(trials, self.config),
            scale=scale.scale,
            bands=bands_of(self.layout, self.config.bold, subject, trials.voxels) if banded else None,
            progress=self.progress,
            checkpoint=checkpoint,
        )

    def _said(self, noted: list[str]) -> dict[str, Any]:
        """Say for the record which decoder was fitted, and why where it is another one than the study's."""
        decoder, wanted = self.decoder, self.config.decoding.model
        if decoder == wanted:
            return {"decoder": decoder, "warnings": noted}
        why = f"{wanted} works through the generator, which has no part in a baseline: {decoder} was fitted instead"
        return {"decoder": decoder, "instead_of": wanted, "warnings": [*noted, why]}

    def _evaluate(self, subject: str, name: str) -> dict[str, Any]:
        found = load_file(self.layout.decoded(subject, name, "latents.safetensors"))
        names, model, inference = self.stimuli.names("test"), self.models.model(name), self._inference(subject)
        latents, blind = self.models.blind(name)
        blind["mean"] = self.models.pictures(model, found["training_mean"][None])
        blind["noise"] = self.models.pictures(model, matched_noise(found["drawn"], 1, inference["seed"])[0])
        judged = evaluate_latents(
            found["predicted"],
            found["true"],
            found["training_mean"],
            mean=found["training_mean"],
            sd=found["scale"],
            blind=latents,
            **inference,
        )
        made = np.stack([read_picture(self.layout.reconstruction(subject, name, file)) for file in names])
        pictured, facts = self._scoring.judged_pictures(made, self.models.shown(), blind, inference)
        files = (self.layout.decoded(subject, name, "scores.tsv"), self.layout.decoded(subject, name, "faces.tsv"))
        _write_scores(files, judged.joined(pictured), names, {"subject": f"sub-{subject}", "model": name})
        return facts

    def _trials(self, subject: str, name: str) -> DecodingTrials:
        """Trials of a subject with the baseline's latents in the place of the generator's."""
        trials = read_trials(self.layout, self.stimuli, subject, "w")
        return replace(trials, latents=self.models.latents(name, list(trials.split.stimuli)))

    @property
    def _scoring(self) -> Scoring:
        return Scoring(self.layout, self.config, self.stimuli, self.generator)

    def _inference(self, subject: str) -> dict[str, Any]:
        return self._scoring.inference(derived_seed(self.config.seed, "permutation", subject))

    def _judging(self, subject: str) -> dict[str, Any]:
        """Return all settings that scores depend on."""
        return {
            **self.config.evaluation.model_dump(exclude={"baselines"}),
            "networks": self._scoring.networks,
            "crop": self.config.stimuli.crop,
            "random_seed": derived_seed(self.config.seed, "random faces"),
            "permutation_seed": derived_seed(self.config.seed, "permutation", subject),
        }


def _predict(coef: Array, intercept: Array, z: NDArray[Any]) -> Array:
    predicted: Array = np.asarray(z, np.float64) @ coef.T + intercept
    return predicted


def _stretched(predicted: Array, training: Array, units: Array) -> Array:
    """Predictions as far from the training mean as training latents are, by the baseline's distance of pictures."""
    centre = training.mean(0)
    norm = float(np.linalg.norm((training - centre) * units, axis=1).mean())
    stretched: Array = centre + match_norm((predicted - centre) * units, np.zeros_like(centre), norm) / units
    return stretched


def _write_pictures(paths: Sequence[Path], pictures: NDArray[np.uint8]) -> None:
    for path, picture in zip(paths, pictures, strict=True):
        write_picture(path, picture)


def _write_scores(paths: tuple[Path, Path], judged: Evaluation, names: list[str], first: dict[str, str]) -> None:
    table = judged.table.copy()
    for place, (column, value) in enumerate(first.items()):
        table.insert(place, column, value)
    write_table(paths[0], table)
    faces: pd.DataFrame = judged.per_face.copy()
    faces.insert(0, "stim_file", names)
    write_table(paths[1], faces)

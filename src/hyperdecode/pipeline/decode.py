"""The decode step of a study: a decoder fitted on training trials, and the latents of the test faces."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.models import MODELS, Context, build_decoder
from hyperdecode.decoding.repeats import average_repeats, reliability_weights
from hyperdecode.decoding.rescale import averages_stretch
from hyperdecode.decoding.views import AveragedTrials
from hyperdecode.evaluation.metrics import standardise
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.memory import working_memory
from hyperdecode.pipeline.bands import bands_of
from hyperdecode.pipeline.checkpoints import FileCheckpoint
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.masking import MASK_NAMES
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.images import image_space, read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import FittedDecoder, plain_settings, training_fingerprint, write_decoder
from hyperdecode.study.stimulus_set import StimulusSet

__all__ = [
    "Decoding",
    "Fit",
    "Scaled",
    "decoded_averages",
    "fit_decoder",
    "fit_facts",
    "n_averaged",
    "training_data",
    "write_latents",
]

Epochs = Callable[[int, int], None]


class Scaled(Protocol):
    """Whatever gives latents their scale: a `LatentSpace`, or the training latents of a baseline."""

    @property
    def scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each latent dimension, (latent_dim,) each."""
        ...


@dataclass(frozen=True)
class Fit:
    """A decoder that was fitted to standardised latents.

    Attributes
    ----------
    decoder : LinearDecoder
    coef : ndarray, (n_latents, n_voxels)
    intercept : ndarray, (n_latents,)
        Weights and constant for latents as they are.
    seconds : float
        Wall time of the fit.
    """

    decoder: LinearDecoder
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    seconds: float


def training_data(trials: DecodingTrials, config: StudyConfig) -> dict[str, Any]:
    """Return the arguments of `fit` that the trials give: responses, latents, roles, groups, weights.

    Trials of one face are one group (a cross-validation never has one of them to learn from and another to predict),
    or their average, as ``decoding.repeats`` says.
    """
    z, latents, shown = trials.training_z, trials.training_latents, trials.training_stimuli
    in_memory = isinstance(z, np.ndarray)
    repeated = len(set(shown)) < len(shown)
    data: dict[str, Any] = {"X": z, "Y": latents, "roles": trials.training_roles}
    weighted = config.decoding.weights == "reliability"
    if repeated and config.decoding.repeats == "average":
        # Of what lies on disk, latents alone are averaged now; they get the type of the responses.
        now = z if in_memory else latents.astype(z.dtype)
        mean, latents, n_repeats, names = average_repeats(now, latents, shown, data["roles"])
        if not in_memory:
            number = {name: k for k, name in enumerate(names)}
            mean = AveragedTrials(z, np.array([number[name] for name in shown]))
        data |= {"X": mean, "Y": latents, "roles": ["train"] * len(names)}
        if weighted:
            data["sample_weight"] = reliability_weights(mean, names, n_repeats=n_repeats, roles=data["roles"])
        return data
    if repeated:
        data["groups"] = shown
    if weighted:
        data["sample_weight"] = reliability_weights(z, shown, runs=trials.training_runs, roles=data["roles"])
    return data


def n_averaged(trials: DecodingTrials, config: StudyConfig) -> float:
    """Return how many times more trials a test face averages (mean) than a training row does, by the design."""
    tested = len(trials.test_rows) / len(trials.test_names)
    shown = trials.training_stimuli
    trained = len(shown) / len(set(shown)) if config.decoding.repeats == "average" else 1.0
    return max(tested / trained, 1.0)


def fit_decoder(
    trials: DecodingTrials,
    config: StudyConfig,
    space: Scaled,
    model: str,
    context: Context,
) -> Fit:
    """Fit a decoder by name to the training trials, on the generator's own scale of latents.

    Standardised latents (each dimension of unit variance over the generator's own samples) weigh every dimension alike
    in shared penalties and losses, as latents z ~ N(0, I) do in the paper.
    """
    mean, sd = space.scale
    data = training_data(trials, config)
    data["Y"] = standardise(data["Y"], mean, sd)
    decoder = build_decoder(model, context)
    if "memory" in decoder.get_params(deep=False):
        held = 2 * data["X"].nbytes if isinstance(data["X"], np.ndarray) else 0
        decoder.set_params(memory=working_memory() - held)
    start = time.perf_counter()
    decoder.fit(**data)
    seconds = time.perf_counter() - start
    coef, intercept = np.asarray(decoder.coef_, np.float64), np.asarray(decoder.intercept_, np.float64)
    return Fit(decoder, coef * sd[:, None], intercept * sd + mean, seconds)


def decoded_averages(
    trials: DecodingTrials,
    config: StudyConfig,
    space: Scaled,
    model: str,
    predict: Callable[[NDArray[Any]], NDArray[Any]],
) -> tuple[NDArray[np.float64], float]:
    """Decode the averaged test trials, unshrunk where the study asks for it; return also the (median) factor.

    `averages_stretch` takes from single test trials how far those of one face scatter, and gives all faces of as many
    trials one factor.
    """
    predicted = trials.decoded_averages(predict)
    if not (config.decoding.unshrink and MODELS[model].shrinks):
        return predicted, 1.0
    rows = trials.test_rows
    shown = [trials.split.stimuli[row] for row in rows]
    counts = [shown.count(name) for name in trials.test_names]
    centre = trials.training_latents.mean(0)
    _, sd = space.scale
    stretch = averages_stretch(trials.decoded_test_trials(predict) / sd, shown, centre / sd, counts)
    return centre + stretch[:, None] * (predicted - centre), float(np.median(stretch))


def write_latents(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write decoded latents and what they are judged by, as float32."""
    with atomic_path(path) as temporary:
        save_file({key: np.ascontiguousarray(value, np.float32) for key, value in arrays.items()}, temporary)


def fit_facts(fit: Fit, trials: DecodingTrials, stretch: float) -> dict[str, Any]:
    """Return what the record of a fit says: counts, seconds, stretch of averages, the penalty where there is one."""
    facts = {
        "n_training_trials": len(trials.training_roles),
        "n_test_stimuli": len(trials.test_names),
        "fit_seconds": round(fit.seconds, 3),
        "stretch": round(stretch, 4),
    }
    penalty = getattr(fit.decoder, "alpha_", None)
    return facts if penalty is None else facts | {"alpha": float(np.median(penalty)), "cv": fit.decoder.cv}


@dataclass(frozen=True)
class Decoding:
    """Decode steps of one study.

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
    progress: Epochs | None = None

    @property
    def space(self) -> LatentSpace:
        """The latent space that is decoded."""
        return LatentSpace(self.generator, self.config.decoding.space, self.config.stimuli.truncation)

    def inputs(self, subject: str) -> tuple[Path, ...]:
        """Files that every decoder reads."""
        mask = f"desc-{MASK_NAMES[self.config.bold.voxels]}_mask.nii.gz"
        return (
            self.layout.masked(subject),
            *(self.layout.subject(subject, name) for name in ("trials.tsv", mask)),
            self.stimuli.folder / "latents.safetensors",
        )

    def step(self, subject: str, model: str) -> Step:
        """Fit a decoder on training trials and decode the latents of the test stimuli."""
        chosen = self.config.decoding.model_dump(
            exclude={"model", "beside", "posterior", *(() if MODELS[model].shrinks else ("unshrink",))}
        )
        settings = {**chosen, "model": model, "seed": derived_seed(self.config.seed, "folds", subject)}
        outputs = (
            self.layout.decoded(subject, model, "decoder.safetensors"),
            self.layout.decoded(subject, model, "decoder.json"),
            self.layout.decoded(subject, model, "latents.safetensors"),
        )
        name = f"decode_sub-{subject}_{model}"
        return Step(name, 6, settings, self.inputs(subject), outputs, partial(self._work, subject, model))

    def context(self, subject: str, model: str, trials: DecodingTrials) -> Context:
        """Return what a decoder of this study needs beside the trials."""
        config, space = self.config, self.space
        return Context(
            seed=derived_seed(config.seed, "folds", subject),
            cv=config.decoding.cv,
            n_averaged=n_averaged(trials, config),
            generator=self.generator,
            space=space.space,
            truncation=config.stimuli.truncation,
            scale=space.scale,
            bands=bands_of(self.layout, config.bold, subject, trials.voxels) if model == "banded-ridge" else None,
        )

    def _work(self, subject: str, model: str) -> dict[str, Any]:
        config, space = self.config, self.space
        trials = read_trials(self.layout, self.stimuli, subject, space.space)
        kept = self.layout.decoded(subject, model, "checkpoint.safetensors")
        checkpoint = FileCheckpoint(kept, MODELS[model].epochs_a_save)
        context = replace(self.context(subject, model, trials), progress=self.progress, checkpoint=checkpoint)
        with noting_warnings() as noted:
            fit = fit_decoder(trials, config, space, model, context)
        saved = self._saved(subject, model, trials, fit)
        write_decoder(self.layout.decoded(subject, model, "decoder"), saved)
        predicted, stretch = decoded_averages(trials, config, space, model, saved.predict)
        predicted = predicted.astype(np.float32)
        drawn = saved.stretched(predicted) if config.decoding.match_norm else predicted
        result = {
            "predicted": predicted,
            "drawn": drawn,
            "true": trials.test_latents,
            "training_mean": saved.latent_mean,
        }
        write_latents(self.layout.decoded(subject, model, "latents.safetensors"), result)
        checkpoint.clear()
        return fit_facts(fit, trials, stretch) | {"warnings": noted}

    def _saved(self, subject: str, model: str, trials: DecodingTrials, fit: Fit) -> FittedDecoder:
        """Put the decoder together with what says on which voxels and for which faces it may be used."""
        mask = read_image(self.inputs(subject)[2], n_dimensions=3)
        training = trials.training_latents
        mean = training.mean(0)
        x, y, z = mask.shape
        return FittedDecoder(
            model=model,
            coef=fit.coef.astype(np.float32),
            intercept=fit.intercept.astype(np.float32),
            latent_space=self.config.decoding.space,
            latent_mean=mean,
            training_norm=float(np.linalg.norm(training - mean, axis=1).mean()),
            generator=self.generator.name,
            generator_fingerprint=self.generator.fingerprint,
            truncation=self.config.stimuli.truncation,
            voxels=trials.voxels,
            shape=(x, y, z),
            affine=np.asarray(mask.affine, np.float64),
            space=image_space(mask),
            training_fingerprint=training_fingerprint(trials.training_stimuli, trials.training_z, training),
            n_training_trials=len(training),
            settings=plain_settings(
                {name: value for name, value in fit.decoder.get_params(deep=False).items() if name != "memory"}
            ),
            extra={
                name: np.asarray(getattr(fit.decoder, name))
                for name in ("alpha_", "x_mean_", "x_scale_")
                if hasattr(fit.decoder, name)
            },
        )

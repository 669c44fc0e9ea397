"""The steps of a study's baselines: their latents decoded from the same voxels, pictures, scores, the best possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hyperdecode.baselines.base import Baseline, Pictures
from hyperdecode.baselines.eigenfaces import N_COMPONENTS, SIDE, fit_eigenfaces, read_eigenfaces
from hyperdecode.baselines.vaegan import VaeGan, load_vaegan
from hyperdecode.decoding.models import MODELS, Context
from hyperdecode.decoding.rescale import match_norm
from hyperdecode.evaluation.blind import matched_noise
from hyperdecode.evaluation.summary import Evaluation, evaluate_latents, evaluate_pictures
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.bands import bands_of
from hyperdecode.pipeline.checkpoints import FileCheckpoint
from hyperdecode.pipeline.decode import decoded_averages, fit_decoder, n_averaged
from hyperdecode.pipeline.masking import MASK_NAMES
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.trials import DecodingTrials, read_trials
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.stimuli.pictures import crop_centre, resize, to_uint8
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

MAX_FACES = 4096
"""Training faces that eigenfaces are fitted to, spread evenly over the manifest where there are more."""
BATCH = 64


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
        settings: dict[str, Any] = self._identity(name)
        if name == "eigenfaces":
            settings |= {"components": N_COMPONENTS, "side": SIDE, "most_faces": MAX_FACES}
        # The manifest holds the hash of every picture, and reading the stimuli has compared them.
        inputs = (self.stimuli.folder / "manifest.tsv",)
        outputs = (self.layout.baseline(name, "latents.safetensors"), *self._fitted(name))
        return Step(f"baseline_{name}", 1, settings, inputs, outputs, partial(self._encode, name))

    def best_possible(self, name: str) -> Step:
        """Pictures that a baseline makes of the test stimuli themselves, with their scores."""
        names = self.stimuli.names("test")
        inputs = (self.layout.baseline(name, "latents.safetensors"), *self._fitted(name), *self._shown_paths())
        outputs = (
            *(self.layout.best_possible(name, file) for file in names),
            *(self.layout.baseline(name, file) for file in ("scores.tsv", "faces.tsv")),
        )
        settings = {**self._scoring(KIND), **self._identity(name), "crop": self.config.stimuli.crop}
        return Step(f"bestpossible_{name}", 1, settings, inputs, outputs, partial(self._judge_best, name))

    def decode(self, subject: str, name: str) -> Step:
        """Fit the study's decoder to the latents of the training faces, and decode those of the test faces."""
        left_out = {"model", "beside", "posterior", "space", *(() if MODELS[self.decoder].shrinks else ("unshrink",))}
        settings = {
            **self.config.decoding.model_dump(exclude=left_out),
            "model": self.decoder,
            "seed": derived_seed(self.config.seed, "folds", subject),
            **self._identity(name),
        }
        mask = f"desc-{MASK_NAMES[self.config.bold.voxels]}_mask.nii.gz"
        files = ("desc-masked_zmaps.safetensors", "trials.tsv", mask)
        inputs = (
            *(self.layout.subject(subject, file) for file in files),
            self.layout.baseline(name, "latents.safetensors"),
            *self._fitted(name),
        )
        outputs = (self.layout.decoded(subject, name, "latents.safetensors"),)
        return Step(f"decode_sub-{subject}_{name}", 1, settings, inputs, outputs, partial(self._decode, subject, name))

    def reconstruct(self, subject: str, name: str) -> Step:
        """Pictures of the decoded latents, as large as the stimuli that they are compared with."""
        decoded = self.layout.decoded(subject, name, "latents.safetensors")
        outputs = tuple(self.layout.reconstruction(subject, name, file) for file in self.stimuli.names("test"))
        settings = {**self._identity(name), "side": self._side}
        inputs = (decoded, *self._fitted(name))

        def work() -> None:
            self._write(list(outputs), self._pictures(self._model(name), load_file(decoded)["drawn"]))

        return Step(f"reconstruct_sub-{subject}_{name}", 1, settings, inputs, outputs, work)

    def evaluate(self, subject: str, name: str) -> Step:
        """Scores beside blind predictors, with permutation tests of the pairing, as for the study's decoders."""
        decoded = self.layout.decoded(subject, name, "latents.safetensors")
        made = tuple(self.layout.reconstruction(subject, name, file) for file in self.stimuli.names("test"))
        outputs = tuple(self.layout.decoded(subject, name, file) for file in ("scores.tsv", "faces.tsv"))
        settings = {**self._scoring(subject), **self._identity(name), "crop": self.config.stimuli.crop}
        inputs = (decoded, *made, *self._shown_paths(), *self._fitted(name))
        work = partial(self._evaluate, subject, name, settings["seed"])
        return Step(f"evaluate_sub-{subject}_{name}", 1, settings, inputs, outputs, work)

    def _encode(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if name == "eigenfaces":
            facts |= self._fit_eigenfaces()
        model = self._model(name)
        encoded = [model.encode(pictures) for pictures in self._stimuli(list(self.stimuli.manifest["stim_file"]))]
        with atomic_path(self.layout.baseline(name, "latents.safetensors")) as temporary:
            save_file({"latents": np.concatenate(encoded)}, temporary)
        return facts | {"latents": model.latent_dim, "side": model.side}

    def _fit_eigenfaces(self) -> dict[str, Any]:
        names = self.stimuli.names("train")
        chosen = [names[k] for k in np.linspace(0, len(names) - 1, min(len(names), MAX_FACES)).round().astype(int)]
        model = fit_eigenfaces(self._stimuli(chosen), self.stimuli.roles(chosen))
        with atomic_path(self._fitted("eigenfaces")[0]) as temporary:
            save_file(model.arrays(), temporary)
        facts: dict[str, Any] = {"training_faces": len(chosen), "components": model.latent_dim}
        if model.latent_dim < N_COMPONENTS:
            said = f"{len(chosen)} training faces have {model.latent_dim} components, fewer than {N_COMPONENTS}"
            facts["warnings"] = [said]
        return facts

    def _judge_best(self, name: str) -> None:
        names, shown = self.stimuli.names("test"), self._shown()
        model = self._model(name)
        encoded = load_file(self.layout.baseline(name, "latents.safetensors"))["latents"]
        roles = self.stimuli.manifest["role"].to_numpy()
        made = self._pictures(model, encoded[roles == "test"])
        self._write([self.layout.best_possible(name, file) for file in names], made)
        centre = encoded[roles == "train"].mean(0)
        blind = {"mean": self._pictures(model, centre[None])}
        blind["zero"] = self._pictures(model, np.zeros_like(centre)[None])
        judged = evaluate_pictures(made, shown, blind, **self._scoring(KIND))
        files = (self.layout.baseline(name, "scores.tsv"), self.layout.baseline(name, "faces.tsv"))
        _write_scores(files, judged, names, {"model": name})

    def _decode(self, subject: str, name: str) -> dict[str, Any]:
        config, model = self.config, self._model(name)
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
        with atomic_path(self.layout.decoded(subject, name, "latents.safetensors")) as temporary:
            save_file({key: np.ascontiguousarray(value, np.float32) for key, value in result.items()}, temporary)
        checkpoint.clear()
        facts = {
            "n_training_trials": len(trials.training_roles),
            "n_test_stimuli": len(trials.test_names),
            "fit_seconds": round(fit.seconds, 3),
            "stretch": round(stretch, 4),
            **self._said(noted),
        }
        penalty = getattr(fit.decoder, "alpha_", None)
        return facts if penalty is None else facts | {"alpha": float(np.median(penalty))}

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

    def _evaluate(self, subject: str, name: str, seed: int) -> None:
        latents = load_file(self.layout.decoded(subject, name, "latents.safetensors"))
        scoring = self._scoring(subject)
        judged = evaluate_latents(
            latents["predicted"],
            latents["true"],
            latents["training_mean"],
            mean=latents["training_mean"],
            sd=latents["scale"],
            **scoring,
        )
        names, shown, model = self.stimuli.names("test"), self._shown(), self._model(name)
        made = np.stack([read_picture(self.layout.reconstruction(subject, name, file)) for file in names])
        blind = {
            "mean": self._pictures(model, latents["training_mean"][None]),
            "zero": self._pictures(model, np.zeros((1, model.latent_dim))),
            "noise": self._pictures(model, matched_noise(latents["drawn"], 1, seed)[0]),
        }
        judged = judged.joined(evaluate_pictures(made, shown, blind, **scoring))
        files = (self.layout.decoded(subject, name, "scores.tsv"), self.layout.decoded(subject, name, "faces.tsv"))
        _write_scores(files, judged, names, {"subject": f"sub-{subject}", "model": name})

    def _trials(self, subject: str, name: str) -> DecodingTrials:
        """Trials of a subject with the baseline's latents in the place of the generator's."""
        trials = read_trials(self.layout, self.stimuli, subject, "w")
        encoded = load_file(self.layout.baseline(name, "latents.safetensors"))["latents"]
        rows = {file: row for row, file in enumerate(self.stimuli.manifest["stim_file"])}
        return replace(trials, latents=encoded[[rows[file] for file in trials.split.stimuli]].astype(np.float64))

    def _model(self, name: str) -> Baseline:
        if name == "vaegan":
            return self._vaegan
        path = self._fitted(name)[0]
        return read_eigenfaces(path.read_bytes(), str(path))

    @cached_property
    def _vaegan(self) -> VaeGan:
        return load_vaegan()

    def _fitted(self, name: str) -> tuple[Path, ...]:
        """Files of what was fitted to the study's training faces."""
        return (self.layout.baseline(name, "components.safetensors"),) if name == "eigenfaces" else ()

    def _identity(self, name: str) -> dict[str, Any]:
        """Say in the settings of a step which network it is; eigenfaces are a file, and so an input."""
        return {"weights": self._vaegan.fingerprint} if name == "vaegan" else {}

    def _scoring(self, subject: str) -> dict[str, Any]:
        n = self.config.evaluation.n_permutations
        return {"n_permutations": n, "seed": derived_seed(self.config.seed, "permutation", subject)}

    def _stimuli(self, names: list[str]) -> Iterator[Pictures]:
        """Pictures of stimuli as they were shown, a few at a time."""
        return (self.stimuli.pictures(names[k : k + BATCH]) for k in range(0, len(names), BATCH))

    def _shown_paths(self) -> tuple[Path, ...]:
        return tuple(self.layout.full_stimulus(name) for name in self.stimuli.names("test"))

    def _shown(self) -> Pictures:
        """Full-size test stimuli, of which as much is kept as was shown: a baseline knows no more of a face."""
        whole = torch.from_numpy(np.stack([read_picture(path) for path in self._shown_paths()])).permute(0, 3, 1, 2)
        shown = crop_centre(whole, self.config.stimuli.crop).permute(0, 2, 3, 1)
        return np.ascontiguousarray(shown.numpy())

    @property
    def _side(self) -> int:
        """Side of the full-size test stimuli, of which as much is kept as was shown."""
        side = self.generator.resolution
        return int(crop_centre(torch.empty(side, side), self.config.stimuli.crop).shape[0])

    def _pictures(self, model: Baseline, latents: NDArray[np.floating]) -> Pictures:
        """Pictures of latents, as large as the stimuli that they are compared with."""
        parts = [to_uint8(resize(model.images(latents[k : k + 8]), self._side)) for k in range(0, len(latents), 8)]
        return np.concatenate(parts)

    def _write(self, paths: list[Path], pictures: Pictures) -> None:
        for path, picture in zip(paths, pictures, strict=True):
            write_picture(path, picture)


def _predict(coef: Array, intercept: Array, z: NDArray[Any]) -> Array:
    predicted: Array = np.asarray(z, np.float64) @ coef.T + intercept
    return predicted


def _stretched(predicted: Array, training: Array, units: Array) -> Array:
    """Predictions as far from the training mean as training latents are, by the baseline's distance of pictures."""
    centre = training.mean(0)
    norm = float(np.linalg.norm((training - centre) * units, axis=1).mean())
    stretched: Array = centre + match_norm((predicted - centre) * units, np.zeros_like(centre), norm) / units
    return stretched


def _write_scores(paths: tuple[Path, Path], judged: Evaluation, names: list[str], first: dict[str, str]) -> None:
    table = judged.table.copy()
    for place, (column, value) in enumerate(first.items()):
        table.insert(place, column, value)
    write_table(paths[0], table)
    faces: pd.DataFrame = judged.per_face.copy()
    faces.insert(0, "stim_file", names)
    write_table(paths[1], faces)

"""The steps of a study from masked z-maps to scores, each a function of files that `hyperdecode run` strings up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from hyperdecode.decoding.rescale import match_norm
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import matched_noise
from hyperdecode.evaluation.summary import Evaluation, evaluate_latents, evaluate_pictures
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import Generator, picture_latents
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.split import Split
from hyperdecode.stimuli.pictures import to_uint8
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import StimulusSet, read_picture

__all__ = ["Analysis"]


@dataclass(frozen=True)
class Analysis:
    """Steps of one study; each method returns a `Step` that has not run yet.

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

    def decode(self, subject: str) -> Step:
        """Fit the decoder on training trials and decode the latents of the test stimuli."""
        inputs = [self.layout.subject(subject, name) for name in ("desc-masked_zmaps.safetensors", "trials.tsv")]
        outputs = tuple(
            self.layout.subject(subject, f"desc-ridge_{name}.safetensors") for name in ("decoder", "latents")
        )
        settings = {**self.config.decoding.model_dump(), "seed": derived_seed(self.config.seed, "folds", subject)}
        latents = self.stimuli.folder / "latents.safetensors"
        return Step(f"decode_sub-{subject}", 1, settings, (*inputs, latents), outputs, partial(self._decode, subject))

    def full_stimuli(self) -> Step:
        """Test stimuli at full resolution, to set reconstructions beside."""
        names = self.stimuli.names("test")
        outputs = tuple(self.layout.full_stimulus(name) for name in names)
        settings = {"generator": self.generator.fingerprint}
        latents = self.stimuli.folder / "latents.safetensors"

        def work() -> None:
            self._write_pictures(list(outputs), self.stimuli.latents(names, "w"))

        return Step("full_stimuli", 1, settings, (latents,), outputs, work)

    def reconstruct(self, subject: str) -> Step:
        """Pictures of the decoded latents at full resolution."""
        names = self.stimuli.names("test")
        outputs = tuple(self.layout.reconstruction(subject, name) for name in names)
        settings = {"generator": self.generator.fingerprint, "space": self.config.decoding.space}
        decoded = self.layout.subject(subject, "desc-ridge_latents.safetensors")

        def work() -> None:
            self._write_pictures(list(outputs), self._as_w(load_file(decoded)["drawn"]))

        return Step(f"reconstruct_sub-{subject}", 1, settings, (decoded,), outputs, work)

    def evaluate(self, subject: str) -> Step:
        """Scores beside blind predictors, with permutation tests of the pairing."""
        names = self.stimuli.names("test")
        decoded = self.layout.subject(subject, "desc-ridge_latents.safetensors")
        pictures = [self.layout.reconstruction(subject, name) for name in names]
        pictures += [self.layout.full_stimulus(name) for name in names]
        outputs = (self.layout.subject(subject, "scores.tsv"), self.layout.subject(subject, "faces.tsv"))
        settings = {
            **self.config.evaluation.model_dump(),
            "seed": derived_seed(self.config.seed, "permutation", subject),
        }
        work = partial(self._evaluate, subject, settings["seed"])
        return Step(f"evaluate_sub-{subject}", 1, settings, (decoded, *pictures), outputs, work)

    def _decode(self, subject: str) -> dict[str, Any]:
        z = load_file(self.layout.subject(subject, "desc-masked_zmaps.safetensors"))["z"]
        trials = pd.read_csv(self.layout.subject(subject, "trials.tsv"), sep="\t")
        split = Split.of(list(trials["stim_file"]), list(trials["role"]))
        unseen = sorted(set(self.stimuli.names("test")) - set(split.test_stimuli))
        if unseen:
            raise UserError(
                f"sub-{subject} never saw the test stimulus {unseen[0]}: give all runs, or another study.toml"
            )
        space = self.config.decoding.space
        latents = self.stimuli.latents(list(trials["stim_file"]), space).numpy()
        decoder = RidgeDecoder(
            n_folds=self.config.decoding.n_folds, seed=derived_seed(self.config.seed, "folds", subject)
        )
        training_roles = [split.roles[row] for row in split.training_rows]
        shown = [split.stimuli[row] for row in split.training_rows]
        with noting_warnings() as noted:
            # A face shown more than once in training stays in one fold.
            decoder.fit(split.training(z), split.training(latents), roles=training_roles, groups=_groups(shown))
        # In the order of the manifest, which every later step goes by.
        order = [split.test_stimuli.index(name) for name in self.stimuli.names("test")]
        predicted = decoder.predict(split.test_averages(z)[order]).astype(np.float32)
        true = self.stimuli.latents(self.stimuli.names("test"), space).numpy()
        training = np.asarray(split.training(latents), np.float64)
        mean = training.mean(0)
        norm = float(np.linalg.norm(training - mean, axis=1).mean())
        drawn = match_norm(predicted, mean, norm) if self.config.decoding.match_norm else predicted
        result = {"predicted": predicted, "drawn": drawn, "true": true, "training_mean": mean}
        fitted = {
            key: np.asarray(getattr(decoder, key), np.float32) for key in ("coef_", "intercept_", "x_mean_", "x_scale_")
        }
        for name, tensors in (("decoder", fitted), ("latents", result)):
            with atomic_path(self.layout.subject(subject, f"desc-ridge_{name}.safetensors")) as temporary:
                save_file({key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()}, temporary)
        return {
            "alpha": float(decoder.alpha_),
            "n_training_trials": len(training),
            "n_test_stimuli": len(true),
            "warnings": noted,
        }

    def _evaluate(self, subject: str, seed: int) -> dict[str, Any]:
        latents = load_file(self.layout.subject(subject, "desc-ridge_latents.safetensors"))
        n_permutations = self.config.evaluation.n_permutations
        mean, sd = self._latent_scale()
        judged = evaluate_latents(
            latents["predicted"],
            latents["true"],
            latents["training_mean"],
            mean=mean,
            sd=sd,
            n_permutations=n_permutations,
            seed=seed,
        )
        names = self.stimuli.names("test")
        made = np.stack([read_picture(self.layout.reconstruction(subject, name)) for name in names])
        shown = np.stack([read_picture(self.layout.full_stimulus(name)) for name in names])
        blind = {
            "mean": self._pictures(latents["training_mean"][None]),
            "zero": self._pictures(mean[None].astype(np.float32)),
            "noise": self._pictures(matched_noise(latents["drawn"], 1, seed)[0].astype(np.float32)),
        }
        judged = judged.joined(evaluate_pictures(made, shown, blind, n_permutations=n_permutations, seed=seed))
        self._write_scores(subject, judged, names)
        return {}

    def _write_scores(self, subject: str, judged: Evaluation, names: list[str]) -> None:
        table = judged.table.copy()
        table.insert(0, "subject", f"sub-{subject}")
        write_table(self.layout.subject(subject, "scores.tsv"), table)
        faces = judged.per_face.copy()
        faces.insert(0, "stim_file", names)
        write_table(self.layout.subject(subject, "faces.tsv"), faces)

    def _latent_scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and spread of the latents that the stimuli were drawn from; from the generator, not from trials."""
        if self.config.decoding.space == "z":
            return np.zeros(self.generator.latent_dim), np.ones(self.generator.latent_dim)
        mean, sd = (value.double().numpy() for value in self.generator.w_statistics())
        return mean, sd * self.config.stimuli.truncation

    def _as_w(self, latents: NDArray[np.float32]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(latents, np.float32))
        if self.config.decoding.space == "w":
            return tensor
        return picture_latents(self.generator, tensor, self.config.stimuli.truncation)

    def _pictures(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        w = self._as_w(latents)
        return np.concatenate([to_uint8(self.generator.images(row[None])) for row in w])

    def _write_pictures(self, paths: list[Path], w: torch.Tensor) -> None:
        for path, row in zip(paths, w, strict=True):
            picture = to_uint8(self.generator.images(row[None]))[0]
            with atomic_path(path) as temporary:
                Image.fromarray(picture).save(temporary, format="PNG", compress_level=3)


def _groups(stimuli: list[str]) -> list[str] | None:
    """Stimulus of each training trial when one repeats, else None (every trial its own group)."""
    return stimuli if len(set(stimuli)) < len(stimuli) else None

"""The published study anew from its released files: the paper's decoder and ours, beside the printed Table 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.models import MODELS, Context, build_decoder
from hyperdecode.decoding.rescale import match_norm
from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import matched_noise
from hyperdecode.files import atomic_path
from hyperdecode.generators.base import decoded_picture_latents, picture_latents
from hyperdecode.pipeline.checkpoints import FileCheckpoint
from hyperdecode.pipeline.lock import study_lock
from hyperdecode.pipeline.records import Step, refuse_other_settings, run_step
from hyperdecode.pipeline.released import ReleasedSubject
from hyperdecode.pipeline.released_scores import Faces, Scorer
from hyperdecode.pipeline.reproduce_report import summarise
from hyperdecode.pipeline.reproduced import PAPER_MODEL, Reproduced, read_pictures
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.stimuli.pictures import to_uint8
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.stimulus_set import write_picture

__all__ = ["Reproduction"]

REPEATS = 14
"""How often a test face was shown (its released row is the average)."""
BATCH = 8
Pictures = NDArray[np.uint8]
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Reproduction(Reproduced):
    """Steps from released files to Table 1; a killed run goes on where it was.

    Attributes
    ----------
    released, out, settings
        Of `Reproduced`.
    tell : callable, optional
        Called with (steps done, steps in all, what is being done).
    """

    tell: Tell | None = None

    def run(self, force: bool = False) -> pd.DataFrame:
        """Do what is not done yet, and return Table 1.

        Parameters
        ----------
        force : bool
            Make everything again, over what is there.

        Returns
        -------
        pandas.DataFrame
            As it lies in ``table1.tsv``.

        Raises
        ------
        UserError
            When the folder holds something made with other settings or by something else, or another command fills it.
        """
        self._check()
        steps = self._steps()
        if not force:
            for step in steps:
                refuse_other_settings(step, self.records)
        with study_lock(self.out, self.records) as held:
            for k, step in enumerate(steps):
                held.check()
                self._say(k, len(steps), step.name)
                run_step(step, self.out, self.records, force=force)
        self._say(len(steps), len(steps), "done")
        return pd.read_csv(self.out / "table1.tsv", sep="\t")

    def _check(self) -> None:
        generator = self.released.generator
        if self.side not in generator.resolutions:
            raise UserError(f"{generator.name} makes pictures of {generator.resolutions} px, not {self.side}")
        if self.settings.n_random < 1:
            raise UserError(f"the paper's null needs random faces, got {self.settings.n_random}: give 1 or more")

    def _say(self, done: int, total: int, what: str) -> None:
        if self.tell:
            self.tell(done, total, what)

    def _steps(self) -> list[Step]:
        steps = [self._random_step()]
        for subject in self.released.subjects:
            steps.append(self._draw_step(f"shown_sub-{subject.label}", subject, None))
            for model in self.settings.all_models:
                label = f"sub-{subject.label}_{self.settings.label(model)}"
                steps.append(self._decode_step(f"decode_{label}", subject, model))
                steps.append(self._draw_step(f"draw_{label}", subject, model))
                steps.append(self._score_step(f"score_{label}", subject, model))
        return [*steps, self._summary_step()]

    def _random_step(self) -> Step:
        n, seed = self.settings.n_random, derived_seed(self.settings.seed, "random faces")
        paths = tuple(self.out / "random" / f"face-{k:04d}.png" for k in range(1, n + 1))
        latents = self.released.generator.sample(n, seed).numpy()
        return Step("random", 1, self._drawn_with() | {"seed": seed}, (), paths, partial(self._draw, latents, paths))

    def _draw_step(self, name: str, subject: ReleasedSubject, model: str | None) -> Step:
        paths = self.faces(subject, model)
        if model is None:
            work = partial(self._draw, subject.data.t_test, paths)
            return Step(name, 1, self._drawn_with() | {"data": subject.sha256}, (subject.path,), paths, work)
        decoded = self.folder(subject.label, model) / "latents.safetensors"
        settings = self._drawn_with() | {"data": subject.sha256}
        work = partial(self._draw_decoded, decoded, paths)
        return Step(name, 3, settings, (decoded,), paths, work)

    def _drawn_with(self) -> dict[str, Any]:
        return {"generator": self.released.generator.fingerprint, "side": self.side}

    def _pictures(self, latents: NDArray[np.floating], decoded: bool = False) -> Pictures:
        """Pictures of latents z, a batch at a time; decoded ones are brought back among faces where there is a w."""
        tensor = torch.from_numpy(np.ascontiguousarray(latents, np.float32))
        generator, made = self.released.generator, []
        to_pictures = decoded_picture_latents if decoded else picture_latents
        with torch.inference_mode():
            for rows in torch.split(tensor, BATCH):
                made.append(to_uint8(generator.images(to_pictures(generator, rows), resolution=self.side)))
        return np.concatenate(made)

    def _average_face(self) -> Pictures:
        """Picture of what predicts zero: the mean w where there is a w, for no face lies at z = 0; else z = 0."""
        generator = self.released.generator
        if "w" not in generator.spaces:
            return self._pictures(np.zeros((1, generator.latent_dim)))
        with torch.inference_mode():
            return to_uint8(generator.images(generator.w_statistics()[0][None], resolution=self.side))

    def _draw_decoded(self, decoded: Path, paths: Sequence[Path]) -> None:
        self._draw(load_file(decoded)["drawn"], paths, decoded=True)

    def _draw(self, latents: NDArray[np.floating], paths: Sequence[Path], decoded: bool = False) -> None:
        for start in range(0, len(paths), BATCH):
            some = slice(start, start + BATCH)
            for path, picture in zip(paths[some], self._pictures(latents[some], decoded), strict=True):
                write_picture(path, picture)

    def _decode_step(self, name: str, subject: ReleasedSubject, model: str) -> Step:
        folder = self.folder(subject.label, model)
        seed = derived_seed(self.settings.seed, "decoder", subject.label)
        settings = {
            "model": model,
            "epochs": self.settings.epochs if self.settings.label(model) != model else None,
            "seed": seed,
            "data": subject.sha256,
            "generator": self.released.generator.fingerprint,
        }
        outputs = (folder / "decoder.safetensors", folder / "latents.safetensors")
        work = partial(self._decode, name, subject, model, seed)
        return Step(name, 2, settings, (subject.path,), outputs, work)

    def _decode(self, name: str, subject: ReleasedSubject, model: str, seed: int) -> dict[str, Any]:
        folder, data = self.folder(subject.label, model), subject.data
        checkpoint = FileCheckpoint(folder / "checkpoint.safetensors", MODELS[model].epochs_a_save)
        steps = [step.name for step in self._steps()]
        place = (steps.index(name), len(steps))
        decoder = self._decoder(
            model, seed, data.t_train.shape[1], checkpoint,
            lambda done, total: self._say(*place, f"{name}, epoch {done} of {total}"),
        )  # fmt: skip
        with noting_warnings() as noted:
            decoder.fit(data.x_train, data.t_train, roles=subject.roles)
        predicted = np.asarray(decoder.predict(data.x_test), np.float32)
        said = {
            "model": self.settings.label(model), "space": "z", "note": self.settings.note, "data": subject.sha256,
            "generator": self.released.generator.fingerprint,
        }  # fmt: skip
        arrays = {
            "coef": np.asarray(decoder.coef_, np.float32),
            "intercept": np.asarray(decoder.intercept_, np.float32),
            "kept_voxels": subject.kept,
        }
        _save(folder / "decoder.safetensors", arrays, said)
        mean = data.t_train.mean(0)
        latents = {"predicted": predicted, "true": data.t_test, "training_mean": mean}
        latents["drawn"] = predicted if MODELS[model].paper else _as_long_as(predicted, data.t_train, mean)
        _save(folder / "latents.safetensors", latents, said)
        checkpoint.clear()
        return {"n_training_faces": len(data.x_train), "n_voxels": data.x_train.shape[1], "warnings": noted}

    def _decoder(
        self, model: str, seed: int, width: int, checkpoint: FileCheckpoint, progress: Callable[[int, int], None]
    ) -> LinearDecoder:
        context = Context(
            seed=seed,
            n_averaged=REPEATS,
            generator=self.released.generator,
            space="z",
            scale=(np.zeros(width), np.ones(width)),
            progress=progress,
            checkpoint=checkpoint,
        )
        decoder = build_decoder(model, context)
        if model == PAPER_MODEL:
            decoder.set_params(standardize=False)  # the notebook trains on the released z-values as they are
        if self.settings.epochs is not None and "n_epochs" in decoder.get_params(deep=False):
            decoder.set_params(n_epochs=self.settings.epochs)
        return decoder

    def _score_step(self, name: str, subject: ReleasedSubject, model: str) -> Step:
        folder = self.folder(subject.label, model)
        inputs = (folder / "latents.safetensors", *self.faces(subject), *self.faces(subject, model))
        settings = {
            "seed": derived_seed(self.settings.seed, "scores", subject.label),
            "n_permutations": self.settings.n_permutations,
            "features": self.released.network.name,
            "feature_files": sorted(self.released.hashes.values()),
            "data": subject.sha256,
            **self._drawn_with(),
        }
        work = partial(self._score, subject, model, settings["seed"])
        outputs = (folder / "scores.tsv", folder / "faces.tsv")
        return Step(name, 3, settings, (*inputs, *self._random_step().outputs), outputs, work)

    def _score(self, subject: ReleasedSubject, model: str, seed: int) -> None:
        folder = self.folder(subject.label, model)
        latents = load_file(folder / "latents.safetensors")
        predicted, true, mean, drawn = (latents[name] for name in ("predicted", "true", "training_mean", "drawn"))
        made, shown, random = (
            read_pictures(paths)
            for paths in (self.faces(subject, model), self.faces(subject), self._random_step().outputs)
        )
        blind = {
            "mean": self._pictures(mean[None], decoded=True),
            "zero": self._average_face(),
            "noise": self._pictures(matched_noise(drawn, 1, seed)[0], decoded=True),
        }
        scorer = Scorer(self.released.network, self.settings.n_permutations, seed)
        judged = scorer.judged(predicted, true, mean, Faces(made, shown, random, blind))
        write_table(folder / "faces.tsv", judged.per_face)
        write_table(folder / "scores.tsv", judged.table)

    def _summary_step(self) -> Step:
        settings = {
            "models": [self.settings.label(model) for model in self.settings.all_models],
            "epochs": self.settings.epochs,
            "seed": self.settings.seed,
            "n_permutations": self.settings.n_permutations,
            "n_random": self.settings.n_random,
            "inputs": self.released.hashes,
            **self._drawn_with(),
        }
        inputs: list[Path] = []
        for subject in self.released.subjects:
            inputs += self.faces(subject)
            for model in self.settings.all_models:
                folder = self.folder(subject.label, model)
                inputs += [folder / name for name in ("latents.safetensors", "scores.tsv", "faces.tsv")]
                inputs += self.faces(subject, model)
        names = ["table1.tsv", "scores.tsv", "faces.tsv", "record.json", *self.reports, *self.strips]
        names += ["attributes.tsv"] if self.released.attributes is not None else []
        return Step(
            "summary", 1, settings, tuple(inputs), tuple(self.out / name for name in names), partial(summarise, self)
        )


def _as_long_as(
    predicted: NDArray[np.float32], training: NDArray[np.float32], mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Stretch predictions to the length of training latents, as ``decoding.match_norm`` of a study does."""
    return match_norm(predicted, mean, float(np.linalg.norm(training - mean, axis=1).mean())).astype(np.float32)


def _save(path: Path, arrays: Mapping[str, NDArray[Any]], said: Mapping[str, str]) -> None:
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary, metadata=dict(said))

"""A fitted decoder on new trials: latents, a table, pictures. Nothing is fitted here and nothing is scored."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hyperdecode.errors import DataWarning, UserError
from hyperdecode.files import atomic_path, sha256_file
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.latents import LatentSpace
from hyperdecode.pipeline.lock import study_lock
from hyperdecode.pipeline.masking import MASK_NAMES
from hyperdecode.pipeline.new_trials import MapsFile, NewTrials, TrialSource, new_runs
from hyperdecode.pipeline.prediction_sheet import MAX_ON_SHEET, prediction_sheet, thumbnail
from hyperdecode.pipeline.records import Step, is_fresh, refuse_other_settings, run_step
from hyperdecode.pipeline.sources import Progress
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.stimuli.pictures import drawn
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import Derivatives, write_json, write_table
from hyperdecode.study.images import read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.saved_decoder import FittedDecoder, read_decoder
from hyperdecode.study.stimulus_set import StimulusSet, read_picture, write_picture

__all__ = ["PredictResult", "predict"]

PICTURE = re.compile(r"(trial|average)-\d{4,}\.png")
ROLE, SCORE = "stimulus_role", "decoded_"
"""Columns that are added to the table of trials, besides `picture`."""


@dataclass(frozen=True)
class PredictResult:
    """What `predict` made.

    Attributes
    ----------
    folder : pathlib.Path
    latents : pathlib.Path
        Safetensors: ``predicted`` (n, latent_dim), and ``drawn``, which pictures are made from.
    table : pathlib.Path
        One row a trial or average.
    pictures : tuple of pathlib.Path
        In the order of the rows; empty without pictures.
    sheet : pathlib.Path or None
        All of them, small.
    n : int
        Rows.
    ran : tuple of str
        Steps that were not up to date.
    notes : tuple of str
        What a user should know of these predictions.
    """

    folder: Path
    latents: Path
    table: Path
    pictures: tuple[Path, ...]
    sheet: Path | None
    n: int
    ran: tuple[str, ...]
    notes: tuple[str, ...]


def predict(
    study: Path,
    config: StudyConfig,
    stimuli: StimulusSet,
    generator: Generator,
    subject: str,
    *,
    model: str | None = None,
    zmaps: Path | None = None,
    trials: Path | None = None,
    task: str | None = None,
    session: str | None = None,
    run: str | None = None,
    trial_types: Sequence[str] = (),
    average: str | None = None,
    fill_missing: bool = False,
    pictures: bool = True,
    out: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> PredictResult:
    """Decode new trials of a subject with the decoder that `hyperdecode run` has fitted.

    Parameters
    ----------
    study : pathlib.Path
    config, stimuli, generator
        Of that study.
    subject : str
        Label, without ``sub-``.
    model : str, optional
        Name of the decoder; default that of the study.
    zmaps : pathlib.Path, optional
        4D NIfTI with one z-map a trial on the grid of the study's mask, made by the study's own model.
    trials : pathlib.Path, optional
        TSV with one row a volume of `zmaps`.
    task, session, run : str, optional
        In place of `zmaps`: BIDS labels of new runs in the study folder. They are preprocessed as the study's own and
        brought to its grid; every event is a trial.
    trial_types : sequence of str
        Decode trials of these types alone.
    average : str, optional
        Column of the table: z-maps of trials with one value in it are averaged first.
    fill_missing : bool
        Put the training mean where a voxel has no value. Otherwise such maps are refused.
    pictures : bool
        Make pictures at full resolution, and a contact sheet.
    out : pathlib.Path, optional
        Folder; default ``DERIVATIVES/sub-LABEL/predictions/NAME``, where NAME says what was decoded and how.
    force : bool
        Replace predictions that were made from something else.
    progress : callable, optional
        Called with (what, done, to do).

    Returns
    -------
    PredictResult

    Raises
    ------
    UserError
        When there is no such decoder, it does not fit the generator or the maps, other predictions are in the way, or
        another command writes the same ones.

    Warns
    -----
    DataWarning
        When a trial shows a face that the decoder was fitted on.
    """
    layout, model = Layout(study), model or config.decoding.model
    fitted, files = _decoder(layout, config, subject, model)
    fitted.require_generator(generator)
    if (zmaps is None) == (task is None and session is None and run is None):
        raise UserError("give either --zmaps, or --task, --session or --run of new runs: one of the two")
    if trials is not None and zmaps is None:
        raise UserError("--trials belongs to --zmaps: new runs have their events")
    source: TrialSource
    if zmaps is not None:
        source = MapsFile(zmaps, trials)
    else:
        source = new_runs(layout, config, subject, task=task, session=session, run=run, say=progress)
    name = _label(source.label, model, trial_types, average)
    folder = out or layout.derivatives / f"sub-{subject}" / "predictions" / name
    work = _Prediction(
        layout, config, stimuli, generator, subject, fitted, files, source, tuple(trial_types), average, fill_missing,
        folder, folder / "records" if out else layout.records, name, progress,
    )  # fmt: skip
    Derivatives(layout.derivatives, study, config.name).prepare()
    with study_lock(folder, folder):
        return work.run(pictures=pictures, force=force)


def _decoder(layout: Layout, config: StudyConfig, subject: str, model: str) -> tuple[FittedDecoder, tuple[Path, Path]]:
    if subject not in config.subjects:
        raise UserError(f"no subject {subject!r} in study.toml: choose among {', '.join(config.subjects)}")
    arrays, path = (layout.decoded(subject, model, f"decoder.{ending}") for ending in ("safetensors", "json"))
    missing = next((file for file in (arrays, path) if not file.is_file()), None)
    if missing is not None:
        there = ", ".join(sorted(found.name for found in missing.parent.glob("*_decoder.json")))
        raise UserError(
            f"{missing} is not there: fit it with `hyperdecode decode {layout.study} --model {model}`"
            + (f", or choose among {there}" if there else "")
        )
    return read_decoder(path), (arrays, path)


def _label(base: str, model: str, trial_types: Sequence[str], average: str | None) -> str:
    parts = [base, *trial_types, *([f"by-{average}"] if average else []), f"desc-{model}"]
    return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part) if part != base else part for part in parts)


@dataclass(frozen=True)
class _Prediction:
    """One call of `predict`: a step for latents and table, one for pictures and sheet."""

    layout: Layout
    config: StudyConfig
    stimuli: StimulusSet
    generator: Generator
    subject: str
    fitted: FittedDecoder
    decoder_files: tuple[Path, Path]
    source: TrialSource
    trial_types: tuple[str, ...]
    average: str | None
    fill_missing: bool
    folder: Path
    records: Path
    name: str
    progress: Progress | None

    @property
    def space(self) -> LatentSpace:
        return LatentSpace(self.generator, self.fitted.latent_space, self.fitted.truncation)

    @property
    def mask(self) -> Path:
        return self.layout.subject(self.subject, f"desc-{MASK_NAMES[self.config.bold.voxels]}_mask.nii.gz")

    @property
    def latents(self) -> Path:
        return self.folder / "latents.safetensors"

    @property
    def table(self) -> Path:
        return self.folder / "predictions.tsv"

    @property
    def sheet(self) -> Path:
        return self.folder / "contact-sheet.jpg"

    def run(self, *, pictures: bool, force: bool) -> PredictResult:
        ran = self.source.prepare()
        ran += self._run_step(self._decode_step(), force)
        table = pd.read_csv(self.table, sep="\t", dtype=str)
        names = list(table["picture"]) if "picture" in table else []
        if len(names) != len(table) or not all(PICTURE.fullmatch(str(name)) for name in names):
            raise UserError(f"{self.table} names pictures that no prediction has: remove it, and predict again")
        made = tuple(self.folder / name for name in names)
        if force:
            self._drop_stale(set(table["picture"]))
        if pictures:
            ran += self._run_step(self._draw_step(table), force)
        return PredictResult(
            self.folder,
            self.latents,
            self.table,
            made if pictures else (),
            self.sheet if pictures else None,
            len(table),
            tuple(ran),
            tuple(self._notes(table)),
        )

    def _drop_stale(self, current: set[str]) -> None:
        """Remove pictures of earlier predictions that had more rows, or averages in place of trials."""
        for stale in self.folder.glob("*.png"):
            if PICTURE.fullmatch(stale.name) and stale.name not in current:
                stale.unlink()

    def _run_step(self, step: Step, force: bool) -> list[str]:
        if not force and not is_fresh(step, self.layout.study, self.records):
            refuse_other_settings(step, self.records)
        return [step.name] if run_step(step, self.layout.study, self.records, force=force) else []

    def _step(
        self, kind: str, inputs: Sequence[Path], outputs: Sequence[Path], settings: dict[str, Any],
        work: Callable[[], dict[str, Any] | None],
    ) -> Step:  # fmt: skip
        # Among the settings, so that predictions from other files are not replaced unasked.
        hashes = {path.name: sha256_file(path) for path in inputs}
        name = f"{kind}_sub-{self.subject}_{self.name}"
        return Step(name, 1, settings | {"files": hashes}, tuple(inputs), tuple(outputs), work)

    def _decode_step(self) -> Step:
        settings = {
            "trial_types": list(self.trial_types),
            "average": self.average or "",
            "fill_missing": self.fill_missing,
            "match_norm": self.config.decoding.match_norm,
        }
        inputs = [*self.source.inputs, *self.decoder_files, *([self.mask] if self.mask.is_file() else [])]
        outputs = (self.latents, self.table, self.table.with_suffix(".json"))
        return self._step("predict", inputs, outputs, settings, self._decode)

    def _decode(self) -> dict[str, Any]:
        if self.mask.is_file():
            self.fitted.require_mask(read_image(self.mask, n_dimensions=3), self.mask)
        with noting_warnings() as noted:
            trials = self.source.read(self.fitted, fill=self.fill_missing).only(self.trial_types)
            if self.average:
                trials = trials.averaged(self.average)
        predicted = self.fitted.predict(trials.z)
        drawn = self.fitted.stretched(predicted) if self.config.decoding.match_norm else predicted
        with atomic_path(self.latents) as temporary:
            save_file({"predicted": predicted, "drawn": np.ascontiguousarray(drawn, np.float32)}, temporary)
        table, described = self._described(trials, predicted)
        write_table(self.table, table)
        write_json(self.table.with_suffix(".json"), described)
        return {"n": len(table), "warnings": noted}

    def _described(self, trials: NewTrials, predicted: NDArray[np.floating]) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the table of predictions and its sidecar."""
        table = trials.table.drop(columns=[name for name in trials.table if _is_ours(str(name))])
        described: dict[str, Any] = {
            "Description": "One decoded latent a row, in the order of latents.safetensors.",
            "Decoder": f"{self.fitted.model}, {self.fitted.n_training_trials} training trials",
            "DecoderFingerprint": self.fitted.training_fingerprint,
            "LatentSpace": self.fitted.latent_space,
            "Generator": f"{self.fitted.generator} {self.fitted.generator_fingerprint}",
        }
        if "stim_file" in table:
            roles = self._roles(table["stim_file"])
            table[ROLE] = roles
            described[ROLE] = {"Description": "What the study used this stimulus for", "Levels": {
                "train": "the decoder was fitted on it", "test": "it was held out"}}  # fmt: skip
        normals = self.space.attributes
        if normals is not None:
            scores = normals.scores(torch.from_numpy(predicted)).numpy()
            for name, column in zip(normals.names, scores.T, strict=True):
                table[f"{SCORE}{name}"] = column
                described[f"{SCORE}{name}"] = {"Description": "Decoded latent times the unit normal of the attribute"}
        word = "average" if self.average else "trial"
        table["picture"] = [f"{word}-{k + 1:04d}.png" for k in range(len(table))]
        described["picture"] = {"Description": "File of the picture, where pictures were made"}
        return table, described

    def _roles(self, names: pd.Series[Any]) -> list[str | None]:
        manifest = self.stimuli.manifest.set_index("stim_file")["role"]
        return [None if pd.isna(name) else manifest.get(Path(str(name)).name) for name in names]

    def _draw_step(self, table: pd.DataFrame) -> Step:
        outputs = (*(self.folder / name for name in table["picture"]), self.sheet)
        settings = {"generator": self.generator.fingerprint, "truncation": self.fitted.truncation} | self.space.drawn_by
        return self._step("draw", (self.latents, self.table), outputs, settings, partial(self._draw, table))

    def _draw(self, table: pd.DataFrame) -> None:
        latents = self.space.drawable(load_file(self.latents)["drawn"])
        small = []
        pictures = drawn(self.generator, latents)
        for k, (name, picture) in enumerate(zip(table["picture"], pictures, strict=True)):
            write_picture(self.folder / name, picture)
            if k < MAX_ON_SHEET:
                small.append(thumbnail(picture))
            if self.progress:
                self.progress("draw", k + 1, len(table))
        captions = [_caption(row, self.average, k) for k, (_, row) in enumerate(table.iterrows())]
        sheet = prediction_sheet(small, captions[: len(small)], self._shown(table)[: len(small)], f"sub-{self.subject}")
        with atomic_path(self.sheet) as temporary:
            sheet.save(temporary, format="JPEG", quality=90)

    def _shown(self, table: pd.DataFrame) -> list[NDArray[np.uint8] | None]:
        """Stimulus of each row, small, where it is one of the study's."""
        if ROLE not in table:
            return [None] * len(table)
        known: dict[str, NDArray[np.uint8]] = {}
        shown: list[NDArray[np.uint8] | None] = []
        for name, role in zip(table["stim_file"], table[ROLE], strict=True):
            file = "" if pd.isna(role) else Path(str(name)).name
            if file and file not in known:
                known[file] = thumbnail(read_picture(self.stimuli.folder / file))
            shown.append(known.get(file))
        return shown

    def _notes(self, table: pd.DataFrame) -> list[str]:
        """Say what a face that the study knows means for what can be read off its prediction."""
        roles: dict[str, int] = dict(table[ROLE].value_counts()) if ROLE in table else {}
        what = "averages" if self.average else "trials"
        if roles.get("train"):
            warnings.warn(
                f"{roles['train']} of {len(table)} {what} show training faces: the decoder was fitted on them, so that "
                "a likeness proves nothing",
                DataWarning,
                stacklevel=4,
            )
        if roles.get("test"):
            return [
                f"{roles['test']} of {len(table)} {what} show test faces: nothing is scored here, `hyperdecode run` "
                "scores them"
            ]
        return []


def _is_ours(column: str) -> bool:
    return column in (ROLE, "picture") or column.startswith(SCORE)


def _caption(row: pd.Series[Any], average: str | None, k: int) -> str:
    """Words under a picture: its number, and what it is an average of, else the stimulus, else the kind of trial."""
    names = [name for name in (average or "", "stim_file", "trial_type") if name in row and pd.notna(row[name])]
    return f"{k + 1} {Path(str(row[names[0]])).stem if names else ''}".strip()

"""From a BIDS folder to single-trial z-maps, a condition contrast and a voxel mask, run by run."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from hyperdecode.errors import UserError
from hyperdecode.files import OutputError, atomic_path
from hyperdecode.fmri.contrast import Contrast, contrast_zmap, find_peaks, parse_contrast
from hyperdecode.fmri.mask import voxel_mask
from hyperdecode.pipeline.cluster import HERE, Where
from hyperdecode.pipeline.flights import TellFromWorker
from hyperdecode.pipeline.lock import Held, study_lock
from hyperdecode.pipeline.records import Step, read_facts, refuse_other_settings
from hyperdecode.pipeline.sources import KeptBold, Progress
from hyperdecode.pipeline.spatial import Raw
from hyperdecode.pipeline.subjects import bold_source
from hyperdecode.pipeline.workers import Workers, workers
from hyperdecode.pipeline.zmaps import EveryEvent, SingleTrials
from hyperdecode.report.brainmaps import draw_contrast
from hyperdecode.report.maskfigure import mask_figure
from hyperdecode.study.bids import BoldRun, index_bids, load_run
from hyperdecode.study.derivatives import Derivatives, write_image, write_table
from hyperdecode.study.events import read_events
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings

__all__ = ["PreprocessedRun", "preprocess"]


@dataclass(frozen=True)
class PreprocessedRun:
    """Where one run's outputs are.

    Attributes
    ----------
    stem : str
        The run's BIDS name.
    files : dict of str to pathlib.Path
        ``bold``, ``brain_mask``, ``single_trial``, ``trials``, ``mean``, ``tsnr``, ``mask``, ``mask_figure``; of raw
        BOLD ``motion`` and ``registration_figure``; where a contrast was asked for ``contrast``, ``contrast_figure``,
        ``peaks``.
    peaks : pandas.DataFrame or None
        Peaks of the contrast, ``x``, ``y``, ``z`` in mm and ``stat`` (z), strongest first.
    redone : tuple of str
        Kinds of steps that were done in this call: of ``"realign"``, ``"anatomy"``, ``"register"``, ``"bold"``,
        ``"hrf"``, ``"zmaps"``, ``"mask"``, ``"contrast"``.
    notes : tuple of str
        What a user should know: motion, registration, dropped voxels.
    """

    stem: str
    files: dict[str, Path]
    peaks: pd.DataFrame | None
    redone: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def preprocess(
    bids_dir: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    contrast: str | None = None,
    bold: BoldSettings | None = None,
    smoothing_fwhm: float = 5.0,
    force: bool = False,
    skip_failed: bool = False,
    where: Where = HERE,
    progress: Progress | None = None,
    failed: dict[str, str] | None = None,
) -> list[PreprocessedRun]:
    """Preprocess every run of a BIDS folder.

    Raw runs are realigned, their means brought together and registered to the subject's T1w (without one, to a
    template that looks like a mean functional), the T1w to the MNI template; all of it makes one cubic interpolation
    onto the grid. On the unsmoothed voxels of the brain: one z-map a trial (`single_trial_zmaps`) and the mask of the
    most active voxels over all trials. On the smoothed ones: the contrast. fMRIPrep's output skips what it has done.

    No slice-time correction is made; regressors are sampled at the middle of each repetition time.

    Parameters
    ----------
    bids_dir : path-like
        Raw BIDS data.
    out : path-like, optional
        Derivatives folder; default ``BIDS_DIR/derivatives/hyperdecode``.
    contrast : str, optional
        ``"face > other"``, ``"scene + house > other"``; see `parse_contrast`.
    bold : BoldSettings, optional
        Source, grid and model as in ``study.toml``; ``source_dir`` is seen from `bids_dir`.
    smoothing_fwhm : float
        In mm, for the contrast alone; 0 for none.
    force : bool
        Make everything again, over existing outputs.
    skip_failed : bool
        Go on without runs that cannot be used; they are added to `failed`.
    where : Where
        Where the steps of runs are done; those that do not wait for each other are done side by side.
    progress : callable, optional
        Called with (what, done, to do).
    failed : dict, optional
        Filled with what stopped each run that was skipped.

    Returns
    -------
    list of PreprocessedRun
        In the order of the runs.

    Raises
    ------
    UserError
        When the data cannot be used, or OUT cannot be written to, holds outputs made with other settings or is filled
        by another command.
    """
    dataset = index_bids(bids_dir)
    asked = (bold or BoldSettings()).model_copy(update={"keep_bold": True})
    if smoothing_fwhm < 0:
        raise UserError(f"smoothing must be at least 0 mm, got {smoothing_fwhm}")
    skipped: dict[str, str] = {} if failed is None else failed
    target = Path(out) if out is not None else dataset.root / "derivatives" / "hyperdecode"
    layout = Layout(dataset.root, target)
    say = None if progress is None else TellFromWorker(progress)
    subjects = [
        _Subject(layout, asked, [run for run in dataset.runs if run.subject == label], contrast, smoothing_fwhm, say)
        for label in dataset.subjects
    ]
    for subject in subjects:
        subject.check(skip_failed, skipped)
        if not force:
            subject.refuse_other_settings()
    Derivatives(target, dataset.root).prepare()
    with study_lock(target, layout.records) as held, workers(dataset.root, layout.records, where, progress) as crew:
        redone: dict[str, None] = {}
        while (bad := _attempt(crew, held, subjects, force, redone, progress)) is not None:
            subject, run, error = bad
            subject.leave_out(run, error, skip_failed, skipped)
            force = False
        return [subject.result(run, redone) for subject in subjects for run in subject.runs]


def _attempt(
    crew: Workers, held: Held, subjects: list[_Subject], force: bool, redone: dict[str, None], say: Progress | None
) -> tuple[_Subject, BoldRun, UserError] | None:
    """Do all steps; return the run that stopped them, if one did."""
    steps = {step.name: (kind, subject, step) for subject in subjects for kind, step in subject.steps()}
    totals, n_done = Counter(kind for kind, _, _ in steps.values()), Counter[str]()
    failed = None
    for done in crew.run([step for _, _, step in steps.values()], force=force, before=lambda _: held.check()):
        kind, subject, _ = steps[done.step.name]
        if done.error is not None:
            failed = failed or (subject, subject.run_of(done.step), done.error)
            continue
        if done.ran:
            redone[f"{kind}:{done.step.name}"] = None
        n_done[kind] += 1
        if say:
            say(kind if done.ran else f"{kind}: up to date", n_done[kind], totals[kind])
    if failed is None:
        return None
    subject, run, error = failed
    if run is None:
        raise error
    return subject, run, error


class _Subject:
    """The steps of one subject, with the runs that are still in it."""

    def __init__(
        self,
        layout: Layout,
        bold: BoldSettings,
        runs: list[BoldRun],
        contrast: str | None,
        fwhm: float,
        say: Progress | None,
    ) -> None:
        self.layout, self.bold, self.runs, self.contrast, self.fwhm, self.say = layout, bold, runs, contrast, fwhm, say

    def check(self, skip_failed: bool, skipped: dict[str, str]) -> None:
        """Find mistakes in events and BOLD before anything is written."""
        for run in list(self.runs):
            try:
                self._wanted(run)
                # A run that no step has worked on yet is read through, so that no work precedes its refusal.
                if not any(self.layout.records.glob(f"*_{run.stem}.toml")):
                    load_run(run, in_memory=False)
            except UserError as error:
                self.leave_out(run, error, skip_failed, skipped)

    def refuse_other_settings(self) -> None:
        """Refuse to write over outputs of other settings before the first minute of work."""
        for _, step in self.steps():
            refuse_other_settings(step, self.layout.records)

    def run_of(self, step: Step) -> BoldRun | None:
        """Return the run that a step works on; None for a step of the subject."""
        return next((run for run in self.runs if step.name.endswith(f"_{run.stem}")), None)

    def leave_out(self, run: BoldRun, error: UserError, skip_failed: bool, skipped: dict[str, str]) -> None:
        """Leave a run out, where that is wanted and others are left."""
        # A full disk is no fault of the run's.
        if isinstance(error, OutputError):
            raise error
        if not skip_failed:
            raise UserError(f"{error} (or leave the run out with --skip-failed)") from error
        self.runs.remove(run)
        skipped[run.stem] = str(error)
        if not self.runs:
            raise UserError(f"no run of sub-{run.subject} can be used; the last: {error}") from error

    @property
    def _source(self) -> KeptBold:
        source = bold_source(self.layout, self.bold, self.runs, self.say)
        assert isinstance(source, KeptBold)
        return source

    def steps(self) -> list[tuple[str, Step]]:
        """Return (kind, step) in an order in which they can be done."""
        source = self._source
        singles = SingleTrials(self.layout, self.bold, source, EveryEvent())
        steps = [*source.steps(), *singles.steps()]
        steps += [("mask", self._mask_step(run, singles)) for run in self.runs]
        if self.contrast is not None:
            steps += [("contrast", self._contrast_step(run, source)) for run in self.runs]
        return steps

    def _wanted(self, run: BoldRun) -> Contrast | None:
        events = read_events(run.events)
        return None if self.contrast is None else parse_contrast(self.contrast, list(events["trial_type"]))

    def _mask_files(self, run: BoldRun, space: str) -> tuple[Path, Path]:
        return tuple(self.layout.func(run, f"{space}desc-active_mask.{ending}") for ending in ("nii.gz", "png"))  # type: ignore[return-value]

    def _mask_step(self, run: BoldRun, singles: SingleTrials) -> Step:
        space = singles.source.space
        zmap, outputs = singles.files(run)["zmap"], self._mask_files(run, space)
        background = None if singles.source.in_mni else singles.files(run)["mean"]
        work = partial(_most_active, zmap, outputs, self.bold.n_voxels, background)
        settings = {"mask_voxels": self.bold.n_voxels}
        return Step(f"mask_{space}{run.stem}", 1, settings, (zmap,), outputs, work)

    def _contrast_files(self, run: BoldRun, space: str, contrast: Contrast) -> tuple[Path, ...]:
        label = f"{space}contrast-{contrast.label}"
        names = (f"{label}_stat-z_statmap.nii.gz", f"{label}_stat-z_statmap.png", f"{label}_peaks.tsv")
        return tuple(self.layout.func(run, name) for name in names)

    def _contrast_step(self, run: BoldRun, source: KeptBold) -> Step:
        wanted = self._wanted(run)
        assert wanted is not None
        outputs = self._contrast_files(run, source.space, wanted)
        settings = source.settings(run) | {"contrast": wanted.weights, "smoothing_fwhm_mm": self.fwhm}
        work = partial(_contrast, run, source, wanted, self.fwhm, outputs)
        return Step(f"contrast_{wanted.label}_{source.space}{run.stem}", 1, settings, source.inputs(run), outputs, work)

    def result(self, run: BoldRun, redone: dict[str, None]) -> PreprocessedRun:
        """Return where the outputs of a run are."""
        source = self._source
        singles = SingleTrials(self.layout, self.bold, source, EveryEvent())
        made, kept = singles.files(run), source.files(run)
        mask, mask_figure = self._mask_files(run, source.space)
        files = {key: kept[key] for key in ("bold", "brain_mask")} | {
            "single_trial": made["zmap"],
            "trials": made["trials"],
            "mean": made["mean"],
            "tsnr": made["tsnr"],
            "mask": mask,
            "mask_figure": mask_figure,
        }
        if isinstance(source.source, Raw):
            files["motion"] = source.source.motion_file(run)
            if source.source.in_mni:
                files["registration_figure"] = source.source.figure
        peaks = None
        wanted = self._wanted(run)
        if wanted is not None:
            found = self._contrast_files(run, source.space, wanted)
            files |= dict(zip(("contrast", "contrast_figure", "peaks"), found, strict=True))
            peaks = pd.read_csv(files["peaks"], sep="\t")
        mine = [pair.split(":", 1) for pair in redone]
        kinds = dict.fromkeys(kind for kind, name in mine if name.endswith((f"_{run.stem}", f"_sub-{run.subject}")))
        return PreprocessedRun(run.stem, files, peaks, tuple(kinds), tuple(self._notes(run)))

    def _notes(self, run: BoldRun) -> list[str]:
        """Return what the steps noted of a run."""
        notes = []
        for _, step in self.steps():
            if not step.name.endswith((f"_{run.stem}", f"_sub-{run.subject}")):
                continue
            facts = read_facts(self.layout.records, step.name)
            if "mean_framewise_displacement_mm" in facts:
                mean, most = (facts[f"{kind}_framewise_displacement_mm"] for kind in ("mean", "largest"))
                notes.append(f"mean framewise displacement {mean:.2f} mm (largest {most:.2f} mm)")
            notes += [*facts.get("warnings", []), *facts.get("notes", [])]
        return list(dict.fromkeys(notes))


def _most_active(zmap: Path, outputs: tuple[Path, Path], n_voxels: int, background: Path | None) -> dict[str, Any]:
    """Write the mask of the most active voxels of a run: each of its trials is a training trial here."""
    image = nib.load(zmap)
    values = np.asarray(image.dataobj, dtype=np.float32)
    inside = (values != 0).any(axis=3)
    mask = voxel_mask(values[inside].T, None, n_voxels)
    volume = np.zeros(inside.shape, dtype=np.uint8)
    volume[inside] = mask.selected
    written = write_image(outputs[0], volume, image.affine, space="scanner" if background else "mni")
    with atomic_path(outputs[1]) as temporary:
        temporary.write_bytes(mask_figure(written, nib.load(background) if background else None))
    return {"notes": [f"{mask.n_dropped_nan} voxels without a finite z were left out of the mask"]}


def _contrast(run: BoldRun, source: KeptBold, wanted: Contrast, fwhm: float, outputs: tuple[Path, ...]) -> None:
    """Write the z-map of the contrast, its picture, its peaks."""
    clean, files = source.clean(run), source.files(run)
    bold = nib.load(files["bold"])
    values = np.asarray(bold.dataobj, dtype=np.float32)
    seen = clean.inside & np.isfinite(values).all(axis=3)
    brain = nib.Nifti1Image(seen.astype(np.uint8), bold.affine)
    series = nib.Nifti1Image(np.where(seen[..., None], values, np.float32(0)), bold.affine)
    z = contrast_zmap(
        series,
        brain,
        clean.events,
        clean.t_r,
        wanted,
        smoothing_fwhm=fwhm or None,
        high_pass=clean.high_pass,
        confounds=clean.confounds,
        slice_time_ref=clean.slice_time_ref,
    )
    values = np.asarray(z.dataobj, dtype=np.float32)
    image = write_image(outputs[0], values, brain.affine, space="mni" if source.in_mni else "scanner")
    draw_contrast(outputs[1], image, f"{run.stem}: {wanted.label}, z")
    write_table(outputs[2], find_peaks(values, brain.affine))

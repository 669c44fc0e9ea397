"""From a raw BIDS folder to single-trial z-maps, a condition contrast and a voxel mask in MNI space."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.files import sha256_file
from hyperdecode.fmri.contrast import Contrast, contrast_zmap, find_peaks, parse_contrast
from hyperdecode.fmri.mask import voxel_mask
from hyperdecode.fmri.normalise import (
    TEMPLATE_SPACE,
    Anatomy,
    Template,
    grid_points,
    mni_template,
    normalise,
    register_anatomy,
)
from hyperdecode.fmri.realign import Motion, realign
from hyperdecode.fmri.resample import resample
from hyperdecode.fmri.singletrial import Method, single_trial_zmaps
from hyperdecode.report.brainmaps import draw_contrast, draw_mask, draw_registration
from hyperdecode.study.bids import BoldRun, LoadedRun, index_bids, load_run, read_image
from hyperdecode.study.derivatives import Derivatives, write_image, write_json, write_table

__all__ = ["PreprocessedRun", "preprocess"]

StepProgress = Callable[[str, int, int], None]
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
SLICE_TIME_REF = 0.5
HIGH_PASS = 0.01


@dataclass(frozen=True)
class PreprocessedRun:
    """Where one run's outputs are.

    Attributes
    ----------
    stem : str
        The run's BIDS name.
    files : dict of str to pathlib.Path
        ``bold``, ``brain_mask``, ``motion``, ``registration_figure``, ``single_trial``, ``trials``, ``mask``,
        ``mask_figure``, ``contrast``, ``contrast_figure``, ``peaks``.
    peaks : pandas.DataFrame
        Peaks of the contrast, ``x``, ``y``, ``z`` in MNI mm and ``stat`` (z), strongest first.
    redone : tuple of str
        Steps that were done in this call: of ``"motion"``, ``"spatial"``, ``"single-trial"``, ``"contrast"``.
    notes : tuple of str
        What a user should know: dropped voxels, motion.
    """

    stem: str
    files: dict[str, Path]
    peaks: pd.DataFrame
    redone: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def preprocess(
    bids_dir: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    contrast: str,
    method: Method = "lss",
    mask_voxels: int = 4096,
    smoothing_fwhm: float = 5.0,
    voxel_size: int = 3,
    force: bool = False,
    progress: StepProgress | None = None,
) -> list[PreprocessedRun]:
    """Preprocess every run of a BIDS folder.

    Each run is realigned, its mean registered to the subject's T1w and the T1w to the MNI template; motion, rigid,
    affine and warp together make one cubic interpolation onto the MNI grid. On the unsmoothed voxels of the
    template's brain: one z-map a trial (`single_trial_zmaps`, motion parameters as confounds) and the mask of
    the `mask_voxels` most active voxels over all trials. On the smoothed ones: the contrast.

    No slice-time correction is made; regressors are sampled at the middle of each repetition time.

    Parameters
    ----------
    bids_dir : path-like
        Raw BIDS data with a T1w for each subject.
    out : path-like, optional
        Derivatives folder; default ``BIDS_DIR/derivatives/hyperdecode``.
    contrast : str
        ``"face > other"``, ``"scene + house > other"``; see `parse_contrast`.
    method : {"lss", "lsa"}
        Of the single-trial maps.
    mask_voxels : int
        Size of the voxel mask.
    smoothing_fwhm : float
        In mm, for the contrast alone; 0 for none.
    voxel_size : int
        Of the MNI grid, in mm.
    force : bool
        Make everything again, over existing outputs.
    progress : callable, optional
        Called with (step, done, to do).

    Returns
    -------
    list of PreprocessedRun
        In the order of the runs.

    Raises
    ------
    UserError
        When the data cannot be used, or OUT cannot be written to or holds outputs made with other settings.
    """
    dataset = index_bids(bids_dir)
    if mask_voxels < 1 or smoothing_fwhm < 0:
        raise UserError(f"mask_voxels must be at least 1 and smoothing at least 0, got {mask_voxels}, {smoothing_fwhm}")
    if method not in get_args(Method):
        raise UserError(f"unknown single-trial method {method!r}: choose 'lss' or 'lsa'")
    grid = mni_template(voxel_size)
    for run in dataset.runs:
        if run.t1w is None:
            raise UserError(
                f"sub-{run.subject} has no T1w image in {dataset.root}: normalising needs one, "
                f"expected sub-{run.subject}/[ses-*/]anat/*_T1w.nii.gz"
            )
    target = Derivatives(out if out is not None else dataset.root / "derivatives" / "hyperdecode", dataset.root)
    say = progress or (lambda step, done, total: None)
    anatomies: dict[Path, Anatomy] = {}
    return [
        _Run(run, target, grid, anatomies, force, say).work(contrast, method, mask_voxels, smoothing_fwhm, voxel_size)
        for run in dataset.runs
    ]


class _Run:
    """The four steps of one run; each knows its inputs, settings and outputs."""

    def __init__(
        self,
        run: BoldRun,
        target: Derivatives,
        grid: Template,
        anatomies: dict[Path, Anatomy],
        force: bool,
        say: StepProgress,
    ) -> None:
        self.run, self.target, self.grid, self.force, self.say = run, target, grid, force, say
        self.anatomies = anatomies
        self.motion: Motion | None = None
        self.redone: list[str] = []
        self.notes: list[str] = []

    def work(self, contrast: str, method: Method, mask_voxels: int, fwhm: float, voxel_size: int) -> PreprocessedRun:
        self.say("read", 0, 1)
        loaded = load_run(self.run)
        wanted = parse_contrast(contrast, list(loaded.events["trial_type"]))
        self.say("read", 1, 1)
        self.target.prepare()
        space = f"{self.run.stem}_space-{TEMPLATE_SPACE}_res-{voxel_size}"
        assert self.run.t1w is not None
        moved = {"bold_sha256": sha256_file(self.run.bold)}
        inputs = moved | {
            "t1w_sha256": sha256_file(self.run.t1w),
            "voxel_size_mm": voxel_size,
            "space": TEMPLATE_SPACE,
        }
        trials = inputs | {
            "events_sha256": sha256_file(self.run.events),
            "repetition_time_s": loaded.t_r,
            "method": method,
            "mask_voxels": mask_voxels,
            "high_pass_hz": HIGH_PASS,
            "slice_time_ref": SLICE_TIME_REF,
        }
        weighed = {k: v for k, v in trials.items() if k not in ("method", "mask_voxels")} | {
            "contrast": wanted.weights,
            "smoothing_fwhm_mm": fwhm,
        }
        label = f"{space}_contrast-{wanted.label}"
        files = {
            "bold": self._path(f"{space}_desc-preproc_bold.nii.gz"),
            "brain_mask": self._path(f"{space}_desc-brain_mask.nii.gz"),
            "motion": self._path(f"{self.run.stem}_desc-motion_timeseries.tsv"),
            "registration_figure": self._path(f"{space}_desc-registration_bold.png"),
            "single_trial": self._path(f"{space}_desc-singletrial_stat-z_statmap.nii.gz"),
            "trials": self._path(f"{space}_desc-singletrial_stat-z_statmap.tsv"),
            "mask": self._path(f"{space}_desc-active_mask.nii.gz"),
            "mask_figure": self._path(f"{space}_desc-active_mask.png"),
            "contrast": self._path(f"{label}_stat-z_statmap.nii.gz"),
            "contrast_figure": self._path(f"{label}_stat-z_statmap.png"),
            "peaks": self._path(f"{label}_peaks.tsv"),
        }
        spatial_keys = ("bold", "brain_mask", "registration_figure")
        trial_keys = ("single_trial", "trials", "mask", "mask_figure")
        contrast_keys = ("contrast", "contrast_figure", "peaks")
        plan = (
            ("motion", f"{self.run.stem}_desc-motion_timeseries.json", moved, ("motion",)),
            ("spatial", f"{space}_desc-preproc_bold.json", inputs, spatial_keys),
            ("single-trial", f"{space}_desc-singletrial_stat-z_statmap.json", trials, trial_keys),
            ("contrast", f"{label}_stat-z_statmap.json", weighed, contrast_keys),
        )
        # Every refusal to write over something comes before the first minute of work.
        stands = [
            self.target.up_to_date(self._path(record), settings, [files[k] for k in keys], self.force)
            for _, record, settings, keys in plan
        ]
        for i, (step, record, settings, _) in enumerate(plan):
            if stands[i] and "spatial" not in self.redone:
                self.say(f"{step}: up to date", 1, 1)
                continue
            write_json(self._path(record), {"complete": False, "settings": settings})
            content: dict[str, Any] = {}
            if step == "motion":
                content = self._motion(loaded, files)
            elif step == "spatial":
                content = self._spatial(loaded, files)
            elif step == "single-trial":
                content = self._single_trial(loaded, files, method, mask_voxels)
            else:
                self._contrast(loaded, files, wanted, fwhm)
            if step == "spatial":
                content |= {"RepetitionTime": loaded.t_r, "SkullStripped": True, "TaskName": self.run.task}
            write_json(self._path(record), {"complete": True, "settings": settings} | content)
            self.redone.append(step)
        peaks = pd.read_csv(files["peaks"], sep="\t")
        return PreprocessedRun(self.run.stem, files, peaks, tuple(self.redone), tuple(self.notes))

    def _path(self, name: str) -> Path:
        return self.target.path(self.run.subject, self.run.session, name)

    def _realigned(self, loaded: LoadedRun) -> Motion:
        """Realign once a call."""
        if self.motion is None:
            volumes, affine = np.asanyarray(loaded.image.dataobj), np.asarray(loaded.image.affine, dtype=np.float64)
            self.motion = realign(volumes, affine, progress=lambda done, total: self.say("realign", done, total))
        return self.motion

    def _motion(self, loaded: LoadedRun, files: dict[str, Path]) -> dict[str, Any]:
        """Write the motion parameters."""
        motion = self._realigned(loaded)
        table = pd.DataFrame(motion.parameters, columns=list(MOTION))
        table["framewise_displacement"] = motion.framewise_displacement
        table.loc[0, "framewise_displacement"] = np.nan
        write_table(files["motion"], table)
        mean_fd = float(motion.framewise_displacement[1:].mean())
        largest = float(motion.framewise_displacement.max())
        self.notes.append(f"mean framewise displacement {mean_fd:.2f} mm (largest {largest:.2f} mm)")
        units = {name: {"Units": "mm"} for name in (*MOTION[:3], "framewise_displacement")}
        return (
            {"centre_mm": motion.centre.tolist(), "mean_framewise_displacement_mm": mean_fd}
            | units
            | {name: {"Units": "rad"} for name in MOTION[3:]}
        )

    def _spatial(self, loaded: LoadedRun, files: dict[str, Path]) -> dict[str, Any]:
        """Normalise, and interpolate once."""
        volumes, affine = np.asanyarray(loaded.image.dataobj), np.asarray(loaded.image.affine, dtype=np.float64)
        motion = self._realigned(loaded)
        self.say("normalise", 0, 2)
        assert self.run.t1w is not None
        if self.run.t1w not in self.anatomies:
            self.anatomies[self.run.t1w] = register_anatomy(read_image(self.run.t1w, n_dimensions=3))
        self.say("normalise", 1, 2)
        to_mni = normalise(nib.Nifti1Image(motion.mean, affine), self.anatomies[self.run.t1w])
        self.say("normalise", 2, 2)

        points = grid_points(self.grid.mask.shape, self.grid.affine)[self.grid.mask.ravel()]
        values = resample(
            volumes, affine, motion.matrices, to_mni.to_epi(points),
            progress=lambda done, total: self.say("interpolate", done, total),
        )  # fmt: skip
        seen = np.isfinite(values).all(axis=0)
        series = np.zeros((*self.grid.mask.shape, values.shape[0]), dtype=np.float32)
        series[self.grid.mask] = np.where(seen, values, np.nan).T
        write_image(files["bold"], series, self.grid.affine, loaded.t_r)
        brain = np.zeros(self.grid.mask.shape, dtype=np.uint8)
        brain[self.grid.mask] = seen
        write_image(files["brain_mask"], brain, self.grid.affine)
        everywhere = to_mni.to_epi(grid_points(self.grid.mask.shape, self.grid.affine))
        picture = resample(motion.mean[..., None], affine, np.eye(4)[None], everywhere)[0].reshape(self.grid.mask.shape)
        draw_registration(
            files["registration_figure"],
            picture,
            nib.Nifti1Image(self.grid.brain, self.grid.affine),
            self.grid.affine,
            f"{self.run.stem}: mean functional, template in red",
        )
        unseen = int((~seen).sum())
        self.notes.append(f"{unseen} of {seen.size} brain voxels lie outside the field of view or have no finite value")
        return {"n_brain_voxels": seen.size, "n_voxels_not_seen": unseen}

    def _bold_in_brain(self, files: dict[str, Path]) -> NDArray[np.float32]:
        series = np.asarray(nib.load(files["bold"]).dataobj, dtype=np.float32)
        return np.ascontiguousarray(series[self.grid.mask].T)

    def _confounds(self, files: dict[str, Path]) -> NDArray[np.float64]:
        return pd.read_csv(files["motion"], sep="\t")[list(MOTION)].to_numpy(dtype=np.float64)

    def _single_trial(
        self, loaded: LoadedRun, files: dict[str, Path], method: Method, mask_voxels: int
    ) -> dict[str, Any]:
        """One z-map a trial, and the mask."""
        self.say("single-trial z-maps", 0, 1)
        maps = single_trial_zmaps(
            self._bold_in_brain(files),
            loaded.events["onset"],
            loaded.events["duration"],
            loaded.t_r,
            method=method,
            high_pass=HIGH_PASS,
            confounds=self._confounds(files),
            slice_time_ref=SLICE_TIME_REF,
        )
        # Every trial of the run is a training trial here; a study with test trials chooses its mask itself.
        mask = voxel_mask(maps.z, None, mask_voxels)
        stacked = np.zeros((*self.grid.mask.shape, maps.z.shape[0]), dtype=np.float32)
        stacked[self.grid.mask] = maps.z.T
        write_image(files["single_trial"], stacked, self.grid.affine)
        table = loaded.events.copy()
        table.insert(0, "volume", np.arange(len(table)))
        write_table(files["trials"], table)
        selected = np.zeros(self.grid.mask.shape, dtype=np.uint8)
        selected[self.grid.mask] = mask.selected
        image = write_image(files["mask"], selected, self.grid.affine)
        draw_mask(files["mask_figure"], image, f"{self.run.stem}: the {mask_voxels} most active voxels")
        self.notes.append(f"{mask.n_dropped_nan} voxels without a finite z were left out of the mask")
        self.say("single-trial z-maps", 1, 1)
        return {"degrees_of_freedom": maps.dof, "n_trials": len(table), "n_voxels_dropped": mask.n_dropped_nan}

    def _contrast(self, loaded: LoadedRun, files: dict[str, Path], wanted: Contrast, fwhm: float) -> None:
        """Write the z-map of the contrast, its picture, its peaks."""
        self.say(f"contrast {wanted.label}", 0, 1)
        brain = nib.load(files["brain_mask"])
        bold = nib.load(files["bold"])
        clean = nib.Nifti1Image(np.nan_to_num(np.asarray(bold.dataobj, dtype=np.float32)), bold.affine)
        z = contrast_zmap(
            clean, brain, loaded.events, loaded.t_r, wanted,
            smoothing_fwhm=fwhm or None, high_pass=HIGH_PASS,
            confounds=self._confounds(files), slice_time_ref=SLICE_TIME_REF,
        )  # fmt: skip
        values = np.asarray(z.dataobj, dtype=np.float32)
        image = write_image(files["contrast"], values, brain.affine)
        draw_contrast(files["contrast_figure"], image, f"{self.run.stem}: {wanted.label}, z")
        write_table(files["peaks"], find_peaks(values, brain.affine))
        self.say(f"contrast {wanted.label}", 1, 1)

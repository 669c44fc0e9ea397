"""Raw BOLD of one subject onto one grid: realigned, runs brought together, normalised, interpolated once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import DataWarning
from hyperdecode.fmri.confounds import motion_confounds, motion_names, scrub_columns
from hyperdecode.fmri.grids import Volume, apply_affine, grid_points
from hyperdecode.fmri.normalise import (
    TEMPLATE_SPACE,
    Anatomy,
    Normalisation,
    Template,
    epi_mask,
    mni_template,
    normalise,
    register_anatomy,
    register_epi,
)
from hyperdecode.fmri.realign import align_to, realign
from hyperdecode.fmri.registration_quality import registration_quality
from hyperdecode.fmri.resample import resample
from hyperdecode.pipeline.records import Step, read_facts
from hyperdecode.pipeline.sources import CleanSeries, Progress
from hyperdecode.report.brainmaps import draw_registration
from hyperdecode.study.bids import BoldRun, load_run
from hyperdecode.study.derivatives import write_image, write_json, write_table
from hyperdecode.study.images import read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.transforms import read_matrices, read_warp, write_matrices, write_warp

__all__ = ["MOTION", "Raw"]

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


@dataclass(frozen=True)
class Raw:
    """BOLD as the scanner wrote it.

    Each run is realigned to its first volume, then to its mean; each run's mean is brought to that of the first run
    (`align_to`), which is registered to the T1w, and the T1w to the MNI template; without a T1w the mean functional is
    registered to a template that looks like it. A BOLD value is interpolated once, through all of it.
    """

    layout: Layout
    runs: tuple[BoldRun, ...]
    bold: BoldSettings
    say: Progress | None = None

    @property
    def subject(self) -> str:
        """The subject's label."""
        return self.runs[0].subject

    @property
    def t1w(self) -> Path | None:
        """The subject's T1w."""
        return next((run.t1w for run in self.runs if run.t1w is not None), None)

    @property
    def in_mni(self) -> bool:
        """As study.toml says."""
        return self.bold.space == "mni"

    @property
    def space(self) -> str:
        """The MNI grid, or none for that of the first run."""
        return f"space-{TEMPLATE_SPACE}_res-{self.bold.voxel_size}_" if self.in_mni else ""

    @property
    def words(self) -> str:
        """One sentence for the report."""
        way = "registered to the T1w and this to MNI space" if self.t1w else "registered to MNI space without a T1w"
        onto = f"{way} ({self.bold.voxel_size} mm)" if self.in_mni else "brought to the mean of the first run"
        return f"The BOLD was realigned to the first volume and then to the mean, {onto}, and interpolated once."

    def steps(self) -> list[tuple[str, Step]]:
        """Realign each run, register the anatomy, bring everything together."""
        steps = [("realign", self._realign_step(run)) for run in self.runs]
        if self.in_mni and self.t1w is not None:
            steps.append(("anatomy", self._anatomy_step(self.t1w)))
        return [*steps, ("register", self._register_step())]

    def inputs(self, run: BoldRun) -> tuple[Path, ...]:
        """BOLD, events, motion and everything that leads to the grid."""
        way = (self._motion_matrices(run), self.motion_file(run), self._run_matrix(run), self._reference)
        registered = (self._epi_matrix, self._warp, self._warp_matrix) if self.in_mni else ()
        return (run.bold, run.events, *way, *registered)

    def settings(self, run: BoldRun) -> dict[str, Any]:
        """Grid and confounds."""
        asked = self.bold.model_dump(include={"space", "voxel_size", "confounds", "motion", "fd_threshold"})
        return {"source": "raw", "bids": dict(run.sidecar), **asked}

    def clean(self, run: BoldRun, progress: Progress | None = None) -> CleanSeries:
        """Interpolate the run at the brain of the grid, once."""
        say = progress or self.say
        loaded = load_run(run)
        volumes, affine = np.asanyarray(loaded.image.dataobj), np.asarray(loaded.image.affine, dtype=np.float64)
        inside, grid_affine, points = self._grid()
        at = apply_affine(read_matrices(self._run_matrix(run))[0], points)
        values = resample(
            volumes, affine, read_matrices(self._motion_matrices(run)), at,
            progress=None if say is None else lambda done, total: say("interpolate", done, total),
        )  # fmt: skip
        seen = np.isfinite(values).all(axis=0)
        values[:, ~seen] = np.nan
        unseen = int((~seen).sum())
        columns, names = self._confounds(run)
        notes = [f"{unseen} of {seen.size} brain voxels lie outside the field of view or have no finite value"]
        return CleanSeries(
            values=values,
            inside=inside,
            affine=grid_affine,
            events=loaded.events,
            t_r=loaded.t_r,
            confounds=columns,
            names=names,
            high_pass=self.bold.high_pass,
            slice_time_ref=self.bold.slice_time_ref,
            notes=tuple(notes if unseen else ()),
        )

    def _confounds(self, run: BoldRun) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        table = pd.read_csv(self.motion_file(run), sep="\t")
        columns, names = [np.zeros((len(table), 0))], []
        if "motion" in self.bold.confounds:
            moved = motion_confounds(table[list(MOTION)].to_numpy(np.float64), self.bold.motion)
            columns.append(moved)
            names += motion_names(self.bold.motion)
        if "scrub" in self.bold.confounds:
            displacement = table["framewise_displacement"].fillna(0).to_numpy(np.float64)
            spikes = scrub_columns(displacement, table["motion_outlier"].to_numpy() > 0, self.bold.fd_threshold)
            columns.append(spikes)
            names += [f"scrubbed_{k + 1:02d}" for k in range(spikes.shape[1])]
        return np.hstack(columns), tuple(names)

    # Files, from what is wanted to what it is made of.

    def motion_file(self, run: BoldRun) -> Path:
        """Motion parameters, framewise displacement and spikes of a run."""
        return self.layout.func(run, "desc-confounds_timeseries.tsv")

    def _motion_matrices(self, run: BoldRun) -> Path:
        return self.layout.func(run, "from-boldref_to-orig_mode-points_xfm.json")

    def _boldref(self, run: BoldRun) -> Path:
        # Of the realigned run on its own grid, by fMRIPrep's name; `desc-mean` is on the subject's grid, brain only.
        return self.layout.func(run, "desc-hmc_boldref.nii.gz")

    def _run_matrix(self, run: BoldRun) -> Path:
        return self.layout.func(run, "from-reference_to-boldref_mode-points_xfm.json")

    @property
    def _reference(self) -> Path:
        """Mean functional of the first run, which all runs are brought to."""
        return self._boldref(self.runs[0])

    @property
    def _epi_matrix(self) -> Path:
        return self.layout.func(self.runs[0], "from-T1w_to-reference_mode-points_xfm.json")

    @property
    def _warp(self) -> Path:
        return self.layout.anat(self.subject, f"from-{TEMPLATE_SPACE}_to-T1w_mode-points_desc-warp_xfm.nii.gz")

    @property
    def _warp_matrix(self) -> Path:
        return self.layout.anat(self.subject, f"from-{TEMPLATE_SPACE}_to-T1w_mode-points_desc-affine_xfm.json")

    @property
    def figure(self) -> Path:
        """Overlay by which the registration is judged."""
        return self.layout.subject(self.subject, f"space-{TEMPLATE_SPACE}_desc-registration.png")

    @property
    def figure_caption(self) -> str:
        """What the overlay shows, and the figures of the registration."""
        facts = read_facts(self.layout.records, f"register_sub-{self.subject}")
        known = (
            f"Overlap of the brains (Dice) {facts['dice']:.2f}; a second registration would move it by "
            f"{facts['off_mm']:.1f} mm; {facts['seen']:.0%} of the template's brain lies in the field of view. "
            if "dice" in facts
            else ""
        )
        return (
            "Mean functional of the first run, carried to the template: the template's brain in red, white matter in "
            f"blue. {known}Good: the lines follow the brain's edge and the white matter in every slice. Bad: a shift "
            "or a turn."
        )

    # Steps.

    def _realign_step(self, run: BoldRun) -> Step:
        motion = self.motion_file(run)
        outputs = (motion, motion.with_suffix(".json"), self._motion_matrices(run), self._boldref(run))
        return Step(f"realign_{run.stem}", 1, {}, (run.bold,), outputs, partial(self._realign, run))

    def _realign(self, run: BoldRun) -> dict[str, Any]:
        image = read_image(run.bold, n_dimensions=4)
        volumes, affine = np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
        say = self.say
        motion = realign(
            volumes, affine, progress=None if say is None else lambda done, total: say("realign", done, total)
        )
        table = pd.DataFrame(motion.parameters, columns=list(MOTION))
        table["framewise_displacement"] = motion.framewise_displacement
        table.loc[0, "framewise_displacement"] = np.nan
        table["motion_outlier"] = motion.outliers.astype(int)
        write_matrices(self._motion_matrices(run), motion.matrices)
        write_image(self._boldref(run), motion.mean, affine, space="scanner")
        write_table(self.motion_file(run), table)
        facts = {
            "mean_framewise_displacement_mm": float(motion.framewise_displacement[1:].mean()),
            "largest_framewise_displacement_mm": float(motion.framewise_displacement.max()),
            "n_outliers": int(motion.outliers.sum()),
        }
        units = {name: {"Units": "mm"} for name in (*MOTION[:3], "framewise_displacement")}
        units |= {name: {"Units": "rad"} for name in MOTION[3:]}
        spike = {"motion_outlier": {"Description": "1 where the volume is a spike or carries no signal"}}
        write_json(
            self.motion_file(run).with_suffix(".json"), {"RotationCentre": motion.centre.tolist()} | units | spike
        )
        return facts

    def _anatomy_step(self, t1w: Path) -> Step:
        outputs = (self._warp, self._warp_matrix, self.layout.anat(self.subject, "desc-brain_T1w.nii.gz"))
        return Step(f"anatomy_sub-{self.subject}", 1, {}, (t1w,), outputs, partial(self._anatomy, t1w))

    def _anatomy(self, t1w: Path) -> None:
        anatomy = register_anatomy(read_image(t1w, n_dimensions=3))
        write_warp(self._warp, anatomy.warp, anatomy.warp_affine)
        write_matrices(self._warp_matrix, anatomy.t1_from_template[None])
        brain = self.layout.anat(self.subject, "desc-brain_T1w.nii.gz")
        write_image(brain, anatomy.brain, anatomy.affine, space="scanner")

    def _register_step(self) -> Step:
        boldrefs = tuple(self._boldref(run) for run in self.runs)
        outputs = [self._run_matrix(run) for run in self.runs]
        inputs = list(boldrefs)
        if self.in_mni:
            registered = [self._warp, self._warp_matrix]
            outputs += [self._epi_matrix, self.figure]
            if self.t1w is not None:
                inputs += [*registered, self._brain]
            else:
                outputs += registered
        settings = self.bold.model_dump(include={"space"})
        return Step(f"register_sub-{self.subject}", 1, settings, tuple(inputs), tuple(outputs), self._register)

    def _register(self) -> dict[str, Any]:
        reference = nib.load(self._reference)
        mean = np.asarray(reference.dataobj, dtype=np.float32)
        for run in self.runs:
            image = nib.load(self._boldref(run))
            matrix = np.eye(4)
            if run is not self.runs[0]:
                values = np.asarray(image.dataobj, dtype=np.float32)
                matrix = align_to(values, mean, image.affine, reference.affine)
            write_matrices(self._run_matrix(run), matrix[None])
        if not self.in_mni:
            return {}
        anatomy = self._read_anatomy() if self.t1w is not None else None
        to_mni = register_epi(reference) if anatomy is None else normalise(reference, anatomy)
        if self.t1w is None:
            write_warp(self._warp, to_mni.warp, to_mni.warp_affine)
            write_matrices(self._warp_matrix, to_mni.t1_from_template[None])
        write_matrices(self._epi_matrix, to_mni.epi_from_t1[None])
        return self._judge(reference, to_mni, anatomy)

    def _judge(self, reference: Any, to_mni: Normalisation, anatomy: Anatomy | None) -> dict[str, Any]:
        """Say how well the registration fits, and draw it."""
        template = mni_template(2)
        quality = registration_quality(reference, to_mni, template, anatomy)
        draw_registration(self.figure, reference, to_mni, template, f"sub-{self.subject}", anatomy)
        for words in quality.poor:
            warnings.warn(f"sub-{self.subject}: {words}", DataWarning, stacklevel=2)
        figures = {"dice": quality.dice, "off_mm": quality.off_mm, "seen": quality.seen}
        return figures | {"t1_correlation": quality.t1_correlation, "warnings": list(quality.poor)}

    def _read_anatomy(self) -> Anatomy:
        warp, warp_affine = read_warp(self._warp)
        brain = nib.load(self._brain)
        matrix = read_matrices(self._warp_matrix)[0]
        return Anatomy(np.asarray(brain.dataobj, np.float32), np.asarray(brain.affine), matrix, warp, warp_affine)

    @property
    def _brain(self) -> Path:
        return self.layout.anat(self.subject, "desc-brain_T1w.nii.gz")

    @cached_property
    def _template(self) -> Template:
        return mni_template(self.bold.voxel_size)

    def _grid(self) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """Return the brain on the grid, the grid's affine, and the brain's points in mm of the first run's mean."""
        if not self.in_mni:
            reference = nib.load(self._reference)
            values = np.asarray(reference.dataobj, np.float32)
            inside = epi_mask(Volume(values, np.asarray(reference.affine)))
            return inside, np.asarray(reference.affine), grid_points(inside.shape, reference.affine)[inside.ravel()]
        inside, affine = self._template.mask, self._template.affine
        warp, warp_affine = read_warp(self._warp)
        ways = read_matrices(self._epi_matrix)[0], read_matrices(self._warp_matrix)[0]
        to_mni = Normalisation(*ways, warp, warp_affine)
        return inside, affine, to_mni.to_epi(grid_points(inside.shape, affine)[inside.ravel()])

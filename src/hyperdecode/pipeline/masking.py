"""The voxels that the decoder reads, and their trials x voxels, from z-maps made here or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.fmri.mask import (
    VoxelMask,
    labels_on_grid,
    region_mask,
    regions_by_name,
    reliability_mask,
    voxel_mask,
    whole_mask,
)
from hyperdecode.pipeline.fitted_on import FITTED_ON, fitted_on
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.sources import BoldSource
from hyperdecode.report.maskfigure import mask_figure
from hyperdecode.split import Split
from hyperdecode.study.derivatives import write_image, write_table
from hyperdecode.study.estimates import estimates_files, find_estimates
from hyperdecode.study.images import check_grid, read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import StimulusSet
from hyperdecode.weights.atlas import load_atlas

__all__ = ["MASK_NAMES", "EstimatedTrials", "MappedTrials", "Masking", "TrialMaps"]

MASK_NAMES = {"active": "mostactive", "reliable": "mostreliable", "regions": "regions", "all": "brain"}
"""The `desc` of each kind of mask."""


@dataclass(frozen=True)
class TrialMaps:
    """Every trial of a subject at the voxels that were measured in every run.

    Attributes
    ----------
    z : ndarray of float32, shape (n_trials, n_voxels)
    trials : pandas.DataFrame
        One row a trial; ``stim_file`` names its stimulus.
    voxels : ndarray of intp, shape (n_voxels,)
        Their places on the grid, flat in C order.
    shape : tuple of int
        The grid; ``(n, 1, 1)`` where places are not known.
    affine : ndarray or None
        Voxel to mm; None where places are not known.
    n_dropped : int
        Voxels of the brain that were left out since a run lacks them.
    """

    z: NDArray[np.float32]
    trials: pd.DataFrame
    voxels: NDArray[np.intp]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64] | None
    n_dropped: int


class MappedTrials:
    """z-maps that this package made, one NIfTI a run."""

    def __init__(self, layout: Layout, source: BoldSource) -> None:
        self.layout, self.source = layout, source
        self.in_mni = source.in_mni

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that `read` reads."""
        space = self.source.space
        return tuple(
            path for run in self.source.runs for path in (self.layout.zmap(run, space), self.layout.trials(run, space))
        )

    @property
    def background(self) -> Path | None:
        """What to draw a mask on, where the template is of no use."""
        return None if self.in_mni else self.layout.mean_functional(self.source.runs[0], self.source.space)

    def read(self) -> TrialMaps:
        """Read run by run, and keep the voxels that every run has."""
        runs, space = self.source.runs, self.source.space
        images = [nib.load(self.layout.zmap(run, space)) for run in runs]
        for run, image in zip(runs, images, strict=True):
            check_grid(images[0], runs[0].bold, image, run.bold)
        seen, somewhere = _seen(images)
        z = np.empty((sum(image.shape[3] for image in images), int(seen.sum())), np.float32)
        first = 0
        for image in images:
            z[first : first + image.shape[3]] = np.asarray(image.dataobj, np.float32)[seen].T
            first += image.shape[3]
        tables = [pd.read_csv(self.layout.trials(run, space), sep="\t") for run in runs]
        x, y, depth = images[0].shape[:3]
        return TrialMaps(
            z,
            pd.concat(tables, ignore_index=True),
            np.flatnonzero(seen),
            (x, y, depth),
            np.asarray(images[0].affine),
            int(somewhere.sum()) - int(seen.sum()),
        )


def _seen(images: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Voxels that every run has, and those that any has; a run's z is 0 in all trials outside its brain."""
    seen, somewhere = (np.full(images[0].shape[:3], value) for value in (True, False))
    for image in images:
        values = np.asarray(image.dataobj, np.float32)
        inside = (values != 0).any(axis=3)
        somewhere |= inside
        seen &= inside & np.isfinite(values).all(axis=3)
    return seen, somewhere


class EstimatedTrials:
    """z-maps or betas made elsewhere."""

    background: Path | None = None

    def __init__(self, folder: Path, subject: str, bold: BoldSettings) -> None:
        self.folder, self.subject = folder, subject
        self.in_mni = bold.space == "mni"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that `read` reads."""
        return tuple(estimates_files(self.folder, self.subject))

    def read(self) -> TrialMaps:
        """Read all trials."""
        found = find_estimates(self.folder, self.subject)
        shape = (found.values.shape[1], 1, 1) if found.shape is None else found.shape
        places = np.arange(shape[0]) if found.voxels is None or found.shape is None else found.voxels
        return TrialMaps(found.values, found.trials, places, shape, found.affine, 0)


@dataclass(frozen=True)
class Masking:
    """The mask step of one subject."""

    layout: Layout
    bold: BoldSettings
    stimuli: StimulusSet
    subject: str
    trials: MappedTrials | EstimatedTrials
    region_image: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Outputs."""
        name = MASK_NAMES[self.bold.voxels]
        names = {
            "mask": f"desc-{name}_mask.nii.gz",
            "picture": f"desc-{name}_mask.png",
            "z": "desc-masked_zmaps.safetensors",
            "trials": "trials.tsv",
        }
        return {key: self.layout.subject(self.subject, value) for key, value in names.items()}

    def step(self) -> Step:
        """Choose the voxels on training trials, and write trials x voxels."""
        wanted = {
            "active": {"n_voxels"},
            "reliable": {"n_voxels"},
            "regions": {"regions", "region_image"},
            "all": set(),
        }
        settings = self.bold.model_dump(include={"voxels", "space"} | wanted[self.bold.voxels])
        inputs = [*self.trials.inputs, self.stimuli.folder / "manifest.tsv"]
        if self.bold.voxels == "regions" and self.region_image is not None:
            inputs.append(self.region_image)
        return Step(f"mask_sub-{self.subject}", 2, settings, tuple(inputs), tuple(self.files.values()), self._work)

    def _work(self) -> dict[str, Any]:
        maps = self.trials.read()
        trials = maps.trials.copy()
        self.stimuli.require(list(trials["stim_file"]))
        trials["role"] = self.stimuli.roles(list(trials["stim_file"]))
        split = Split.of(list(trials["stim_file"]), list(trials["role"]))
        mask = self._mask(maps, split)
        image = self._write_mask(maps, mask)
        background = None if self.trials.background is None else nib.load(self.trials.background)
        with atomic_path(self.files["picture"]) as temporary:
            temporary.write_bytes(mask_figure(image, background))
        chosen = {
            "z": np.ascontiguousarray(maps.z[:, mask.selected]),
            "voxels": maps.voxels[mask.selected].astype(np.int64),
        }
        with atomic_path(self.files["z"]) as temporary:
            save_file(chosen, temporary)
        write_table(self.files["trials"], trials)
        lowest = mask.mean_z[mask.selected]
        chosen_on = fitted_on(f"voxel mask, most {self.bold.voxels}", split.training_rows, split.stimuli)
        return {
            FITTED_ON: [chosen_on] if self.bold.voxels in ("active", "reliable") else [],
            "n_voxels": int(mask.selected.sum()),
            "n_dropped_nan": maps.n_dropped + mask.n_dropped_nan,
            "lowest_mean_z": float(lowest.min()) if np.isfinite(lowest).all() else None,
            "n_training_trials": len(split.training_rows),
            "n_test_trials": len(trials) - len(split.training_rows),
        }

    def _mask(self, maps: TrialMaps, split: Split) -> VoxelMask:
        # Whether a voxel was measured at all was asked of every trial; what was measured, of training trials alone.
        if self.bold.voxels == "all":
            return whole_mask(np.ones(maps.voxels.size, dtype=bool))
        if self.bold.voxels == "regions":
            labels, names = self._labels(maps)
            return region_mask(labels, self.bold.regions, names=names)
        roles = [split.roles[row] for row in split.training_rows]
        training = split.training(maps.z)
        if self.bold.voxels == "active":
            return voxel_mask(training, roles, self.bold.n_voxels)
        shown = [split.stimuli[row] for row in split.training_rows]
        return reliability_mask(training, roles, shown, self.bold.n_voxels)

    def _labels(self, maps: TrialMaps) -> tuple[NDArray[np.int64], dict[str, tuple[int, ...]]]:
        """Label of each voxel, and what the names stand for."""
        if maps.affine is None:
            raise UserError("bold.voxels = 'regions' needs the places of the voxels: give the estimates a mask image")
        if self.region_image is not None:
            image = read_image(self.region_image, n_dimensions=3)
            labels = labels_on_grid(np.asarray(image.dataobj), image.affine, maps.shape, maps.affine)
            names: dict[str, tuple[int, ...]] = {str(label): (int(label),) for label in np.unique(labels) if label}
        elif not self.trials.in_mni:
            raise UserError(
                "the atlas lies in MNI space and the BOLD does not: set bold.space = 'mni', or give bold.region_image "
                "in the subject's space"
            )
        else:
            atlas = load_atlas()
            labels = labels_on_grid(atlas.labels, atlas.affine, maps.shape, maps.affine)
            names = regions_by_name(atlas.names)
        return labels.ravel()[maps.voxels], names

    def _write_mask(self, maps: TrialMaps, mask: VoxelMask) -> Any:
        volume = np.zeros(maps.shape, dtype=np.uint8)
        volume.ravel()[maps.voxels[mask.selected]] = 1
        known = maps.affine is not None
        affine = maps.affine if known else np.eye(4)
        return write_image(
            self.files["mask"], volume, affine, space="mni" if self.trials.in_mni and known else "scanner"
        )

"""The voxels that the decoder reads, and their trials x voxels, from z-maps made here or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path
from hyperdecode.fmri.mask import (
    VoxelMask,
    best_voxels,
    labels_on_grid,
    region_mask,
    regions_by_name,
    require_repeats,
    whole_mask,
)
from hyperdecode.fmri.repeats import repeat_variance
from hyperdecode.memory import working_memory
from hyperdecode.pipeline.fitted_on import FITTED_ON, fitted_on
from hyperdecode.pipeline.records import Step
from hyperdecode.pipeline.trial_maps import EstimatedTrials, MappedTrials, TrialMaps
from hyperdecode.report.maskfigure import mask_figure
from hyperdecode.split import Split
from hyperdecode.study.derivatives import write_image, write_table
from hyperdecode.study.images import read_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import StimulusSet
from hyperdecode.study.trial_store import CHUNK_ROWS, STEP, TrialStore, open_store, write_store
from hyperdecode.weights.atlas import load_atlas

__all__ = ["MASK_NAMES", "Masking"]

MASK_NAMES = {"active": "mostactive", "reliable": "mostreliable", "regions": "regions", "all": "brain"}
"""The `desc` of each kind of mask."""


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
            "trials": "trials.tsv",
        }
        files = {key: self.layout.subject(self.subject, value) for key, value in names.items()}
        return files | {"z": self.layout.masked(self.subject)}

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
        return Step(f"mask_sub-{self.subject}", 3, settings, tuple(inputs), tuple(self.files.values()), self._work)

    def _work(self) -> dict[str, Any]:
        maps = self.trials.read(self._roles)
        split = Split.of(list(maps.trials["stim_file"]), list(maps.trials["role"]))
        # Ranking by repeats needs all trials of a voxel together: everything goes to the disk first.
        with atomic_path(self.files["z"]) if self.bold.voxels == "reliable" else nullcontext() as scratch:
            mask, store = self._mask(maps, split, scratch)
            selected = np.flatnonzero(mask.selected)
            rows = maps.rows(selected) if store is None else _rows_of(store, selected)
            with write_store(scratch or self.files["z"], len(maps.trials), maps.voxels[selected]) as writer:
                for part in rows:
                    writer.add(part)
        image = self._write_mask(maps, mask)
        background = None if self.trials.background is None else nib.load(self.trials.background)
        with atomic_path(self.files["picture"]) as temporary:
            temporary.write_bytes(mask_figure(image, background))
        write_table(self.files["trials"], maps.trials)
        lowest = mask.mean_z[mask.selected]
        chosen_on = fitted_on(f"voxel mask, most {self.bold.voxels}", split.training_rows, split.stimuli)
        return {
            FITTED_ON: [chosen_on] if self.bold.voxels in ("active", "reliable") else [],
            "n_voxels": len(selected),
            "n_dropped_nan": maps.n_dropped + mask.n_dropped_nan,
            "lowest_mean_z": float(lowest.min()) if np.isfinite(lowest).all() else None,
            "n_training_trials": len(split.training_rows),
            "n_test_trials": len(maps.trials) - len(split.training_rows),
        }

    def _roles(self, shown: Sequence[str]) -> Sequence[str]:
        self.stimuli.require(list(shown))
        return self.stimuli.roles(list(shown))

    def _mask(self, maps: TrialMaps, split: Split, scratch: Path | None) -> tuple[VoxelMask, TrialStore | None]:
        """Choose the voxels; return also the store of all voxels where one was written."""
        # Whether a voxel was measured at all was asked of every trial; what was measured, of training trials alone.
        if self.bold.voxels == "all":
            return whole_mask(np.ones(maps.voxels.size, dtype=bool)), None
        if self.bold.voxels == "regions":
            labels, names = self._labels(maps)
            return region_mask(labels, self.bold.regions, names=names), None
        if scratch is None:
            return best_voxels(maps.means, self.bold.n_voxels), None
        shown = [split.stimuli[row] for row in split.training_rows]
        require_repeats(shown)
        with write_store(scratch, len(maps.trials), maps.voxels) as writer:
            for part in maps.rows(np.arange(maps.voxels.size)):
                writer.add(part)
        store = open_store(scratch)
        return best_voxels(maps.means, self.bold.n_voxels, _reliability(store, split.training_rows, shown)), store

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


def _reliability(store: TrialStore, rows: NDArray[np.intp], shown: Sequence[str]) -> NDArray[np.float64]:
    """Reliability of each voxel over the training trials, which are `rows`."""
    width = max(STEP, working_memory() // (4 * 4 * len(rows)) // STEP * STEP)
    parts = [
        repeat_variance(store[rows, start : start + width], shown).reliability
        for start in range(0, store.shape[1], width)
    ]
    return np.concatenate(parts)


def _rows_of(store: TrialStore, chosen: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(store), CHUNK_ROWS):
        yield store[start : start + CHUNK_ROWS][:, chosen]

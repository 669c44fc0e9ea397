"""Every trial of a subject, read a few at a time: z-maps made here, or estimates made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.errors import UserError
from hyperdecode.fmri.trialmeans import TrialMeans
from hyperdecode.pipeline.sources import BoldSource
from hyperdecode.study.estimates import estimates_files, find_estimates
from hyperdecode.study.images import check_grid, iterate_volumes, open_image
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings

__all__ = ["EstimatedTrials", "MappedTrials", "Roles", "TrialMaps"]

Roles = Callable[[Sequence[str]], Sequence[str]]
"""Stimuli of trials -> their roles."""

N_ROWS = 64
"""Trials that are handed on together."""


@dataclass(frozen=True)
class TrialMaps:
    """Every trial of a subject at the voxels that were measured in every run.

    Attributes
    ----------
    trials : pandas.DataFrame
        One row a trial; ``stim_file`` names its stimulus, ``role`` says whether it may be fitted to.
    voxels : ndarray of intp, shape (n_voxels,)
        Their places on the grid, flat in C order.
    shape : tuple of int
        The grid; ``(n, 1, 1)`` where places are not known.
    affine : ndarray or None
        Voxel to mm; None where places are not known.
    n_dropped : int
        Voxels of the brain that were left out since a run lacks them.
    means : TrialMeans
        Of these voxels over the training trials.
    rows : callable
        Numbers of voxels, ascending -> their z in all trials, a few trials after the other: (n, n_chosen), float32.
    """

    trials: pd.DataFrame
    voxels: NDArray[np.intp]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64] | None
    n_dropped: int
    means: TrialMeans
    rows: Callable[[NDArray[np.intp]], Iterator[NDArray[np.float32]]]


class MappedTrials:
    """z-maps that this package made, one NIfTI a run."""

    def __init__(self, layout: Layout, source: BoldSource) -> None:
        self.layout, self.source = layout, source
        self.in_mni = source.in_mni

    @property
    def maps(self) -> list[Path]:
        """The z-maps of each run."""
        return [self.layout.zmap(run, self.source.space) for run in self.source.runs]

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that `read` reads."""
        space = self.source.space
        tables = [self.layout.trials(run, space) for run in self.source.runs]
        return tuple(path for pair in zip(self.maps, tables, strict=True) for path in pair)

    @property
    def background(self) -> Path | None:
        """What to draw a mask on, where the template is of no use."""
        return None if self.in_mni else self.layout.mean_functional(self.source.runs[0], self.source.space)

    def read(self, roles: Roles) -> TrialMaps:
        """Go over all runs, a volume in memory at a time, and find the voxels that every run has."""
        paths, runs = self.maps, self.source.runs
        images = [open_image(path) for path in paths]
        for run, image in zip(runs, images, strict=True):
            check_grid(images[0], runs[0].bold, image, run.bold)
        tables = [pd.read_csv(self.layout.trials(run, self.source.space), sep="\t") for run in runs]
        for path, image, table in zip(paths, images, tables, strict=True):
            if image.shape[3:] != (len(table),):
                raise UserError(f"{path} has shape {image.shape}, its table {len(table)} trials: run zmaps again")
        trials = pd.concat(tables, ignore_index=True)
        trials["role"] = roles(list(trials["stim_file"]))
        x, y, depth = (int(n) for n in images[0].shape[:3])
        seen, somewhere, means = _survey(paths, [len(table) for table in tables], list(trials["role"]), x * y * depth)
        voxels = np.flatnonzero(seen.reshape((x, y, depth), order="F"))
        # Volumes lie on the disk with the first axis innermost.
        places = np.ravel_multi_index(np.unravel_index(voxels, (x, y, depth)), (x, y, depth), order="F")
        return TrialMaps(
            trials,
            voxels,
            (x, y, depth),
            np.asarray(images[0].affine),
            int(somewhere.sum()) - int(seen.sum()),
            means.at(places),
            lambda chosen: _rows(paths, places[chosen]),
        )


def _flat(volume: NDArray[Any]) -> NDArray[np.float32]:
    return volume.ravel(order="F").astype(np.float32, copy=False)


def _survey(
    paths: Sequence[Path], lengths: Sequence[int], roles: Sequence[str], size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], TrialMeans]:
    """Return the voxels that every run has, those that any has, and the means over training trials.

    A run's z is 0 in all trials outside its brain.
    """
    seen, somewhere, means = np.ones(size, dtype=bool), np.zeros(size, dtype=bool), TrialMeans(size)
    first = 0
    for path, length in zip(paths, lengths, strict=True):
        inside, finite = np.zeros(size, dtype=bool), np.ones(size, dtype=bool)
        for number, volume in enumerate(iterate_volumes(path), start=first):
            z = _flat(volume)
            inside |= z != 0
            finite &= np.isfinite(z)
            if roles[number] == "train":
                means.add(z[None], [roles[number]])
        somewhere |= inside
        seen &= inside & finite
        first += length
    return seen, somewhere, means


def _rows(paths: Sequence[Path], places: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
    for path in paths:
        kept: list[NDArray[np.float32]] = []
        for volume in iterate_volumes(path):
            kept.append(_flat(volume)[places])
            if len(kept) == N_ROWS:
                yield np.stack(kept)
                kept = []
        if kept:
            yield np.stack(kept)


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

    def read(self, roles: Roles) -> TrialMaps:
        """Go over all trials, a few in memory at a time where they are maps."""
        found = find_estimates(self.folder, self.subject)
        trials = found.trials.copy()
        trials["role"] = roles(list(trials["stim_file"]))
        shape = (found.n_voxels, 1, 1) if found.shape is None else found.shape
        places = np.arange(shape[0]) if found.voxels is None or found.shape is None else found.voxels
        means, told = TrialMeans(found.n_voxels), iter(list(trials["role"]))
        for block in found.rows(np.arange(found.n_voxels)):
            for row, role in zip(block, told, strict=False):
                if role == "train":
                    means.add(row[None], [role])
        return TrialMaps(trials, places, shape, found.affine, 0, means, found.rows)

"""Where a subject's BOLD comes from: each kind of input turns a run into clean series inside the brain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.pipeline.records import Step
from hyperdecode.study.bids import BoldRun, LoadedRun, load_run
from hyperdecode.study.derivatives import write_image, write_json, write_table
from hyperdecode.study.events import check_events, read_events
from hyperdecode.study.fmriprep import (
    NATIVE,
    NO_RES,
    FmriprepRun,
    find_fmriprep_runs,
    intersect_masks,
    load_fmriprep_run,
)
from hyperdecode.study.fmriprep_confounds import load_fmriprep_confounds
from hyperdecode.study.images import check_grid, iterate_volumes
from hyperdecode.study.layout import Layout
from hyperdecode.study.settings import BoldSettings

__all__ = ["AsIs", "BoldSource", "CleanSeries", "Fmriprep", "KeptBold", "Progress"]

Progress = Callable[[str, int, int], None]
"""Called with (what is done, done, to do)."""

FAINT = 0.1


@dataclass(frozen=True)
class CleanSeries:
    """BOLD of one run that lies still, and what its model needs.

    Attributes
    ----------
    values : ndarray of float32, shape (n_volumes, n_inside)
        Series inside the brain; NaN where a voxel was not measured.
    inside : ndarray of bool, shape (x, y, z)
        The brain on the subject's grid.
    affine : ndarray, shape (4, 4)
        Voxel to mm.
    events : pandas.DataFrame
        As `load_run` reads them.
    t_r : float
        Repetition time in seconds.
    confounds : ndarray of float64, shape (n_volumes, n_confounds)
        May have no column.
    names : tuple of str
        What the columns are.
    high_pass : float
        Cut-off in Hz of the drift that the model still has to take out; 0 where the confounds do.
    slice_time_ref : float
        Where in the repetition time a volume counts as taken.
    notes : tuple of str
        What a user should know.
    """

    values: NDArray[np.float32]
    inside: NDArray[np.bool_]
    affine: NDArray[np.float64]
    events: pd.DataFrame
    t_r: float
    confounds: NDArray[np.float64]
    names: tuple[str, ...]
    high_pass: float
    slice_time_ref: float
    notes: tuple[str, ...] = ()

    def volume(self, values: NDArray[Any], outside: float = np.nan) -> NDArray[Any]:
        """Put (n_inside,) or (n_inside, k) back on the grid."""
        filled = np.full((*self.inside.shape, *values.shape[1:]), outside, dtype=values.dtype)
        filled[self.inside] = values
        return filled


class BoldSource(Protocol):
    """One subject's runs and the way to clean series of each."""

    @property
    def runs(self) -> Sequence[BoldRun]:
        """The subject's runs."""
        ...

    @property
    def space(self) -> str:
        """Entities of the grid for file names, with a trailing underscore; empty for the BOLD's own grid."""
        ...

    @property
    def in_mni(self) -> bool:
        """Whether the grid lies in MNI space."""
        ...

    @property
    def words(self) -> str:
        """One sentence for the report: what was done to the BOLD."""
        ...

    def steps(self) -> list[tuple[str, Step]]:
        """Return what has to be done before `clean` can be called, as (kind, step)."""
        ...

    def inputs(self, run: BoldRun) -> tuple[Path, ...]:
        """Files that `clean` reads."""
        ...

    def settings(self, run: BoldRun) -> dict[str, Any]:
        """Everything but files that the clean series depends on."""
        ...

    def clean(self, run: BoldRun, progress: Progress | None = None) -> CleanSeries:
        """Return the series of a run."""
        ...


@dataclass(frozen=True)
class AsIs:
    """BOLD that lies still on one grid already; faint voxels around the head are left out."""

    runs: Sequence[BoldRun]
    bold: BoldSettings
    space: str = ""

    @property
    def in_mni(self) -> bool:
        """As study.toml says."""
        return self.bold.space == "mni"

    @property
    def words(self) -> str:
        """One sentence for the report."""
        where = "motionless in MNI space" if self.in_mni else "where it is"
        return f"The BOLD was taken to lie {where}; nothing was realigned or normalised here."

    def steps(self) -> list[tuple[str, Step]]:
        """Nothing."""
        return []

    def inputs(self, run: BoldRun) -> tuple[Path, ...]:
        """BOLD and events."""
        return run.bold, run.events

    def settings(self, run: BoldRun) -> dict[str, Any]:
        """Sidecar and model."""
        return {"source": "as-is", "bids": dict(run.sidecar)}

    def clean(self, run: BoldRun, progress: Progress | None = None) -> CleanSeries:
        """Read the run."""
        loaded = load_run(run, in_memory=False)
        inside = _not_faint(iterate_volumes(run.bold))
        values = _series_inside(run.bold, inside, loaded.image.shape[3])
        return plain_series(loaded, values, inside, np.asarray(loaded.image.affine), self.bold)


def plain_series(
    loaded: LoadedRun,
    values: NDArray[np.float32],
    inside: NDArray[np.bool_],
    affine: NDArray[np.float64],
    bold: BoldSettings,
    confounds: tuple[NDArray[np.float64], tuple[str, ...]] | None = None,
) -> CleanSeries:
    """Return series with the drift and timing that `study.toml` asks for."""
    columns, names = confounds or (np.zeros((len(values), 0)), ())
    return CleanSeries(
        values, inside, affine, loaded.events, loaded.t_r, columns, names, bold.high_pass, bold.slice_time_ref
    )  # fmt: skip


def run_events(run: BoldRun, n_volumes: int, t_r: float) -> pd.DataFrame:
    """Return a run's events, checked against its length."""
    events = read_events(run.events)
    check_events(events, run.events, n_volumes, t_r)
    return events


def _not_faint(volumes: Iterator[NDArray[Any]]) -> NDArray[np.bool_]:
    """Voxels whose mean is above a tenth of the bright ones'; all that vary where the mean tells nothing."""
    first = next(volumes)
    total, varies, n = first.astype(np.float32), np.zeros(first.shape, dtype=bool), 1
    for volume in volumes:
        n += 1
        total += volume.astype(np.float32, copy=False)
        varies |= volume != first
    mean = total / np.float32(n)
    # A voxel that is NaN somewhere is kept: its z will be NaN, counted and reported.
    known = np.where(np.isfinite(mean), mean, np.inf)
    finite = mean[np.isfinite(mean)]
    bright = float(np.percentile(finite, 98)) if finite.size else 0.0
    # Series that were centred or standardised have no mean to go by.
    if bright <= 0 or float(np.percentile(finite, 2)) < -FAINT * bright:
        return varies
    return np.asarray(known > FAINT * bright)


def _series_inside(path: Path, inside: NDArray[np.bool_], n_volumes: int) -> NDArray[np.float32]:
    """Read volumes x voxels of a mask, in C order of the grid, a volume in memory at a time."""
    values = np.empty((n_volumes, int(inside.sum())), np.float32)
    for row, volume in zip(values, iterate_volumes(path), strict=True):
        row[:] = volume[inside]
    return values


@dataclass(frozen=True)
class Fmriprep:
    """BOLD that fMRIPrep has preprocessed, with its masks and confounds."""

    runs: Sequence[BoldRun]
    bold: BoldSettings
    folder: Path

    @cached_property
    def found(self) -> dict[str, FmriprepRun]:
        """fMRIPrep's files of each run, by the run's stem."""
        wanted = self.bold.fmriprep_space or None, self.bold.fmriprep_res or None
        return {found.stem: found for found in find_fmriprep_runs(self.folder, list(self.runs), *wanted)}

    @cached_property
    def inside(self) -> Any:
        """The voxels that lie in the brain mask of every run, as an image."""
        return intersect_masks([found.mask for found in self.found.values()])

    @property
    def space(self) -> str:
        """As fMRIPrep names it."""
        found = next(iter(self.found.values()))
        parts = (("space", found.space, NATIVE), ("res", found.res, NO_RES))
        return "".join(f"{entity}-{value}_" for entity, value, none in parts if value != none)

    @property
    def in_mni(self) -> bool:
        """By the name of the space."""
        return self.space.startswith("space-MNI")

    @property
    def words(self) -> str:
        """One sentence for the report."""
        named = self.space.rstrip("_").replace("_", ", ") or "the subject's own space"
        return (
            f"The BOLD was preprocessed by fMRIPrep ({named}); confounds: {', '.join(self.bold.confounds) or 'none'}."
        )

    def steps(self) -> list[tuple[str, Step]]:
        """Nothing: fMRIPrep has done it."""
        return []

    def inputs(self, run: BoldRun) -> tuple[Path, ...]:
        """fMRIPrep's series and confounds, the events, and the masks of all runs."""
        found = self.found[run.stem]
        masks = (other.mask for other in self.found.values())
        return tuple(path for path in (found.bold, found.confounds, run.events, *masks) if path is not None)

    def settings(self, run: BoldRun) -> dict[str, Any]:
        """Which confounds."""
        asked = self.bold.model_dump(include={"confounds", "motion", "fd_threshold"})
        return {"source": "fmriprep", "space": self.space, **asked}

    def clean(self, run: BoldRun, progress: Progress | None = None) -> CleanSeries:
        """Read series inside the mask, and the confounds."""
        found = self.found[run.stem]
        loaded = load_fmriprep_run(found, in_memory=False)
        check_grid(loaded.image, found.bold, self.inside, found.mask)
        inside = np.asarray(self.inside.dataobj) > 0
        values = _series_inside(found.bold, inside, loaded.image.shape[3])
        asked = self.bold
        known = load_fmriprep_confounds(found, asked.confounds, motion=asked.motion, fd_threshold=asked.fd_threshold)
        return CleanSeries(
            values=values,
            inside=inside,
            affine=np.asarray(loaded.image.affine),
            events=loaded.events,
            t_r=found.t_r,
            confounds=known.values,
            names=known.names,
            # fMRIPrep's cosines take the drift out: a second set would be the same columns again.
            high_pass=0.0 if known.has_cosines else self.bold.high_pass,
            slice_time_ref=found.slice_time_ref,
        )


@dataclass(frozen=True)
class KeptBold:
    """Another source whose clean series are kept as NIfTI, so that several steps read them."""

    source: BoldSource
    layout: Layout
    runs: Sequence[BoldRun] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", self.source.runs)

    @property
    def space(self) -> str:
        """The source's."""
        return self.source.space

    @property
    def in_mni(self) -> bool:
        """The source's."""
        return self.source.in_mni

    @property
    def words(self) -> str:
        """The source's."""
        return self.source.words

    def steps(self) -> list[tuple[str, Step]]:
        """Return the source's, and one that writes each run."""
        return self.source.steps() + [("bold", self._keep(run)) for run in self.runs]

    def files(self, run: BoldRun) -> dict[str, Path]:
        """Preprocessed series, brain mask and confounds of a run."""
        names = {
            "bold": f"{self.space}desc-preproc_bold.nii.gz",
            "brain_mask": f"{self.space}desc-brain_mask.nii.gz",
            "nuisance": f"{self.space}desc-nuisance_timeseries.tsv",
            "sidecar": f"{self.space}desc-preproc_bold.json",
        }
        return {key: self.layout.func(run, name) for key, name in names.items()}

    def inputs(self, run: BoldRun) -> tuple[Path, ...]:
        """Return the kept files, and the events."""
        return (*self.files(run).values(), run.events)

    def settings(self, run: BoldRun) -> dict[str, Any]:
        """Return the source's."""
        return self.source.settings(run)

    def clean(self, run: BoldRun, progress: Progress | None = None) -> CleanSeries:
        """Read what was kept."""
        files = self.files(run)
        image = nib.load(files["bold"])
        inside = np.asarray(nib.load(files["brain_mask"]).dataobj) > 0
        values = _series_inside(files["bold"], inside, image.shape[3])
        said = json.loads(files["sidecar"].read_text(encoding="utf-8"))
        table = pd.read_csv(files["nuisance"], sep="\t") if said["Nuisance"] else pd.DataFrame(index=range(len(values)))
        return CleanSeries(
            values=values,
            inside=inside,
            affine=np.asarray(image.affine),
            events=run_events(run, len(values), said["RepetitionTime"]),
            t_r=said["RepetitionTime"],
            confounds=table.to_numpy(np.float64),
            names=tuple(table.columns),
            high_pass=said["HighPass"],
            slice_time_ref=said["SliceTimeRef"],
            notes=tuple(said["Notes"]),
        )

    def _keep(self, run: BoldRun) -> Step:
        name = f"bold_{self.space}{run.stem}"
        outputs = tuple(self.files(run).values())
        return Step(name, 1, self.source.settings(run), self.source.inputs(run), outputs, partial(self._write, run))

    def _write(self, run: BoldRun) -> dict[str, Any]:
        clean, files = self.source.clean(run), self.files(run)
        write_image(files["bold"], clean.volume(clean.values.T), clean.affine, clean.t_r)
        write_image(files["brain_mask"], clean.inside.astype(np.uint8), clean.affine)
        write_table(files["nuisance"], pd.DataFrame(clean.confounds, columns=list(clean.names)))
        sidecar = {
            "RepetitionTime": clean.t_r,
            "SkullStripped": True,
            "TaskName": run.task,
            "Nuisance": list(clean.names),
            "HighPass": clean.high_pass,
            "SliceTimeRef": clean.slice_time_ref,
            "Notes": list(clean.notes),
        }
        write_json(files["sidecar"], sidecar)
        return {"notes": list(clean.notes)}
